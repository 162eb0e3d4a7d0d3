"""Pictures of other formats: what is decoded, what is said, and what is refused."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from tests.test_image_worker import looping_exif, picture
from training.data import image_containers, image_decoding, image_formats, image_worker
from training.data.file_kinds import is_picture
from training.errors import DataError

GROUND = (10, 200, 30)
TURN = 6  # EXIF: the picture lies on its side


def content_of(kind: str, image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def seen(content: bytes) -> np.ndarray:
    """As the worker decodes it, in its own process."""
    return np.asarray(image_worker.decode(content, GROUND)).astype(int)


def remarks(content: bytes) -> tuple[str, ...]:
    return image_worker.examine(content)[1]


@pytest.fixture
def heif() -> Any:
    """The HEIC decoder, an extra."""
    module = pytest.importorskip("pillow_heif")
    module.register_heif_opener()
    return module


EXACT: dict[str, tuple[str, dict[str, Any]]] = {
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "tiff, LZW": ("TIFF", {"compression": "tiff_lzw"}),
    "tiff, deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "tiff, PackBits": ("TIFF", {"compression": "packbits"}),
}


@pytest.mark.parametrize("name", EXACT)
def test_formats_without_loss_give_every_pixel(name: str) -> None:
    kind, options = EXACT[name]
    image = picture(48, 32)
    assert (seen(content_of(kind, image, **options)) == np.asarray(image)).all()
    assert not remarks(content_of(kind, image, **options))


def test_a_gif_is_its_first_frame_which_is_said() -> None:
    frames = [Image.new("RGB", (32, 24), colour) for colour in ("red", "blue", "white")]
    many = content_of("GIF", frames[0], save_all=True, append_images=frames[1:])
    assert (seen(many) == (255, 0, 0)).all()
    assert remarks(many) == (image_containers.FIRST_FRAME,)
    one = content_of("GIF", frames[1])
    assert (seen(one) == (0, 0, 255)).all() and not remarks(one)
    clear = Image.new("P", (32, 24), 1)
    clear.putpalette([0, 0, 0, 255, 0, 0])
    clear.paste(0, (0, 0, 16, 24))
    found = seen(content_of("GIF", clear, transparency=0))
    assert (found[:, :16] == GROUND).all() and (found[:, 16:] == (255, 0, 0)).all()


def test_a_tiff_is_its_first_picture_upright_and_in_any_depth() -> None:
    image = picture(48, 32)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = TURN
    upright = np.asarray(image.transpose(Image.Transpose.ROTATE_270))
    for options in ({}, {"compression": "tiff_lzw"}):
        assert (seen(content_of("TIFF", image, exif=exif, **options)) == upright).all()
    pages = content_of("TIFF", image, save_all=True, append_images=[Image.new("RGB", (48, 32))])
    assert (seen(pages) == np.asarray(image)).all()
    assert remarks(pages) == (image_containers.FIRST_PAGE,)
    deep = Image.fromarray(np.full((32, 48), 40_000, np.uint16))
    assert (seen(content_of("TIFF", deep)) == round(40_000 * 255 / 65_535)).all()
    glass = Image.new("RGBA", (48, 32), (255, 0, 0, 0))
    assert (seen(content_of("TIFF", glass)) == GROUND).all()


def near(found: np.ndarray, wanted: Image.Image) -> bool:
    return found.shape == np.asarray(wanted).shape and abs(found - np.asarray(wanted)).mean() < 4


@pytest.mark.skipif("AVIF" not in image_formats.readable(), reason="Pillow without AVIF")
def test_avif_is_read_upright_with_its_transparency() -> None:
    image = picture(64, 48)
    assert near(seen(content_of("AVIF", image, quality=95)), image)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = TURN
    turned = content_of("AVIF", image, quality=95, exif=exif)
    assert near(seen(turned), image.transpose(Image.Transpose.ROTATE_270))
    glass = Image.new("RGBA", (64, 48), (255, 0, 0, 0))
    assert near(seen(content_of("AVIF", glass)), Image.new("RGB", (64, 48), GROUND))
    moving = content_of("AVIF", image, save_all=True, append_images=[glass.convert("RGB")])
    assert near(seen(moving), image) and remarks(moving) == (image_containers.FIRST_FRAME,)


def test_heic_is_read_upright_with_its_transparency(heif: Any) -> None:
    image = picture(64, 48)
    assert near(seen(content_of("HEIF", image, quality=95)), image)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = TURN
    turned = content_of("HEIF", image, quality=95, exif=exif.tobytes())
    assert near(seen(turned), image.transpose(Image.Transpose.ROTATE_270))
    glass = Image.new("RGBA", (64, 48), (255, 0, 0, 0))
    assert near(seen(content_of("HEIF", glass)), Image.new("RGB", (64, 48), GROUND))


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_a_format_without_a_decoder_says_what_it_needs(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_formats, "readable", frozenset)
    brand = b"heic" if kind == "HEIF" else b"avif"
    wanted = r"style-studio\[heic\]" if kind == "HEIF" else "built without a decoder"
    with pytest.raises(DataError, match=wanted):
        image_decoding.decoded(b"\0\0\0\x18ftyp" + brand + bytes(99), GROUND)


def tiff_with(entries: list[tuple[int, int, int, int]], more: bytes = b"") -> bytes:
    """A TIFF of these tags, kinds, counts and values, and bytes after them."""
    rows = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + rows + bytes(4) + more


GREY = [(256, 4, 1, 32), (257, 4, 1, 32), (258, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]


REFUSED: dict[str, tuple[bytes, str]] = {
    "a TIFF of JPEG": (content_of("TIFF", picture(), compression="jpeg"), "compression 7"),
    "a TIFF of floats": (
        content_of("TIFF", Image.new("F", (32, 32))),
        r"kind that is not read \(F\)",
    ),
    "BigTIFF": (b"II+\0\x08\0\0\0" + bytes(40), "BigTIFF"),
    "a TIFF of many tags": (
        tiff_with([(256, 4, 1, 32)] * 2000),
        "tags, 1,000 is the most",
    ),
    "tags larger than the file": (tiff_with([(273, 4, 2**31, 8)]), "hold more than the file"),
    "pixels that are not there": (
        tiff_with([*GREY, (273, 4, 1, 2**30), (279, 4, 1, 1024)]),
        "damaged or cut off",
    ),
    "a TIFF that is cut off": (content_of("TIFF", picture())[:-9], "not all its pixels"),
    "a packed TIFF that is cut off": (
        content_of("TIFF", picture(), compression="tiff_lzw")[:-400],
        "damaged or cut off",
    ),
    "a GIF without a frame": (b"GIF89a" + bytes(40), "no frame"),
    "a BMP of gigapixels": (
        b"BM" + struct.pack("<IIIIiiHHI", 0, 0, 54, 40, 99_999, 99_999, 1, 24, 0) + bytes(40),
        "megapixels",
    ),
    "an AVIF that is cut off": (
        content_of("AVIF", picture(), quality=50)[:200],
        "damaged or cut off",
    ),
    "an AVIF of endless words": (
        b"\0\0\0\x10ftypavif" + bytes(4) + struct.pack(">I", 2**30) + b"meta" + bytes(40),
        "about its pictures",
    ),
    "boxes without size": (b"\0\0\0\x10ftypavif" + bytes(4) + b"\0\0\0\3moov", "a part of 3"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_honest_program_writes_is_refused_in_words(name: str) -> None:
    content, wanted = REFUSED[name]
    with pytest.raises(DataError, match=wanted) as caught:
        image_worker.decode(content, GROUND)
    assert (
        "PNG" in str(caught.value)
        or "Export" in str(caught.value)
        or "smaller" in str(caught.value)
    )


def test_what_stands_beside_the_pixels_of_a_tiff_is_never_read() -> None:
    """EXIF that leads in circles, and a directory that is its own successor."""
    pixels = bytes(range(256)) * 4
    entries = [*GREY, (273, 4, 1, 0), (279, 4, 1, 1024), (34665, 4, 1, 8), (700, 7, 2**31, 8)]
    start = 8 + 2 + 12 * len(entries) + 4
    entries[5] = (273, 4, 1, start)
    content = bytearray(tiff_with(entries, pixels + looping_exif(2**16)))
    content[start - 4 : start] = struct.pack("<I", 8)
    found = seen(bytes(content))
    assert (found[..., 0] == np.frombuffer(pixels, np.uint8).reshape(32, 32)).all()
    assert remarks(bytes(content)) == (image_containers.FIRST_PAGE,)


@pytest.mark.parametrize("suffix", "png jpg webp avif bmp gif tif tiff heic heif hif".split())
def test_such_files_are_pictures_by_their_names(suffix: str) -> None:
    assert is_picture(f"A.{suffix.upper()}") and not is_picture(f"a.{suffix}.txt")
