"""Slightly changed versions of a picture: turned, seen closer, in other colours.

A version is a function of (seed, picture, number), so a resumed run learns from the same ones, and
all of them are encoded once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image, ImageEnhance

from training.data.chance import uniform


@dataclass(frozen=True)
class Augmentation:
    """turn: degrees to either side at most; crop: share of a side that is left out at most; colour:
    by which brightness, contrast and saturation change at most, as a share; versions: of each
    picture, the first one is the picture as it is.
    """

    turn: float = 0.0
    crop: float = 0.0
    colour: float = 0.0
    versions: int = 4
    seed: int = 0

    @property
    def count(self) -> int:
        """Versions of each picture, 1 where nothing is to be changed."""
        return self.versions if self.turn or self.crop or self.colour else 1

    def of(
        self, picture: Image.Image, identity: str, version: int, *, is_mask: bool = False
    ) -> Image.Image:
        """A version of a picture in its own size; a mask of any size is turned and cropped as its
        picture is, and keeps its shades.
        """
        if version == 0 or self.count == 1:
            return picture
        moved = self._moved(picture, (identity, version), is_mask)
        return moved if is_mask or not self.colour else self._coloured(moved, (identity, version))

    def _chance(self, *key: object) -> float:
        """A number in [-1, 1)."""
        return 2 * uniform(self.seed, *key) - 1

    def _moved(self, picture: Image.Image, key: tuple[str, int], is_mask: bool) -> Image.Image:
        """Turned about its middle and cropped to its own shape, without empty corners."""
        if not self.turn and not self.crop:
            return picture
        width, height = picture.size
        angle = math.radians(self.turn * self._chance(*key, "turn"))
        cos, sin = math.cos(angle), math.sin(angle)
        # The largest box of that shape that fits, turned, into the picture
        across, down = width * cos + height * abs(sin), width * abs(sin) + height * cos
        scale = min(width / across, height / down) * (
            1 - self.crop * uniform(self.seed, *key, "crop")
        )
        x = (width + self._chance(*key, "across") * (width - scale * across)) / 2
        y = (height + self._chance(*key, "down") * (height - scale * down)) / 2
        a, b = scale * cos, scale * sin
        matrix = (
            a, -b, x - a * width / 2 + b * height / 2,
            b, a, y - b * width / 2 - a * height / 2,
        )  # fmt: skip
        how = Image.Resampling.BILINEAR if is_mask else Image.Resampling.BICUBIC
        return picture.transform(picture.size, Image.Transform.AFFINE, matrix, how)

    def _coloured(self, picture: Image.Image, key: tuple[str, int]) -> Image.Image:
        for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            change = self.colour * self._chance(*key, kind.__name__)
            picture = kind(picture).enhance(1 + change)
        return picture
