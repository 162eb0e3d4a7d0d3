"""Fields that drawing is made of: blur, noise, stripes, cells, contours. Knows nothing of media.

A field is float [H, W]; a picture float [H, W, 3]; both in 0..1.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

Array = np.ndarray
Rng = np.random.Generator


@lru_cache(maxsize=256)
def _blur_matrix(length: int, sigma: float) -> Array:
    distance = np.arange(length)[:, None] - np.arange(length)[None]
    weight = np.exp(-0.5 * (distance / sigma) ** 2)
    return (weight / weight.sum(1, keepdims=True)).astype(np.float32)


def blur(field: Array, sigma: float) -> Array:
    """Blur a field or a picture by a Gaussian. sigma: px, rounded to tenths."""
    sigma = round(float(sigma), 1)
    if sigma <= 0:
        return field
    height, width = field.shape[:2]
    rows, columns = _blur_matrix(height, sigma), _blur_matrix(width, sigma)
    if field.ndim == 2:
        return rows @ field @ columns.T
    return np.stack([rows @ field[..., c] @ columns.T for c in range(field.shape[2])], -1)


def grey(picture: Array) -> Array:
    """Return the luminance of a picture."""
    return picture[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)


def smooth(field: Array, low: float, high: float) -> Array:
    """Rise smoothly from 0 at low to 1 at high (falls where high < low)."""
    t = np.clip((field - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mixed(below: Array, above: Array, cover: Array) -> Array:
    """Lay a picture or a colour over another. cover: [H, W]."""
    return below + (above - below) * cover[..., None]


def multiplied(below: Array, ink: Array, cover: Array) -> Array:
    """Print a translucent colour over a picture. cover: [H, W]."""
    return below * (1 - cover[..., None] * (1 - ink))


def finished(picture: Array) -> Array:
    """Return uint8 [H, W, 3]."""
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def noise(rng: Rng, size: int, cell: float) -> Array:
    """Return smooth noise in 0..1. cell: px between its random values."""
    if cell <= 1:
        return rng.random((size, size), np.float32)
    coarse = max(2, int(np.ceil(size / cell)) + 1)
    values = Image.fromarray(rng.random((coarse, coarse), np.float32))
    return np.clip(np.asarray(values.resize((size, size), Image.Resampling.BICUBIC)), 0, 1)


def grain(rng: Rng, size: int, cell: float = 1.5) -> Array:
    """Return a paper's tooth, evenly spread in 0..1."""
    tooth = noise(rng, size, cell) * 0.65 + noise(rng, size, 1) * 0.35
    return np.clip((tooth - tooth.mean()) / (tooth.std() * 3.4) + 0.5, 0, 1)


def streaks(rng: Rng, size: int, angle: float, long: float = 14, wide: float = 1.2) -> Array:
    """Return noise drawn out along an angle (radians), in 0..1."""
    u, v = turned(size, angle)
    coarse = rng.random((64, 256), np.float32)
    rows = (u / long + 500).astype(int) % 64
    fraction = (u / long + 500) % 1
    columns = (v / wide + 500).astype(int) % 256
    after = (rows + 1) % 64
    return coarse[rows, columns] * (1 - fraction) + coarse[after, columns] * fraction


@lru_cache(maxsize=8)
def _grid(size: int) -> tuple[Array, Array]:
    y, x = np.mgrid[:size, :size].astype(np.float32)
    return y, x


def turned(size: int, angle: float) -> tuple[Array, Array]:
    """Return coordinates (along, across) of a grid turned by an angle in radians."""
    y, x = _grid(size)
    cos, sin = np.cos(angle), np.sin(angle)
    return x * cos + y * sin, y * cos - x * sin


def stripes(across: Array, period: float, width: Array | float) -> Array:
    """Return soft-edged lines. across: px; width: 0..1 of the period that is line."""
    phase = np.abs((across / period) % 1 - 0.5) * 2
    soft = 1.4 / period
    return np.clip((width - phase) / soft + 0.5, 0, 1) * (np.asarray(width) > 0.03)


def warped(field: Array, dx: Array, dy: Array) -> Array:
    """Sample a field or a picture at displaced places, bilinear, edges repeated. dx, dy: px."""
    size = field.shape[0]
    y, x = _grid(size)
    x, y = np.clip(x + dx, 0, size - 1.001), np.clip(y + dy, 0, size - 1.001)
    left, top = x.astype(int), y.astype(int)
    fx, fy = x - left, y - top
    if field.ndim == 3:
        fx, fy = fx[..., None], fy[..., None]
    above = field[top, left] * (1 - fx) + field[top, left + 1] * fx
    below = field[top + 1, left] * (1 - fx) + field[top + 1, left + 1] * fx
    return above * (1 - fy) + below * fy


def wobbled(rng: Rng, field: Array, amount: float, cell: float = 14) -> Array:
    """Shake a field or a picture as an unsteady hand does. amount: px."""
    size = field.shape[0]
    dx, dy = (noise(rng, size, cell) * 2 - 1 for _ in range(2))
    return warped(field, dx * amount, dy * amount)


def posterised(colour: Array, levels: int) -> Array:
    """Round every channel to so many levels."""
    return np.round(colour * (levels - 1)) / (levels - 1)


def flattened(colour: Array, cover: Array, ground: Array | float = 1.0) -> Array:
    """Lay the picture over a plain ground."""
    return mixed(np.broadcast_to(np.float32(ground), colour.shape), colour, cover)


def contours(colour: Array, cover: Array, sigma: float = 0.8) -> Array:
    """Return how strongly colours or cover change at every pixel, about 1 at clear edges."""
    layers = np.concatenate([colour * cover[..., None], cover[..., None]], -1)
    soft = blur(layers, sigma)
    down, right = np.gradient(soft, axis=(0, 1))
    steps = (down**2 + right**2).sum(-1)
    return np.clip(np.sqrt(steps) * sigma * 2.2, 0, 1)


def lines(colour: Array, cover: Array, width: float = 1.0) -> Array:
    """Return contour lines, thin and clear, 0..1. width: px, about."""
    return smooth(contours(colour, cover, 0.5 + width * 0.35), 0.22, 0.55)


def directions(field: Array, sigma: float = 5) -> Array:
    """Return the angle (radians) of the direction in which a field rises."""
    down, right = np.gradient(blur(field, sigma))
    return np.arctan2(down, right + 1e-6)


def depth(cover: Array) -> Array:
    """Return how far inside the shape a pixel is, as a soft height in 0..1."""
    return (blur(cover, 2) + blur(cover, 5) + blur(cover, 9)) / 3


def cells(rng: Rng, size: int, side: float, jitter: float) -> tuple[Array, Array, Array]:
    """Return (cell index [H, W], distance to its edge [H, W] in px, points [N, 2] as x, y)."""
    count = int(np.ceil(size / side)) + 2
    rows, columns = np.mgrid[:count, :count]
    shift = rng.random((2, count, count), np.float32) * jitter - jitter / 2
    points = np.stack([columns + shift[0] - 0.5, rows + shift[1] - 0.5], -1).astype(np.float32)
    points *= side
    y, x = _grid(size)
    row, column = (y / side + 1).astype(int), (x / side + 1).astype(int)
    nearest = np.full((size, size), np.inf, np.float32)
    second = nearest.copy()
    index = np.zeros((size, size), int)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            r, c = np.clip(row + down, 0, count - 1), np.clip(column + right, 0, count - 1)
            there = points[r, c]
            distance = np.hypot(there[..., 0] - x, there[..., 1] - y)
            closer = distance < nearest
            second = np.where(closer, nearest, np.minimum(second, distance))
            index = np.where(closer, r * count + c, index)
            nearest = np.where(closer, distance, nearest)
    return index, (second - nearest) / 2, points.reshape(-1, 2)


def averaged(values: Array, index: Array) -> Array:
    """Replace every pixel of [H, W, C] by the mean of its cell."""
    flat = index.ravel()
    count = np.maximum(np.bincount(flat), 1)
    means = [np.bincount(flat, values[..., c].ravel()) / count for c in range(values.shape[2])]
    return np.stack([m[index] for m in means], -1).astype(np.float32)
