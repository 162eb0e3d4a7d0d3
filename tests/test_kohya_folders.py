"""Folders of sd-scripts: several in one, repeated."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from training.data.buckets import Bucket
from training.data.dataset import read_dataset
from training.errors import DataError
from training.runtime.rng import Order
from training.trainer.batches import EncodedData
from training.trainer.latents import Latents
from training.trainer.resume import pictures_record


def picture(path: Path, shade: int = 90, text: str = "") -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (40, 40), (shade, 120, 255 - shade)).save(path)
    if text:
        path.with_suffix(".txt").write_text(text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    picture(tmp_path / "10_sks dog" / "a.png", 10)
    picture(tmp_path / "10_sks dog" / "b.png", 20, "a dog asleep")
    picture(tmp_path / "2_ink" / "a.png", 30, "a lake")
    picture(tmp_path / "samples" / "a.png", 40)
    return tmp_path


def test_pictures_of_repeated_folders_are_one_set(folder: Path) -> None:
    found = read_dataset(folder, trigger="ink")
    assert [(e.name, e.repeats, e.plain) for e in found.examples] == [
        ("10_sks dog/a.png", 10, "sks dog"),
        ("10_sks dog/b.png", 10, "a dog asleep"),
        ("2_ink/a.png", 2, "a lake"),
    ]
    said = "\n".join(found.notes)
    assert "2 of 10_sks dog, 10 times each; 1 of 2_ink, 2 times each" in said
    assert "1 of 2 pictures has no caption: that of the folder is used (sks dog)" in said


def test_each_picture_is_seen_as_often_as_its_folder_says(folder: Path) -> None:
    examples = list(read_dataset(folder).examples)
    square = Bucket(32, 32)
    data = EncodedData(examples, [], [], [square] * 3, {square: []}, Latents())
    order = Order(data.groups, batch_size=2, seed=0)
    seen = Counter(i for number in range(order.passes) for i in order.rows(number))
    assert seen == {0: 10, 1: 10, 2: 2}


def test_a_picture_moved_to_another_folder_is_another_one(folder: Path) -> None:
    before = pictures_record(read_dataset(folder).examples)
    (folder / "2_ink").rename(folder / "3_ink")
    after = pictures_record(read_dataset(folder).examples)
    assert before[:2] == after[:2] and before[2] != after[2]


def test_a_folder_with_pictures_of_its_own_is_read_as_ever(folder: Path) -> None:
    picture(folder / "own.png")
    found = read_dataset(folder)
    assert [(e.name, e.repeats) for e in found.examples] == [("own.png", 1)]
    assert any("Pictures in sub-folders are not read" in note for note in found.notes)


def test_what_is_wrong_in_any_of_them_is_said(folder: Path) -> None:
    (folder / "2_ink" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    (folder / "10_sks dog" / "bad.txt").write_bytes(b"\xff")
    picture(folder / "10_sks dog" / "bad.png")
    with pytest.raises(DataError) as caught:
        read_dataset(folder)
    assert "bad.png is damaged" in str(caught.value) and "bad.txt is not UTF-8" in str(caught.value)


@pytest.mark.parametrize("name", ["0_x", "1001_x", "999999999_x"])
def test_a_number_that_is_none_to_repeat_by_is_refused(folder: Path, name: str) -> None:
    picture(folder / name / "a.png")
    with pytest.raises(DataError, match=rf"{name} says .* 1 to 1,000 was expected"):
        read_dataset(folder)


@pytest.mark.parametrize("name", ["x_10", "10", "10-x", "ten_x", "1000000000000_x"])
def test_other_names_are_not_of_that_kind(tmp_path: Path, name: str) -> None:
    picture(tmp_path / name / "a.png")
    with pytest.raises(DataError, match="holds no pictures"):
        read_dataset(tmp_path)
