"""Media of the hand: pens, pencils, brushes, sticks of colour. Knows nothing of scenes.

Every medium takes (colour [H, W, 3], cover [H, W], paper [H, W, 3], rng), all in 0..1, and returns
uint8 [H, W, 3].
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw
from texture import (
    Array,
    Rng,
    blur,
    contours,
    depth,
    directions,
    finished,
    flattened,
    grain,
    grey,
    lines,
    mixed,
    multiplied,
    noise,
    smooth,
    streaks,
    stripes,
    turned,
    wobbled,
)

INKS = np.float32([[0.08, 0.08, 0.1], [0.1, 0.12, 0.3], [0.28, 0.15, 0.08], [0.05, 0.22, 0.2]])


def _tone(colour: Array, cover: Array) -> Array:
    """Return luminance on white, with the middle of what is drawn moved to 0.5."""
    tone = grey(colour)
    weight = cover.sum() + 1e-6
    tone = np.clip(tone + 0.7 * (0.5 - (tone * cover).sum() / weight), 0, 1)
    return 1 - (1 - tone) * cover


def _hatching(rng: Rng, size: int, tone: Array, period: float, layers: int = 3) -> Array:
    """Return strokes that lie the denser, in the more directions, the darker the tone."""
    drawn = np.zeros((size, size), np.float32)
    first = rng.uniform(0.5, 1.1)
    for layer in range(layers):
        _, across = turned(size, first + layer * rng.uniform(0.8, 1.1))
        across = across + (noise(rng, size, 18) - 0.5) * period * 0.9
        limit = 0.86 - layer * 0.27
        wide = np.clip((limit - tone) * 1.2, 0, 0.5)
        drawn = np.maximum(drawn, stripes(across, period, wide))
    return drawn


def ink(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Pen and ink: lines that swell and thin, a few solid black places."""
    size = len(cover)
    colour, cover = (wobbled(rng, field, rng.uniform(0.5, 1.4)) for field in (colour, cover))
    swell = noise(rng, size, 20)
    fine, broad = lines(colour, cover, 0.4), lines(colour, cover, rng.uniform(1.6, 2.6))
    line = fine + (broad - fine) * swell
    solid = smooth(_tone(colour, cover), 0.22, 0.12)
    pen = INKS[rng.integers(len(INKS))]
    return finished(multiplied(paper, pen, np.maximum(line, solid)))


def brush(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Brush and ink wash: broad dry-edged strokes over two or three greys."""
    size = len(cover)
    pen = INKS[rng.integers(len(INKS))]
    loose = rng.uniform(2, 3.5)
    colour, cover = (wobbled(rng, field, loose, 22) for field in (colour, cover))
    tone = _tone(colour, cover)
    wash = np.round(blur(1 - tone, 1.6) * 3) / 3
    pooled = np.clip(contours(wash[..., None], cover * 0, 1.2) * 0.5, 0, 0.3)
    uneven = 0.7 + 0.5 * noise(rng, size, 26)
    painted = multiplied(
        paper, pen, np.clip(blur(wash, 0.7) * 0.62 * uneven + pooled * cover, 0, 1)
    )
    line = smooth(
        contours(colour, cover, rng.uniform(1.6, 2.1)) * (0.6 + noise(rng, size, 16)), 0.3, 0.55
    )
    dry = smooth(streaks(rng, size, rng.uniform(0, 3), 20, 1.0), 0.12, 0.42)
    return finished(multiplied(painted, pen, line * (0.25 + 0.75 * dry)))


def pencil(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Graphite: hatching in up to three directions, a thin outline, the paper's tooth."""
    size = len(cover)
    colour, cover = (wobbled(rng, field, 0.8) for field in (colour, cover))
    hatch = _hatching(rng, size, blur(_tone(colour, cover), 0.8), rng.uniform(3.2, 4.6))
    line = lines(colour, cover, 0.7)
    tooth = 0.45 + 0.55 * smooth(grain(rng, size), 0.2, 0.6)
    lead = np.float32([0.22, 0.22, 0.25]) + rng.uniform(-0.05, 0.08)
    return finished(multiplied(paper, lead, np.maximum(hatch * 0.6, line) * tooth))


def coloured_pencil(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Coloured pencils: thin strokes all one way in the thing's own colours."""
    size = len(cover)
    colour, cover = (wobbled(rng, field, 0.9) for field in (colour, cover))
    stroke = streaks(rng, size, rng.uniform(0.6, 1.0), rng.uniform(10, 18), 1.1)
    deep = 1 - grey(colour) * 0.45
    laid = smooth(stroke + deep * 0.35, 0.25, 0.85) * (0.6 + 0.4 * grain(rng, size))
    painted = mixed(paper, colour, np.clip(laid, 0, 0.95) * cover)
    line = lines(colour, cover, 0.8) * (0.5 + 0.5 * grain(rng, size))
    return finished(mixed(painted, blur(colour, 1.5) * 0.45, line * 0.75))


def crayon(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Wax crayon: waxy colour that skips the paper's hollows, thick shaky outline."""
    size = len(cover)
    shake = rng.uniform(1.4, 2.4)
    colour, cover = (wobbled(rng, field, shake, 10) for field in (colour, cover))
    tooth = grain(rng, size, rng.uniform(1.8, 2.6))
    stroke = streaks(rng, size, rng.uniform(0.3, 1.2), 16, 3.0)
    wax = smooth(tooth * 0.6 + stroke * 0.6, 0.36, 0.5)
    painted = mixed(paper, np.clip(colour * 1.05, 0, 1), wax * cover * 0.92)
    line = smooth(contours(colour, cover, 1.5), 0.25, 0.5) * smooth(tooth, 0.1, 0.4)
    return finished(mixed(painted, blur(colour, 2) * rng.uniform(0.35, 0.6), line * 0.9))


def chalk(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Chalk on a board: dusty light colour, strong outlines, wiped places."""
    size = len(cover)
    colour, cover = (wobbled(rng, field, 1.2) for field in (colour, cover))
    wiped = 0.07 * streaks(rng, size, rng.uniform(0, 3), 40, 7) * noise(rng, size, 30)
    board = paper + wiped[..., None]
    pale = np.clip(colour * 0.62 + 0.38, 0, 1)
    tooth = grain(rng, size, 1.6)
    stroke = streaks(rng, size, rng.uniform(0.5, 1.1), 18, 1.8)
    fill = smooth(stroke * 0.7 + tooth * 0.6, 0.5, 0.8) * (0.25 + 0.5 * grey(colour))
    painted = mixed(board, pale, fill * cover)
    line = smooth(contours(colour, cover, 1.1), 0.2, 0.5) * smooth(tooth, 0.12, 0.45)
    return finished(mixed(painted, np.clip(blur(pale, 1.5) + 0.3, 0, 1), line * 0.95))


def charcoal(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Charcoal: smudged darks on rough paper."""
    size = len(cover)
    dark = 1 - _tone(colour, cover)
    smudged = 0.5 * blur(dark, 1) + 0.35 * blur(dark, 4)
    line = smooth(contours(colour, cover, 1.6), 0.2, 0.6)
    tooth = smooth(grain(rng, size, 1.6), -0.5, 0.9)
    coal = np.float32([0.13, 0.12, 0.12])
    return finished(multiplied(paper, coal, np.clip((smudged + line * 0.8) * (tooth + 0.15), 0, 1)))


def pastel(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Soft pastel: powdery, blended, without an outline."""
    size = len(cover)
    soft = blur(wobbled(rng, np.dstack([colour * cover[..., None], cover]), 2.5, 8), 1.5)
    cover = soft[..., 3]
    colour = soft[..., :3] / np.maximum(cover, 0.02)[..., None]
    powder = grain(rng, size, 1.3)
    pale = colour * 0.72 + 0.28 + (powder - 0.5)[..., None] * 0.18
    stroke = streaks(rng, size, rng.uniform(0, 3), 12, 3.5)
    laid = smooth(cover * 1.1 + (stroke - 0.5) * 0.5 + (powder - 0.5) * 0.35, 0.3, 0.75)
    dust = blur(cover, 5) * 0.16
    return finished(mixed(mixed(paper, pale, dust), pale, laid * 0.93))


def marker(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Felt markers: translucent bands that overlap, a round black outline."""
    size = len(cover)
    colour, cover = (wobbled(rng, field, 1.0) for field in (colour, cover))
    angle = rng.uniform(0.2, 1.3)
    _, across = turned(size, angle)
    across = across + (noise(rng, size, 24) - 0.5) * 4
    overlap = stripes(across, rng.uniform(7, 10), rng.uniform(0.22, 0.34))
    gap = stripes(across + 3.7, rng.uniform(19, 27), 0.05)
    bright = np.clip(colour * 0.9 + 0.1, 0, 1)
    laid = bright * (1 - 0.24 * overlap[..., None])
    painted = multiplied(paper, laid, cover * (0.95 - 0.6 * gap))
    line = smooth(contours(colour, cover, 1.5), 0.28, 0.42)
    return finished(mixed(painted, INKS[rng.integers(2)], line * 0.93))


def ballpoint(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Ballpoint pen: one ink, fast scribbles to and fro, outlines gone over twice."""
    size = len(cover)
    pens = np.float32([[0.1, 0.16, 0.62], [0.08, 0.08, 0.12], [0.7, 0.08, 0.14], [0.05, 0.4, 0.2]])
    pen = pens[rng.choice(4, p=[0.6, 0.16, 0.12, 0.12])]
    tone = blur(_tone(colour, cover), 1)
    angle, period = rng.uniform(0.5, 1.1), rng.uniform(3.6, 4.8)
    scribble = np.zeros((size, size), np.float32)
    for lean, limit in ((-0.09, 0.9), (0.09, 0.9), (0.8, 0.5)):
        across = turned(size, angle + lean)[1] + noise(rng, size, 24) * 5
        scribble = np.maximum(scribble, stripes(across, period, np.clip(limit - tone, 0, 0.26)))
    line = lines(wobbled(rng, colour, 0.7), cover, 0.3)
    again = wobbled(rng, cover, 2.2, 18)
    line = np.maximum(line, lines(again[..., None], again, 0.2))
    skip = 0.6 + 0.4 * smooth(noise(rng, size, 3), 0.2, 0.5)
    return finished(multiplied(paper, pen, np.maximum(scribble * 0.8, line * 0.9) * skip))


def oil(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Oil paint: thick strokes laid along the shapes, coarse ones first, lit from one side."""
    size = len(cover)
    seen = flattened(colour, cover, paper)
    soft = blur(seen, 1.0)
    edge = contours(colour, cover, 1.5)
    # Strokes follow the shapes near them and one slow sweep everywhere else.
    sweep = rng.uniform(0, np.pi) + noise(rng, size, 50) * 1.6
    near = smooth(blur(edge, 3), 0.02, 0.12)
    angle = sweep + near * ((directions(grey(soft), 3) + np.pi / 2 - sweep) % np.pi)
    canvas = Image.fromarray(finished(paper * rng.uniform(0.86, 0.94)))
    height = Image.new("L", canvas.size, 90)
    paint, relief = ImageDraw.Draw(canvas), ImageDraw.Draw(height)
    for count, long, wide in ((520, 14, 6), (900, 8, 4), (1500, 5, 2)):
        spots = rng.integers(0, size, (count, 2))
        shade = rng.normal(0, 0.022, (count, 1)) + rng.normal(0, 0.01, (count, 3))
        inks = finished(soft[spots[:, 1], spots[:, 0]] + shade)
        lift = rng.integers(60, 200, count)
        turn = angle[spots[:, 1], spots[:, 0]] + rng.normal(0, 0.25, count)
        fine = edge[spots[:, 1], spots[:, 0]] if wide < 6 else np.ones(count)
        dx, dy = np.cos(turn) * long / 2, np.sin(turn) * long / 2
        for i in np.flatnonzero(fine > (0.0, 0.02, 0.12)[(6, 4, 2).index(wide)]):
            x, y = spots[i]
            line = (x - dx[i], y - dy[i], x + dx[i], y + dy[i])
            paint.line(line, tuple(inks[i].tolist()), wide)
            relief.line(line, int(lift[i]), wide)
    bumps = blur(np.asarray(height, np.float32) / 255, 0.6)
    light = np.gradient(bumps, axis=0) + np.gradient(bumps, axis=1)
    return finished(
        np.asarray(canvas, np.float32) / 255 - light[..., None] * rng.uniform(0.15, 0.3)
    )


def pointillism(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Dots of pure colour set side by side."""
    size = len(cover)
    seen = flattened(colour, cover, paper)
    canvas = Image.fromarray(finished(paper))
    draw = ImageDraw.Draw(canvas)
    for count, radius in ((1100, 2.6), (1900, 1.8)):
        spots = rng.integers(0, size, (count, 2))
        tint = rng.normal(0, 0.055, (count, 3))
        inks = finished(seen[spots[:, 1], spots[:, 0]] + tint)
        radii = radius * rng.uniform(0.7, 1.15, count)
        for (x, y), tone, r in zip(spots.tolist(), inks.tolist(), radii.tolist(), strict=True):
            draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(tone))
    return np.asarray(canvas)


def spray(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Spray paint: soft clouds of speckles round the shape, drips below it."""
    size = len(cover)
    soft = blur(np.dstack([colour * cover[..., None], cover]), rng.uniform(1.2, 2.0))
    cloud = blur(cover, rng.uniform(5, 8))
    near = blur(soft, 4)
    tint = near[..., :3] / np.maximum(near[..., 3:], 0.01)
    speck = (rng.random((size, size)) < cloud * 0.55).astype(np.float32)
    painted = mixed(paper, tint, blur(speck, 0.5) * 0.75 + cloud * 0.15)
    inside = soft[..., :3] / np.maximum(soft[..., 3:], 0.02)
    painted = mixed(
        painted, inside, smooth(soft[..., 3] + (rng.random(cover.shape) - 0.5) * 0.3, 0.3, 0.7)
    )
    for x in rng.choice(np.flatnonzero(cover.max(0) > 0.5), 4) if cover.max() > 0.5 else ():
        bottom = int(np.flatnonzero(cover[:, x] > 0.5)[-1])
        end = min(size, bottom + int(rng.integers(6, 26)))
        painted[bottom:end, x : x + 2] = inside[max(0, bottom - 3), x] * 0.95
    line = smooth(contours(colour, cover, 1.8), 0.3, 0.7) * 0.5
    return finished(mixed(painted, inside * 0.25, line * smooth(cover, 0.2, 0.6)))


def scratchboard(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Scratchboard: light cut out of black with short strokes that bend round the shape."""
    size = len(cover)
    tone = np.clip(grey(colour) * 0.75 + 0.2, 0, 1)
    form = depth(cover) * rng.uniform(10, 18) + (noise(rng, size, 16) - 0.5) * 5
    first = rng.uniform(0, np.pi)
    cut = stripes(turned(size, first)[1] + form, rng.uniform(3.0, 3.8), tone * 0.62)
    crossed = stripes(turned(size, first + 1.1)[1] - form, 3.2, np.clip(tone - 0.6, 0, 1))
    lifted = smooth(streaks(rng, size, first, 7, 3.4), 0.1, 0.3)
    scratch = np.maximum(cut, crossed) * lifted * cover
    light = np.float32([0.97, 0.95, 0.9]) * 0.75 + colour * 0.25
    return finished(mixed(paper, light, np.maximum(scratch, lines(colour, cover, 0.4))))
