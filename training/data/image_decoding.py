"""A picture file's bytes -> rows of RGB as the trainer sees them. Knows Pillow; bounds nothing but
size.

Runs in the process of training.data.image_worker: Pillow's decoders are C and obey what a file
says.
"""

from __future__ import annotations

import codecs
import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from training.data import image_containers, image_formats, image_headers, png
from training.errors import DataError

LARGEST_PICTURE = 100_000_000  # px in all: 100 megapixels; a larger one is halved
LARGEST_HALVED = 250_000_000  # px in all of what is halved
SMALLEST_HALVED = 2**20  # bytes; a file of fewer and so many pixels is made to fill memory
HALVED = "Pictures of more than 100 megapixels are scaled to half their size"
AVERAGED = ("L", "LA", "RGB", "RGBA", "CMYK")  # modes whose pixels may be averaged
SMALLEST_SIDE = 16  # px
STRIP = 2**20  # px that are converted at once: a copy of the whole would double the memory

# What Pillow's readers raise for damaged files.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
# EXIF 2.32, tag 0x0112. ImageOps.exif_transpose writes the EXIF anew as well, which damaged EXIF
# does not survive.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TO_8_BITS = ((np.arange(65536) * 255 + 32767) // 65535).astype(np.uint8)


@dataclass(frozen=True)
class Decoded:
    """size: px, upright; remarks: what was done that the picture's owner may not expect; rows: RGB,
    8 bits, strips from the top.
    """

    size: tuple[int, int]
    remarks: tuple[str, ...]
    rows: Iterator[bytes]


def decoded(content: bytes, background: tuple[int, int, int]) -> Decoded:
    """Return the picture upright, in sRGB, its first frame, flattened on the background.

    Raises DataError without the file's name.
    """
    content, left_out = image_formats.reduced(content)
    picture, remarks = _loaded(content)
    to_srgb, remark = _transform(picture)

    def strip(part: Image.Image) -> Image.Image:
        colours, alpha = _parted(part)
        flat = to_srgb(colours)
        if alpha is None:
            return flat
        ground = Image.new("RGB", flat.size, background)
        ground.paste(flat, mask=alpha)
        return ground

    return Decoded(picture.size, (*left_out, *remarks, *remark), _in_strips(picture, strip))


def decoded_alpha(content: bytes) -> Decoded:
    """Return how opaque the picture is, as grey: 255 where it has no transparency.

    Raises DataError without the file's name.
    """
    content, left_out = image_formats.reduced(content)
    picture, remarks = _loaded(content)

    def strip(part: Image.Image) -> Image.Image:
        colours, alpha = _parted(part)
        grey = Image.new("L", colours.size, 255) if alpha is None else alpha
        return Image.merge("RGB", (grey, grey, grey))

    return Decoded(picture.size, (*left_out, *remarks), _in_strips(picture, strip))


def decoded_as_stored(content: bytes, largest: int) -> Decoded:
    """Return the picture's own pixels in RGB: not turned, no profile applied, what is transparent
    not flattened. largest: px in all.

    Raises DataError without the file's name.
    """
    content, left_out = image_formats.reduced(content)
    try:
        picture = image_formats.opened(content)
        if picture.width * picture.height > largest:
            raise DataError(
                f"is {picture.width}x{picture.height} px, at most {largest // 10**6} "
                "million are opened. Give a smaller one."
            )
        picture.load()
    except (Image.DecompressionBombError, UnidentifiedImageError, *DAMAGED) as error:
        raise DataError(
            f"cannot be read as a picture ({reason(error)}). Give a .png or .jpg."
        ) from None
    return Decoded(
        picture.size, tuple(left_out), _in_strips(picture, lambda part: part.convert("RGB"))
    )


def reason(error: object) -> str:
    """Return the error's own words on one line, without addresses of objects."""
    words = (
        error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    ) or type(error).__name__
    return printable(" ".join(re.sub(r"<[^>]*>", "", words).split())[:160]).rstrip(". ")


def printable(text: str) -> str:
    """Return a text that any terminal can show: file names may hold line ends, escape codes and
    bytes that are no text.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _in_strips(
    picture: Image.Image, convert: Callable[[Image.Image], Image.Image]
) -> Iterator[bytes]:
    """Every conversion is of single pixels, so strips give the bits of the whole."""
    width, height = picture.size
    rows = max(1, STRIP // width)
    if height <= rows:
        yield convert(picture).tobytes()
        return
    for top in range(0, height, rows):
        yield convert(picture.crop((0, top, width, min(top + rows, height)))).tobytes()


def _loaded(content: bytes) -> tuple[Image.Image, list[str]]:
    """Return the first frame, wholly decoded and upright, in the file's own mode, and remarks."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            picture = image_formats.opened(content)
            too_large = image_formats.drop_large_details(picture)
            _check_area(*picture.size, len(content))
            _check_sides(*picture.size)
            halved = picture.width * picture.height > LARGEST_PICTURE
            if halved:  # a JPEG is read at half its size at once
                picture.draft(None, (picture.width // 2, picture.height // 2))
            picture.load()
            upright = _upright(picture, _halved(picture))
        except Image.DecompressionBombError:
            raise DataError(_too_large("hundreds of millions of pixels", LARGEST_HALVED)) from None
        except UnidentifiedImageError:
            raise DataError(_disguised(content)) from None
        except DAMAGED as error:
            if image_headers.unusual_jpeg(content):
                raise DataError(_disguised(content)) from None
            raise DataError(
                f"is damaged or cut off ({reason(error)}). Export or download it again, "
                "or remove it."
            ) from None
    if picture.format == "PNG" and _ends_in_nothing(picture) and png.lacks_rows(content):
        raise DataError(
            "is cut off: it has fewer rows of pixels than it says. Export or download "
            "it again, or remove it."
        )
    remarks = [*([HALVED] if halved else []), *too_large]
    remarks += [
        f"Damaged details were skipped: {reason(w.message)}"
        for w in caught
        if not issubclass(w.category, Image.DecompressionBombWarning)
    ]
    if picture.format in image_formats.ANIMATED and getattr(picture, "is_animated", False):
        remarks.append(image_formats.ANIMATED[picture.format])
    if picture.format == "PNG" and "transparency" in picture.info:
        upright.info["transparency"] = _key_colour(
            picture, depth=content[24]
        )  # IHDR: bits per sample
    return upright, list(dict.fromkeys(remarks))


def _ends_in_nothing(picture: Image.Image) -> bool:
    """Whether one of the last two rows, of which one is drawn last, holds only zeros: what decoders
    leave of a row that is missing.
    """
    width, height = picture.size
    return any(
        not any(picture.crop((0, y, width, y + 1)).tobytes())
        for y in range(max(0, height - 2), height)
    )


def _check_area(width: int, height: int, size: int) -> None:
    """From the header, before any pixel is decoded: a few kB can claim gigabytes. size: of the
    file, bytes.
    """
    largest = LARGEST_HALVED if size >= SMALLEST_HALVED else LARGEST_PICTURE
    if width * height > largest:
        raise DataError(_too_large(f"{width} x {height} px", largest))


def _check_sides(width: int, height: int) -> None:
    if min(width, height) < SMALLEST_SIDE:
        raise DataError(
            f"has {width} x {height} px, {SMALLEST_SIDE} px is the least for a side. "
            "Use a larger version, or remove it."
        )


def _too_large(size: str, largest: int) -> str:
    small = " for so small a file" if largest < LARGEST_HALVED else ""
    return (
        f"has {size}, {largest // 1_000_000} megapixels is the most{small}. Save it "
        "smaller, or remove it."
    )


def _key_colour(picture: Image.Image, depth: int) -> int | tuple[int, ...] | bytes:
    """Return the transparent colour on the scale of the decoded pixels: Pillow scales those, but
    not the colour.
    """
    key = picture.info["transparency"]
    if picture.mode == "L" and depth in (2, 4):
        return key * 255 // (2**depth - 1)
    if picture.mode == "RGB" and depth == 16:
        return tuple(value >> 8 for value in key)
    return key


def _disguised(content: bytes) -> str:
    """Say what a file is that is no picture of ours."""
    if unusual := image_headers.unusual_jpeg(content):
        return f"is {unusual}, which is not read. Save it as PNG, or remove it."
    is_webp = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    own = content.startswith((b"\x89PNG", b"\xff\xd8")) or is_webp
    if own or image_containers.kind_of(content):
        return (
            "is damaged or cut off (its header cannot be read). Export or download it "
            "again, or remove it."
        )
    if kind := _other_kind(content):
        return f"is {kind} in spite of its name. Save it as PNG, or remove it."
    try:
        is_text = b"\0" not in content[:1024] and bool(
            codecs.getincrementaldecoder("utf-8")().decode(content[:1024])
        )
    except UnicodeDecodeError:
        is_text = False
    if is_text:
        return (
            "is text, not a picture (a web page or a pointer saved in its place?). "
            "Download the picture itself, or remove it."
        )
    return (
        "is not a picture of a kind that is read (PNG, JPEG, WEBP, AVIF, BMP, GIF, TIFF, HEIC). "
        "Save it as PNG, or remove it."
    )


def _other_kind(content: bytes) -> str:
    """What a file is by its beginning, "" when that is not known."""
    if content[4:8] == b"ftyp":  # ISO base media of another brand
        return "a video"
    if b"<svg" in content[:1024].lower():
        return "an SVG file"
    kinds = {
        b"%PDF": "a PDF file",
        b"8BPS": "a Photoshop file",
        b"\xff\x0a": "a JPEG XL file",
        b"\0\0\0\x0cJXL ": "a JPEG XL file",
        b"PK\3\4": "a zip file",
        b"RIFF": "a sound or a video",
        b"\x1aE\xdf\xa3": "a video",
    }
    return next((kind for magic, kind in kinds.items() if content.startswith(magic)), "")


def _halved(picture: Image.Image) -> Image.Image:
    """A decoded picture of at most LARGEST_PICTURE px: a larger one at half its size, by area.

    Raises DataError for one whose pixels cannot be averaged as they are.
    """
    if picture.width * picture.height <= LARGEST_PICTURE:
        return picture
    if picture.mode not in AVERAGED:
        raise DataError(
            f"has {picture.width} x {picture.height} px of a kind that is not scaled "
            f"({picture.mode}), {LARGEST_PICTURE // 1_000_000} megapixels is the most for it. Save "
            "it smaller, or remove it."
        )
    return picture.reduce(2)


def _upright(picture: Image.Image, shown: Image.Image) -> Image.Image:
    """`shown` turned as the file of `picture` says."""
    try:
        method = UPRIGHT.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except (MemoryError, *DAMAGED):
        return shown  # as if it had none
    return shown if method is None else shown.transpose(method)


def _parted(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return the colours (L, RGB, CMYK or what else was there) and how opaque each pixel is (L;
    None: all of it is).
    """
    if picture.mode.startswith("I"):
        return _from_16_bits(picture)
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    if not picture.has_transparency_data:
        return picture.convert("L") if picture.mode == "1" else picture, None
    if picture.mode in ("1", "L", "LA"):
        picture = picture.convert("LA")
        return picture.getchannel("L"), picture.getchannel("A")
    picture = picture.convert("RGBA")
    return picture.convert("RGB"), picture.getchannel("A")


def _from_16_bits(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Scale 0..65535 to 0..255; Pillow's own convert clips instead."""
    values = np.asarray(picture).clip(0, 65535).astype(np.uint16)
    grey = Image.fromarray(TO_8_BITS[values])
    key = picture.info.get("transparency")
    return grey, None if key is None else Image.fromarray(
        np.where(values == key, 0, 255).astype(np.uint8)
    )


def _transform(picture: Image.Image) -> tuple[Callable[[Image.Image], Image.Image], list[str]]:
    """Return what turns the colours of a part of the picture into sRGB, and remarks."""
    profile = picture.info.get("icc_profile")
    if not profile:
        return _to_rgb, []
    first_row, _ = _parted(picture.crop((0, 0, picture.width, 1)))
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), first_row.mode, "RGB"
        )
        transform.apply(first_row)
    except (ImageCms.PyCMSError, *DAMAGED):
        return _to_rgb, [image_headers.BAD_PROFILE]
    return transform.apply, []


def _to_rgb(picture: Image.Image) -> Image.Image:
    return picture.convert("RGB")
