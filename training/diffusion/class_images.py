"""DreamBooth class pictures (Ruiz et al.

2023, section 3.2): what the base draws by itself, made once and kept.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from training.adapters.frozen_change import left_out
from training.config.input_sections import Prior
from training.data.dataset import Example, read_dataset
from training.diffusion.sampling import draw
from training.models.family import Parts
from training.prompt import Prompt
from training.runtime.distributed import ALONE, ProcessGroup
from training.storage.paths import write_whole

AT_ONCE = 8  # pictures in one denoising loop


def own_folder(run_folder: Path) -> Path:
    """Where the pictures that the base draws for a run lie."""
    return run_folder / "class_pictures"


def given(prior: Prior) -> tuple[Example, ...]:
    """The user's own class pictures, at most prior.images of them.

    Raises DataError when the folder cannot be used.
    """
    if not prior.folder or not prior.images:
        return ()
    return read_dataset(Path(prior.folder)).examples[: prior.images]


def drawn(
    parts: Parts,
    prior: Prior,
    folder: Path,
    count: int,
    *,
    seed: int,
    steps: int,
    guidance: float,
    world: ProcessGroup = ALONE,
) -> Iterator[int]:
    """Draw class-00000.png ... into folder until there are `count`; yields how many are there after
    each batch.

    A batch that a crash cut short is drawn again as a whole, so that every picture is the one of an
    undisturbed run to the bit. Of several processes the first draws, and writes; all help where the
    base is divided among them.
    """
    for at in range(0, count, AT_ONCE):
        some = range(at, min(at + AT_ONCE, count))
        if world.first(lambda some=some: all(picture_path(folder, i).exists() for i in some)):
            continue
        prompts = [
            Prompt(prior.prompt, steps=steps, guidance=guidance, seed=seed + i) for i in some
        ]
        with left_out(parts.denoiser):  # of a base that is shared, and trained already
            pictures = draw(parts, prompts) if world.writes or world.shards else ()
        for i, picture in zip(
            some if world.writes else (), pictures if world.writes else (), strict=True
        ):
            if not picture_path(folder, i).exists():
                content = io.BytesIO()
                picture.save(content, "PNG")
                write_whole(picture_path(folder, i), content.getvalue())
        world.meet()
        yield some.stop


def picture_path(folder: Path, index: int) -> Path:
    return folder / f"class-{index:05d}.png"
