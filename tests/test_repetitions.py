"""Near copies, captions that many share, and links, as the page and a training find them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.test_training import changed, config, of, pictures
from training.config.schema import RunConfig
from training.data import repetitions
from training.data.repetitions import look_of, near_copies, same_captions
from training.events import Started, Warned
from training.trainer.loop import train

__all__ = ["config", "pictures"]  # fixtures


def drawn(seed: int, size: tuple[int, int] = (200, 160)) -> Image.Image:
    """A few shapes on a ground."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", size, tuple(rng.integers(0, 255, 3).tolist()))
    pen = ImageDraw.Draw(picture)
    for _ in range(6):
        x, y, r = rng.integers(0, 160, 3).tolist()
        pen.ellipse((x, y, x + r, y + r), tuple(rng.integers(0, 255, 3).tolist()))
    return picture


@pytest.mark.parametrize("size", [(200, 160), (33, 500), (900, 700), (170, 140)])
def test_a_hash_holds_the_signs_of_the_lowest_frequencies(size: tuple[int, int]) -> None:
    """By the sums of the definition, and the second of what is right of its left neighbour."""
    picture = drawn(4, size)
    small = picture.resize((256, 256)) if size[0] * size[1] > 256**2 else picture
    grey = small.convert("L")
    pixels = np.asarray(grey.resize((32, 32), Image.Resampling.LANCZOS), np.float64)
    place = (2 * np.arange(32) + 1) * np.pi / 64
    low = [
        (pixels * np.cos(v * place)[:, None] * np.cos(u * place)[None, :]).sum()
        for v in range(8)
        for u in range(8)
    ]
    row = np.asarray(grey.resize((9, 8), Image.Resampling.LANCZOS), np.int16)
    first = "".join("01"[int(value > np.median(low))] for value in low)
    second = "".join("01"[int(row[y, x + 1] > row[y, x])] for y in range(8) for x in range(8))
    ours = look_of(picture).hashes
    # A frequency that equals the median but for rounding may fall on either side
    assert (ours[0] ^ int(first, 2)).bit_count() <= 2 and ours[1] == int(second, 2)


@pytest.mark.parametrize(
    ("change", "near"),
    [
        (lambda p: p.resize((100, 80)), True),
        (lambda p: p.resize((400, 320)), True),
        (lambda p: p.point(lambda v: min(255, v + 6)), True),
        (lambda p: p.crop((0, 0, 100, 160)), False),
        (lambda p: p.rotate(180), False),
        (lambda p: drawn(2), False),
    ],
)
def test_a_copy_is_near_and_another_picture_is_not(change, near: bool) -> None:
    picture = drawn(1)
    looks = {"a": look_of(picture), "b": look_of(change(picture))}
    assert list(near_copies(looks)) == ([["a", "b"]] if near else [])


def test_captions_that_three_share_are_named() -> None:
    texts = {"a": "A cat", "b": "a cat", "c": "a dog", "d": "a CAT", "e": "", "f": "", "g": ""}
    ((names, words),) = same_captions(texts)
    assert names == ["a", "b", "d"] and "“A cat”" in words


@pytest.mark.parametrize(
    ("caption", "foreign"),
    [
        ("see https://example.org/x", True),
        ("www.example.org", True),
        ("a cat <b>bold</b>", True),
        ("IMG_2231.JPG", True),
        ("a cat < a dog", False),
        ("a cat, sitting. pngs", False),
        ("version 2.0", False),
    ],
)
def test_links_tags_and_file_names_are_foreign(caption: str, foreign: bool) -> None:
    assert repetitions.is_foreign(caption) == foreign


def test_a_training_says_what_the_page_says(config: RunConfig) -> None:
    folder = config.data.folder
    for name in ("b0", "b1"):
        drawn(3).save(f"{folder}/{name}.png")
    for name, text in (("0", "a cat"), ("1", "a cat"), ("2", "a cat"), ("3", "http://a.b/c.png")):
        with open(f"{folder}/{name}.txt", "w") as file:  # noqa: PTH123
            file.write(text)
    seen = []
    for event in train(changed(config, optim__steps=1)):
        seen.append(event)
        if isinstance(event, Started):
            break
    said = [event.message for event in of(Warned, seen)]
    assert any("b0.png, b1.png look the same" in words for words in said)
    assert any("3 pictures have the same caption, “a cat”" in words for words in said)
    assert any("3.png" in words and "http://a.b/c.png" in words for words in said)
