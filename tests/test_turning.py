"""Quarter turns of pictures: pixels, transparency, crop and caption, undone as one change."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from studio.datasets import history, store, turning
from training.data.crops import read_place
from training.data.pictures import open_picture
from training.errors import DataError


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A picture in PNG with a moved crop, one in JPEG that a camera held upright, one that is
    transparent in part.
    """
    folder = tmp_path / "ink"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 4), np.uint8)
    Image.fromarray(noise[..., :3]).save(folder / "a.png")
    store.place_crop(folder, "a.png", (0.2, 0.5))
    held = Image.Exif()
    held[0x0112] = 6  # EXIF's orientation: to be turned to the right
    Image.fromarray(noise[..., :3]).save(folder / "b.jpg", exif=held)
    Image.fromarray(noise).save(folder / "c.png")
    (folder / "metadata.jsonl").write_text(
        json.dumps({"file_name": "b.jpg", "text": "a bear"}) + "\n"
    )
    return folder


def pixels(path: Path) -> np.ndarray:
    return np.asarray(open_picture(path))


def test_a_turn_is_one_of_the_pixels_that_are_trained(dataset: Path) -> None:
    before = {name: pixels(dataset / name) for name in ("a.png", "b.jpg")}
    assert turning.turn(dataset, ["a.png", "b.jpg"], "left") == 2
    assert store.pictures(dataset) == ["a.png", "b.png", "c.png"]
    assert np.array_equal(pixels(dataset / "a.png"), np.rot90(before["a.png"]))
    assert np.array_equal(pixels(dataset / "b.png"), np.rot90(before["b.jpg"]))
    turning.turn(dataset, ["b.png"], "right")
    assert np.array_equal(pixels(dataset / "b.png"), before["b.jpg"])


def test_the_crop_shows_the_same_part(dataset: Path) -> None:
    turning.turn(dataset, ["a.png"], "left")
    assert read_place(dataset / "a.png") == (0.5, 0.8)
    turning.turn(dataset, ["a.png"], "right")
    assert read_place(dataset / "a.png") == (0.2, 0.5)


def test_transparency_is_turned_along(dataset: Path) -> None:
    before = np.asarray(Image.open(dataset / "c.png")).astype(int)
    turning.turn(dataset, ["c.png"], "right")
    after = np.asarray(Image.open(dataset / "c.png")).astype(int)
    expected = np.rot90(before, -1)
    assert np.array_equal(after[..., 3], expected[..., 3])
    visible = expected[..., 3] > 0
    # in the colours as they are seen: where little is, little can differ
    seen = np.abs(after - expected)[..., :3] * expected[..., 3:] / 255
    assert seen[visible].max() <= 1


def test_a_caption_in_a_list_stays_with_its_picture(dataset: Path) -> None:
    turning.turn(dataset, ["b.jpg"], "left")
    assert store.captions(dataset)["b.png"] == "a bear"


def test_all_turns_of_an_act_are_undone_at_once(dataset: Path) -> None:
    def files() -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in dataset.iterdir() if file.is_file()}

    before = files()
    turning.turn(dataset, ["a.png", "b.jpg", "c.png"], "left")
    history.undo(dataset)
    assert files() == before


def test_one_that_cannot_be_read_is_named_and_none_is_turned(dataset: Path) -> None:
    (dataset / "d.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"d\.png"):
        turning.turn(dataset, ["a.png", "d.png"], "left")
    assert history.last(dataset) is None


def test_no_picture_is_written_over(dataset: Path) -> None:
    (dataset / "a.jpg").write_bytes((dataset / "b.jpg").read_bytes())
    with pytest.raises(DataError, match="another picture"):
        turning.turn(dataset, ["c.png", "a.jpg"], "left")
    assert history.last(dataset) is None
