"""Media of press and workshop: prints, paper, thread, stone, glass, light. Knows nothing of scenes.

Every medium takes (colour [H, W, 3], cover [H, W], paper [H, W, 3], rng), all in 0..1, and returns
uint8 [H, W, 3].
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from texture import (
    Array,
    Rng,
    averaged,
    blur,
    cells,
    contours,
    depth,
    finished,
    flattened,
    grain,
    grey,
    lines,
    mixed,
    multiplied,
    noise,
    posterised,
    smooth,
    streaks,
    stripes,
    turned,
    wobbled,
)

CYAN_MAGENTA_YELLOW = np.float32([[0.0, 0.65, 0.9], [0.92, 0.1, 0.5], [1.0, 0.92, 0.05]])


def _dots(size: int, angle: float, period: float, amount: Array) -> Array:
    """Return round dots whose area is the amount, on a grid turned by an angle (radians)."""
    u, v = turned(size, angle)
    wave = (np.cos(2 * np.pi * u / period) + np.cos(2 * np.pi * v / period)) / 4 + 0.5
    return smooth(wave, 1 - amount - 0.14, 1 - amount + 0.14) * (amount > 0.02)


def _flat(colour: Array, cover: Array, ways: int) -> Array:
    """Return the picture in so many flat colours of its own; only what is covered counts."""
    mean = (colour * cover[..., None]).sum((0, 1)) / (cover.sum() + 1e-6)
    image = Image.fromarray(finished(np.where(cover[..., None] > 0.5, colour, mean)))
    few = image.quantize(ways, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    return np.asarray(few.convert("RGB"), np.float32) / 255


def halftone(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Four-colour halftone: rosettes of dots in cyan, magenta, yellow and black."""
    size = len(cover)
    period = rng.uniform(3.8, 5.6)
    missing = (1 - colour) * cover[..., None]
    black = missing.min(-1) * 0.75
    printed = paper
    turn = rng.uniform(0, 0.5)
    for channel, angle in enumerate((0.26, 1.31, 0.0)):
        amount = np.clip(missing[..., channel] - black * 0.8, 0, 1)
        plate = _dots(size, angle + turn, period, amount)
        printed = multiplied(printed, CYAN_MAGENTA_YELLOW[channel], plate)
    plate = _dots(size, 0.785 + turn, period, black)
    return finished(multiplied(printed, np.float32([0.08, 0.08, 0.1]), plate))


def comic(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Pop-art comic: heavy black outline, flat colour, a screen of dots in the shade."""
    size = len(cover)
    flat = np.clip(posterised((colour - 0.5) * 1.25 + 0.5, 3), 0, 1)
    shade = np.clip(0.75 - grey(colour), 0, 0.6) * 0.9
    dots = _dots(size, rng.uniform(0.4, 1.1), rng.uniform(4.5, 6.5), shade + 0.08)
    painted = mixed(paper, mixed(flat * 0.35 + 0.65, flat, np.clip(dots + 0.35, 0, 1)), cover)
    line = smooth(contours(colour, cover, rng.uniform(1.1, 1.6)), 0.28, 0.42)
    return finished(mixed(painted, np.float32([0.05, 0.05, 0.07]), line))


def screen_print(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Screen print: three to five flat inks, each plate a little off."""
    ways = int(rng.integers(3, 6))
    flat = _flat(blur(colour, 0.7), cover, ways)
    names = (finished(flat).astype(int) * [1, 256, 65536]).sum(-1)
    printed = paper
    for name in np.unique(names):
        there = names == name
        plate = smooth(blur((there & (cover > 0.5)).astype(np.float32), 0.9), 0.35, 0.65)
        plate = np.roll(plate, tuple(rng.integers(-2, 3, 2)), (0, 1))
        faded = 0.86 + 0.14 * smooth(grain(rng, len(cover), 2), 0.05, 0.3)
        vivid = np.clip((flat[there][0] - 0.5) * 1.15 + 0.52, 0, 1)
        printed = mixed(printed, vivid, plate * faded)
    return finished(printed)


def woodcut(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Woodcut: black wood, light cut away in tapering gouges, grain in the blacks."""
    size = len(cover)
    tone = grey(colour)
    inside = cover > 0.5
    low, high = np.quantile(tone[inside], (0.1, 0.9)) if inside.any() else (0, 1)
    form = depth(cover)
    slope = np.gradient(form, axis=0) + np.gradient(form, axis=1)
    # Light from above on the left, so that a thing of one colour has its form too
    tone = np.clip((tone - low) / (high - low + 0.15), 0, 1) * 0.6 + 0.22 + slope * 5
    tone = np.clip(tone, 0, 1)
    bent = noise(rng, size, 22) * 8 + form * rng.uniform(14, 30)
    _, across = turned(size, rng.uniform(0, 3))
    taper = 0.75 + 0.5 * (streaks(rng, size, 1.2, 9, 3) - 0.5)
    cut = stripes(across + bent, rng.uniform(4.5, 6), np.clip(tone * 1.15 - 0.12, 0, 0.92) * taper)
    black = np.clip(1 - cut, 0, 1) * smooth(cover, 0.35, 0.65)
    rim = smooth(contours(colour, cover, 1.6), 0.3, 0.45)
    wood = 1 - 0.75 * smooth(streaks(rng, size, rng.choice([0.0, 1.57]), 50, 1.3), 0.93, 0.99)
    chips = stripes(across + bent, 7, 0.1) * smooth(noise(rng, size, 9), 0.62, 0.75)
    chips = chips * smooth(blur(cover, 6), 0.03, 0.2) * (1 - cover)
    ink = np.float32([[0.07, 0.06, 0.06], [0.25, 0.07, 0.05], [0.06, 0.12, 0.2]])[rng.integers(3)]
    return finished(multiplied(paper, ink, np.maximum(np.maximum(black, rim) * wood, chips)))


def engraving(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Engraving: fine parallel lines, swelling with the dark, bent round the form."""
    size = len(cover)
    dark = np.clip(1.05 - grey(colour), 0.12, 1)
    form = depth(cover)
    along, across = turned(size, rng.uniform(-0.5, 0.5))
    bent = across + form * rng.uniform(8, 16) + np.sin(along / 30) * 2
    first = stripes(bent, rng.uniform(2.7, 3.3), np.clip(dark * 0.75, 0, 0.8))
    _, other = turned(size, rng.uniform(0.8, 1.2))
    second = stripes(other - form * 8, rng.uniform(2.7, 3.3), np.clip(dark - 0.55, 0, 0.6))
    drawn = np.maximum(first, second) * smooth(cover, 0.4, 0.6)
    ink = np.float32([[0.1, 0.1, 0.12], [0.25, 0.14, 0.08], [0.05, 0.2, 0.16]])[rng.integers(3)]
    return finished(multiplied(paper, ink, np.maximum(drawn, lines(colour, cover, 0.4))))


def stencil(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Stencil: two dabbed coats with bridges between the parts, paint crept under the edge."""
    size = len(cover)
    bridges = smooth(contours(colour, cover * 0 + 1, 1.5), 0.3, 0.5)
    hole = smooth(blur(cover, 1.2), 0.45, 0.6) * (1 - bridges)
    inks = _flat(blur(colour, 1.5), cover, 2)
    dabbed = 0.68 + 0.32 * smooth(noise(rng, size, 4) * 0.6 + grain(rng, size) * 0.4, 0.2, 0.6)
    creep = (rng.random((size, size)) < blur(hole, 2.5) * 0.16) * 0.6
    laid = np.maximum(hole * dabbed, creep * smooth(cover, -0.2, 0.3))
    return finished(mixed(paper, inks, laid))


def paper_cut(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Cut paper: flat sheets laid on each other, each with its shadow."""
    size = len(cover)
    flat = _flat(blur(colour, 1.4), cover, int(rng.integers(4, 7)))
    names = (finished(flat).astype(int) * [1, 256, 65536]).sum(-1)
    shift = (int(rng.integers(2, 4)), int(rng.integers(1, 4)))
    made = paper + (grain(rng, size, 2)[..., None] - 0.5) * 0.04
    sheets = [n for n in np.unique(names) if ((names == n) & (cover > 0.5)).sum() > 30]
    sheets.sort(key=lambda n: -((names == n) & (cover > 0.5)).sum())
    for level, name in enumerate([None, *sheets]):
        there = (cover > 0.5) if name is None else (names == name) & (cover > 0.5)
        mask = smooth(blur(there.astype(np.float32), 1.3), 0.4, 0.6)
        shadow = blur(np.roll(mask, shift, (0, 1)), 1.8) * (0.5 if level == 0 else 0.38)
        ink = flat[names == sheets[0]][0] if name is None and sheets else flat[there].mean(0)
        made = made * (1 - (shadow * (1 - mask))[..., None])
        sheet = ink + (grain(rng, size, 2)[..., None] - 0.5) * 0.07
        made = mixed(made, sheet, mask)
        if not sheets:
            break
    return finished(made)


def stitched(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Cross-stitch: an X of thread in every square of woven cloth."""
    size = len(cover)
    side = int(rng.choice([4, 5]))
    y, x = np.mgrid[:size, :size]
    index = (y // side) * (size // side + 1) + x // side
    means = averaged(np.dstack([colour * cover[..., None], cover]), index)
    filled = means[..., 3] > 0.45
    thread = means[..., :3] / np.maximum(means[..., 3:], 0.05)
    u, v = (x % side + 0.5) / side - 0.5, (y % side + 0.5) / side - 0.5
    down, up = np.abs(u - v), np.abs(u + v)
    cross = smooth(np.minimum(down, up), 0.38, 0.16)
    lit = 1 - 0.28 * smooth(down, 0.3, 0.1) * (up > 0.25) + 0.12 * smooth(up, 0.2, 0.0)
    weave = 0.9 + 0.1 * ((x + y) % 2) - 0.1 * ((x % side == 0) | (y % side == 0))
    cloth = paper * weave[..., None]
    sewn = thread * (lit * (1 + rng.normal(0, 0.03, cover.shape)))[..., None]
    shadow = cloth * np.where(filled, 0.72, 1.0)[..., None]
    return finished(mixed(shadow, sewn, cross * filled))


def embroidery(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Satin stitch: shining threads side by side, turned in every patch, a raised edge."""
    size = len(cover)
    flat = _flat(blur(colour, 1.2), cover, 6)
    tone = grey(flat)
    y, x = np.mgrid[:size, :size]
    angle = rng.uniform(0, np.pi)
    turn = angle + np.round(tone * 7) * 1.1
    across = y * np.cos(turn) - x * np.sin(turn)
    along = x * np.cos(turn) + y * np.sin(turn)
    thread = 0.5 + 0.5 * np.cos(2 * np.pi * across / rng.uniform(2.4, 3.0))
    shine = 0.5 + 0.5 * np.cos(2 * np.pi * along / rng.uniform(16, 26))
    height = blur(cover, 1.5)
    relief = -(np.gradient(height, axis=0) + np.gradient(height, axis=1))
    weave = 0.93 + 0.07 * np.cos(np.pi * x) * np.cos(np.pi * y)
    cloth = paper * (weave * (1 - 0.4 * blur(np.roll(cover, (2, 2), (0, 1)), 1.5)))[..., None]
    sewn = flat * (0.62 + 0.38 * thread + 0.14 * shine)[..., None] - relief[..., None] * -0.5
    seam = smooth(contours(flat, cover, 0.9), 0.3, 0.6) * 0.35
    return finished(mixed(cloth, sewn * (1 - seam)[..., None], smooth(cover, 0.4, 0.6)))


def knitted(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Knitting: rows of V-shaped loops, the ground knitted too."""
    size = len(cover)
    wide, high = 6, 5
    y, x = np.mgrid[:size, :size]
    arm = np.abs((x % wide) - (wide - 1) / 2) / (wide / 2)
    slanted = y + arm * 4
    row, column = (slanted // high).astype(int), x // wide
    seen = averaged(flattened(colour, cover, paper), row * (size // wide + 1) + column)
    loop = 0.5 + 0.5 * np.cos(2 * np.pi * (slanted / high + 0.5))
    gap = smooth(arm, 0.0, 0.25) * smooth(arm, 1.0, 0.8)
    fuzz = rng.normal(0, 0.03, cover.shape)
    return finished(seen * (0.55 + 0.5 * loop * (0.4 + 0.6 * gap) + fuzz)[..., None])


def mosaic(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Mosaic: small stones with grout between, none quite the same colour."""
    size = len(cover)
    index, edge, points = cells(rng, size, rng.uniform(4.2, 6.0), rng.uniform(0.3, 0.6))
    # A stone is of the thing or of the ground, never half of each.
    solid = averaged(cover[..., None], index)[..., 0] > 0.5
    layers = averaged(np.dstack([colour * cover[..., None], cover]), index)
    thing = layers[..., :3] / np.maximum(layers[..., 3:], 0.05)
    stones = np.where(solid[..., None], thing, averaged(paper, index))
    stones = stones * (1 + rng.normal(0, 0.07, len(points)))[index][..., None]
    lit = 0.1 * smooth(edge, 0.5, 1.8) - 0.06
    grout = np.float32(rng.choice([0.22, 0.5, 0.85])) + np.zeros(3, np.float32)
    return finished(mixed(stones + lit[..., None], grout, smooth(edge, 0.95, 0.35)))


def stained_glass(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Stained glass: glowing panes in lead, the lead along the thing's own outlines."""
    size = len(cover)
    flat = _flat(blur(colour, 1.6), cover, 6)
    names = (finished(flat).astype(int) * [1, 256, 65536]).sum(-1)
    _, edge, _ = cells(rng, size, rng.uniform(20, 28), 0.8)
    vivid = np.clip((flat - grey(flat)[..., None]) * 1.5 + grey(flat)[..., None], 0, 1)
    pane = mixed(paper, vivid, (cover > 0.5).astype(np.float32))
    glow = 0.8 + 0.4 * noise(rng, size, 12) + 0.12 * (streaks(rng, size, 0.7, 20, 3) - 0.5)
    part = np.where(cover > 0.5, names % 251 / 251, -1.0).astype(np.float32)
    outline = contours(part[..., None], cover, 1.1)
    lead = smooth(outline, 0.22, 0.42)
    lead = np.maximum(lead, smooth(edge + cover * 0.7, 1.5, 0.8))
    shine = np.clip(np.roll(lead, (1, 1), (0, 1)) - lead, 0, 1) * 0.1
    glass = pane * glow[..., None] - shine[..., None]
    return finished(mixed(glass, np.float32([0.08, 0.08, 0.1]), lead))


def neon(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Neon tubes: white-hot coloured lines that light the wall."""
    size = len(cover)
    soft = blur(np.dstack([colour * cover[..., None], cover]), 2.5)
    tint = soft[..., :3] / np.maximum(soft[..., 3:], 0.02)
    low, high = tint.min(-1, keepdims=True), tint.max(-1, keepdims=True)
    vivid = np.where(high - low > 0.12, (tint - low) / (high - low + 1e-3), tint * 0 + 0.85)
    hue = np.float32([[1, 0.2, 0.6], [0.2, 0.9, 1], [1, 0.5, 0.1], [0.5, 1, 0.3]])[rng.integers(4)]
    vivid = np.where(high - low > 0.12, vivid * 0.9 + 0.1, hue)
    tube = smooth(contours(colour, cover, 1.3), 0.25, 0.5)
    core = smooth(contours(colour, cover, 0.8), 0.3, 0.6)
    glow = blur(tube[..., None] * vivid, rng.uniform(3, 5)) * 0.9
    glow = glow + blur(tube[..., None] * vivid, 12) * 0.7
    wall = paper * (0.75 + 0.25 * noise(rng, size, 6))[..., None]
    lit = wall + glow
    return finished(mixed(mixed(lit, vivid, tube * 0.95), vivid * 0.3 + 0.7, core * 0.8))


def pixel(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Pixel art: squares, few colours, a dark rim."""
    size = len(cover)
    count = int(rng.choice([24, 28, 32, 36]))
    rgba = finished(np.dstack([colour * cover[..., None], cover]))
    small = np.asarray(Image.fromarray(rgba).resize((count, count), Image.Resampling.BOX))
    small = small.astype(np.float32) / 255
    filled = small[..., 3] > 0.4
    own = small[..., :3] / np.maximum(small[..., 3:], 0.05)
    own = posterised(np.clip(own, 0, 1), int(rng.integers(4, 7)))
    inner = filled.copy()
    for axis in (0, 1):
        inner &= np.roll(filled, 1, axis) & np.roll(filled, -1, axis)
    own = np.where(inner[..., None], own, own * rng.uniform(0.3, 0.5))
    ground = np.asarray(Image.fromarray(finished(paper)).resize((count, count)), np.float32) / 255
    seen = np.where(filled[..., None], own, posterised(ground, 24))
    return np.asarray(
        Image.fromarray(finished(seen)).resize((size, size), Image.Resampling.NEAREST)
    )


def clay(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Modelling clay: rounded bulging parts, finger marks, a soft shadow."""
    size = len(cover)
    soft = blur(wobbled(rng, np.dstack([colour * cover[..., None], cover]), 1.6), 1.0)
    mask = smooth(soft[..., 3], 0.35, 0.65)
    own = soft[..., :3] / np.maximum(soft[..., 3:], 0.05)
    groove = contours(colour, cover, 1.4)
    height = depth(mask) * 1.6 - blur(groove, 1.2) * 0.5 + noise(rng, size, 9) * 0.16
    slope = np.gradient(blur(height, 1.0), axis=0) + np.gradient(blur(height, 1.0), axis=1)
    light = np.clip(slope * 3.2, -0.45, 0.4)
    gloss = smooth(slope, 0.09, 0.16) * 0.25
    body = own * (0.88 + light)[..., None] + gloss[..., None]
    shadow = blur(np.roll(mask, (4, 3), (0, 1)), 3) * 0.45
    return finished(mixed(paper * (1 - shadow)[..., None], body, mask))
