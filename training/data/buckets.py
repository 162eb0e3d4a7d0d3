"""Aspect-ratio buckets, as pure integers in px. Knows nothing of pictures or models.

A bucket is a size all pictures of a batch share; every bucket has about the same area, so a batch
costs the same whatever its shape (NovelAI aspect ratio bucketing, 2022).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from training.errors import ConfigError

WIDEST = 2  # long side / short side
LEAST_AREA, MOST_AREA = Fraction(7, 10), Fraction(5, 4)  # of the square's, of finer buckets


@dataclass(frozen=True, order=True)
class Bucket:
    """A size in px."""

    width: int
    height: int


def buckets(area_side: int, multiple: int) -> list[Bucket]:
    """Return the buckets from 1:2 to 2:1, tallest first; the square is always one of them.

    area_side: side in px of the square no bucket's area exceeds; multiple: what every side is a
    multiple of, in px. Raises ConfigError when not even one square of that multiple fits.
    """
    square = area_side // multiple * multiple
    if square < multiple:
        raise ConfigError(
            f"data.resolution is {area_side} px, this base needs {multiple} px or more. Set "
            f"data.resolution = {multiple} or higher."
        )
    by_ratio = {Fraction(1): Bucket(square, square)}
    for short in range(
        multiple, square, multiple
    ):  # growing, so the largest bucket of a ratio stays
        long = min(area_side**2 // short, WIDEST * short) // multiple * multiple
        by_ratio[Fraction(short, long)] = Bucket(short, long)
        by_ratio[Fraction(long, short)] = Bucket(long, short)
    return [by_ratio[ratio] for ratio in sorted(by_ratio)]


def finer_buckets(area_side: int, multiple: int) -> list[Bucket]:
    """The same with shapes of somewhat less or more area beside them, so that less is cut off: at
    most 6 % of a side where the square has eight times the multiple or more (512 px of Stable
    Diffusion), 11 % where it has four (the built-in base).

    Of equal ratios the one whose area is nearest to the square's stays. Raises ConfigError.
    """
    square = buckets(area_side, multiple)
    largest = area_side * WIDEST // multiple
    sides = [k * multiple for k in range(1, largest + 1)]
    by_ratio: dict[Fraction, Bucket] = {}
    for width in sides:
        for height in sides:
            share = Fraction(width * height, area_side**2)
            if max(width, height) > WIDEST * min(width, height):
                continue
            if LEAST_AREA <= share <= MOST_AREA:
                ratio, found = Fraction(width, height), Bucket(width, height)
                other = by_ratio.get(ratio, found)
                by_ratio[ratio] = min(other, found, key=lambda one: _from_whole(one, area_side))
    by_ratio |= {Fraction(one.width, one.height): one for one in square if one.width == one.height}
    return [by_ratio[ratio] for ratio in sorted(by_ratio)]


def _from_whole(bucket: Bucket, area_side: int) -> Fraction:
    """How many times more or less area a bucket has than the square."""
    share = Fraction(bucket.width * bucket.height, area_side**2)
    return max(share, 1 / share)


def cut_off(width: int, height: int, bucket: Bucket) -> tuple[float, float]:
    """The shares of the width and of the height that a crop to a bucket leaves out; one is 0."""
    across, down = width * bucket.height, height * bucket.width
    return max(0.0, 1 - down / across), max(0.0, 1 - across / down)


def nearest(width: int, height: int, choices: Iterable[Bucket]) -> Bucket:
    """Return the bucket whose log aspect ratio is nearest to that of width x height; of two equally
    near ones the larger, then the wider.
    """

    def distance(bucket: Bucket) -> tuple[Fraction, int, int]:
        across, down = width * bucket.height, height * bucket.width
        return (
            Fraction(max(across, down), min(across, down)),
            -bucket.width * bucket.height,
            -bucket.width,
        )  # exp |log a - log b|, exact

    return min(choices, key=distance)


def fit(
    width: int, height: int, bucket: Bucket, place: tuple[float, float] = (0.5, 0.5)
) -> tuple[int, int, int, int]:
    """Return (resized width, resized height, left, top): the smallest size of width x height that
    covers the bucket, and its crop. All px.

    place: where the crop lies, as shares across and down of the room it has: 0 at the left or top
    edge, 0.5 centred, 1 at the other edge.
    """
    if bucket.width * height >= bucket.height * width:
        resized_width, resized_height = (
            bucket.width,
            max(bucket.height, _rounded(height * bucket.width, width)),
        )
    else:
        resized_width, resized_height = (
            max(bucket.width, _rounded(width * bucket.height, height)),
            bucket.height,
        )
    across, down = place
    return (
        resized_width,
        resized_height,
        int((resized_width - bucket.width) * across),
        int((resized_height - bucket.height) * down),
    )


def _rounded(numerator: int, denominator: int) -> int:
    """The quotient, halves up."""
    return (2 * numerator + denominator) // (2 * denominator)
