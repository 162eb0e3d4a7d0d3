"""DreamBooth class pictures (Ruiz et al. 2023, section 3.2): what the base draws by itself, made once and kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from training.config import Prior
from training.dataset import Example, read_dataset
from training.families.family import Parts
from training.prompt import Prompt
from training.render import draw

AT_ONCE = 8  # pictures in one denoising loop


def own_folder(run_folder: Path) -> Path:
    """Where the pictures that the base draws for a run lie."""
    return run_folder / "class_pictures"


def given(prior: Prior) -> tuple[Example, ...]:
    """The user's own class pictures, at most prior.images of them. Raises DataError when the folder cannot be used."""
    if not prior.folder or not prior.images:
        return ()
    return read_dataset(Path(prior.folder)).examples[: prior.images]


def drawn(parts: Parts, prior: Prior, folder: Path, count: int, *, seed: int, steps: int, guidance: float) -> Iterator[int]:
    """Draw class-00000.png ... into folder until there are `count`; yields how many are there after each batch."""
    missing = [i for i in range(count) if not picture_path(folder, i).exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for at in range(0, len(missing), AT_ONCE):
        some = missing[at : at + AT_ONCE]
        prompts = [Prompt(prior.prompt, steps=steps, guidance=guidance, seed=seed + i) for i in some]
        for i, picture in zip(some, draw(parts, prompts), strict=True):
            unfinished = picture_path(folder, i).with_suffix(".tmp")
            picture.save(unfinished, "PNG")
            unfinished.replace(picture_path(folder, i))
        yield count - len(missing) + at + len(some)


def picture_path(folder: Path, index: int) -> Path:
    return folder / f"class-{index:05d}.png"
