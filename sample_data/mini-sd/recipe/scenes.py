"""Scenes: one to four things, where they stand, what they stand on. Knows nothing of media.

A thing's picture is float RGBA [S, S, 4] in 0..1, colours not multiplied by alpha.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from papers import colour_of
from PIL import Image
from texture import Array, Rng, mixed, noise, smooth, turned

# Things that read wrongly from right to left
NOT_MIRRORED = frozenset(
    "clock watch guitar violin keyboard calendar book newspaper trumpet saxophone scissors "
    "calculator dice die telephone typewriter".split()
)
GROUNDS = (*["none"] * 12, "grass", "sand", "snow", "sky", "water", "room")
FLAT_GROUNDS = {"grass": "green", "sand": "cream", "snow": "white"}
# Colours in which a thing would be lost on a ground
GROUND_COLOURS = {
    "grass": ("green", "dark green"),
    "sand": ("white", "cream", "light green"),
    "snow": ("white", "cream", "light blue"),
    "sky": ("white", "light blue", "blue", "grey", "turquoise"),
    "water": ("blue", "dark blue", "turquoise"),
    "room": ("white", "cream", "pink", "light green", "brown", "orange"),
}
# Layouts by number of things: centres (x, y) and side, as shares of the picture
LAYOUTS: dict[int, tuple[tuple[tuple[float, float, float], ...], ...]] = {
    1: (((0.5, 0.5, 0.84),),),
    2: (((0.27, 0.55, 0.46), (0.73, 0.55, 0.46)), ((0.5, 0.26, 0.44), (0.5, 0.74, 0.44))),
    3: (
        ((0.2, 0.55, 0.33), (0.5, 0.5, 0.33), (0.8, 0.55, 0.33)),
        ((0.5, 0.26, 0.42), (0.27, 0.73, 0.42), (0.73, 0.73, 0.42)),
    ),
    4: (((0.27, 0.27, 0.4), (0.73, 0.27, 0.4), (0.27, 0.73, 0.4), (0.73, 0.73, 0.4)),),
}
PLACES = {
    "on the left": (0.3, 0.5),
    "on the right": (0.7, 0.5),
    "at the top": (0.5, 0.3),
    "at the bottom": (0.5, 0.7),
    "in the top left corner": (0.28, 0.28),
    "in the top right corner": (0.72, 0.28),
    "in the bottom left corner": (0.28, 0.72),
    "in the bottom right corner": (0.72, 0.72),
}


@dataclass(frozen=True)
class Thing:
    """A drawn concept. colour: its name where one can be said, else None; hand: who drew it."""

    concept: str
    picture: Array
    hand: str
    colour: str | None = None


@dataclass(frozen=True)
class Scene:
    """What a picture holds. colour, cover: what media take; relation tells how two things lie."""

    things: tuple[Thing, ...]
    colour: Array
    cover: Array
    ground: str = "none"
    place: str | None = None
    relation: str | None = None
    size: str | None = None


def tinted(thing: Thing, name: str, rng: Rng) -> Thing:
    """Return a one-colour drawing (an outline, a solid) in a colour of this name."""
    picture = thing.picture.copy()
    picture[..., :3] = colour_of(name, rng)
    return replace(thing, picture=picture, colour=name)


def one_coloured(picture: Array) -> bool:
    """Tell whether all that is drawn has one colour, so that another may take its place."""
    fewer = picture[::2, ::2]
    drawn = fewer[fewer[..., 3] > 0.6][:, :3]
    return len(drawn) > 0 and float(drawn.std(0).max()) < 0.03


def _turned(thing: Thing, side: int, rng: Rng) -> Image.Image:
    image = Image.fromarray((np.clip(thing.picture, 0, 1) * 255).astype(np.uint8))
    mirrored = rng.random() < 0.5 and thing.concept.split()[-1] not in NOT_MIRRORED
    if mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # Multiplied by alpha while it is sampled: no dark or light rims.
    image = image.convert("RGBa").resize((side, side), Image.Resampling.LANCZOS)
    if rng.random() < 0.4:
        image = image.rotate(float(rng.uniform(-14, 14)), Image.Resampling.BICUBIC)
    return image.convert("RGBA")


def _laid(canvas: Array, image: Image.Image, x: float, y: float) -> None:
    """Lay an image over the canvas (RGBA, in place), its centre at x, y px, inside the picture."""
    size, side = canvas.shape[0], image.width
    left = int(np.clip(round(x - side / 2), 1, max(1, size - side - 1)))
    top = int(np.clip(round(y - side / 2), 1, max(1, size - side - 1)))
    above = np.asarray(image, np.float32) / 255
    part = canvas[top : top + side, left : left + side]
    cover = above[..., 3]
    total = cover + part[..., 3] * (1 - cover)
    weight = (cover / np.maximum(total, 1e-4))[..., None]
    part[..., :3] += (above[..., :3] - part[..., :3]) * weight
    part[..., 3] = total


def ground(name: str, size: int, rng: Rng) -> Array:
    """Return a ground to stand on, RGBA [size, size, 4]; "none" is empty."""
    canvas = np.zeros((size, size, 4), np.float32)
    if name == "none":
        return canvas
    y, x = np.mgrid[:size, :size].astype(np.float32)
    horizon = size * rng.uniform(0.62, 0.78)
    if name == "sky":
        blue, cloud = colour_of("light blue", rng) * [0.75, 0.9, 1], np.float32([1, 1, 1])
        puffs = smooth(noise(rng, size, 26) + 0.3 * noise(rng, size, 9), 0.72, 0.86)
        canvas[..., :3] = mixed(np.broadcast_to(np.float32(blue), (size, size, 3)), cloud, puffs)
        canvas[..., 3] = 1
        return canvas
    if name == "room":
        wall, floor = colour_of(str(rng.choice(["cream", "pink", "light green"])), rng), 0
        floor = colour_of("brown", rng) * 1.3
        _, across = turned(size, np.pi / 2)
        board = 1 - 0.12 * ((across / 12 % 1) < 0.08)
        below = (y > horizon).astype(np.float32)
        canvas[..., :3] = mixed(
            np.broadcast_to(wall, (size, size, 3)), floor * board[..., None], below
        )
        canvas[..., 3] = 1
        return canvas
    if name == "water":
        wave = horizon + 2.2 * np.sin(x / rng.uniform(3, 6) + rng.uniform(0, 6))
        ripple = np.sin(x / 7 + np.sin(y / 3) * 2 + y) > 0.93
        canvas[..., :3] = colour_of("blue", rng) + 0.18 * ripple[..., None]
    else:
        wave = horizon + (noise(rng, size, 40)[0] - 0.5) * 14
        canvas[..., :3] = colour_of(FLAT_GROUNDS[name], rng)
        if name == "snow":
            canvas[..., :3] *= [0.9, 0.94, 1.0]
        canvas[..., :3] += (noise(rng, size, 3)[..., None] - 0.5) * 0.1
    canvas[..., 3] = smooth(y - wave, -0.7, 0.7)
    return canvas


def scene(
    things: Sequence[Thing],
    rng: Rng,
    *,
    size: int = 128,
    on: str | None = None,
    placed: bool = True,
) -> Scene:
    """Arrange one to four things.

    on: the ground, chosen where it is None; placed: one thing may be small, large or off centre.
    """
    count = len(things)
    on = on or str(rng.choice(GROUNDS))
    canvas = ground(on, size, rng)
    layout = LAYOUTS[count][int(rng.integers(len(LAYOUTS[count])))]
    place = relation = extent = None
    if placed and count == 1 and rng.random() < 0.2:
        place = str(rng.choice(list(PLACES)))
        layout = ((*PLACES[place], float(rng.uniform(0.4, 0.52))),)
    elif placed and count == 1 and rng.random() < 0.2:
        extent = str(rng.choice(["small", "big"]))
        layout = (
            (0.5, 0.5, float(rng.uniform(*{"small": (0.35, 0.45), "big": (0.93, 1)}[extent]))),
        )
    if count == 2:
        relation = "above" if layout[0][0] == layout[1][0] else "beside"
    for thing, (x, y, side) in zip(things, layout, strict=True):
        wide = min(size - 2, round(size * side * rng.uniform(0.92, 1.04)))
        x, y = (centre * size + rng.uniform(-2, 2) for centre in (x, y))
        if on not in ("none", "sky") and count == 1 and place is None:
            y += size * 0.04
        _laid(canvas, _turned(thing, wide, rng), x, y)
    canvas = np.clip(canvas, 0, 1)
    return Scene(tuple(things), canvas[..., :3], canvas[..., 3], on, place, relation, extent)
