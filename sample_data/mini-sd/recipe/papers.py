"""Papers and palettes: the ground a picture lies on, with the name of its colour.

Knows nothing of things or media.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from texture import Array, Rng, blur, grain, noise, streaks, stripes, turned

# Range of hue (degrees), saturation and value within which a colour carries its name.
COLOURS: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "white": ((0, 360), (0.0, 0.02), (0.97, 1.0)),
    "cream": ((38, 48), (0.08, 0.16), (0.93, 0.99)),
    "grey": ((0, 360), (0.0, 0.05), (0.5, 0.72)),
    "black": ((0, 360), (0.0, 0.15), (0.04, 0.13)),
    "brown": ((20, 32), (0.5, 0.7), (0.35, 0.55)),
    "red": ((352, 368), (0.7, 0.9), (0.72, 0.92)),
    "orange": ((22, 34), (0.72, 0.95), (0.9, 1.0)),
    "yellow": ((46, 56), (0.6, 0.9), (0.92, 1.0)),
    "green": ((95, 145), (0.45, 0.75), (0.45, 0.72)),
    "turquoise": ((170, 184), (0.5, 0.8), (0.6, 0.82)),
    "blue": ((208, 230), (0.55, 0.85), (0.55, 0.88)),
    "dark blue": ((215, 235), (0.6, 0.8), (0.15, 0.3)),
    "dark green": ((130, 160), (0.4, 0.65), (0.14, 0.28)),
    "purple": ((262, 282), (0.45, 0.7), (0.45, 0.7)),
    "pink": ((325, 345), (0.3, 0.5), (0.9, 1.0)),
    "light blue": ((198, 215), (0.15, 0.3), (0.9, 1.0)),
    "light green": ((90, 130), (0.15, 0.3), (0.85, 0.95)),
}
LIGHT = ("white", "white", "white", "cream", "cream", "yellow", "pink", "light blue", "light green")
PALE = ("white", "white", "cream")
DARK = ("black", "black", "dark blue", "dark green")
# No caption names a surface: mostly plain, else every ground is drawn half patterned
SURFACES = (*["plain"] * 8, "grain", "grain", "gradient", "stripes", "dots", "checks", "fibres")


@dataclass(frozen=True)
class Paper:
    """picture: float [size, size, 3] in 0..1; colour and surface are words for captions."""

    picture: Array
    colour: str
    surface: str


def colour_of(name: str, rng: Rng) -> Array:
    """Return some colour that carries this name, float [3] in 0..1."""
    hue, saturation, value = (rng.uniform(*span) for span in COLOURS[name])
    return np.float32(colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value))


def palette(rng: Rng, count: int) -> list[tuple[str, Array]]:
    """Return so many named colours, no two of one name, that tell from each other."""
    names = [name for name in COLOURS if name not in ("white", "cream", "light green")]
    return [(name, colour_of(name, rng)) for name in rng.choice(names, count, replace=False)]


def _pattern(surface: str, size: int, rng: Rng) -> Array:
    """Return how much of the second tone shows, [size, size]."""
    along, across = turned(size, rng.choice([0.0, np.pi / 4, np.pi / 2]))
    period = rng.uniform(9, 20)
    if surface == "stripes":
        return stripes(across, period, rng.uniform(0.3, 0.6))
    if surface == "checks":
        return (stripes(across, period, 0.5) + stripes(along, period, 0.5)) / 2
    wave = np.cos(2 * np.pi * along / period) + np.cos(2 * np.pi * across / period)
    return np.clip((wave - rng.uniform(0.9, 1.4)) * 3, 0, 1)


def paper(rng: Rng, size: int, kind: str = "any", colour: str | None = None) -> Paper:
    """Return a paper. kind: "any", "light", "dark" or "pale"; colour, if given, goes before it."""
    tones = {"light": LIGHT, "dark": DARK, "pale": PALE}.get(kind, (*LIGHT, *COLOURS))
    name = colour or str(rng.choice(tones))
    base = colour_of(name, rng)
    surface = str(rng.choice(SURFACES))
    picture = np.broadcast_to(base, (size, size, 3)).astype(np.float32)
    # A second tone near the first: the ground keeps its name.
    toward = np.float32(1.0 if base.mean() < 0.5 else 0.0)
    second = base + (toward - base) * rng.uniform(0.06, 0.14)
    if surface == "grain":
        tooth = grain(rng, size, rng.uniform(1.2, 2.5)) - 0.5
        picture = picture + tooth[..., None] * rng.uniform(0.04, 0.12)
    elif surface == "fibres":
        fibre = streaks(rng, size, rng.uniform(0, 3), 12, 1.1) + blur(noise(rng, size, 1), 0.5) - 1
        picture = picture + fibre[..., None] * rng.uniform(0.04, 0.09)
    elif surface == "gradient":
        along, _ = turned(size, rng.uniform(0, 2 * np.pi))
        ramp = (along - along.min()) / (along.max() - along.min())
        picture = base + (second - base) * ramp[..., None] * 1.4
    elif surface != "plain":
        picture = base + (second - base) * _pattern(surface, size, rng)[..., None]
    return Paper(np.clip(picture, 0, 1).astype(np.float32), name, surface)
