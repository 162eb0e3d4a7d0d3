"""A message about a picture or a folder names the true cause and what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.test_image_worker import WHITE, file_of
from training.data import file_content, image_worker
from training.data.dataset import read_dataset
from training.data.file_content import read_content
from training.data.pictures import open_picture
from training.errors import DataError


def frame_of(marker: int, bits: int) -> bytes:
    """A JPEG whose frame says that it is of another kind."""
    good = bytearray(file_of("JPEG"))
    at = good.index(b"\xff\xc0")
    good[at + 1], good[at + 4] = marker, bits
    return bytes(good)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (frame_of(0xC1, 12), "is a JPEG of 12 bits, which is not read. Save it as PNG"),
        (frame_of(0xC3, 8), "is a lossless or hierarchical JPEG, which is not read"),
        (b"\0\0\0\x18ftypheic" + bytes(99), "is a HEIC file in spite of its name"),
        (b"\0\0\0\x18ftypmif1" + bytes(99), "is a HEIC file in spite of its name"),
        (b"\0\0\0\x18ftypavif" + bytes(99), "is an AVIF file in spite of its name"),
        (b"\0\0\0\x18ftypisom" + bytes(99), "is a video in spite of its name"),
        (b"\0\0\0\x14ftypqt  " + bytes(99), "is a video in spite of its name"),
        (b"<?xml version='1.0'?><svg/>", "is an SVG file in spite of its name"),
        (b"\xff\x0a" + bytes(99), "is a JPEG XL file in spite of its name"),
        (b"PK\3\4" + bytes(99), "is a zip file in spite of its name"),
        (b"RIFF\x10\0\0\0AVI " + bytes(99), "is a sound or a video in spite of its name"),
        (file_of("JPEG")[:20], "is damaged or cut off"),
    ],
)
def test_what_is_no_picture_of_ours_is_called_what_it_is(
    content: bytes, said: str, tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.jpg") as caught:
        open_picture(tmp_path / "a.jpg")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.EACCES, "Allow reading it"),
        (errno.EIO, "Look whether its disk is sound"),
        (errno.ESTALE, "Look whether its disk is sound"),
    ],
)
def test_a_disk_that_fails_is_no_question_of_permission(
    code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> bytes:
        raise OSError(code, os.strerror(code))

    (tmp_path / "a.txt").write_text("a cat")
    monkeypatch.setattr(file_content, "read_regular", failing)
    with pytest.raises(DataError, match=said):
        read_content(tmp_path / "a.txt", 100)


def test_a_file_that_is_gone_is_no_link(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is gone"):
        read_content(tmp_path / "a.png", 100)
    (tmp_path / "a.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="a link to nowhere"):
        read_content(tmp_path / "a.png", 100)


@pytest.mark.parametrize("name", ["set.zip", "set.RAR", "set.tar.gz"])
def test_an_archive_as_the_folder_is_to_be_unpacked(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"PK\3\4")
    with pytest.raises(DataError, match=r"Unpack it and set data\.folder"):
        read_dataset(tmp_path / name)


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_a_decoder_that_the_system_killed_is_not_only_blamed_on_the_picture() -> None:
    image_worker.decode(file_of("PNG"), WHITE)
    worker = image_worker._pool().idle[-1]
    worker.process.kill()
    worker.process.wait()
    said = str(worker._lost())
    assert "memory was full" in said and "try again" in said
