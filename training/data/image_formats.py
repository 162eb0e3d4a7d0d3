"""Which formats of pictures there is a decoder for, and how it gets a file: reduced to what decides
its first picture. Knows Pillow.
"""

from __future__ import annotations

import functools
import importlib
import io
from typing import Any

from PIL import Image, features

from training.data import image_containers, image_headers
from training.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP")  # what the content may be, whatever the suffix says, beside
# these: container -> Pillow's module for it
OTHER_FORMATS = {
    "GIF": "GifImagePlugin",
    "BMP": "BmpImagePlugin",
    "TIFF": "TiffImagePlugin",
    "AVIF": "AvifImagePlugin",
}
# Modes of those that are read; 32 bits a colour, for instance, are not
MODES = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "I;16", "I;16B"))
NO_DECODER = {
    "AVIF": "is an AVIF file, for which this Pillow was built without a decoder",
    "HEIF": 'is a HEIC file, which needs the package pillow-heif: pip install "style-studio[heic]"',
}
# What is said of formats that may hold several pictures
ANIMATED = {
    **dict.fromkeys(("PNG", "WEBP", "AVIF"), image_containers.FIRST_FRAME),
    "HEIF": image_containers.FIRST_PAGE,
}


@functools.cache
def readable() -> frozenset[str]:
    """The formats beside PNG, JPEG and WEBP for which there is a decoder; its code is loaded now.
    One thread each: the process of the decoder may begin no more.
    """
    Image.preinit()
    for name in OTHER_FORMATS.values():
        module: Any = importlib.import_module(f"PIL.{name}")
        if name == "AvifImagePlugin":
            module.DEFAULT_MAX_THREADS = 1
    found = {kind for kind in OTHER_FORMATS if kind in Image.OPEN and kind != "AVIF"}
    found |= {"AVIF"} if features.check("avif") else set()
    try:
        heif: Any = importlib.import_module("pillow_heif")
    except ImportError:
        return frozenset(found)
    heif.register_heif_opener(
        decode_threads=1, thumbnails=False, depth_images=False, aux_images=False
    )
    return frozenset({*found, "HEIF"})


def reduced(content: bytes) -> tuple[bytes, list[str]]:
    """Return the file as its decoder gets it, and remarks; DataError where there is none."""
    kind = image_containers.kind_of(content)
    if kind is None:
        return image_headers.reduced(content)
    if kind not in readable():
        raise DataError(f"{NO_DECODER[kind]}. Or save it as PNG.")
    return image_containers.reduced(content, kind)


def opened(content: bytes) -> Image.Image:
    """Return the picture with its header read, by the decoder of what it is."""
    kind = image_containers.kind_of(content)
    picture = Image.open(io.BytesIO(content), formats=(kind,) if kind else FORMATS)
    if kind and picture.mode not in MODES:
        raise DataError(
            f"has pixels of a kind that is not read ({picture.mode}). Save it as PNG with 8 bits "
            "a colour, or remove it."
        )
    return picture


def drop_large_details(picture: Image.Image) -> list[str]:
    """Take away what an AVIF or HEIC holds beside its pixels where that is too large; return
    remarks on it.
    """
    if picture.format not in ("AVIF", "HEIF"):
        return []
    bounds = {
        "exif": (image_headers.LARGEST_EXIF, image_headers.NO_EXIF),
        "icc_profile": (image_headers.LARGEST_PROFILE, image_headers.NO_PROFILE),
    }
    remarks = []
    for name, (largest, remark) in bounds.items():
        if len(picture.info.get(name) or b"") > largest:
            del picture.info[name]
            remarks.append(remark)
    return remarks
