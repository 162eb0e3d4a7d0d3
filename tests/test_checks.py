"""Tests of studio.datasets.checks and studio.datasets.fixes: what is found,
that good sets are left in peace, and that a mend ends its finding and can be undone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from studio.datasets import checks, fixes, history, store
from studio.datasets.base_info import Base, Tokens
from training.data.buckets import Bucket, buckets, nearest
from training.data.dataset import read_dataset
from training.errors import DataError
from training.storage.paths import Workspace, builtin_base

SAMPLES = builtin_base().parent / "linocut"


class Words(Base):
    """A base that reads four words."""

    def tokens(self, caption: str) -> Tokens:
        words = caption.split(" ")
        read = " ".join(words[:4])
        return Tokens(len(words), 4, read, caption[len(read) :])


BASE = Words(side=64, multiple=16)


def photo(seed: int, size: tuple[int, int] = (96, 96)) -> Image.Image:
    """Soft blots: no two seeds look alike."""
    blots = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return Image.fromarray(blots).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def ink(tmp_path: Path) -> Path:
    folder = store.make(Workspace(tmp_path / "w"), "ink")
    for seed, name in enumerate(["apple", "boat", "cat", "duck"]):
        photo(seed).save(folder / f"{name}.png")
        store.write_caption(folder, f"{name}.png", f"a {name}")
    return folder


def found(folder: Path) -> dict[str, tuple[str, ...]]:
    return {f.kind: f.pictures for f in checks.findings(folder, BASE)}


def spoilt(ink: Path, how: str) -> dict[str, tuple[str, ...]]:
    """Spoil a good set in one way; what should be found."""
    if how == "broken":
        (ink / "egg.png").write_bytes((ink / "apple.png").read_bytes()[:200])
        store.write_caption(ink, "egg.png", "an egg")
        return {"broken": ("egg.png",)}
    if how == "alike":
        photo(0).resize((80, 80)).save(ink / "again.jpg", quality=60)
        store.write_caption(ink, "again.jpg", "an apple once more")
        return {"alike": ("apple.png", "again.jpg")}
    if how == "small":
        photo(9, (40, 40)).save(ink / "boat.png")
        return {"small": ("boat.png",)}
    if how == "lonely":
        photo(9, (64, 128)).save(ink / "boat.png")
        return {"lonely": ("boat.png",)}
    if how == "wordless":
        (ink / "boat.txt").unlink()
        return {"wordless": ("boat.png",)}
    if how == "unreadable":
        (ink / "boat.txt").write_bytes("ein Bär".encode("utf-16"))
        return {"unreadable": ("boat.png",)}
    text = {
        "odd": "see https://x.example",
        "untidy": "boat, , boat",
        "long": "a boat, on the wide sea",
    }[how]
    store.write_caption(ink, "boat.png", text)
    return {how: ("boat.png",)}


KINDS = ["broken", "alike", "small", "lonely", "wordless", "unreadable", "odd", "untidy", "long"]


def test_a_good_set_is_left_in_peace(ink: Path) -> None:
    assert found(ink) == {}


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the samples are not in this clone")
def test_the_samples_are_no_copies_of_each_other() -> None:
    assert [f for f in checks.findings(SAMPLES, Base(128, 32)) if f.kind == "alike"] == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wrong_is_found_and_nothing_else(ink: Path, kind: str) -> None:
    expected = spoilt(ink, kind)
    assert found(ink) == expected
    [finding] = checks.findings(ink, BASE)
    assert kind == "alike" or "boat.png" in finding.words or "egg.png" in finding.words


@pytest.mark.parametrize("kind", KINDS)
def test_every_fix_ends_its_finding_and_can_be_undone(ink: Path, kind: str) -> None:
    spoilt(ink, kind)
    [finding] = checks.findings(ink, BASE)
    before = {f.name: f.read_bytes() for f in ink.iterdir() if f.is_file()}
    for fix, _ in finding.offered_fixes:
        fixes.apply_fix(ink, finding.kind, fix, finding.pictures, BASE)
        assert found(ink) == {}, fix
        read_dataset(ink)  # and the trainer takes it
        history.undo(ink)
        assert {f.name: f.read_bytes() for f in ink.iterdir() if f.is_file()} == before, fix
        assert list(found(ink)) == [kind], fix


def test_pictures_without_a_caption_are_one_finding(ink: Path) -> None:
    """With one fix for all; what is left as it is stays so when another one comes."""
    for name in ("apple", "boat", "cat"):
        (ink / f"{name}.txt").unlink()
    photo(7).save(ink / "IMG_2001.png")
    named, unnamed = checks.findings(ink, BASE)
    assert named.pictures == ("apple.png", "boat.png", "cat.png") and "3 pictures" in named.words
    assert unnamed.pictures == ("IMG_2001.png",)
    fixes.apply_fix(ink, "wordless", "use_name", named.pictures, BASE)
    assert store.captions(ink) == {
        "apple.png": "apple",
        "boat.png": "boat",
        "cat.png": "cat",
        "duck.png": "a duck",
        "IMG_2001.png": "",
    }
    history.undo(ink)
    fixes.apply_fix(ink, "wordless", "leave", named.pictures, BASE)
    assert found(ink) == {"wordless": ("IMG_2001.png",)}
    (ink / "duck.txt").unlink()
    assert [f.pictures for f in checks.findings(ink, BASE)] == [("duck.png",), ("IMG_2001.png",)]


def test_the_same_look_in_another_shape_is_no_copy(ink: Path) -> None:
    photo(0).resize((128, 64)).save(ink / "apple.png")
    photo(0).resize((64, 128)).save(ink / "boat.png")
    assert "alike" not in found(ink)


def test_the_same_caption_for_all_is_found(ink: Path) -> None:
    for name in store.pictures(ink):
        store.write_caption(ink, name, "a thing")
    assert list(found(ink)) == ["repeated"]


def test_a_fix_of_something_else_is_refused(ink: Path) -> None:
    spoilt(ink, "small")
    for kind, fix, names in [
        ("small", "take_out", ["cat.png"]),
        ("small", "shorten", ["boat.png"]),
        ("broken", "take_out", ["../x"]),
    ]:
        with pytest.raises(DataError, match="changed already"):
            fixes.apply_fix(ink, kind, fix, names, BASE)
    assert len(store.pictures(ink)) == 4


def test_a_finding_left_alone_comes_back_when_it_is_another(ink: Path) -> None:
    spoilt(ink, "alike")
    fixes.apply_fix(ink, "alike", "leave", ["again.jpg", "apple.png"], BASE)
    assert found(ink) == {}
    photo(0).resize((70, 70)).save(ink / "third.png")
    store.write_caption(ink, "third.png", "an apple for ever")
    assert list(found(ink)) == ["alike"]


def test_a_crop_fix_cuts_and_does_not_resize(ink: Path) -> None:
    photo(9, (64, 128)).save(ink / "boat.png")
    store.place_crop(ink, "boat.png", (0.5, 1.0))
    fixes.apply_fix(ink, "lonely", "crop", ["boat.png"], BASE)
    with Image.open(ink / "boat.png") as cut:
        assert cut.size == (64, 64)
        assert (np.asarray(cut) == np.asarray(photo(9, (64, 128)).crop((0, 64, 64, 128)))).all()
    assert nearest(64, 64, buckets(64, 16)) == Bucket(64, 64)
    assert store.place_of(ink, "boat.png") == (0.5, 0.5)


def test_shortened_ends_with_a_whole_tag() -> None:
    assert fixes.shortened("a boat, on the wide sea", BASE) == "a boat"
    assert fixes.shortened("one two three four five", BASE) == "one two three four"
    assert fixes.shortened("a, b", BASE) == "a, b"
