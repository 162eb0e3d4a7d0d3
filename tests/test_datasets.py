"""Tests of studio.datasets.store:

uploads that are no pictures, names from anywhere, captions that are saved at once.
"""

from __future__ import annotations

import os
import threading
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from studio.datasets import history, store
from studio.datasets.thumbnails import thumbnail
from training.data.dataset import read_dataset
from training.errors import ConfigError, DataError
from training.storage.paths import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def ink(workspace: Workspace) -> Path:
    return store.make(workspace, "ink")


def picture(path: Path, colour: str = "red", kind: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 32), colour).save(path, kind)
    return path


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_dataset_is_in_the_list(workspace: Workspace) -> None:
    store.make(workspace, " Tusche – nein ".replace("–", "-"))
    store.make(workspace, "水墨")
    assert store.names(workspace) == ["Tusche - nein", "水墨"]


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "/etc", "a/b", "a\\b", ".hidden", "con", "x" * 81, "a\0b", "a\nb"]
)
def test_names_that_are_no_names_are_refused(workspace: Workspace, name: str) -> None:
    with pytest.raises(ConfigError):
        store.make(workspace, name)
    with pytest.raises(DataError):
        store.folder(workspace, name)


def test_a_name_is_taken_whatever_its_case(workspace: Workspace, ink: Path) -> None:
    with pytest.raises(DataError, match="already a dataset"):
        store.make(workspace, "INK")


def test_bad_uploads_are_named_and_the_others_go_on(tmp_path: Path, ink: Path) -> None:
    up = tmp_path / "up"
    good = [
        picture(up / "red.png"),
        picture(up / "blue.jpg", "blue"),
        picture(up / "green.webp", "green"),
    ]
    text, empty, cut = up / "page.png", up / "empty.jpg", up / "cut.png"
    text.write_text("<html>not found</html>")
    empty.write_bytes(b"")
    cut.write_bytes(good[0].read_bytes()[:60])
    gif = picture(up / "moving.png", kind="PPM")
    added = store.add(ink, [text, good[0], empty, good[1], cut, gif, good[2]])
    assert added.kept == ("red.png", "blue.jpg", "green.webp")
    assert {name for name, _ in added.refused} == {"page.png", "empty.jpg", "cut.png", "moving.png"}
    assert all(reason and str(up) not in reason for _, reason in added.refused)
    assert listing(ink) == ["blue.jpg", "green.webp", "red.png"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("..passwd.png", "passwd.png"),
        ("a;rm -rf $HOME.png", "a-rm -rf -HOME.png"),
        ("CON.png", "CON-1.png"),
        ("....png", "picture.png"),
        ("Ünïcode 水墨 🎨.png", "Ünïcode 水墨.png"),
        (unicodedata.normalize("NFD", "Ä.png"), unicodedata.normalize("NFC", "Ä.png")),
        ("x" * 200 + ".png", "x" * 60 + ".png"),
        ("LOUD.PNG", "LOUD.png"),
    ],
)
def test_file_names_become_safe(tmp_path: Path, ink: Path, given: str, kept: str) -> None:
    assert store.add(ink, [picture(tmp_path / "up" / given, kind="PNG")]).kept == (kept,)
    assert (ink / kept).is_file()


def test_every_picture_has_a_stem_of_its_own(tmp_path: Path, ink: Path) -> None:
    files = [
        picture(tmp_path / f"{n}" / name, colour)
        for n, (name, colour) in enumerate(
            [("a.png", "red"), ("A.jpg", "blue"), ("a.webp", "green")]
        )
    ]
    assert store.add(ink, files).kept == ("a.png", "A-2.jpg", "a-3.webp")


def test_the_same_picture_twice_is_kept_once(tmp_path: Path, ink: Path) -> None:
    first, again = picture(tmp_path / "one.png"), picture(tmp_path / "two.png")
    assert store.add(ink, [first, again]).refused == (("two.png", "is already there as one.png."),)
    assert store.add(ink, [again]).kept == ()


def test_captions_come_with_their_pictures(tmp_path: Path, ink: Path) -> None:
    (tmp_path / "one.txt").write_text("a red thing\n", encoding="utf-8-sig")
    (tmp_path / "alone.txt").write_text("nothing to see")
    added = store.add(
        ink, [tmp_path / "one.txt", picture(tmp_path / "one.png"), tmp_path / "alone.txt"]
    )
    assert (added.kept, added.captions) == (("one.png",), 1)
    assert [name for name, _ in added.refused] == ["alone.txt"]
    assert store.caption(ink, "one.png") == "a red thing"


def test_the_trainer_reads_what_the_page_wrote(tmp_path: Path, ink: Path) -> None:
    store.add(ink, [picture(tmp_path / "one.png"), picture(tmp_path / "two.png", "blue")])
    store.write_caption(ink, "one.png", "  eine „rote“ Fläche \n")
    assert {e.path.name: e.caption for e in read_dataset(ink).examples}[
        "one.png"
    ] == "eine „rote“ Fläche"


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "missing.png", "", "."])
def test_only_pictures_of_the_dataset_are_touched(
    tmp_path: Path, workspace: Workspace, ink: Path, name: str
) -> None:
    picture(workspace.datasets() / "secret.png")
    for touching in (
        lambda: store.caption(ink, name),
        lambda: store.write_caption(ink, name, "x"),
        lambda: store.remove(ink, [name]),
    ):
        with pytest.raises(DataError):
            touching()
    assert listing(ink) == []


def test_a_link_out_of_the_dataset_is_not_followed(
    workspace: Workspace, ink: Path, tmp_path: Path
) -> None:
    (ink / "away.png").symlink_to(picture(tmp_path / "outside.png"))
    with pytest.raises(ConfigError, match="leads out"):
        store.write_caption(ink, "away.png", "x")


def test_a_caption_is_whole_at_every_moment(tmp_path: Path, ink: Path) -> None:
    store.add(ink, [picture(tmp_path / "one.png")])
    texts = ["a" * 4000, "b" * 4000]
    store.write_caption(ink, "one.png", texts[0])
    seen: set[str] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.add(store.caption(ink, "one.png"))

    looking = threading.Thread(target=look)
    looking.start()
    for n in range(30):
        store.write_caption(ink, "one.png", texts[n % 2])
    done.set()
    looking.join()
    assert seen <= set(texts)
    assert listing(ink) == ["one.png", "one.txt"]  # no halves left


def test_a_caption_too_long_is_refused_and_the_old_one_stays(tmp_path: Path, ink: Path) -> None:
    store.add(ink, [picture(tmp_path / "one.png")])
    store.write_caption(ink, "one.png", "short")
    with pytest.raises(DataError, match="Shorten it"):
        store.write_caption(ink, "one.png", "ü" * 6000)
    assert store.caption(ink, "one.png") == "short"


def test_what_is_removed_can_be_had_back(tmp_path: Path, ink: Path) -> None:
    store.add(ink, [picture(tmp_path / "one.png")])
    store.write_caption(ink, "one.png", "words")
    store.place_crop(ink, "one.png", (0.25, 1.0))
    content = (ink / "one.png").read_bytes()
    store.remove(ink, ["one.png"])
    assert [name for name in listing(ink) if not name.startswith(".")] == []
    history.undo(ink)
    assert (ink / "one.png").read_bytes() == content
    assert (store.caption(ink, "one.png"), store.place_of(ink, "one.png")) == ("words", (0.25, 1.0))


def test_captions_of_a_metadata_file_come_along_and_a_txt_counts_more(
    tmp_path: Path, ink: Path
) -> None:
    up = [picture(tmp_path / "up" / f"{name}.png", name) for name in ("red", "blue", "green")]
    lines = [
        '{"file_name": "red.png", "text": "from the list"}',
        '{"file_name": "blue.png", "text": "a lake"}',
        "not json",
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    (tmp_path / "red.txt").write_text("from the file")
    added = store.add(ink, [*up, tmp_path / "metadata.jsonl", tmp_path / "red.txt"])
    assert added.captions == 2 and [name for name, _ in added.refused] == ["metadata.jsonl"]
    assert store.captions(ink) == {
        "blue.png": "a lake",
        "green.png": "",
        "red.png": "from the file",
    }


def test_a_metadata_file_in_the_dataset_is_shown_as_the_trainer_reads_it(
    tmp_path: Path, ink: Path
) -> None:
    store.add(ink, [picture(tmp_path / "one.png"), picture(tmp_path / "two.png", "blue")])
    (ink / "metadata.jsonl").write_text(
        '{"file_name": "one.png", "text": "a wall"}\n{"file_name": "two.png", "text": "a sea"}'
    )
    store.write_caption(ink, "two.png", "a lake")
    assert (
        store.captions(ink)
        == {e.path.name: e.caption for e in read_dataset(ink).examples}
        == {"one.png": "a wall", "two.png": "a lake"}
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_captions_of_any_editor_are_read(tmp_path: Path, ink: Path, encoding: str) -> None:
    (tmp_path / "one.txt").write_text("ein „Bär“", encoding=encoding)
    store.add(ink, [picture(tmp_path / "one.png"), tmp_path / "one.txt"])
    assert read_dataset(ink).examples[0].caption == "ein „Bär“"


def test_a_crop_is_kept_beside_its_picture_within_bounds(tmp_path: Path, ink: Path) -> None:
    store.add(ink, [picture(tmp_path / "one.png")])
    store.place_crop(ink, "one.png", (-3.0, 0.75))
    assert read_dataset(ink).examples[0].place == (0.0, 0.75) == store.place_of(ink, "one.png")
    store.place_crop(ink, "one.png", (0.5, 0.5))
    assert listing(ink) == ["one.png"]


def test_a_thumbnail_is_made_anew_when_its_picture_changes(tmp_path: Path) -> None:
    source = picture(tmp_path / "one.png")
    first = thumbnail(source, side=16, into=tmp_path / "small")
    assert thumbnail(source, side=16, into=tmp_path / "small") == first
    assert max(Image.open(first).size) == 16
    picture(source, "blue")
    os.utime(source, ns=(1, 1))
    assert thumbnail(source, side=16, into=tmp_path / "small") != first
