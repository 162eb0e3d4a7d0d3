"""The structure of GIF, BMP, TIFF, AVIF and HEIC files, looked at before any decoder sees them.
Pure bytes.

As image_headers does with PNG, JPEG and WEBP: a file is reduced to what decides its first picture,
and what no honest program writes is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Literal

from training.errors import DataError

Kind = Literal["GIF", "BMP", "TIFF", "AVIF", "HEIF"]

FIRST_FRAME = "Of animated pictures only the first frame is used"
FIRST_PAGE = "Of files with several pictures only the first is used"
SAVE_AS_PNG = "Save it as PNG, or remove it."
CUT_OFF = "is damaged or cut off ({}). Export or download it again, or remove it."
MOST_BLOCKS = 100_000  # of a GIF up to the end of its first frame, and boxes of an AVIF or HEIC
LARGEST_BOX = 2**23  # bytes of what an AVIF or HEIC says of its pictures
AVIF_BRANDS = (b"avif", b"avis")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

# Tags of TIFF 6.0 that a picture's pixels depend on, and its colour profile
TIFF_TAGS = frozenset(
    (
        *(256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320),
        *(322, 323, 324, 325, 338, 339, 34675),
    )
)
TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # bytes
COMPRESSION = 259
COMPRESSIONS = (1, 5, 8, 32773, 32946)  # none, LZW, deflate, PackBits, deflate as it was before
MOST_TAGS = 1000


def kind_of(content: bytes) -> Kind | None:
    """What a file is by its beginning; None for what is none of these."""
    if content.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if content.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if content.startswith(b"BM") and content[6:10] == bytes(4):
        return "BMP"
    if content[4:8] != b"ftyp":
        return None
    size = min(int.from_bytes(content[:4], "big"), 256)
    # The major brand, a version, the compatible brands
    brands = [content[8:12], *(content[at : at + 4] for at in range(16, size - 3, 4))]
    if any(brand in AVIF_BRANDS for brand in brands):
        return "AVIF"
    return "HEIF" if any(brand in HEIF_BRANDS for brand in brands) else None


def reduced(content: bytes, kind: Kind) -> tuple[bytes, list[str]]:
    """Return the file with its first picture and what that depends on, and remarks on what was left
    out. Raises DataError without the file's name.
    """
    if kind == "GIF":
        return _reduced_gif(content)
    if kind == "TIFF":
        return _reduced_tiff(content)
    if kind != "BMP":
        _check_boxes(content)
    return content, []


# --- GIF ---


def _reduced_gif(content: bytes) -> tuple[bytes, list[str]]:
    """Header, the colours of all, and the first frame with its transparency (GIF89a, W3C 1990)."""
    at = 13 + _colours(content[10:11])
    kept, control = content[:at], b""
    for begin, end in _gif_blocks(content, at):
        block = content[begin:end]
        if block[:2] == b"!\xf9":
            control = block
        elif block[:1] == b",":
            more = any(content[b : b + 1] == b"," for b, _ in _gif_blocks(content, end))
            return kept + control + block + b";", [FIRST_FRAME] if more else []
    raise DataError(CUT_OFF.format("it has no frame"))


def _colours(flags: bytes) -> int:
    """Bytes of the table of colours that flags announce."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _gif_blocks(content: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Yield begin and end of every extension and frame; one that is cut off ends with the file."""
    for _ in range(MOST_BLOCKS):
        begin, kind = at, content[at : at + 1]
        if kind == b"!":
            at += 2
        elif kind == b",":
            at += 10 + _colours(content[at + 9 : at + 10]) + 1
        else:
            return
        while at < len(content) and content[at]:
            at += content[at] + 1
        at += 1
        yield begin, min(at, len(content))


# --- TIFF ---


def _reduced_tiff(content: bytes) -> tuple[bytes, list[str]]:
    """The file with a new directory at its end: of the first picture, with what its pixels need.
    Neither EXIF nor other directories can be reached from it (TIFF 6.0, section 2).
    """
    order = "<" if content.startswith(b"II") else ">"
    if content[2:4] not in (b"*\0", b"\0*"):
        raise DataError(f"is a BigTIFF file, which is not read. {SAVE_AS_PNG}")
    at = _number(content, order, "I", 4)
    count = _number(content, order, "H", at)
    if not 0 < count <= MOST_TAGS:
        raise DataError(f"has {count:,} tags, {MOST_TAGS:,} is the most for a TIFF. {SAVE_AS_PNG}")
    entries, room = {}, len(content)
    for place in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, length = struct.unpack_from(f"{order}HHI", _part(content, place, 12))
        if tag not in TIFF_TAGS or tag in entries:
            continue
        size = TIFF_SIZES.get(kind, 1) * length
        room -= size if size > 4 else 0
        if room < 0:
            raise DataError(CUT_OFF.format("its tags hold more than the file"))
        entries[tag] = _part(content, place, 12)
        if tag == COMPRESSION:
            _check_compression(struct.unpack_from(f"{order}H", entries[tag], 8)[0])
    _check_pixels(content, order, entries)
    later = _number(content, order, "I", at + 2 + 12 * count)
    directory = struct.pack(f"{order}H", len(entries))
    directory += b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    padded = content + bytes(len(content) % 2)
    head = content[:4] + struct.pack(f"{order}I", len(padded))
    return head + padded[8:] + directory, [FIRST_PAGE] if later else []


def _check_compression(compression: int) -> None:
    if compression not in COMPRESSIONS:
        raise DataError(
            f"is a TIFF file packed in a way that is not read (compression {compression}; LZW, "
            f"deflate, PackBits or none were expected). {SAVE_AS_PNG}"
        )


def _check_pixels(content: bytes, order: str, entries: dict[int, bytes]) -> None:
    """Raises DataError unless all strips or tiles lie within the file."""
    for of, sizes in ((273, 279), (324, 325)):
        if of not in entries:
            continue
        begins = _numbers(content, order, entries[of])
        lengths = _numbers(content, order, entries.get(sizes, bytes(12)))
        ends = map(sum, zip(begins, lengths, strict=False))
        if len(begins) != len(lengths) or max(ends, default=0) > len(content):
            raise DataError(CUT_OFF.format("not all its pixels are there"))


def _numbers(content: bytes, order: str, entry: bytes) -> tuple[int, ...]:
    """The whole numbers of a tag, none for another kind."""
    _, kind, count = struct.unpack_from(f"{order}HHI", entry)
    form = {3: "H", 4: "I"}.get(kind)
    if form is None:
        return ()
    size = struct.calcsize(form) * count
    if size <= 4:
        return struct.unpack_from(f"{order}{count}{form}", entry, 8)
    at = struct.unpack_from(f"{order}I", entry, 8)[0]
    return struct.unpack(f"{order}{count}{form}", _part(content, at, size))


def _number(content: bytes, order: str, form: str, at: int) -> int:
    return struct.unpack(order + form, _part(content, at, struct.calcsize(form)))[0]


def _part(content: bytes, at: int, size: int) -> bytes:
    found = content[at : at + size]
    if len(found) < size:
        raise DataError(CUT_OFF.format("its tags cannot be read"))
    return found


# --- AVIF and HEIC ---


def _check_boxes(content: bytes) -> None:
    """Raises DataError for boxes that do not follow one another (ISO/IEC 14496-12, 4.2)."""
    at = 0
    for _ in range(MOST_BLOCKS):
        if at >= len(content):
            return
        size, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        if size == 1:  # it stands in eight bytes after the name
            size = int.from_bytes(content[at + 8 : at + 16], "big")
        size = size or len(content) - at  # up to the end
        if size < 8:
            raise DataError(CUT_OFF.format(f"a part of {size} bytes"))
        if kind in (b"meta", b"moov") and size > LARGEST_BOX:
            raise DataError(
                f"says {size:,} bytes about its pictures, {LARGEST_BOX:,} is the most. "
                f"{SAVE_AS_PNG}"
            )
        at += size
    raise DataError(f"has more than {MOST_BLOCKS:,} parts. {SAVE_AS_PNG}")
