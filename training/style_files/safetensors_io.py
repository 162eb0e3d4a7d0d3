"""A safetensors file of unknown origin: its header checked before anything else, its arrays one at
a time, and a writer whose bytes repeat.

8 bytes of length, a JSON header, then the numbers. Nothing of a file is run, trusted or used as a
path. Knows numpy, not torch.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np

from training.errors import StyleFileError
from training.storage.paths import mode_of
from training.style_files.long_headers import shortened

Dtype = Literal["float16", "float32", "bfloat16"]

MAX_HEADER = 8 * 2**20  # bytes that are parsed
# bytes, as in the library; of a longer header than MAX_HEADER the long metadata is left out
LONGEST_HEADER = 100_000_000
NAME = r"[A-Za-z0-9_.*-]{1,256}"
BUNDLED = "bundle_emb."  # a word that its owner chose follows: any signs that can be shown
MAX_TENSORS = 8192
MAX_TEXT = 64 * 2**10  # characters of one metadata value that are read as JSON or shown
STORED: dict[Dtype, str] = {"float16": "F16", "float32": "F32", "bfloat16": "BF16"}
ON_DISK = {
    "F16": "<f2",
    "F32": "<f4",
    "BF16": "<u2",
    "I64": "<i8",
}  # numpy has no bfloat16: its bits are the upper half of a float32's


class Entry(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    begin: int  # bytes from the start of the tensor area
    end: int


class Head(NamedTuple):
    metadata: dict[str, str]
    tensors: dict[str, Entry]
    start: int  # of the tensor area, bytes from the start of the file
    left_out: Mapping[str, int] = MappingProxyType({})  # metadata too long to read -> its bytes


def checked_place(path: Path) -> None:
    """Raise StyleFileError for what is no regular .safetensors file."""
    mode = mode_of(path)
    if stat.S_ISDIR(mode):
        raise StyleFileError(
            f"{path} is a folder, a style file was expected. Give the .safetensors file inside it."
        )
    if not stat.S_ISREG(mode):
        what = "is not a regular file" if mode else "is not there"
        raise StyleFileError(f"{path} {what}. Give the path of a .safetensors style file.")
    if path.suffix.lower() != ".safetensors":
        raise StyleFileError(
            f"{path.name} is a {path.suffix or 'nameless'} file, expected .safetensors. "
            "Formats such as .pt, .bin and .ckpt can run"
            " programs hidden in them and are never opened: get the style as .safetensors."
        )


def read_head(label: str, file: BinaryIO, size: int) -> Head:
    """Parse and check a header.

    label: what a person calls the file; size: of the whole file, bytes. Raises StyleFileError.
    """
    first = file.read(64)
    length = int.from_bytes(first[:8], "little")
    if (
        len(first) < 9 or first[8:9] != b"{"
    ):  # looked at before any magic number: a header may well be 0x80 or "PK" long
        raise StyleFileError(
            f"{label} is {_disguised(first)}. Get the style as .safetensors and check the download."
        )
    if length > LONGEST_HEADER:
        raise StyleFileError(
            f"{label} claims a header of {length} bytes, at most {LONGEST_HEADER} are read. "
            "Download or export it again."
        )
    if length > size - 8:
        raise damaged(label, f"it ends after {size} bytes, inside its header")
    file.seek(8)
    raw = file.read(length)
    left_out: dict[str, int] = {}
    if length > MAX_HEADER:
        raw, left_out = _without_long_metadata(label, raw)
    metadata, tensors = _parsed(label, raw)
    end = 0
    for name, entry in sorted(tensors.items(), key=lambda item: item[1].begin):
        width = np.dtype(ON_DISK[entry.dtype]).itemsize if entry.dtype in ON_DISK else None
        wrong_size = 0 in entry.shape or (
            width is not None and entry.end - entry.begin != math.prod(entry.shape) * width
        )
        if entry.begin != end or entry.end < entry.begin or wrong_size:
            raise damaged(
                label, f"the bytes of {name} overlap others, leave a gap or do not fit its shape"
            )
        end = entry.end
    if end != size - 8 - length:
        raise damaged(label, f"it has {size} bytes, its header promises {end + 8 + length}")
    return Head(metadata, tensors, 8 + length, left_out)


def _disguised(first: bytes) -> str:
    """What a file that is no safetensors file looks like."""
    text = first.lstrip().lower()
    if not first:
        return "empty"
    if first.startswith((b"PK", b"\x80")):
        return (
            "a pickle or zip file under another name, which can run programs hidden in it "
            "and is never opened"
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page, not a style (perhaps the download wanted a login)"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself (run `git lfs pull`)"
    return "not a safetensors file"


def damaged(label: str, what: str) -> StyleFileError:
    return StyleFileError(f"{label} is damaged: {what}. Download or export it again.")


def _without_long_metadata(label: str, raw: bytes) -> tuple[bytes, dict[str, int]]:
    """What there is to parse of a long header, and the metadata that was left out."""
    try:
        short, left_out = shortened(raw, MAX_TEXT, MAX_TENSORS + 1)
    except ValueError as error:
        raise damaged(label, printable(str(error), 120)) from None
    if len(short) > MAX_HEADER:
        raise StyleFileError(
            f"{label} has a header of {len(raw)} bytes, {len(short)} of them no long metadata; at "
            f"most {MAX_HEADER} are read. Use another file."
        )
    return short, {printable(name, 60): size for name, size in left_out.items()}


def _parsed(label: str, raw: bytes) -> tuple[dict[str, str], dict[str, Entry]]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name stands twice in it")
        return found

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except RecursionError:
        raise damaged(label, "its header is nested too deeply") from None
    except ValueError as error:
        raise damaged(
            label, f"its header is not sound JSON ({printable(str(error), 120)})"
        ) from None
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        is_text(value) for pair in metadata.items() for value in pair
    ):
        raise damaged(label, "its metadata is not text")
    if not header or len(header) > MAX_TENSORS:
        raise StyleFileError(
            f"{label} holds {len(header)} tensors, expected 1 to {MAX_TENSORS}. It is no "
            "style: choose another file."
        )
    return metadata, {name: _entry(label, name, found) for name, found in header.items()}


def is_text(value: object) -> bool:
    """A string that can be written as UTF-8: JSON can also spell half of a surrogate pair."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def _entry(label: str, name: str, found: Any) -> Entry:
    if not _is_name(name):
        raise StyleFileError(
            f"{label} holds a tensor named {printable(name, 60)!r}, which no style has. Export it "
            "again, or use another file."
        )
    numbers = [*found["shape"], *found["data_offsets"]] if _is_described(found) else [-1]
    if any(type(n) is not int or n < 0 for n in numbers):
        raise damaged(label, f"its header does not describe {name} properly")
    return Entry(found["dtype"], tuple(found["shape"]), *found["data_offsets"])


def _is_name(name: str) -> bool:
    if name.startswith(BUNDLED):
        return len(name) <= 256 and name.isprintable()
    return bool(re.fullmatch(NAME, name))


def _is_described(found: Any) -> bool:
    if not isinstance(found, dict) or found.keys() != {"dtype", "shape", "data_offsets"}:
        return False
    lists = isinstance(found["shape"], list) and isinstance(found["data_offsets"], list)
    return (
        lists
        and isinstance(found["dtype"], str)
        and len(found["shape"]) <= 8
        and len(found["data_offsets"]) == 2
    )


def json_object(text: str) -> dict[str, Any]:
    """JSON of unknown origin; {} for anything but an object of bearable depth."""
    try:
        found = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def printable(text: str, limit: int = MAX_TEXT) -> str:
    """Text of unknown origin for a terminal:

    without control and direction marks, cut to limit characters.
    """
    kept = "".join(c if c.isprintable() else " " for c in text[:limit])
    return f"{kept}…" if len(text) > limit else kept


def array_of(entry: Entry, data: bytes | memoryview) -> np.ndarray:
    """The float32 array of an F16, F32, BF16 or I64 entry. data: its bytes."""
    found = np.frombuffer(data, ON_DISK[entry.dtype]).reshape(entry.shape)
    if entry.dtype == "BF16":
        return (found.astype(np.uint32) << 16).view(np.float32)
    return found.astype(np.float32)


def stored(label: str, name: str, array: np.ndarray, dtype: Dtype) -> bytes:
    """The little-endian bytes of an array in dtype.

    Raises StyleFileError when a value does not fit.
    """
    array = np.ascontiguousarray(array, np.float32)
    with np.errstate(over="ignore"):
        if dtype == "bfloat16":  # round to nearest, ties to even
            bits = array.view(np.uint32)
            found = ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
            fits = bool(((found & 0x7F80) != 0x7F80).all())
        else:
            found = array.astype(ON_DISK[STORED[dtype]])
            fits = bool(np.isfinite(found).all())
    if not fits:
        largest = float(np.abs(array).max())
        raise StyleFileError(
            f"{label} was not written: {name} holds {largest:g}, too large for {dtype}. Save "
            "the style as float32."
        )
    return found.tobytes()


def header_bytes(tensors: Mapping[str, Entry], metadata: Mapping[str, str]) -> bytes:
    """Length and JSON, padded to 8 bytes.

    The library's own writer shuffles metadata, so files would differ from save to save.
    """
    header: dict[str, Any] = {"__metadata__": {key: metadata[key] for key in sorted(metadata)}}
    for name, entry in tensors.items():
        header[name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [entry.begin, entry.end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
