"""Pictures without a thing: noise, gradients, text-like strokes, patterns. Knows nothing of icons.

An autoencoder that knows only icons smooths everything else away.
"""

from __future__ import annotations

import numpy as np
import papers
from PIL import Image, ImageDraw, ImageFont
from texture import Array, Rng, blur, finished, grain, mixed, noise, smooth, streaks, turned


def _colour(rng: Rng) -> Array:
    return rng.random(3).astype(np.float32)


def _two(rng: Rng, field: Array) -> Array:
    """Return a picture between two colours of one's own choice, by a field in 0..1."""
    one, two = _colour(rng), _colour(rng)
    return one + (two - one) * field[..., None]


def _noise(rng: Rng, size: int) -> Array:
    cells = [noise(rng, size, float(rng.uniform(1, 24))) for _ in range(3)]
    if rng.random() < 0.5:
        return np.stack(cells, -1)
    return _two(rng, np.clip((cells[0] - 0.5) * rng.uniform(0.5, 3) + 0.5, 0, 1))


def _gradient(rng: Rng, size: int) -> Array:
    along, across = turned(size, rng.uniform(0, 2 * np.pi))
    field = along if rng.random() < 0.6 else np.hypot(along, across)
    field = (field - field.min()) / (field.max() - field.min())
    picture = _two(rng, field ** rng.uniform(0.5, 2))
    if rng.random() < 0.4:
        tooth = grain(rng, size, rng.uniform(1, 2.5)) - 0.5
        picture = picture + tooth[..., None] * rng.uniform(0.03, 0.3)
    return picture


def _text(rng: Rng, size: int) -> Array:
    """Return lines of letters of several sizes in one or two colours."""
    ground, ink = (tuple((_colour(rng) * 255).astype(int).tolist()) for _ in range(2))
    page = Image.new("RGB", (size, size), ground)
    draw = ImageDraw.Draw(page)
    at = -4.0
    while at < size:
        height = float(rng.uniform(7, 30))
        letters = "".join(chr(int(c)) for c in rng.integers(33, 126, 24))
        font = ImageFont.load_default(height)
        draw.text((float(rng.uniform(-10, 6)), at), letters, fill=ink, font=font)
        at += height * 1.15
    if rng.random() < 0.5:
        page = page.rotate(float(rng.uniform(-90, 90)), Image.Resampling.BICUBIC, fillcolor=ground)
    return np.asarray(page, np.float32) / 255


def _lines(rng: Rng, size: int) -> Array:
    """Return curved and straight strokes of many widths, sharp at four times the size."""
    big = size * 4
    ground = tuple((_colour(rng) * 255).astype(int).tolist())
    page = Image.new("RGB", (big, big), ground)
    draw = ImageDraw.Draw(page)
    few = [tuple((_colour(rng) * 255).astype(int).tolist()) for _ in range(3)]
    for _ in range(int(rng.integers(6, 60))):
        spots = rng.uniform(-0.1, 1.1, (int(rng.integers(2, 5)), 2)) * big
        turn = np.linspace(0, 1, 14)[:, None]
        curve = sum(
            spot * (1 - turn) ** (len(spots) - 1 - k) * turn**k * (1 + k * (len(spots) - 1 - k))
            for k, spot in enumerate(spots)
        )
        ink = few[int(rng.integers(3))]
        width = int(4 * rng.uniform(0.6, 4))
        draw.line([tuple(spot) for spot in curve.tolist()], fill=ink, width=width, joint="curve")
    return np.asarray(page.resize((size, size), Image.Resampling.BOX), np.float32) / 255


def _grating(rng: Rng, size: int) -> Array:
    """Return stripes, checks, rings or dots down to three pixels."""
    along, across = turned(size, rng.uniform(0, np.pi))
    period, soft = rng.uniform(3, 16), rng.uniform(0.2, 0.9)
    first = np.sin(2 * np.pi * along / period)
    second = np.sin(2 * np.pi * across / (period * rng.uniform(0.7, 1.4)))
    rings = np.sin(2 * np.pi * np.hypot(along - along.mean(), across) / period)
    field = (first, rings, first * second, (first + second) / 2)[int(rng.integers(4))]
    return _two(rng, smooth(field - rng.uniform(-0.3, 0.3), -soft, soft))


def _strokes(rng: Rng, size: int) -> Array:
    """Return hatching of two directions over a paper."""
    ground = papers.paper(rng, size).picture
    for _ in range(2):
        field = streaks(rng, size, rng.uniform(0, np.pi), rng.uniform(6, 20), rng.uniform(0.7, 2))
        cover = smooth(field, 0.5, rng.uniform(0.55, 0.8)) * smooth(noise(rng, size, 30), 0.4, 0.6)
        ground = mixed(ground, _colour(rng), cover)
    return ground


def _paper(rng: Rng, size: int) -> Array:
    return papers.paper(rng, size).picture


def _patches(rng: Rng, size: int) -> Array:
    """Return flat colours with sharp or soft borders, as a poster has."""
    field = noise(rng, size, float(rng.uniform(6, 40)))
    levels = int(rng.integers(2, 6))
    picture = np.stack([_colour(rng) for _ in range(levels)])
    steps = np.clip(((field - 0.2) / 0.6 * levels).astype(int), 0, levels - 1)
    return blur(picture[steps], float(rng.choice([0.4, 0.6, 0.8, 2.0])))


def _few(rng: Rng, size: int) -> list[tuple[float, float]]:
    return [tuple(spot) for spot in (rng.uniform(-0.1, 1.1, (2, 2)) * size).tolist()]


def ruled(rng: Rng, size: int) -> Array:
    """Return a technical drawing: hard lines of one or two pixels on a flat ground, some doubled,
    over a faint grid or none, float [size, size, 3] in 0..1.
    """
    ground = _colour(rng) * rng.uniform(0.2, 1)
    paper = np.broadcast_to(ground, (size, size, 3)).astype(np.float32).copy()
    if rng.random() < 0.6:
        period, shift = int(rng.integers(5, 25)), int(rng.integers(25))
        faint = ground + (_colour(rng) - ground) * rng.uniform(0.04, 0.3)
        paper[shift % period :: period] = faint
        paper[:, shift % period :: period] = faint
    page = Image.new("L", (size, size))
    draw = ImageDraw.Draw(page)
    for _ in range(int(rng.integers(2, 9))):
        value, width = int(rng.uniform(90, 256)), int(rng.integers(1, 3))
        kind = rng.random()
        if kind < 0.4:
            draw.line(_few(rng, size), value, width)
        elif kind < 0.7:
            x, y = rng.uniform(0, size, 2)
            wide, high = rng.uniform(2, size * 0.4, 2)
            draw.ellipse((x - wide, y - high, x + wide, y + high), None, value, width)
            if rng.random() < 0.5:
                gap = float(rng.uniform(2, 4))
                box = (x - wide - gap, y - high - gap, x + wide + gap, y + high + gap)
                draw.ellipse(box, None, value, width)
        else:
            (x, y), (right, low) = _few(rng, size)
            box = (min(x, right), min(y, low), max(x, right), max(y, low))
            most = int(min(box[2] - box[0], box[3] - box[1]) // 2)
            draw.rounded_rectangle(box, min(most, int(rng.integers(0, 9))), None, value, width)
    cover = np.asarray(page, np.float32) / 255
    ink = np.float32(1) if rng.random() < 0.5 and ground.mean() < 0.6 else _colour(rng)
    return mixed(paper, ink, cover)


KINDS = (_noise, _gradient, _text, _text, _lines, _lines, _grating, _strokes, _paper, _patches)


def texture(rng: Rng, size: int) -> Array:
    """Return a picture of one kind, uint8 [size, size, 3]."""
    kind = KINDS[int(rng.integers(len(KINDS)))]
    return finished(kind(rng, size))
