"""Changed versions of pictures: in their own shape, without empty corners, masks with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny import tiny_base
from training.config.loading import from_mapping
from training.config.schema import RunConfig
from training.data.augmentation import Augmentation
from training.errors import ConfigError
from training.style_files.reading import read_style
from training.trainer import setup
from training.trainer.loop import train
from training.trainer.plan import planned

SIZE = (96, 64)


def slopes(size: tuple[int, int] = SIZE) -> Image.Image:
    """Red says how far to the right a pixel is, green how far down; blue is full."""
    x, y = np.meshgrid(*(np.linspace(20, 220, n) for n in size))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 255)], -1).round().astype(np.uint8))


def test_nothing_is_changed_unless_it_is_asked_for() -> None:
    picture = slopes()
    off, on = Augmentation(), Augmentation(turn=10, crop=0.2, colour=0.2, versions=3)
    assert off.count == 1 and on.count == 3
    assert off.of(picture, "a", 2) is picture and on.of(picture, "a", 0) is picture


@pytest.mark.parametrize("size", [(96, 64), (64, 96), (80, 80)])
def test_a_turned_picture_has_its_own_size_and_no_empty_corners(size: tuple[int, int]) -> None:
    picture = slopes(size)
    for version in range(1, 12):
        made = Augmentation(turn=30, crop=0.3, versions=99).of(picture, "a", version)
        assert made.size == size
        assert np.array(made)[..., 2].min() > 250  # what lies outside is black


def test_a_version_is_turned_and_cropped_by_no_more_than_was_asked() -> None:
    change = Augmentation(turn=10, crop=0.2, versions=99)
    angles = []
    for version in range(1, 40):
        made = np.array(change.of(slopes(), "a", version), float)
        across = made[32, -4, :2] - made[32, 3, :2]
        across /= [200 / 95, 200 / 63]  # shades a pixel
        angles.append(np.degrees(np.arctan2(across[1], across[0])))
        scale = np.hypot(*across) / 89
        assert scale <= 1.02
        turned = np.radians(abs(angles[-1]))
        room = min(
            96 / (96 * np.cos(turned) + 64 * np.sin(turned)),
            64 / (96 * np.sin(turned) + 64 * np.cos(turned)),
        )
        assert 0.8 * room - 0.03 < scale < room + 0.03
    assert max(map(abs, angles)) < 10.8 and min(angles) < -4 and max(angles) > 4


def test_a_mask_goes_with_its_picture() -> None:
    """The mask of what is right of the middle shows it in every version, at any size."""
    change = Augmentation(turn=20, crop=0.3, colour=0.3, versions=99)
    picture = slopes()
    moved = Augmentation(turn=20, crop=0.3, versions=99)
    for size in (SIZE, (192, 128)):
        mask = Image.new("L", size, 0)
        mask.paste(255, (size[0] // 2, 0, *size))
        for version in range(1, 8):
            made = change.of(mask, "a", version, is_mask=True).resize(SIZE, Image.Resampling.BOX)
            red = np.array(moved.of(picture, "a", version))[..., 0].astype(int)
            values = np.array(made)
            assert (values[red > 126] == 255).all() and (values[red < 114] == 0).all()


def test_colours_are_changed_and_nothing_is_moved() -> None:
    picture = slopes()
    made = [np.array(Augmentation(colour=0.3, versions=9).of(picture, "a", v)) for v in range(1, 6)]
    assert all((np.diff(one[:, :, 0].astype(int), axis=1) >= -1).all() for one in made)
    assert len({one.tobytes() for one in made}) == 5


def test_a_version_depends_on_seed_picture_and_number_alone() -> None:
    def made(seed: int, identity: str, version: int) -> bytes:
        change = Augmentation(turn=9, crop=0.2, colour=0.2, versions=9, seed=seed)
        return change.of(slopes(), identity, version).tobytes()

    assert made(0, "a", 1) == made(0, "a", 1)
    assert len({made(0, "a", 1), made(0, "a", 2), made(0, "b", 1), made(1, "a", 1)}) == 4


# --- in a run ---


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "base")


def request(model: Path, root: Path, name: str, **data: Any) -> RunConfig:
    folder = root / "pictures"
    folder.mkdir(exist_ok=True)
    for one in "abc":
        slopes().save(folder / f"{one}.png")
        mask = Image.new("L", SIZE, 0)
        mask.paste(255, (48, 0, *SIZE))
        mask.save(folder / f"{one}-masklabel.png")
    return from_mapping(
        {
            "base": {"model": str(model), "dtype": "float32", "device": "cpu"},
            "data": {"folder": str(folder), "resolution": 32, "mask": "file", **data},
            "adapter": {"rank": 2, "alpha": 2.0},
            "optim": {"steps": 4, "batch_size": 2, "unet_lr": 1e-2, "text_encoder_lr": 0.0},
            "preview": {"every": 0},
            "report": {"minutes": 0.0},
            "save": {"folder": str(root / "runs"), "name": name, "every": 2},
        }
    )


CHANGED = {"augment_turn": 10.0, "augment_crop": 0.2, "augment_colour": 0.2, "augment_versions": 3}


def test_all_versions_are_shown_with_their_masks(base: Path, tmp_path: Path) -> None:
    trainer = setup.without_notes(
        setup.set_up(planned(request(base, tmp_path, "s", **CHANGED)), trial=True)
    )
    assert trainer.data.versions == 3
    shown = set()
    for number in range(30):
        made, _ = trainer.maker.batch(number, trainer.place)
        assert made.masks is not None
        torch.testing.assert_close(made.masks.mean((1, 2, 3)), torch.ones(2))
        shown |= {row.numpy().tobytes() for row in made.masks}
    assert len(shown) == 6  # three versions of the same three pictures, mirrored or not


def test_a_run_with_versions_resumes_to_the_bit(base: Path, tmp_path: Path) -> None:
    straight, halved = (request(base, tmp_path, name, **CHANGED) for name in ("one", "two"))
    list(train(straight))
    seen = iter(range(10))
    list(train(halved, stop=lambda: next(seen) > 1))
    list(train(halved))
    first, second = (
        read_style(config.run_folder / f"{config.save.name}.safetensors").modules
        for config in (straight, halved)
    )
    assert all(np.array_equal(first[name].delta(), second[name].delta()) for name in first)


@pytest.mark.parametrize(
    ("key", "value"), [("augment_turn", 46.0), ("augment_crop", 0.6), ("augment_versions", 0)]
)
def test_wild_values_are_refused(tmp_path: Path, key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{key}"):
        from_mapping({"data": {key: value}})
