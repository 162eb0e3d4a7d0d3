"""Bytes and text of a file of unknown origin, within bounds."""

from __future__ import annotations

import codecs
from pathlib import Path

from training.data.image_decoding import reason
from training.errors import DataError
from training.storage.disk_errors import reading_aid
from training.storage.paths import read_regular

AS_UTF8 = "Save it again as UTF-8 (in an editor: Save as, encoding UTF-8)."


def decode_text(content: bytes) -> str:
    """Return UTF-8 text, with or without a byte order mark. Raises DataError for anything else."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"is UTF-16 text. {AS_UTF8}")
    if b"\0" in content:
        raise DataError(f"holds NUL characters: it is UTF-16, or no text at all. {AS_UTF8}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"is not UTF-8 text (byte {content[error.start]:#04x} at position {error.start}). "
            f"{AS_UTF8}"
        ) from None


def read_content(path: Path, largest: int) -> bytes:
    """Return a file's bytes.

    Raises DataError when it cannot be read or has more than `largest` bytes.
    """
    try:
        if not path.is_file():
            if not path.exists() and not path.is_symlink():
                raise DataError(
                    "is gone, and no ordinary file is there. Put it back, or leave it out."
                )
            raise DataError(
                "is a link to nowhere or no ordinary file. Put the file itself there, or remove it."
            )
        content = read_regular(path, largest)
    except OSError as error:
        what = reading_aid(error) or "Look whether its disk is sound and connected"
        raise DataError(f"cannot be read ({reason(error)}). {what}, or remove it.") from None
    if len(content) > largest:
        raise DataError(f"has more than {largest:,} bytes. Make it smaller, or remove it.")
    return content
