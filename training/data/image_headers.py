"""The structure of PNG, JPEG and WEBP files, walked before any decoder sees them. Pure bytes.

A decoder obeys whatever a file says: thousands of scans over the same pixels, a megabyte of looping
EXIF. Here a file is reduced to what decides its pixels, side information within bounds; what no
honest program writes is refused.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

from training.errors import DataError

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8"

MOST_SCANS = 100  # of a JPEG; a progressive one has about 10
# DHT, DQT and other segments of a JPEG that are neither frame nor scan; a progressive one has about
# 20
MOST_TABLES = 1000
MOST_PARTS = 100_000  # chunks or segments of a file
MOST_FRAMES = 10_000  # of an animated WEBP
MOST_APPLICATION_SEGMENTS = 16  # APP0 and APP14 of a JPEG; honest ones have one of each
SHORTEST_APPLICATION = 12  # bytes of APP14, the shorter one; decoders trip over what has fewer
LARGEST_EXIF = 2**16  # bytes; what a JPEG can hold
LARGEST_XMP = 2**18  # bytes
LARGEST_PROFILE = 2**22  # bytes of an ICC profile; those of presses have up to 3 MiB
LARGEST_UNPACKED_PROFILE = 2**20  # bytes; more than that Pillow refuses in a PNG
LARGEST_TEXT = 2**20  # bytes of all text chunks of a PNG, and of one text when it is unpacked
MOST_ALIKE = 1000  # other chunks of one kind
LARGEST_DETAIL = 2**16  # bytes of any other chunk beside the pixels

NO_EXIF = "Camera details (EXIF) of more than 64 KiB were left out, the orientation with them"
NO_TEXT = "Camera details (XMP or EXIF) in large texts were left out, with the orientation"
NO_PROFILE = "A colour profile that is too large is ignored"
BAD_PROFILE = "A colour profile that is damaged or does not fit its picture is ignored"
BAD_SUM = "Side information with a wrong checksum was left out"
SAVE_AGAIN = "Export it again with another program, or remove it."

# A marker: FF and a byte that is neither stuffed (00), nor a restart (D0 to D7), nor padding (FF)
MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
SOI, EOI, SOS, APP0, APP1, APP2, APP14, COM = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15
LOSSLESS = frozenset((0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF))
WITHOUT_LENGTH = frozenset((0x01, SOI))

PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
PNG_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"fdAT", b"fcTL")
# Side chunks that the decoded pixels depend on: transparency, frames, orientation, colours
PNG_DETAILS = (b"tRNS", b"acTL", b"eXIf", b"iCCP", *PNG_TEXTS)
# Texts that may hold the orientation
ORIENTING_TEXTS = (b"XML:com.adobe.xmp", b"Raw profile type exif")
ANCILLARY = 0x20  # a bit of a chunk's first letter (PNG specification, W3C 2003, 5.4)
WEBP_PIXELS = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF")
WEBP_DETAILS = {
    b"ICCP": (LARGEST_PROFILE, NO_PROFILE),
    b"EXIF": (LARGEST_EXIF, NO_EXIF),
    b"XMP ": (LARGEST_XMP, ""),
}


def reduced(content: bytes) -> tuple[bytes, list[str]]:
    """Return the file with its side information within bounds, and remarks on what was left out.

    What is none of the three formats is returned as it is. Raises DataError without the file's
    name.
    """
    if content.startswith(JPEG):
        return _reduced_jpeg(content)
    if content.startswith(PNG):
        return _reduced_png(content)
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return _reduced_webp(content)
    return content, []


def unusual_jpeg(content: bytes) -> str:
    """What a sound JPEG is that decoders do not read, "" for any other file."""
    if not content.startswith(JPEG):
        return ""
    try:
        for marker, data, _ in _jpeg_segments(content):
            if marker in FRAMES:
                if marker in LOSSLESS:
                    return "a lossless or hierarchical JPEG"
                return f"a JPEG of {data[0]} bits" if data[:1] not in (b"", b"\x08") else ""
    except DataError:
        pass  # then it is damaged, which is said elsewhere
    return ""


def png_text(content: bytes, keyword: str) -> str | None:
    """Return the text that a PNG holds under a keyword, None without one.

    Raises DataError for what is no PNG or too long.
    """
    if not content.startswith(PNG):
        raise DataError("is not a PNG")
    for kind, data, _ in _png_chunks(content):
        if kind in PNG_TEXTS and data.startswith(keyword.encode("latin-1") + b"\0"):
            return _text_of(kind, data[len(keyword) + 1 :])
    return None


# --- JPEG ---


def _reduced_jpeg(content: bytes) -> tuple[bytes, list[str]]:
    """Write the segments anew, without what stands between or after them: what was counted here is
    what the decoder meets.
    """
    segments: list[tuple[str, bytes]] = [("", JPEG)]
    for marker, data, pixels in _jpeg_segments(content):
        _bounded(len(segments))
        kind = _kind_of(marker, data)
        if kind != "dropped":
            length = (
                b""
                if marker in WITHOUT_LENGTH or marker == EOI
                else (len(data) + 2).to_bytes(2, "big")
            )
            segments.append((kind, b"\xff" + bytes((marker,)) + length + data + pixels))
    _check_jpeg([kind for kind, _ in segments])
    return _within_bounds(segments)


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield marker, data and, after a scan's header, its packed pixels.

    A file that is cut off ends with what is there.
    """
    at = len(JPEG)
    while found := MARKER.search(content, at):
        marker, at = found[1][0], found.end()
        if marker in WITHOUT_LENGTH or marker == EOI:
            yield marker, b"", b""
            if marker == EOI:
                return
            continue
        length = int.from_bytes(content[at : at + 2], "big")
        if at + 2 > len(content) or length < 2:
            raise DataError(
                f"is damaged or cut off (a part of {length} bytes). Export or download "
                "it again, or remove it."
            )
        data, at = content[at + 2 : at + length], at + length
        if marker != SOS:
            yield marker, data, b""
            continue
        end = MARKER.search(content, at)
        until = end.start() if end else len(content)
        yield marker, data, content[at:until]
        at = until


def _kind_of(marker: int, data: bytes) -> str:
    """Name what a segment is to us; `dropped`: no pixel depends on it."""
    if marker == SOS:
        return "scan"
    if marker in FRAMES:
        return "frame"
    if marker == APP1 and data.startswith(b"Exif\0"):
        return "exif"
    if marker == APP1 and data.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
        return "xmp"
    if marker == APP2 and data.startswith(b"ICC_PROFILE\0"):
        return "profile"
    if marker in (APP0, APP14) and len(data) >= SHORTEST_APPLICATION:
        return "application"
    if APP0 <= marker <= 0xEF or marker == COM:
        return "dropped"
    return "" if marker in (EOI, *WITHOUT_LENGTH) else "table"


def _check_jpeg(kinds: list[str]) -> None:
    """Raises DataError for more frames, scans or tables than an honest file has."""
    if (frames := kinds.count("frame")) > 1:
        raise DataError(f"has {frames} frame headers, a JPEG has exactly one. {SAVE_AGAIN}")
    if (scans := kinds.count("scan")) > MOST_SCANS:
        raise DataError(f"has {scans:,} scans, {MOST_SCANS} is the most for a JPEG. {SAVE_AGAIN}")
    if (tables := kinds.count("table")) > MOST_TABLES:
        raise DataError(
            f"has {tables:,} tables, {MOST_TABLES:,} is the most for a JPEG. {SAVE_AGAIN}"
        )


def _within_bounds(segments: list[tuple[str, bytes]]) -> tuple[bytes, list[str]]:
    """Join the segments of a JPEG; of EXIF and XMP only the first counts, of a profile all parts or
    none.
    """
    profile = sum(len(data) for kind, data in segments if kind == "profile")
    remarks = [NO_PROFILE] if profile > LARGEST_PROFILE else []
    most = {
        "exif": 1,
        "xmp": 1,
        "application": MOST_APPLICATION_SEGMENTS,
        "profile": 0 if remarks else 255,
    }
    kept = []
    for kind, data in segments:
        if kind in most:
            most[kind] -= 1
            if most[kind] < 0:
                continue
        kept.append(data)
    return b"".join(kept), remarks


# --- PNG ---


def _reduced_png(content: bytes) -> tuple[bytes, list[str]]:
    """Keep what the pixels depend on, within bounds; nothing else can make a picture unreadable."""
    kept: list[bytes] = [PNG]
    remarks: dict[str, None] = {}
    seen: dict[bytes, int] = {}
    room = LARGEST_TEXT
    for kind, data, whole in _png_chunks(content):
        seen[kind] = seen.get(kind, 0) + 1
        if kind == b"IHDR" and seen[kind] > 1:
            raise DataError(f"has more than one header, a PNG has exactly one. {SAVE_AGAIN}")
        if kind in PNG_TEXTS:
            size = _orienting_text(kind, data)
            remark = _why_no_text(size, room, whole)
            room -= size if remark is None else 0
        elif kind in PNG_PIXELS:
            remark = None
        else:
            remark = _why_not(kind, data, whole, seen[kind])
        if remark is None:
            kept.append(whole)
        elif remark:
            remarks[remark] = None
    return b"".join(kept), list(remarks)


def _why_not(kind: bytes, data: bytes, whole: bytes, count: int) -> str | None:
    """Return why a PNG's side information is left out, empty where nothing has to be said of it;
    None: it stays.
    """
    side = bool(kind[:1]) and bool(kind[0] & ANCILLARY)
    if side and kind not in (b"tRNS", b"acTL") and not _sum_is_right(whole):
        return BAD_SUM
    if side and kind not in PNG_DETAILS:
        return ""
    if kind == b"eXIf":
        return NO_EXIF if len(data) > LARGEST_EXIF else "" if count > 1 else None
    if kind == b"iCCP":
        return _why_no_profile(data) if count == 1 else ""
    return "" if len(data) > LARGEST_DETAIL or count > MOST_ALIKE else None


def _why_no_profile(data: bytes) -> str | None:
    """The same for the data of iCCP: a name, a NUL, 0 for zlib, the packed profile."""
    name, _, rest = data.partition(b"\0")
    if not name or rest[:1] != b"\0":
        return BAD_PROFILE
    if len(data) > LARGEST_PROFILE:
        return NO_PROFILE
    try:
        unpacked = zlib.decompressobj().decompress(rest[1:], LARGEST_UNPACKED_PROFILE + 1)
    except zlib.error:
        return BAD_PROFILE
    return NO_PROFILE if len(unpacked) > LARGEST_UNPACKED_PROFILE else None


def _why_no_text(size: int, room: int, whole: bytes) -> str | None:
    """The same for a text of `size` bytes; 0: one that decides nothing. room: bytes left."""
    if not _sum_is_right(whole):
        return BAD_SUM
    if not size:
        return ""
    return NO_TEXT if size > room else None


def _orienting_text(kind: bytes, data: bytes) -> int:
    """Bytes of a text that may hold the orientation, unpacked, LARGEST_TEXT + 1 at most; 0 for
    any other text and for a damaged one.
    """
    keyword, _, rest = data.partition(b"\0")
    if keyword not in ORIENTING_TEXTS:
        return 0
    is_packed = kind == b"zTXt" or (kind == b"iTXt" and rest[:1] == b"\1")
    packed = rest[1:] if kind == b"zTXt" else rest
    if kind == b"zTXt" and rest[:1] != b"\0":
        return 0  # packed in an unknown way
    if not is_packed:
        return min(len(data), LARGEST_TEXT + 1)
    if kind == b"iTXt":  # after language and translated keyword
        packed = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    try:
        return len(zlib.decompressobj().decompress(packed, LARGEST_TEXT + 1))
    except zlib.error:
        return 0


def _sum_is_right(whole: bytes) -> bool:
    return zlib.crc32(whole[4:-4]) == int.from_bytes(whole[-4:], "big")


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield kind, data and the whole chunk, IEND the last.

    A chunk that is cut off is yielded with what is there.
    """
    at, count = len(PNG), 0
    while at < len(content):
        count += 1
        _bounded(count)
        size, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        end = at + 12 + size
        yield kind, content[at + 8 : end - 4], content[at:end]
        if kind == b"IEND":
            return
        at = end


def _text_of(kind: bytes, data: bytes) -> str:
    """Return the text of a chunk after its keyword (PNG specification, W3C 2003, 11.3.4)."""
    if kind == b"tEXt":
        return _short(data).decode("latin-1")
    if kind == b"zTXt":
        return _unpacked(data[1:]).decode("latin-1")
    is_packed, _, rest = data[:1] == b"\1", data[1:2], data[2:]
    text = rest.partition(b"\0")[2].partition(b"\0")[2]  # after language and translated keyword
    try:
        return (_unpacked(text) if is_packed else _short(text)).decode()
    except UnicodeDecodeError:
        raise DataError("holds a text that is not UTF-8") from None


def _unpacked(packed: bytes) -> bytes:
    try:
        return _short(zlib.decompressobj().decompress(packed, LARGEST_TEXT + 1))
    except zlib.error:
        raise DataError("holds a text that is damaged") from None


def _short(text: bytes) -> bytes:
    if len(text) > LARGEST_TEXT:
        raise DataError(f"holds a text of more than {LARGEST_TEXT:,} bytes")
    return text


# --- WEBP ---


def _reduced_webp(content: bytes) -> tuple[bytes, list[str]]:
    """Leave the file as it is, unless some of its side information is too large or unknown."""
    kept: list[bytes] = []
    remarks: dict[str, None] = {}
    frames, changed, at = 0, False, 12
    seen: set[bytes] = set()
    while at + 8 <= len(content):
        _bounded(len(kept))
        kind, size = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        end = at + 8 + size + size % 2
        frames += kind == b"ANMF"
        largest, remark = WEBP_DETAILS.get(kind, (0, ""))
        if kind in WEBP_PIXELS or (size <= largest and kind not in seen):
            kept.append(content[at:end])
        else:
            changed, remarks = True, remarks | ({remark: None} if remark and size > largest else {})
        seen.add(kind)
        at = end
    if frames > MOST_FRAMES:
        raise DataError(
            f"has {frames:,} frames, {MOST_FRAMES:,} is the most for a WEBP. {SAVE_AGAIN}"
        )
    if not changed:
        return content, []
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + len(body).to_bytes(4, "little") + body, list(remarks)


def _bounded(parts: int) -> None:
    if parts > MOST_PARTS:
        raise DataError(f"has more than {MOST_PARTS:,} parts. {SAVE_AGAIN}")
