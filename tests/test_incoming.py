"""Tests of studio.datasets.incoming: the path of a file goes with it, a caption finds any picture
of the dataset, and what cannot be told apart is named and left out.
"""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

from studio.datasets import archives, history, incoming, store
from training.data.dataset import read_dataset
from training.storage.paths import Workspace

COLOURS = {"cat": (220, 60, 40), "dog": (40, 60, 220), "cow": (40, 200, 60)}


@pytest.fixture
def ink(tmp_path: Path) -> Path:
    return store.make(Workspace(tmp_path / "workspace"), "ink")


def written(path: Path, content: str = "", animal: str = "cat") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".png", ".jpg", ".webp"):
        Image.new("RGB", (40, 32), COLOURS[animal]).save(path, "PNG")
    else:
        path.write_text(content, encoding="utf-8")
    return path


def kohya(root: Path) -> list[Path]:
    """Folders as kohya's trainers want them: files of one name in both."""
    made = []
    for sub, animal in (("10_cat", "cat"), ("5_dog", "dog")):
        made.append(written(root / sub / "1.png", animal=animal))
        made.append(written(root / sub / "1.txt", f"a {animal}"))
    return made


def paths_of(files: list[Path], root: Path) -> list[str]:
    return [file.relative_to(root).as_posix() for file in files]


def shows(ink: Path) -> dict[str, str]:
    """What each picture shows -> its caption."""
    found = {}
    for name, text in store.captions(ink).items():
        with Image.open(ink / name) as opened:
            pixel = opened.convert("RGB").getpixel((0, 0))
        found[next(animal for animal, colour in COLOURS.items() if colour == pixel)] = text
    return found


# --- paths ---


@pytest.mark.parametrize("how", ["folder", "folder, backslashes", "zip", "two zips"])
def test_every_picture_keeps_the_caption_beside_it(tmp_path: Path, ink: Path, how: str) -> None:
    files = kohya(tmp_path / "img")
    paths = paths_of(files, tmp_path)
    if how.startswith("folder"):
        given = [path.replace("/", "\\") for path in paths] if "back" in how else paths
        added = store.add(ink, files, given)
    else:
        archives_made = []
        for number, some in enumerate([files] if how == "zip" else [files[:2], files[2:]]):
            archive = tmp_path / f"{number}.zip"
            with zipfile.ZipFile(archive, "w") as opened:
                for file in some:
                    name = file.relative_to(tmp_path) if how == "zip" else Path(file.name)
                    opened.write(file, name)
            archives_made.append(archive)
        added = store.add(ink, archives_made)
    assert (len(added.kept), added.captions, added.refused) == (2, 2, ())
    assert shows(ink) == {"cat": "a cat", "dog": "a dog"}


def test_loose_files_of_one_name_get_no_caption_of_another(tmp_path: Path, ink: Path) -> None:
    added = store.add(ink, kohya(tmp_path))
    assert len(added.kept) == 2 and shows(ink) == {"cat": "", "dog": ""}
    assert [name for name, _ in added.refused] == ["1.txt", "1.txt"]
    assert all("fits several pictures" in reason for _, reason in added.refused)


@pytest.mark.parametrize("lacks", ["picture", "caption"])
def test_one_of_a_name_and_two_of_the_other_is_not_guessed(
    tmp_path: Path, ink: Path, lacks: str
) -> None:
    cat, cat_text, dog, dog_text = kohya(tmp_path)
    given = [cat, cat_text, dog_text] if lacks == "picture" else [cat, dog, dog_text]
    added = store.add(ink, given)
    assert set(shows(ink).values()) == {""} and {name for name, _ in added.refused} == {"1.txt"}


def test_the_same_file_twice_is_no_collision(tmp_path: Path, ink: Path) -> None:
    cat, text = kohya(tmp_path)[:2]
    store.add(ink, [cat, text, cat, text])
    assert shows(ink) == {"cat": "a cat"}


def test_pictures_of_one_stem_in_one_folder_share_their_caption(tmp_path: Path, ink: Path) -> None:
    files = [
        written(tmp_path / "a.png"),
        written(tmp_path / "a.jpg", animal="dog"),
        written(tmp_path / "a.txt", "an animal"),
    ]
    store.add(ink, files)
    assert shows(ink) == {"cat": "an animal", "dog": "an animal"}


def test_two_lists_in_two_folders_name_each_their_own(tmp_path: Path, ink: Path) -> None:
    files = [file for file in kohya(tmp_path / "img") if file.suffix == ".png"]
    for animal, sub in (("cat", "10_cat"), ("dog", "5_dog")):
        line = json.dumps({"file_name": "1.png", "text": f"a {animal}"})
        files.append(written(tmp_path / "img" / sub / "metadata.jsonl", line))
    store.add(ink, files, paths_of(files, tmp_path))
    assert shows(ink) == {"cat": "a cat", "dog": "a dog"}


def test_a_list_above_its_folders_names_pictures_below(tmp_path: Path, ink: Path) -> None:
    files = [file for file in kohya(tmp_path / "img") if file.suffix == ".png"]
    table = "file_name,text\n10_cat/1.png,a cat\n5_dog\\1.png,a dog\n../x.png,out\n"
    files.append(written(tmp_path / "img" / "metadata.csv", table))
    added = store.add(ink, files, paths_of(files, tmp_path))
    assert shows(ink) == {"cat": "a cat", "dog": "a dog"}
    [(name, reason)] = added.refused
    assert name == "img/metadata.csv" and "line 4 names ../x.png, which leads elsewhere" in reason


def test_what_the_page_tells_of_a_folder_is_only_used_when_it_fits(tmp_path: Path) -> None:
    files = [tmp_path / "a" / "1.png", tmp_path / "b" / "1.png"]
    sent_along = written(
        tmp_path / incoming.FOLDERS, '{"files": ["x/1.png", "y/1.png"], "left": []}'
    )
    assert incoming.with_paths([*files, sent_along]) == (files, ["x/1.png", "y/1.png"], [])
    for content in ('{"files": ["x/1.png"], "left": []}', "no", "[]", '{"files": 5}'):
        sent_along.write_text(content)
        assert incoming.with_paths([*files, sent_along]) == (files, ["1.png", "1.png"], [])


@pytest.mark.parametrize(
    "path", ["../../etc/1.png", "/etc/1.png", "C:\\x\\1.png", "a/\x1b[31m/1.png"]
)
def test_a_path_opens_nothing(tmp_path: Path, ink: Path, path: str) -> None:
    added = store.add(ink, [written(tmp_path / "up.png")], [path])
    assert added.kept == ("1.png",)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["up.png", "workspace"]


def test_files_that_the_page_did_not_send_are_named(ink: Path) -> None:
    left = ["phone/IMG_0.NEF", "phone/a.mov", "phone/meta_cap.json", "phone/.DS_Store"]
    refused = dict(store.add(ink, [], [], left).refused)
    assert list(refused) == left[:3]
    assert "a kind that is not read (NEF). Save it as PNG" in refused["phone/IMG_0.NEF"]
    assert "may hold captions" in refused["phone/meta_cap.json"]


def test_masks_are_named_and_not_taken(tmp_path: Path, ink: Path) -> None:
    store.add(ink, [written(tmp_path / "a.png")])
    mask = written(tmp_path / "a-masklabel.png", animal="dog")
    [(name, reason)] = store.add(ink, [mask]).refused
    assert name == mask.name and "looks like a mask" in reason
    written(tmp_path / "a-masklabel.txt", "a dog after all")
    assert store.add(ink, [mask, tmp_path / "a-masklabel.txt"]).captions == 1


# --- captions that come later ---


@pytest.mark.parametrize(
    "kind", ["a.txt", "a.caption", "a.png.txt", "metadata.jsonl", "metadata.csv"]
)
def test_a_caption_finds_a_picture_that_is_there(tmp_path: Path, ink: Path, kind: str) -> None:
    store.add(ink, [written(tmp_path / "a.png"), written(tmp_path / "b.png", animal="dog")])
    content = {
        "metadata.jsonl": '{"file_name": "a.png", "text": "a cat"}',
        "metadata.csv": "file_name,text\na.png,a cat\n",
    }.get(kind, "a cat")
    added = store.add(ink, [written(tmp_path / kind, content)])
    assert (added.captioned, added.refused) == (("a.png",), ())
    assert shows(ink) == {"cat": "a cat", "dog": ""}


def test_a_caption_in_place_of_another_can_be_undone(tmp_path: Path, ink: Path) -> None:
    files = kohya(tmp_path / "img")
    paths = paths_of(files, tmp_path)
    store.add(ink, files, paths)
    for file in files[1::2]:
        file.write_text(file.read_text() + " asleep")
    added = store.add(ink, files[1::2], paths[1::2])
    assert shows(ink) == {"cat": "a cat asleep", "dog": "a dog asleep"}
    assert sorted(added.captioned) == ["1-2.png", "1.png"]
    history.undo(ink)
    assert shows(ink) == {"cat": "a cat", "dog": "a dog"}
    assert store.add(ink, files[1::2], paths[1::2]).captioned == added.captioned


def test_pictures_that_are_brought_again_bring_their_captions(tmp_path: Path, ink: Path) -> None:
    files = kohya(tmp_path / "img")
    paths = paths_of(files, tmp_path)
    store.add(ink, files[::2], paths[::2])
    added = store.add(ink, files, paths)
    assert {reason for _, reason in added.refused} == {
        "is already there as 1.png.",
        "is already there as 1-2.png.",
    }
    assert shows(ink) == {"cat": "a cat", "dog": "a dog"}


@pytest.mark.parametrize(
    ("path", "gets"),
    [
        ("img/5_dog/1.txt", "dog"),
        ("5_dog/1.txt", "dog"),
        ("elsewhere/10_cat/1.txt", "cat"),
        ("1-2.txt", "dog"),
        ("1.txt", ""),
        ("7_cow/1.txt", ""),
        ("2.txt", ""),
    ],
)
def test_a_later_caption_goes_to_the_picture_of_its_folder_or_to_none(
    tmp_path: Path, ink: Path, path: str, gets: str
) -> None:
    files = [file for file in kohya(tmp_path / "img") if file.suffix == ".png"]
    store.add(ink, files, paths_of(files, tmp_path))
    added = store.add(ink, [written(tmp_path / "later.txt", "words")], [path])
    assert shows(ink) == {"cat": "", "dog": ""} | ({gets: "words"} if gets else {})
    assert [name for name, _ in added.refused] == ([] if gets else [path])


def test_a_removed_picture_gets_no_caption(tmp_path: Path, ink: Path) -> None:
    store.add(ink, [written(tmp_path / "a.png")], ["x/a.png"])
    store.remove(ink, ["a.png"])
    assert store.add(ink, [written(tmp_path / "a.txt", "a cat")]).captioned == ()
    store.add(ink, [written(tmp_path / "b" / "a.png", animal="dog")])
    assert incoming.origins(ink) == {}


def test_a_txt_that_comes_with_a_list_counts_and_the_other_is_named(
    tmp_path: Path, ink: Path
) -> None:
    files = [
        written(tmp_path / "a.png"),
        written(tmp_path / "a.caption", "of the .caption"),
        written(tmp_path / "metadata.jsonl", '{"file_name": "a.png", "text": "of the list"}'),
    ]
    added = store.add(ink, files)
    assert shows(ink) == {"cat": "of the list"} and "a.caption is not used" in added.notes[0]
    assert read_dataset(ink).examples[0].caption == "of the list"


# --- names in zips ---


def zipped(path: Path, names: dict[str, bytes], extra: bytes = b"") -> Path:
    """A zip whose names are these bytes, without the mark for UTF-8."""
    with zipfile.ZipFile(path, "w") as opened:
        for number, (animal, raw) in enumerate(names.items()):
            info = zipfile.ZipInfo(chr(ord("Q") + number) * len(raw))
            info.extra = extra
            png = written(path.parent / f"{animal}.png", animal=animal)
            opened.writestr(info, png.read_bytes())
    content = path.read_bytes()
    for number, raw in enumerate(names.values()):
        content = content.replace((chr(ord("Q") + number) * len(raw)).encode(), raw)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("gbk", "红苹果"),
        ("shift_jis", "赤いりんご"),
        ("shift_jis", "あいう"),
        ("cp866", "красный кот"),
        ("cp866", "ДОМ"),
        ("euc_kr", "빨간 사과"),
        ("cp737", "γάτα"),
        ("big5", "貓在睡覺"),
    ],
)
def test_names_that_cannot_be_read_are_no_words(
    tmp_path: Path, ink: Path, encoding: str, name: str
) -> None:
    raw = {animal: f"{name}{n}.png".encode(encoding) for n, animal in enumerate(("cat", "dog"))}
    added = store.add(ink, [zipped(tmp_path / "in.zip", raw)])
    assert added.kept == ("picture.png", "picture-2.png")
    assert "in.zip: the names of 2 pictures cannot be read" in added.notes[0]
    # "picture" says nothing, so nothing of the name becomes a caption
    assert [example.caption for example in read_dataset(ink).examples] == ["", ""]


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("cp437", "Bär im Wald"), ("cp437", "Größe"), ("cp437", "café noir"), ("utf-8", "赤いりんご")],
)
def test_names_that_can_be_read_are_kept(
    tmp_path: Path, ink: Path, encoding: str, name: str
) -> None:
    added = store.add(ink, [zipped(tmp_path / "in.zip", {"cat": f"{name}.png".encode(encoding)})])
    assert (added.kept, added.notes) == ((f"{name}.png",), ())


@pytest.mark.parametrize("fits", [True, False])
def test_a_unicode_path_beside_the_name_is_read_when_it_fits(
    tmp_path: Path, ink: Path, fits: bool
) -> None:
    raw = "红苹果.png".encode("gbk")
    data = b"\1" + struct.pack("<L", zlib.crc32(raw) ^ (not fits)) + "红苹果.png".encode()
    extra = struct.pack("<HH", archives.UNICODE_PATH, len(data)) + data
    added = store.add(ink, [zipped(tmp_path / "in.zip", {"cat": raw}, extra)])
    assert added.kept == (("红苹果.png",) if fits else ("picture.png",))


def test_a_unicode_path_leads_nowhere(tmp_path: Path, ink: Path) -> None:
    raw = "红苹果.png".encode("gbk")
    data = b"\1" + struct.pack("<L", zlib.crc32(raw)) + b"../../out.png"
    extra = struct.pack("<HH", archives.UNICODE_PATH, len(data)) + data
    added = store.add(ink, [zipped(tmp_path / "in.zip", {"cat": raw}, extra)])
    assert not added.kept and "leads out" in added.refused[0][1]
    assert not list(tmp_path.parent.glob("out.png"))


def test_captions_find_pictures_whose_names_cannot_be_read(tmp_path: Path, ink: Path) -> None:
    archive = tmp_path / "in.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for stem, animal in (("QQQQ", "cat"), ("XXXX", "dog")):
            png = written(tmp_path / f"{animal}.png", animal=animal)
            opened.writestr(f"{stem}.png", png.read_bytes())
            opened.writestr(f"{stem}.txt", f"a {animal}")
    content = archive.read_bytes()
    for stem, name in (("QQQQ", "猫犬"), ("XXXX", "犬猫")):
        content = content.replace(stem.encode(), name.encode("shift_jis"))
    archive.write_bytes(content)
    assert store.add(ink, [archive]).captions == 2
    assert shows(ink) == {"cat": "a cat", "dog": "a dog"}
