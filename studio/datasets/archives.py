"""Zip files of pictures and captions, unpacked within bounds. Knows files; nothing of datasets or
gradio.

No path of a member is ever used to write: members lie under names of ours, and are told apart by
the folder they came from.
"""

from __future__ import annotations

import errno
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

try:
    from lzma import LZMAError
except ImportError:  # a Python without lzma refuses such members by a RuntimeError
    LZMAError = zlib.error

from studio.datasets.incoming import Incoming
from training.data.file_kinds import (
    LARGEST_LIST,
    SUFFIXES,
    is_caption,
    is_clutter,
    is_list,
    is_picture,
    why_not_taken,
)
from training.data.pictures import LARGEST_PICTURE_FILE
from training.errors import DataError, SpaceError
from training.storage.disk_errors import advice, cause

MOST_MEMBERS = 5000  # pictures and captions that are taken from one zip
MOST_NAMES = 20_000  # in its listing, folders and all
LARGEST_LISTING = 8 * 2**20  # bytes, 400 a name; zipfile reads it whole
LARGEST_IN_ALL = 4 * 2**30  # bytes, unpacked
MOST_RATIO = 200  # unpacked / packed of a large member: pictures are packed already
LARGE = 2**20  # bytes; smaller members may pack as well as they like
PIECE = 2**20  # bytes read at a time
UTF8_MARK = 0x800  # flag of a member's name
UNICODE_PATH = 0x7075  # kind of an extra field
WESTERN = frozenset("ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜáíóúñÑß")  # of cp437


class _Bounded(io.FileIO):
    """A file that is read in pieces of bearable size: zipfile takes a listing at once, and makes
    half a kibibyte of every name in it before it can be asked how many there are.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        """Raises DataError."""
        if size is not None and size > LARGEST_LISTING:
            raise DataError(
                f"has a listing of {size:,} bytes, {LARGEST_LISTING:,} is the most. Make several "
                "zips of it."
            )
        return super().read(size)


def is_zip(file: Path) -> bool:
    return file.suffix.lower() == ".zip"


def unpacked(archive: Path, into: Path) -> tuple[list[Incoming], list[tuple[str, str]]]:
    """Unpack pictures and captions into `into`; return them, and what was refused with the reason.
    Raises DataError for what is no zip at all, SpaceError where the disk takes no more.
    """
    taken: list[Incoming] = []
    refused: list[tuple[str, str]] = []
    left = LARGEST_IN_ALL
    try:
        with _Bounded(archive) as file, zipfile.ZipFile(file) as opened:
            members = [
                m
                for m in opened.infolist()
                if m.filename and not m.is_dir() and not is_clutter(m.filename)
            ]
            if len(opened.infolist()) > MOST_NAMES or len(members) > MOST_MEMBERS:
                raise DataError(
                    f"holds {len(members)} files, {MOST_MEMBERS} is the most. Make several "
                    "zips of it."
                )
            for number, member in enumerate(members):
                name, is_readable = _name_of(member)
                try:
                    path = _wanted(member, name, into / f"{number:05d}")
                    left -= _copied(opened, member, path, left)
                except DataError as error:
                    refused.append((_shown(name), str(error)))
                    continue
                inside = PurePosixPath(name)
                folder = str(inside.parent).removeprefix(".")
                taken.append(Incoming(inside.name, path, folder, str(archive), is_readable))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        # Without a number, or for a place that no file has, zipfile says it of the archive
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            elsewhere = "set TMPDIR to a folder on another disk and start the page again"
            raise SpaceError(
                f"A zip cannot be unpacked among the temporary files ({cause(error)}). "
                f"{advice(error, elsewhere)}"
            ) from error
        raise DataError(
            f"cannot be opened as a zip ({type(error).__name__}). Pack it again."
        ) from None
    return taken, refused


def note_on_names(archive: str, members: Sequence[Incoming]) -> list[str]:
    """Say that the names in a zip could not be read, where that is so."""
    count = sum(not member.is_readable and is_picture(member.name) for member in members)
    if not count:
        return []
    return [
        f"{archive}: the names of {count} pictures cannot be read, since they are written in "
        "another system's encoding. The pictures are called picture, picture-2 and so on, and the "
        "names are not used as captions. Pack them with UTF-8 names to keep them."
    ]


def _name_of(member: zipfile.ZipInfo) -> tuple[str, bool]:
    """Return a member's path with / between its folders, and whether it can be read as words.

    A name without the mark for UTF-8 may be in any encoding: UTF-8 all the same (of macOS), the
    cp437 that the format names, or a system's own, which nothing tells.
    """
    name = member.filename
    if not member.flag_bits & UTF8_MARK and not name.isascii():
        raw = name.encode("cp437", errors="replace")
        try:
            name = _unicode_path(member, raw) or raw.decode("utf-8")
        except UnicodeDecodeError:
            return name.replace("\\", "/"), _is_western(name)
    return name.replace("\\", "/"), True


def _unicode_path(member: zipfile.ZipInfo, raw: bytes) -> str | None:
    """The UTF-8 name that some packers add beside a name in their system's encoding (PKWARE
    APPNOTE 6.3.10, 4.6.9). Raises UnicodeDecodeError.
    """
    extra = member.extra
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        data, extra = extra[4 : 4 + size], extra[4 + size :]
        is_of_name = data[1:5] == zlib.crc32(raw).to_bytes(4, "little")
        if kind == UNICODE_PATH and data[:1] == b"\1" and is_of_name:
            return data[5:].replace(b"\0", b"").decode("utf-8")
    return None


def _is_western(name: str) -> bool:
    """Whether a name is words in cp437: Latin letters, and most of them plain ones."""
    words = [word for word in re.split(r"[^\w]+", name) if not word.isascii()]
    letters = all(c.isascii() or c in WESTERN for c in name)
    return letters and all(2 * sum(not c.isascii() for c in word) <= len(word) for word in words)


def _wanted(member: zipfile.ZipInfo, name: str, stem: Path) -> Path:
    """Where a member may go.

    Raises DataError for one that is not wanted, by what the listing says of it.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if name.startswith("/") or ".." in name.split("/") or ":" in name.split("/")[0]:
        raise DataError("has a path that leads out of the zip. Pack it again.")
    file = PurePosixPath(name).name
    if not (is_picture(file) or is_caption(file) or is_list(file)):
        raise DataError(why_not_taken(file))
    if member.flag_bits & 1:
        raise DataError("is encrypted. Pack it without a password.")
    return stem.with_suffix(suffix)


def _copied(opened: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, left: int) -> int:
    """Unpack one member and return its bytes:

    counted while they come, the listing may lie. Raises DataError; OSError when the disk is full.
    """
    largest = LARGEST_PICTURE_FILE if path.suffix in SUFFIXES else LARGEST_LIST
    most, size = min(left, largest), 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        try:
            with opened.open(member) as packed:
                while piece := packed.read(PIECE):
                    size += len(piece)
                    if size > LARGE and size > MOST_RATIO * max(1, member.compress_size):
                        raise DataError(
                            f"unpacks to more than {MOST_RATIO} times its size, as no picture "
                            "does. It is left out."
                        )
                    if size > most:
                        raise DataError(
                            f"unpacks to more than {most:,} bytes. Leave it out, or use "
                            "several zips."
                        )
                    file.write(piece)
        except (
            zipfile.BadZipFile,
            zlib.error,
            LZMAError,
            EOFError,
            RuntimeError,
        ) as error:  # RuntimeError: also an unknown way of packing
            raise DataError(
                f"is damaged or packed in an unknown way ({type(error).__name__}). Pack it again."
            ) from None
        finally:
            if size > most or not size:
                file.truncate(0)
    return size


def _shown(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name)[-120:]
