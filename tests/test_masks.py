"""Masks: where they are found, how they go with their picture, and what they do to the loss."""

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
from training.data.buckets import Bucket
from training.data.dataset import read_dataset
from training.data.masks import Mask, read_mask, weights
from training.data.pictures import pixels
from training.errors import DataError
from training.models.objective import weighted_loss
from training.style_files.reading import read_style
from training.trainer import setup
from training.trainer.loop import train
from training.trainer.plan import planned

SIZE = (64, 48)


def picture(folder: Path, name: str, mode: str = "RGB") -> Path:
    folder.mkdir(exist_ok=True)
    values = np.random.default_rng(len(name)).integers(0, 256, (*SIZE[::-1], len(mode)), np.uint8)
    path = folder / f"{name}.png"
    Image.fromarray(values, mode).save(path)
    return path


def left_half(size: tuple[int, int] = SIZE) -> Image.Image:
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return mask


# --- with the picture ---


@pytest.mark.parametrize("place", [(0.0, 0.5), (0.5, 0.5), (1.0, 0.3)])
@pytest.mark.parametrize("bucket", [Bucket(32, 32), Bucket(64, 32), Bucket(32, 64)])
@pytest.mark.parametrize("flipped", [False, True])
def test_a_mask_is_cropped_and_mirrored_with_its_picture(
    place: tuple[float, float], bucket: Bucket, flipped: bool
) -> None:
    """A picture that is its own mask, black and white in large fields: both say the same."""
    fields = np.random.default_rng(0).integers(0, 2, (6, 8)).astype(np.uint8) * 255
    mask = Image.fromarray(fields).resize((640, 480), Image.Resampling.NEAREST)
    shown = pixels(mask.convert("RGB"), bucket, flipped, place)[..., 0] / 255
    found = weights(mask, mask.size, bucket, 4, flipped, place)
    assert found.shape == (bucket.height // 4, bucket.width // 4)
    means = shown.reshape(bucket.height // 4, 4, bucket.width // 4, 4).mean((1, 3))
    assert np.abs(found - means).max() < 0.12  # Lanczos overshoots beside an edge
    assert np.abs(found - means).mean() < 0.03


def test_a_smaller_mask_covers_the_same_part() -> None:
    bucket = Bucket(32, 32)
    large = weights(left_half((640, 480)), (640, 480), bucket, 4)
    small = weights(left_half((64, 48)), (640, 480), bucket, 4)
    for found in (large, small):  # the edge goes through the fifth column
        assert set(np.unique(found[:, :4])) == {1.0} and set(np.unique(found[:, 5:])) == {0.0}
    assert np.abs(large[:, 4] - small[:, 4]).max() < 0.1


# --- the loss ---


def test_the_loss_is_the_weighted_mean_and_exactly_nothing_is_learnt_outside() -> None:
    g = torch.Generator().manual_seed(0)
    said = torch.randn((2, 4, 8, 8), generator=g).requires_grad_()
    wanted = torch.randn((2, 4, 8, 8), generator=g)
    part = torch.zeros((2, 1, 8, 8))
    part[0, :, :, :3], part[1, :, 2:, :] = 1, 0.5
    masks = part / part.mean((1, 2, 3), keepdim=True)
    loss = weighted_loss(said, wanted, torch.tensor([1.0, 2.0]), rows=2, masks=masks)
    errors = (said - wanted).square()
    by_row = [(errors[i] * part[i]).sum() / (part[i].sum() * 4) for i in range(2)]
    torch.testing.assert_close(loss, (by_row[0] + 2 * by_row[1]) / 2)
    loss.backward()
    assert said.grad is not None
    outside = (part == 0).expand_as(said.grad)
    assert not said.grad[outside].any() and said.grad[~outside].all()


def test_a_mask_of_all_changes_no_bit() -> None:
    said, wanted = torch.randn((2, 2, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    some = torch.tensor([0.3, 1.7])
    ones = torch.ones((2, 1, 8, 8))
    assert weighted_loss(said, wanted, some, rows=2) == weighted_loss(
        said, wanted, some, rows=2, masks=ones
    )


# --- files ---


@pytest.mark.parametrize(
    "where", ["a-masklabel.png", "A-masklabel.png", "mask/a.png", "masks/a.jpg"]
)
def test_masks_are_found(tmp_path: Path, where: str) -> None:
    picture(tmp_path, where[0] if "label" in where else "a"), picture(tmp_path, "b")
    (tmp_path / where).parent.mkdir(exist_ok=True)
    left_half().save(tmp_path / where)
    found = read_dataset(tmp_path, mask="file")
    first, second = found.examples
    assert first.mask == Mask(tmp_path / where, first.mask.digest) and second.mask is None
    assert np.abs(np.array(read_mask(first.mask), int) - np.array(left_half(), int)).max() < 20
    assert any(
        "1 of 2 pictures have no mask and count as a whole (b.png)" in n for n in found.notes
    )
    assert not any("sub-folders" in note for note in found.notes)
    # Another mask is another example; without data.mask nothing changes
    assert first.identity != read_dataset(tmp_path).examples[0].identity == first.digest


def test_transparency_is_a_mask(tmp_path: Path) -> None:
    path = picture(tmp_path, "a", "RGBA")
    shown = Image.open(path)
    shown.putalpha(left_half())
    shown.save(path)
    picture(tmp_path, "b")
    first, second = read_dataset(tmp_path, mask="alpha").examples
    assert first.mask and second.mask is None
    assert np.array_equal(np.array(read_mask(first.mask)), np.array(left_half()))
    assert first.identity == read_dataset(tmp_path).examples[0].identity


def complaint(tmp_path: Path, kind: str = "file") -> str:
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path, mask=kind)
    return str(caught.value)


def test_masks_that_cannot_be_used_are_refused_by_name(tmp_path: Path) -> None:
    picture(tmp_path, "a"), picture(tmp_path, "b"), picture(tmp_path, "c")
    (tmp_path / "mask").mkdir()
    Image.new("L", SIZE, 0).save(tmp_path / "mask" / "a.png")
    left_half((48, 64)).save(tmp_path / "mask" / "b.png")
    (tmp_path / "mask" / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    said = complaint(tmp_path)
    assert "a.png is all black" in said and "c.png is damaged" in said
    assert "b.png has 48x64 px, its picture 64x48: a mask has the shape of its picture" in said
    picture(tmp_path, "d", "RGBA")
    Image.new("RGBA", SIZE, (9, 9, 9, 0)).save(tmp_path / "d.png")
    assert "d.png is transparent all over" in complaint(tmp_path, "alpha")


def test_a_mask_that_is_changed_meanwhile_is_noticed(tmp_path: Path) -> None:
    picture(tmp_path, "a")
    left_half().save(tmp_path / "a-masklabel.png")
    mask = read_dataset(tmp_path, mask="file").examples[0].mask
    assert mask
    Image.new("L", SIZE, 200).save(mask.path)
    with pytest.raises(DataError, match="was changed"):
        read_mask(mask)


# --- in a run ---


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "base")


def request(model: Path, root: Path, name: str, **data: Any) -> RunConfig:
    folder = root / "pictures"
    for one in "abc":
        picture(folder, one)
        left_half().save(folder / f"{one}-masklabel.png")
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


@pytest.mark.parametrize("outside", [0.0, 0.25])
def test_a_batch_has_its_masks_and_nothing_outside_learns(
    base: Path, tmp_path: Path, outside: float
) -> None:
    config = request(base, tmp_path, "s", mask_outside=outside)
    trainer = setup.without_notes(setup.set_up(planned(config), trial=True))
    sides = set()
    for number in range(6):
        made, _ = trainer.maker.batch(number, trainer.place)
        assert made.masks is not None and made.masks.shape == (2, 1, *made.noisy.shape[2:])
        torch.testing.assert_close(made.masks.mean((1, 2, 3)), torch.ones(2))
        said = torch.zeros_like(made.wanted).requires_grad_()
        trainer.loss(made, said).backward()
        assert said.grad is not None
        ratio = made.masks.amin((1, 2, 3)) / made.masks.amax((1, 2, 3))
        torch.testing.assert_close(ratio, torch.full((2,), outside))
        zero = (made.masks == 0).expand_as(said.grad)
        assert not said.grad[zero].any() and bool(zero.any()) == (outside == 0)
        sides |= {bool(row[0, 0, 0] > row[0, 0, -1]) for row in made.masks}
        assert all(part.masks.shape[0] == 1 for part in made.in_parts(1))
    assert sides == {True, False}  # mirrored pictures have mirrored masks


def test_a_run_with_masks_resumes_to_the_bit(base: Path, tmp_path: Path) -> None:
    straight, halved, whole = (
        request(base, tmp_path, name, mask=mask)
        for name, mask in (("straight", "file"), ("halved", "file"), ("whole", "none"))
    )
    list(train(straight))
    seen = iter(range(10))
    list(train(halved, stop=lambda: next(seen) > 1))
    list(train(halved))
    list(train(whole))
    first, second, third = (
        read_style(config.run_folder / f"{config.save.name}.safetensors").modules
        for config in (straight, halved, whole)
    )
    assert all(np.array_equal(first[name].delta(), second[name].delta()) for name in first)
    assert any(not np.array_equal(first[name].delta(), third[name].delta()) for name in first)


def test_a_crop_that_shows_nothing_of_the_mask_is_refused(base: Path, tmp_path: Path) -> None:
    config = request(base, tmp_path, "s", buckets=False, mask_outside=0.0)
    Image.new("RGB", (320, 48)).save(tmp_path / "pictures" / "a.png")
    narrow = Image.new("L", (320, 48), 0)
    narrow.paste(255, (0, 0, 8, 48))
    narrow.save(tmp_path / "pictures" / "a-masklabel.png")
    with pytest.raises(DataError, match=r"mask is all black.*Move the crop"):
        setup.without_notes(setup.set_up(planned(config), trial=True))
