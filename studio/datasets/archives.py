"""Zip files of pictures and captions, unpacked within bounds. Knows files; nothing of datasets or
gradio.

No path of a member is ever used to write: members lie under names of ours, and are told apart by
the folder they came from.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from training.data.file_kinds import LARGEST_LIST, METADATA, SUFFIXES
from training.data.pictures import LARGEST_PICTURE_FILE
from training.errors import DataError

MOST_MEMBERS = 5000  # pictures and captions that are taken from one zip
MOST_NAMES = 20_000  # in its listing, folders and all
LARGEST_IN_ALL = 4 * 2**30  # bytes, unpacked
MOST_RATIO = 200  # unpacked / packed of a large member: pictures are packed already
LARGE = 2**20  # bytes; smaller members may pack as well as they like
PIECE = 2**20  # bytes read at a time


@dataclass(frozen=True)
class Incoming:
    """A file on its way into a dataset.

    name: as its owner calls it; folder: where it came from, so that captions find their pictures.
    """

    name: str
    path: Path
    folder: str = ""


def is_zip(file: Path) -> bool:
    return file.suffix.lower() == ".zip"


def unpacked(archive: Path, into: Path) -> tuple[list[Incoming], list[tuple[str, str]]]:
    """Unpack pictures and captions into `into`; return them, and what was refused with the reason.
    Raises DataError for what is no zip at all.
    """
    taken: list[Incoming] = []
    refused: list[tuple[str, str]] = []
    left = LARGEST_IN_ALL
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [
                m for m in opened.infolist() if not m.is_dir() and not _is_clutter(m.filename)
            ]
            if len(opened.infolist()) > MOST_NAMES or len(members) > MOST_MEMBERS:
                raise DataError(
                    f"holds {len(members)} files, {MOST_MEMBERS} is the most. Make several "
                    "zips of it."
                )
            for number, member in enumerate(members):
                try:
                    path = _wanted(member, into / f"{number:05d}")
                    left -= _copied(opened, member, path, left)
                except DataError as error:
                    refused.append((_shown(member.filename), str(error)))
                    continue
                inside = PurePosixPath(member.filename.replace("\\", "/"))
                taken.append(Incoming(inside.name, path, f"{archive}/{inside.parent}"))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(
            f"cannot be opened as a zip ({type(error).__name__}). Pack it again."
        ) from None
    return taken, refused


def _is_clutter(name: str) -> bool:
    """What systems put beside a user's files."""
    parts = name.replace("\\", "/").split("/")
    return (
        "__MACOSX" in parts
        or parts[-1].startswith(".")
        or parts[-1].lower() in ("thumbs.db", "desktop.ini")
    )


def _wanted(member: zipfile.ZipInfo, stem: Path) -> Path:
    """Where a member may go.

    Raises DataError for one that is not wanted, by what the listing says of it.
    """
    name = member.filename.replace("\\", "/")
    suffix = PurePosixPath(name).suffix.lower()
    if name.startswith("/") or ".." in name.split("/") or ":" in name.split("/")[0]:
        raise DataError("has a path that leads out of the zip. Pack it again.")
    if suffix not in (*SUFFIXES, ".txt") and PurePosixPath(name).name.lower() != METADATA:
        raise DataError(
            f"is no picture and no caption: {', '.join(SUFFIXES)}, .txt or {METADATA} was expected."
        )
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
