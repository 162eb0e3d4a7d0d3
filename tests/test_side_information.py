"""What lies beside the pixels of a picture costs at most a remark: the pixels decide."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageCms

from tests.test_image_worker import file_of, picture
from tests.test_png import chunk
from training.data import image_headers, image_worker
from training.data.dataset import read_dataset
from training.errors import DataError

WHITE = (255, 255, 255)
XMP = b"XML:com.adobe.xmp\0"
TURNED = b'<x:xmpmeta tiff:Orientation="6"></x:xmpmeta>'


def with_sum(kind: bytes, data: bytes, *, wrong: bool = True) -> bytes:
    whole = chunk(kind, data)
    return whole[:-1] + bytes([whole[-1] ^ wrong])


def profile(size: int) -> bytes:
    """A sound profile that decoders follow, padded to so many bytes."""
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    whole = bytearray(own.ljust(size, b"\1"))
    whole[:4] = struct.pack(">I", len(whole))
    return b"display\0\0" + zlib.compress(bytes(whole))


# name -> (chunks after the header, the remark that is made; empty: none)
BESIDE: dict[str, tuple[bytes, str]] = {
    "a profile of 1.4 MB": (chunk(b"iCCP", profile(1_400_000)), image_headers.NO_PROFILE),
    "a profile without a name": (chunk(b"iCCP", b""), image_headers.BAD_PROFILE),
    "a profile packed in an unknown way": (
        chunk(b"iCCP", b"p\0\7" + zlib.compress(b"x")),
        image_headers.BAD_PROFILE,
    ),
    "a profile that is no zlib": (chunk(b"iCCP", b"p\0\0nonsense"), image_headers.BAD_PROFILE),
    "a profile with a wrong sum": (with_sum(b"iCCP", profile(0)), image_headers.BAD_SUM),
    "a workflow of 3.6 MB": (
        chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"workflow " * 400_000)),
        "",
    ),
    "an international text of 3.6 MB": (
        chunk(b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(b"workflow " * 400_000)),
        "",
    ),
    "a text that unpacks to 70 MB": (
        chunk(b"zTXt", b"comment\0\0" + zlib.compress(b"x" * 70_000_000)),
        "",
    ),
    "a text of 70 MB": (chunk(b"tEXt", b"parameters\0" + b"x" * 70_000_000), ""),
    "a text packed in an unknown way": (chunk(b"zTXt", b"note\0\7abc"), ""),
    "a text with a wrong sum": (with_sum(b"tEXt", b"Software\0painter"), image_headers.BAD_SUM),
    "a time with a wrong sum": (with_sum(b"tIME", bytes(7)), image_headers.BAD_SUM),
    "an EXIF with a wrong sum": (with_sum(b"eXIf", b"II*\0"), image_headers.BAD_SUM),
    "a gamma that is cut off": (chunk(b"gAMA", b"\0"), ""),
    "no resolution": (chunk(b"pHYs", b""), ""),
    "half a chromaticity": (chunk(b"cHRM", bytes(7)), ""),
    "an XMP that unpacks to 5 MB": (
        chunk(b"iTXt", XMP + b"\1\0\0\0" + zlib.compress(TURNED + b" " * 5_000_000)),
        image_headers.NO_TEXT,
    ),
    "XMPs of 3 MB together": (
        chunk(b"iTXt", XMP + b"\0\0\0\0" + b" " * 2**19) * 6,
        image_headers.NO_TEXT,
    ),
    "an EXIF in a text that is no zlib": (chunk(b"zTXt", b"Raw profile type exif\0\0xx"), ""),
}


@pytest.mark.parametrize("name", BESIDE)
def test_a_sound_png_is_read_whatever_lies_beside_its_pixels(name: str, tmp_path: Path) -> None:
    beside, remark = BESIDE[name]
    good = file_of("PNG")
    (tmp_path / "a.png").write_bytes(good[:33] + beside + good[33:])
    content = (tmp_path / "a.png").read_bytes()
    assert image_worker.decode(content, WHITE).tobytes() == picture().tobytes()
    expected = [f"{remark} (a.png)."] if remark else []
    assert [n for n in read_dataset(tmp_path).notes if "no caption" not in n] == expected


def test_a_wrong_sum_of_the_colours_stays_damage() -> None:
    good = file_of("PNG", picture().convert("P"))
    at = good.index(b"PLTE") + 4 + int.from_bytes(good[good.index(b"PLTE") - 4 :][:4], "big")
    with pytest.raises(DataError, match="damaged or cut off"):
        image_worker.decode(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :], WHITE)


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt"])
def test_an_orientation_in_a_text_still_turns_the_picture(kind: str) -> None:
    good = file_of("PNG", picture(40, 30))
    data = {
        "tEXt": XMP + TURNED,
        "zTXt": XMP + b"\0" + zlib.compress(TURNED),
        "iTXt": XMP + b"\1\0\0\0" + zlib.compress(TURNED),
    }[kind]
    content = good[:33] + chunk(kind.encode(), data) + good[33:]
    assert image_worker.decode(content, WHITE).size == (30, 40)


@pytest.mark.parametrize(
    "segment",
    [b"\xff\xe0\x00\x07JFIF\0", b"\xff\xee\x00\x07Adobe", b"\xff\xe2\x00\x06MPF\0"],
)
def test_a_jpeg_is_read_whatever_its_programs_left_half_written(segment: bytes) -> None:
    good = file_of("JPEG", quality=95)
    expected = image_worker.decode(good, WHITE).tobytes()
    assert image_worker.decode(good[:2] + segment + good[2:], WHITE).tobytes() == expected


def test_transparency_with_a_wrong_sum_is_no_side_information() -> None:
    image = Image.new("RGB", (40, 30), (9, 9, 9))
    good = file_of("PNG", image, transparency=(9, 9, 9))
    assert image_worker.decode(good, WHITE).getpixel((0, 0)) == WHITE
    at = good.index(b"tRNS") + 4 + 6
    with pytest.raises(DataError):
        image_worker.decode(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :], WHITE)
