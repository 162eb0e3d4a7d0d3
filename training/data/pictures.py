"""Pictures as the trainer sees them: decoded, upright, flattened, resized, cropped."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from training.data import image_worker
from training.data.buckets import Bucket, fit
from training.data.complaints import shown_name, some_of
from training.data.crops import CENTRE
from training.data.file_content import read_content
from training.data.listing import Listing
from training.errors import DataError

LARGEST_PICTURE_FILE = 512 * 2**20  # bytes


def open_picture(path: Path, background: str = "white") -> Image.Image:
    """Return the picture as the trainer sees it: RGB, 8 bits, upright, sRGB, first frame, what is
    transparent flattened on the background.

    Raises DataError that names the file and what is wrong with it.
    """
    try:
        ground = parse_colour(background)
        return image_worker.decode(picture_content(path), ground)
    except DataError as error:
        raise DataError(f"{shown_name(path)} {error}") from None


def pixels(
    picture: Image.Image, bucket: Bucket, flipped: bool = False, place: tuple[float, float] = CENTRE
) -> np.ndarray:
    """Return uint8 [bucket height, bucket width, 3].

    RGB, resized (Lanczos) to cover the bucket, cropped at its place, mirrored if asked.
    """
    # Only what the crop shows is resized, with its true surroundings: a strip of 16 x 1,000,000 px
    # must not become 512 x 32,000,000 px first.
    shown = picture.resize(
        (bucket.width, bucket.height),
        Image.Resampling.LANCZOS,
        box=crop_box(picture.size, bucket, place),
    )
    array = np.array(shown)
    return np.ascontiguousarray(array[:, ::-1]) if flipped else array


def crop_box(
    size: tuple[int, int], bucket: Bucket, place: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what a bucket shows of a picture, in the picture's own px."""
    width, height, left, top = fit(*size, bucket, place)
    across, down = size[0] / width, size[1] / height
    right = min((left + bucket.width) * across, size[0])
    bottom = min((top + bucket.height) * down, size[1])
    return left * across, top * down, right, bottom


@dataclass(frozen=True)
class Examined:
    """What stays in memory of a picture: its upright size in px, its file's sha256, remarks."""

    width: int
    height: int
    digest: str
    remarks: tuple[str, ...]


def examine_pictures(
    listing: Listing, complaints: list[str], notes: list[str]
) -> dict[str, Examined]:
    """Decode every picture once and return what is known of the good ones, in the order of their
    names.
    """
    good: dict[str, Examined] = {}
    remarks: dict[str, list[str]] = defaultdict(list)
    with ThreadPoolExecutor(image_worker.MOST_WORKERS) as threads:
        paths = [listing.folder / name for name in listing.pictures]
        for name, seen in zip(listing.pictures, threads.map(_examine, paths), strict=True):
            if isinstance(seen, DataError):
                complaints.append(f"{shown_name(name)} {seen}")
                continue
            good[name] = seen
            for remark in seen.remarks:
                remarks[remark].append(name)
    notes += [f"{remark} ({some_of(names)})." for remark, names in remarks.items()]
    return good


def _examine(path: Path) -> Examined | DataError:
    """Return the error, without the file's name, so that the other pictures are looked at too."""
    try:
        content = picture_content(path)
        size, remarks = image_worker.examine(content)
    except DataError as error:
        return error
    return Examined(*size, hashlib.sha256(content).hexdigest(), remarks)


def picture_content(path: Path) -> bytes:
    content = read_content(path, LARGEST_PICTURE_FILE)
    if not content:
        raise DataError("is empty (0 bytes). Export it again, or remove it.")
    return content


def parse_colour(background: str) -> tuple[int, int, int]:
    try:
        return ImageColor.getrgb(background)[:3]
    except ValueError:
        raise DataError(
            f"data.background is {background!r}, which is not a colour. Write a name such as "
            "white, or #rrggbb."
        ) from None
