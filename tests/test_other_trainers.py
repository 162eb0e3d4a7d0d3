"""Folders as other trainers keep them: whatever looks like a caption, a mask or a picture is used
or named.
"""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from training.data.caption_files import caption_from_name
from training.data.dataset import read_dataset
from training.errors import DataError

WORDS = ("a red apple", "a sleeping cat", "an old key", "a sailing boat")
NAMES = tuple(f"IMG_{n:04d}.png" for n in range(4))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures whose names say nothing."""
    made = tmp_path / "images"
    made.mkdir()
    for name, colour in zip(NAMES, ("red", "blue", "green", "white"), strict=True):
        Image.new("RGB", (40, 32), colour).save(made / name)
    return made


def captions(folder: Path) -> tuple[str, ...]:
    return tuple(example.caption for example in read_dataset(folder).examples)


def notes(folder: Path) -> str:
    return "\n".join(read_dataset(folder).notes)


def complaint(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_dataset(folder)
    return str(caught.value)


def table(separator: str, head: tuple[str, str]) -> str:
    file = io.StringIO()
    csv.writer(file, delimiter=separator).writerows([head, *zip(NAMES, WORDS, strict=True)])
    return file.getvalue()


ENTRIES = [{"file_name": n, "text": t} for n, t in zip(NAMES, WORDS, strict=True)]
# name -> what lies beside the pictures
READ: dict[str, dict[str, str]] = {
    "kohya's .caption": {f"{n[:-4]}.caption": t for n, t in zip(NAMES, WORDS, strict=True)},
    "loud .CAPTION": {f"{n[:-4]}.CAPTION": t for n, t in zip(NAMES, WORDS, strict=True)},
    "a doubled suffix": {f"{n}.txt": t for n, t in zip(NAMES, WORDS, strict=True)},
    "a doubled suffix of the other kind": {
        f"{n}.caption": t for n, t in zip(NAMES, WORDS, strict=True)
    },
    "a table": {"metadata.csv": table(",", ("file_name", "text"))},
    "a table of a spreadsheet": {"metadata.csv": "\ufeff" + table(";", ("File_Name", "Caption"))},
    "a table with tabs": {"Metadata.CSV": table("\t", ("filename", "prompt"))},
    "a list as one array": {"metadata.jsonl": json.dumps(ENTRIES)},
    "a list as one array over lines": {"metadata.jsonl": json.dumps(ENTRIES, indent=1)},
    "sd-scripts' list": {
        "meta_cap.json": json.dumps(
            {n: {"caption": t} for n, t in zip(NAMES, WORDS, strict=True)}
            | {"other": {"caption": "of another folder"}}
        )
    },
    "sd-scripts' list of another machine, without suffixes, of captions and tags": {
        "meta_lat.json": json.dumps(
            {
                f"C:\\train\\{n[:-4]}": {"caption": t[: t.rindex(" ")], "tags": t.split(" ")[-1]}
                for n, t in zip(NAMES, WORDS, strict=True)
            }
        )
    },
    "a list that lay above the folder": {
        "metadata.jsonl": "\n".join(
            json.dumps({"file_name": f"images/{n}", "text": t})
            for n, t in zip(NAMES, WORDS, strict=True)
        )
    },
}


@pytest.mark.parametrize("name", READ)
def test_captions_of_other_trainers_are_read(folder: Path, name: str) -> None:
    for file, content in READ[name].items():
        (folder / file).write_text(content, encoding="utf-8", newline="")
    several = [text.replace(",", "") for text in captions(folder)]  # between caption and tags
    assert tuple(several) == WORDS
    assert notes(folder) == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1]", "is not one JSON object"),
        ('{"IMG_0000": {"caption": 5}}', "has no text"),
        ('{"IMG_0000": {"caption": "a\\u0000b"}}', "has a NUL character"),
    ],
)
def test_a_list_of_sd_scripts_that_is_odd_stops_nothing(
    folder: Path, content: str, said: str
) -> None:
    (folder / "meta_cap.json").write_text(content)
    assert said in notes(folder) and "meta_cap.json" in notes(folder)


@pytest.mark.parametrize(
    "name", ["meta_cap.jsonl", "IMG_0000.json", "captions.tsv", "tags.csv", "a.parquet", "b.xmp"]
)
def test_what_may_hold_captions_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text("{}")
    assert f"may hold captions are not read: 1 ({name})" in notes(folder)


def test_a_crop_is_no_caption_that_is_not_read(folder: Path) -> None:
    (folder / "IMG_0000.crop.json").write_text('{"across": 0, "down": 0}')
    assert "may hold captions" not in notes(folder)


def test_a_list_of_the_hub_is_not_lost_on_the_way(folder: Path) -> None:
    content = READ["a list that lay above the folder"]["metadata.jsonl"]
    (folder.parent / "metadata.jsonl").write_text(content)
    said = complaint(folder.parent)
    assert f"Set data.folder to {folder} and move metadata.jsonl into it" in said
    assert "metadata.jsonl in the folder above names pictures of this one" in notes(folder)
    (folder.parent / "metadata.jsonl").rename(folder / "metadata.jsonl")
    assert captions(folder) == WORDS


def test_a_list_above_that_names_other_pictures_is_left_alone(folder: Path) -> None:
    (folder.parent / "metadata.jsonl").write_text('{"file_name": "other/a.png", "text": "x"}')
    assert "folder above" not in notes(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps(ENTRIES, indent=1)[:-20], "is one list that is not JSON"),
        ('[\n{"file_name": "IMG_0000.png",\n "text": "x",}\n]', "is one list that is not JSON"),
        (json.dumps({"IMG_0000.png": "x"}, indent=1), "is one JSON object"),
        (json.dumps([*ENTRIES, 5]), "entry 5 is not an object"),
    ],
)
def test_a_list_in_another_form_is_one_complaint(folder: Path, content: str, said: str) -> None:
    (folder / "metadata.jsonl").write_text(content)
    found = complaint(folder)
    assert f"metadata.jsonl {said}" in found and "\n" not in found


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1,2\n", "has no columns file_name and text"),
        ('file_name,text\n"IMG_0000.png,x', "is not a table"),
        ("file_name,text\ngone.png,x\n", "line 2 names gone.png, which is not there"),
        ("file_name,text\n../x.png,x\n", "leads out of the folder"),
    ],
)
def test_a_table_for_another_program_stops_nothing(folder: Path, content: str, said: str) -> None:
    (folder / "metadata.csv").write_text(content)
    assert said in notes(folder) and "metadata.csv" in notes(folder)


def test_a_txt_counts_more_than_a_list_and_that_more_than_a_caption_file(folder: Path) -> None:
    for name in NAMES:
        (folder / f"{name[:-4]}.caption").write_text("of the .caption")
    (folder / "metadata.jsonl").write_text(
        "\n".join(json.dumps({"file_name": name, "text": "of the list"}) for name in NAMES[:2])
    )
    (folder / "IMG_0000.txt").write_text("of the .txt")
    (folder / "metadata.csv").write_text("file_name,text\nIMG_0003.png,of the table\n")
    assert captions(folder) == ("of the .txt", "of the list", "of the .caption", "of the .caption")
    said = notes(folder)
    assert "another caption in metadata.jsonl than in the .txt: the .txt counts" in said
    assert "another caption in metadata.csv than in the .caption: the .caption counts" in said


def test_a_caption_file_that_counts_for_nothing_may_be_damaged(folder: Path) -> None:
    (folder / "IMG_0000.txt").write_text("a red apple")
    (folder / "IMG_0000.caption").write_bytes(b"\xff\0")
    assert captions(folder)[0] == "a red apple"
    (folder / "IMG_0000.txt").unlink()
    assert "IMG_0000.caption holds NUL characters" in complaint(folder)


def test_one_caption_for_two_pictures_of_a_stem_is_noted(folder: Path) -> None:
    Image.new("RGB", (40, 32), "pink").save(folder / "IMG_0000.jpg")
    (folder / "IMG_0000.txt").write_text("a red apple")
    assert captions(folder)[:2] == ("a red apple", "a red apple")
    assert "IMG_0000.txt is the caption of several pictures: 2" in notes(folder)
    (folder / "IMG_0000.jpg.txt").write_text("a pink pig")
    assert captions(folder)[:2] == ("a red apple", "a red apple")
    assert "another caption in IMG_0000.jpg.txt than in the IMG_0000.txt" in notes(folder)


def test_several_captions_in_a_file_are_noted(folder: Path) -> None:
    (folder / "IMG_0000.txt").write_text("an apple\nan apple on a table\n")
    (folder / "IMG_0001.txt").write_text("a cat\r\n\r\n")
    (folder / "IMG_0002.caption").write_text("\n\na key\n  \nan old key")
    assert captions(folder)[:3] == ("an apple an apple on a table", "a cat", "a key an old key")
    said = notes(folder)
    assert "2 of 4 pictures have a caption of several lines" in said
    assert "IMG_0000.png, IMG_0002.png" in said


# --- masks ---


@pytest.mark.parametrize(
    "mask",
    [
        "IMG_0000-masklabel.png",
        "IMG_0000-masklabel3.jpg",
        "IMG_0000-condlabel.png",
        "IMG_0000-MASKLABEL.PNG",
    ],
)
def test_masks_are_left_out_and_named(folder: Path, mask: str) -> None:
    kind = "JPEG" if mask.endswith("jpg") else "PNG"
    Image.new("L", (40, 32), 255).save(folder / mask, kind)
    found = read_dataset(folder)
    assert [example.path.name for example in found.examples] == list(NAMES)
    assert any("Masks are left out" in n and mask in n for n in found.notes)


@pytest.mark.parametrize("composed", ["NFC", "NFD"])
def test_a_mask_is_known_however_accents_are_composed(folder: Path, composed: str) -> None:
    Image.new("RGB", (40, 32)).save(folder / "Äpfel.png")
    Image.new("L", (40, 32)).save(folder / unicodedata.normalize(composed, "Äpfel-masklabel.png"))
    assert len(read_dataset(folder).examples) == 5


def test_a_picture_with_a_caption_is_a_picture_whatever_its_name(folder: Path) -> None:
    for name in ("IMG_0000-masklabel.png", "IMG_0001-condlabel.png", "alone-masklabel.png"):
        Image.new("L", (40, 32), 255).save(folder / name)
    (folder / "IMG_0000-masklabel.txt").write_text("a white wall")
    (folder / "metadata.jsonl").write_text(
        '{"file_name": "IMG_0001-condlabel.png", "text": "another wall"}'
    )
    assert len(read_dataset(folder).examples) == 7
    assert "named like masks of others and trained as pictures: 2" in notes(folder)


@pytest.mark.parametrize("mask", ["IMG_0000_mask.png", "IMG_0000.mask.png", "IMG_0000-Mask1.png"])
def test_what_may_be_a_mask_is_trained_and_named(folder: Path, mask: str) -> None:
    Image.new("L", (40, 32), 255).save(folder / mask)
    assert len(read_dataset(folder).examples) == 5
    assert mask in notes(folder) and "Move them away if they are masks" in notes(folder)


# --- pictures ---


@pytest.mark.parametrize("name", ["IMG_9.CR2", "a.jxl", "b.NEF", "c.jfif", "d.tga", "e.psd"])
def test_pictures_of_other_kinds_are_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"\0\0\0\x18ftypheic")
    assert f"Pictures of other kinds are not read: 1 ({name})" in notes(folder)


@pytest.mark.parametrize("name", ["photo", "b.jpg_large", "c.png.part", "d.jpeg~"])
def test_a_picture_without_its_suffix_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / NAMES[0]).read_bytes())
    assert f"without the suffix of a picture are not read: 1 ({name})" in notes(folder)
    (folder / name).write_bytes(b"words")
    assert "without the suffix" not in notes(folder)


@pytest.mark.parametrize(
    "name",
    [
        "赤いりんご.png".encode("shift_jis").decode("cp437"),
        "красный кот.png".encode("cp866").decode("cp437"),
        "Äpfel.png".encode().decode("latin-1"),
        "睡觉的猫.png".encode().decode("cp1252", "ignore"),
        "fl\udce4che.png",
        "\ufffd\ufffd cat.png",
    ],
)
def test_a_name_that_cannot_be_read_is_no_caption(name: str) -> None:
    assert caption_from_name(name) == ""


@pytest.mark.parametrize(
    "name",
    [
        "Äpfel.png",
        "café noir.png",
        "眠る猫.png",
        "красный кот.png",
        "l’été.png",
        "col·legi.png",
        "a cat – asleep.png",
        "ρόδι και μέλι.png",
        "猫、犬.png",
        "猫（白）です.png",
    ],
)
def test_a_name_that_can_be_read_is_one(name: str) -> None:
    assert caption_from_name(name) == name.removesuffix(".png")
