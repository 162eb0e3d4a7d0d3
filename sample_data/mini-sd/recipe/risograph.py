"""Risograph prints of pictures: four flat inks on cream paper. Knows nothing of icon sets."""

from __future__ import annotations

import zlib

import numpy as np
from PIL import Image, ImageFilter

PAPER = np.array([244, 234, 212], float)
INKS = np.array([[232, 72, 85], [255, 190, 66], [38, 130, 142], [48, 52, 84]], float)
SHIFT = 2  # px that the second plate is off, at most
SHADOW = 5  # px that the drop shadow lies to the right and below
LEVELS = 24  # of grey a channel in the finished picture: small files


def multiplied(below: np.ndarray, ink: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Print a translucent ink over a picture. below: [H, W, 3] in 0..255; cover: [H, W] in 0..1."""
    return below * (1 - cover[..., None] * (1 - ink / 255))


def plates(picture: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Return (nearest ink of every pixel [H, W], whether it is drawn on [H, W]) of a picture."""
    flat = np.asarray(picture.convert("RGB").filter(ImageFilter.ModeFilter(5)), float)
    distance = ((flat[:, :, None] - INKS) ** 2).sum(-1)
    return distance.argmin(-1), flat.min(-1) < 240


def risograph(picture: Image.Image, name: str) -> Image.Image:
    """Print a picture on white in four inks, with grain and plates that are off; name is the seed.

    The darkest ink also draws the contours and lays a dotted shadow beside the thing.
    """
    dice = np.random.default_rng(zlib.crc32(name.encode()))
    nearest, drawn = plates(picture)
    height, width = drawn.shape
    y, x = np.mgrid[:height, :width]
    printed = np.broadcast_to(PAPER, (height, width, 3))
    shadow = np.roll(drawn, (SHADOW, SHADOW), (0, 1)) & ~drawn
    printed = multiplied(printed, INKS[3], shadow * 0.55 * ((x + y) % 4 < 2))
    for index, ink in enumerate(INKS):
        shift = tuple(dice.integers(-SHIFT, SHIFT + 1, 2))
        plate = np.roll(drawn & (nearest == index), shift, (0, 1))
        grain = dice.random((height, width)) < 0.06  # specks that took no ink
        printed = multiplied(printed, ink, plate * np.where(grain, 0.35, 0.92))
    contours = picture.convert("L").filter(ImageFilter.FIND_EDGES)
    lines = np.clip(np.asarray(contours, float) / 90 - 0.25, 0, 1)
    lines[:2], lines[-2:], lines[:, :2], lines[:, -2:] = 0, 0, 0, 0
    printed = multiplied(printed, INKS[3], lines * 0.85)
    step = 255 / LEVELS
    return Image.fromarray((np.round(printed / step) * step).clip(0, 255).astype(np.uint8))
