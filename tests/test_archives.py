"""Tests of studio.datasets.archives: what a zip may hold, and that a bad member stops no other."""

from __future__ import annotations

import io
import stat
import struct
import time
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from studio.datasets import archives, store
from training.errors import DataError
from training.storage.paths import Workspace


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 32), colour).save(file, "PNG")
    return file.getvalue()


def packed(path: Path, members: dict[str, bytes | str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def test_pictures_and_their_captions_come_out_folder_by_folder(tmp_path: Path) -> None:
    members = {
        "a/1.png": png("red"),
        "a/1.txt": "a wall",
        "b/1.png": png("blue"),
        "b/metadata.jsonl": '{"file_name": "1.png", "text": "a sea"}',
    }
    clutter = {"__MACOSX/a/._1.png": b"x", "a/.DS_Store": b"x", "a/Thumbs.db": b"x"}
    ink = store.make(Workspace(tmp_path / "w"), "ink")
    added = store.add(ink, [packed(tmp_path / "in.zip", members | clutter)])
    assert (added.kept, added.captions, added.refused) == (("1.png", "1-2.png"), 2, ())
    assert store.captions(ink) == {"1.png": "a wall", "1-2.png": "a sea"}


def test_each_bad_member_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    bad = {
        "../out.png": png("red"),
        "/abs.png": png("red"),
        "C:/x.png": png("red"),
        "run.exe": b"MZ",
        "bomb.txt": b"a" * 30_000_000,
    }
    bad |= {"page.png": b"<html>", "half.png": png("green")[:50]}
    ink = store.make(Workspace(tmp_path / "w"), "ink")
    added = store.add(ink, [packed(tmp_path / "in.zip", bad | {"good.png": png("blue")})])
    assert added.kept == ("good.png",)
    assert {name.removeprefix("in.zip: ") for name, _ in added.refused} == set(bad)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["in.zip", "w"]


def test_a_zip_in_a_dataset_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = packed(tmp_path / "in.zip", {f"{n}.txt": "x" * 600 for n in range(5)})
    monkeypatch.setattr(archives, "LARGEST_IN_ALL", 1000)
    taken, refused = archives.unpacked(archive, tmp_path / "out")
    assert (len(taken), len(refused)) == (1, 4)
    monkeypatch.setattr(archives, "MOST_MEMBERS", 4)
    with pytest.raises(DataError, match="4 is the most"):
        archives.unpacked(archive, tmp_path / "out")


def test_a_listing_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    """Names by the hundred thousand, for each of which zipfile takes half a kibibyte."""
    name = b"PK\1\2" + bytes(24) + struct.pack("<H", 1) + bytes(16) + b"a"
    listing = name * 200_000
    end = b"PK\5\6" + bytes(4) + struct.pack("<HHIIH", 0, 0, len(listing), 0, 0)
    (tmp_path / "long.zip").write_bytes(listing + end)
    began = time.thread_time()
    with pytest.raises(DataError, match="a listing of 9,400,000 bytes, 8,388,608 is the most"):
        archives.unpacked(tmp_path / "long.zip", tmp_path / "out")
    assert time.thread_time() - began < 1


def test_what_the_listing_claims_is_not_believed(tmp_path: Path) -> None:
    archive = packed(tmp_path / "in.zip", {"bomb.png": b"\0" * 50_000_000})
    content = archive.read_bytes()
    size = struct.pack("<L", 50_000_000)
    archive.write_bytes(content.replace(size, struct.pack("<L", 20)))
    taken, refused = archives.unpacked(archive, tmp_path / "out")
    sizes = [f.stat().st_size for f in (tmp_path / "out").rglob("*") if f.is_file()]
    assert not taken or taken[0].path.stat().st_size <= 20
    assert len(taken) + len(refused) == 1 and max(sizes, default=0) < 30_000_000


def test_a_link_in_a_zip_is_no_link_here(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("secret.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as file:
        file.writestr(link, "/etc/passwd")
    ink = store.make(Workspace(tmp_path / "w"), "ink")
    added = store.add(ink, [tmp_path / "in.zip"])
    assert added.kept == () and [name for name, _ in added.refused] == ["secret.png"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"<html>"])
def test_what_is_no_zip_is_reported(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "in.zip").write_bytes(content)
    ink = store.make(Workspace(tmp_path / "w"), "ink")
    [(name, reason)] = store.add(ink, [tmp_path / "in.zip"]).refused
    assert name == "in.zip" and "cannot be opened as a zip" in reason


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_is_named_however_it_is_packed(tmp_path: Path, method: int) -> None:
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w", method) as opened:
        opened.writestr("a.txt", "a fox " * 50)
    content = bytearray(archive.read_bytes())
    start = content.index(b"a.txt") + len(b"a.txt")
    for place in range(start + 4, start + 24):
        content[place] ^= 0xFF
    archive.write_bytes(content)
    try:
        taken, refused = archives.unpacked(archive, tmp_path / "into")
    except DataError:
        return
    assert not taken and [name for name, _ in refused] == ["a.txt"]


def test_a_member_without_a_name_is_left_out(tmp_path: Path) -> None:
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("@", "nothing")
        opened.writestr("a.txt", "a fox")
    archive.write_bytes(archive.read_bytes().replace(b"@", b"\0"))  # a name ends at its first zero
    taken, refused = archives.unpacked(archive, tmp_path / "into")
    assert [member.name for member in taken] == ["a.txt"] and refused == []
