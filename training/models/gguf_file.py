"""GGUF files of unknown origin: the header read here, within bounds, and every tensor's place
checked; the numbers made by the package gguf of the format's authors.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3. Little-endian:
magic, counts, metadata, a record of each tensor, and their bytes from an aligned place on.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.errors import ModelError
from training.style_files.safetensors_io import printable

MOST_TENSORS, MOST_KEYS = 8192, 4096
MOST_METADATA = 16 * 2**20  # bytes
LONGEST_NAME = 512  # bytes
DEEPEST = 4  # dimensions, of the format itself
AGAIN = "Download it again."
# Number of a kind -> its name, weights in a block, and bytes of a block
KINDS = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    30: ("BF16", 1, 2),
}
TEXT, ARRAY = 8, 9  # kinds of metadata
# Of numbers in the metadata: how struct writes them
NUMBERS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
SHAPE = "comfy.gguf.orig_shape."  # metadata: the shape of a tensor that was flattened


class Entry(NamedTuple):
    kind: int
    shape: tuple[int, ...]
    begin: int  # bytes from the start of the file
    size: int  # bytes


@dataclass(frozen=True)
class Head:
    """architecture: what the file says it is; tensors: name -> kind, shape and place."""

    architecture: str
    tensors: Mapping[str, Entry]


class _Reader:
    """The header of a file, of which no more is read than there is."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self._file = path, file
        self.size = path.stat().st_size

    @property
    def place(self) -> int:
        return self._file.tell()

    def wrong(self, what: str) -> ModelError:
        return ModelError(f"{self.path} is no sound GGUF file: {what}. {AGAIN}")

    def bytes_of(self, count: int) -> bytes:
        if count > min(MOST_METADATA, self.size) - self._file.tell():
            raise self.wrong("its header does not end")
        found = self._file.read(count)
        if len(found) != count:
            raise self.wrong("it ends inside its header")
        return found

    def number(self, form: str) -> Any:
        """form: of struct."""
        return struct.unpack(f"<{form}", self.bytes_of(struct.calcsize(f"<{form}")))[0]

    def text(self, longest: int = MOST_METADATA) -> str:
        length = self.number("Q")
        if length > longest:
            raise self.wrong(f"a name of {length} bytes stands in it")
        return self.bytes_of(length).decode("utf-8", "replace")

    def value(self) -> Any:
        """A value of the metadata: a number, a text, or a list of numbers; other lists are passed
        over and are None.
        """
        kind = self.number("I")
        if kind == TEXT:
            return self.text()
        if kind != ARRAY:
            return self.number(self._form(kind))
        of, count = self.number("I"), self.number("Q")
        if of == TEXT:
            for _ in range(count):  # the header's end stops it
                self.text()
            return None
        form = self._form(of)
        content = self.bytes_of(count * struct.calcsize(f"<{form}"))
        return list(struct.unpack(f"<{count}{form}", content)) if count <= 2 * DEEPEST else None

    def _form(self, kind: int) -> str:
        if kind not in NUMBERS:
            raise self.wrong(f"metadata of the kind {kind} stands in it")
        return NUMBERS[kind]


def read_head(path: Path) -> Head:
    """Read and check a header. Raises ModelError, OSError."""
    with path.open("rb") as file:
        reader = _Reader(path, file)
        if reader.bytes_of(4) != b"GGUF":
            raise reader.wrong("it does not begin as one")
        version, tensors, keys = (reader.number(form) for form in "IQQ")
        if version not in (2, 3):
            raise reader.wrong(f"its version is {version}, 2 or 3 was expected")
        if not 0 < tensors <= MOST_TENSORS or keys > MOST_KEYS:
            raise reader.wrong(f"it claims {tensors} tensors and {keys} keys")
        said = {reader.text(LONGEST_NAME): reader.value() for _ in range(keys)}
        records = [_record(reader) for _ in range(tensors)]
        aligned = said.get("general.alignment", 32)
        if not isinstance(aligned, int) or not 0 < aligned <= 2**16:
            raise reader.wrong(f"its alignment is {aligned!r}")
        start = -(-reader.place // aligned) * aligned
        found = {
            name: _entry(reader, name, kind, shape, start + begin, said.get(SHAPE + name))
            for name, kind, shape, begin in records
        }
    if len(found) != len(records):
        raise reader.wrong("a name stands twice in it")
    places = sorted((entry.begin, entry.begin + entry.size) for entry in found.values())
    if any(end > begin for (_, end), (begin, _) in pairwise(places)):
        raise reader.wrong("the bytes of two tensors overlap")
    architecture = said.get("general.architecture")
    return Head(printable(architecture, 60) if isinstance(architecture, str) else "", found)


def _record(reader: _Reader) -> tuple[str, int, tuple[int, ...], int]:
    """Name, kind, shape and place of a tensor. Its sides are written from the innermost on."""
    name, count = reader.text(LONGEST_NAME), reader.number("I")
    if not 0 < count <= DEEPEST:
        raise reader.wrong(f"{printable(name, 60)} has {count} dimensions")
    sides = [reader.number("Q") for _ in range(count)]
    kind, begin = reader.number("I"), reader.number("Q")
    return name, kind, tuple(reversed(sides)), begin


def _entry(
    reader: _Reader, name: str, kind: int, shape: tuple[int, ...], begin: int, original: Any
) -> Entry:
    """A tensor's record, checked. original: the shape that was flattened, where there is one."""
    shown = printable(name, 60)
    if kind not in KINDS:
        raise ModelError(
            f"{reader.path} holds {shown} in a kind that is not read (number {kind} of GGUF's). "
            f"Choose a file in one of {', '.join(name for name, *_ in KINDS.values())}."
        )
    _, in_block, block_bytes = KINDS[kind]
    weights = math.prod(shape)
    if weights == 0 or shape[-1] % in_block:
        raise reader.wrong(f"{shown} has the shape {list(shape)}")
    size = weights // in_block * block_bytes
    if begin + size > reader.size:
        raise reader.wrong(f"it ends before {shown} does")
    if original is not None:
        sides = original if isinstance(original, list) else []
        if math.prod(sides) != weights or not all(type(s) is int and s > 0 for s in sides):
            raise reader.wrong(f"{shown} cannot have the shape that it says")
        shape = tuple(sides)
    return Entry(kind, shape, begin, size)


def tensors_of(path: Path, head: Head) -> Iterator[tuple[str, Tensor]]:
    """Name and numbers of each tensor: 16 and 32 bits as they are, others in bfloat16, which holds
    more digits than they have. Raises ModelError without the package gguf.
    """
    with path.open("rb") as file:
        for name, entry in head.tensors.items():
            file.seek(entry.begin)
            yield name, _numbers(path, entry, file.read(entry.size))


def _numbers(path: Path, entry: Entry, content: bytes) -> Tensor:
    plain = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    kind, _, block_bytes = KINDS[entry.kind]
    if kind in plain:
        return torch.frombuffer(bytearray(content), dtype=plain[kind]).view(entry.shape)
    try:
        from gguf import GGMLQuantizationType, quants
    except ImportError:
        raise ModelError(
            f"{path} holds weights in {kind}, for which the package gguf is needed: "
            'pip install "style-studio[gguf]".'
        ) from None
    blocks = np.frombuffer(content, np.uint8).reshape(-1, block_bytes)
    with np.errstate(all="ignore"):  # scales of a damaged file need not be finite
        made = quants.dequantize(blocks, GGMLQuantizationType(entry.kind))
    return torch.from_numpy(np.ascontiguousarray(made, np.float32)).bfloat16().view(entry.shape)
