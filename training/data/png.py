"""Whether a PNG holds all the rows its header promises:

decoders fill what is missing with black and say nothing. Pure bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by colour type
# Of Adam7's passes: first column and row, steps between columns and rows (PNG specification, W3C
# 2003, 8.2)
PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
AT_ONCE = 2**20  # bytes unpacked at once


def lacks_rows(content: bytes) -> bool:
    """Whether fewer bytes are packed than the picture needs.

    content: a PNG that a decoder has accepted.
    """
    promised = _promised(content)
    unpack = zlib.decompressobj()
    try:
        for packed in _data(content):
            while packed and promised > 0:
                promised -= len(unpack.decompress(packed, AT_ONCE))
                packed = unpack.unconsumed_tail
            if promised <= 0 or unpack.eof:
                break
        while (
            promised > 0
            and not unpack.eof
            and (more := unpack.decompress(unpack.unconsumed_tail, AT_ONCE))
        ):
            promised -= len(more)
    except zlib.error:  # the decoder found it good enough, or will say so itself
        return promised > 0
    return promised > 0


def _promised(content: bytes) -> int:
    """Bytes of all rows: a byte for the filter, then the samples, padded to whole bytes."""
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    depth, colour, interlaced = content[24], content[25], content[28]
    bits = SAMPLES.get(colour, 1) * depth  # of a pixel
    if not interlaced:
        return height * _row_bytes(width, bits)
    return sum(
        _ceil_div(height - y, down) * _row_bytes(_ceil_div(width - x, across), bits)
        for x, y, across, down in PASSES
        if width > x and height > y
    )


def _row_bytes(columns: int, bits: int) -> int:
    return 1 + _ceil_div(columns * bits, 8) if columns else 0


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _data(content: bytes) -> Iterator[bytes]:
    at = 8
    while at + 8 <= len(content):
        size, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        if kind == b"IDAT":
            yield content[at + 8 : at + 8 + size]
        at += 12 + size
