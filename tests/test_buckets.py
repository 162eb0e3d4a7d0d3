"""Buckets: areas, ratios and crops, for every size a base may ask for."""

from __future__ import annotations

import math

import pytest

from training.data.buckets import Bucket, buckets, cut_off, finer_buckets, fit, nearest
from training.errors import ConfigError

SIZES = [
    (64, 32),
    (128, 32),
    (256, 64),
    (500, 64),
    (512, 64),
    (768, 64),
    (1024, 64),
    (1000, 32),
]  # px, px


@pytest.mark.parametrize(("area_side", "multiple"), SIZES)
def test_every_bucket_keeps_to_area_multiple_and_ratio(area_side: int, multiple: int) -> None:
    for bucket in buckets(area_side, multiple):
        assert bucket.width * bucket.height <= area_side**2
        assert bucket.width % multiple == bucket.height % multiple == 0
        assert bucket.width <= 2 * bucket.height and bucket.height <= 2 * bucket.width


@pytest.mark.parametrize(("area_side", "multiple"), SIZES)
def test_buckets_hold_the_square_and_every_mirror_once(area_side: int, multiple: int) -> None:
    found = buckets(area_side, multiple)
    square = area_side // multiple * multiple
    assert Bucket(square, square) in found
    assert {Bucket(b.height, b.width) for b in found} == set(found)
    assert len({b.width / b.height for b in found}) == len(found)


@pytest.mark.parametrize(("area_side", "multiple"), SIZES)
def test_buckets_waste_little_of_the_area(area_side: int, multiple: int) -> None:
    """No bucket could grow by a step in its long side and still keep to area and ratio."""
    for bucket in buckets(area_side, multiple):
        short, long = sorted((bucket.width, bucket.height))
        longer = long + multiple
        assert short == long or short * longer > area_side**2 or longer > 2 * short


def test_buckets_reach_both_ends() -> None:
    ratios = [b.width / b.height for b in buckets(512, 64)]
    assert ratios == sorted(ratios) and ratios[0] == 0.5 and ratios[-1] == 2 and 1 in ratios


def test_too_small_an_area_names_the_setting() -> None:
    with pytest.raises(ConfigError, match=r"data\.resolution is 31 px.*32"):
        buckets(31, 32)


def test_nearest_is_the_least_log_distance() -> None:
    choices = buckets(512, 64)
    for width, height in [
        (100, 100),
        (1920, 1080),
        (1080, 1920),
        (3000, 2000),
        (333, 500),
        (10, 5000),
        (5000, 10),
        (512, 640),
    ]:
        chosen = nearest(width, height, choices)
        distances = [abs(math.log(width / height) - math.log(b.width / b.height)) for b in choices]
        assert abs(
            math.log(width / height) - math.log(chosen.width / chosen.height)
        ) == pytest.approx(min(distances))


def test_nearest_treats_width_and_height_alike_and_ignores_order() -> None:
    choices = buckets(768, 64)
    for width, height in [(640, 480), (801, 799), (1234, 777)]:
        one, other = nearest(width, height, choices), nearest(height, width, choices[::-1])
        assert (one.width, one.height) == (other.height, other.width)


@pytest.mark.parametrize(
    "size",
    [(16, 16), (17, 4000), (4000, 17), (512, 512), (511, 513), (1023, 767), (640, 641), (3, 2)],
)
def test_fit_covers_the_bucket_without_distortion(size: tuple[int, int]) -> None:
    for bucket in buckets(512, 64):
        width, height, left, top = fit(*size, bucket)
        assert width == bucket.width or height == bucket.height, "larger than needed"
        assert 0 <= left <= width - bucket.width and 0 <= top <= height - bucket.height
        assert (
            abs((width - bucket.width) - 2 * left) <= 1
            and abs((height - bucket.height) - 2 * top) <= 1
        ), "off the centre"
        scale = max(bucket.width / size[0], bucket.height / size[1])
        assert (
            abs(width - size[0] * scale) <= 0.5 + 1e-9
            and abs(height - size[1] * scale) <= 0.5 + 1e-9
        )


def test_fit_of_the_same_size_does_nothing() -> None:
    assert fit(640, 384, Bucket(640, 384)) == (640, 384, 0, 0)


@pytest.mark.parametrize(
    ("place", "corner"),
    [((0.0, 0.5), (0, 0)), ((0.5, 0.5), (32, 0)), ((1.0, 0.5), (64, 0)), ((0.25, 1.0), (16, 0))],
)
def test_the_crop_lies_where_it_was_put(
    place: tuple[float, float], corner: tuple[int, int]
) -> None:
    assert fit(128, 64, Bucket(64, 64), place)[2:] == corner


# --- finer ones ---


@pytest.mark.parametrize(("area_side", "multiple"), SIZES)
def test_finer_buckets_keep_to_multiple_ratio_and_about_the_area(
    area_side: int, multiple: int
) -> None:
    found = finer_buckets(area_side, multiple)
    square = area_side // multiple * multiple
    assert Bucket(square, square) in found
    assert {Bucket(b.height, b.width) for b in found} == set(found)
    assert len({b.width / b.height for b in found}) == len(found)
    for bucket in set(found) - {Bucket(square, square)}:
        assert 0.7 <= bucket.width * bucket.height / area_side**2 <= 1.25
        assert bucket.width % multiple == bucket.height % multiple == 0
        assert bucket.width <= 2 * bucket.height and bucket.height <= 2 * bucket.width


@pytest.mark.parametrize(
    ("area_side", "multiple", "most"),
    [(512, 64, 0.06), (768, 64, 0.06), (1024, 64, 0.06), (256, 32, 0.06), (128, 32, 0.11)],
)
def test_little_is_cut_off_of_any_shape_between_1_2_and_2_1(
    area_side: int, multiple: int, most: float
) -> None:
    choices = finer_buckets(area_side, multiple)
    worst = {}
    for width in range(500, 2001, 13):
        for size in ((width, 1000), (1000, width)):
            worst[size] = max(cut_off(*size, nearest(*size, choices)))
    assert max(worst.values()) <= most
    coarse = buckets(area_side, multiple)
    assert any(max(cut_off(*size, nearest(*size, coarse))) > most for size in worst)


def test_a_picture_of_900_by_640_keeps_its_tip_on_the_built_in_base() -> None:
    assert nearest(900, 640, buckets(128, 32)) == Bucket(160, 96)
    assert nearest(900, 640, finer_buckets(128, 32)) == Bucket(128, 96)
    assert max(cut_off(900, 640, Bucket(160, 96))) > 0.15
    assert max(cut_off(900, 640, Bucket(128, 96))) < 0.06


@pytest.mark.parametrize("size", [(900, 640), (640, 900), (333, 512), (512, 512)])
def test_what_is_cut_off_is_what_the_crop_leaves_out(size: tuple[int, int]) -> None:
    for bucket in buckets(512, 64):
        width, height, _, _ = fit(*size, bucket)
        across, down = cut_off(*size, bucket)
        assert abs(across - (1 - bucket.width / width)) < 0.003
        assert abs(down - (1 - bucket.height / height)) < 0.003
