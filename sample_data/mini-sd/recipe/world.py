"""The world that the base learns from: a scene, a medium, a paper and a caption for every number.

`python sample_data/mini-sd/recipe/world.py --sheet OUT.png --count 60` draws a contact sheet, from
icon packages in --icons or, without them, from drawn shapes; `--media OUT.png` every medium.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import papers
import phrases
import scenes
from media import MEDIA, Medium, plain
from PIL import Image, ImageDraw
from scenes import Scene, Thing
from texture import Array, Rng

SIZE = 128  # px
LEFT_OUT = 10  # one (concept, hand) and one (concept, medium) pair in so many is kept for tests
CLEAR = 0.7  # sum of the differences of three channels at which a thing can be seen
PLAIN = Medium(plain, ("",))
# Packages by hand, with the suffix of an icon's name that belongs to the hand.
# openmoji, twemoji, emojione and fluent-emoji-high-contrast are kept for tests.
HANDS: dict[str, tuple[str, str]] = {
    "noto": ("noto", ""),
    "flat": ("fluent-emoji-flat", ""),
    "gradient": ("fluent-emoji", ""),
    "blob": ("noto-v1", ""),
    "mozilla": ("fxemoji", ""),
    "streamline": ("streamline-emojis", ""),
    "filled outline": ("icon-park", ""),
    "twotone": ("icon-park-twotone", ""),
    "outline": ("tabler", ""),
    "solid": ("mdi", ""),
    "silhouette": ("game-icons", ""),
    "thin": ("ph", "-thin"),
    "duotone": ("ph", "-duotone"),
}
SHAPES = ("circle", "square", "triangle", "star", "ring", "heart")


@dataclass(frozen=True)
class Example:
    """One picture of the world, uint8 [SIZE, SIZE, 3], its caption and what it was made of."""

    picture: Array
    caption: str
    concepts: tuple[str, ...]
    medium: str
    paper: str
    scene: Scene | None = None


def left_out(concept: str, other: str) -> bool:
    """Tell whether a (concept, hand) or a (concept, medium) pair is kept for tests."""
    return zlib.crc32(f"{concept}|{other}".encode()) % LEFT_OUT == 0


def shape(name: str, size: int = 256) -> Thing:
    """Draw a simple shape, to stand for an icon where there are none."""
    image = Image.new("RGBA", (size, size))
    draw = ImageDraw.Draw(image)
    box, ink = (size * 0.1, size * 0.1, size * 0.9, size * 0.9), (60, 60, 60, 255)
    turn = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    if name in ("circle", "ring"):
        draw.ellipse(box, fill=ink if name == "circle" else None, outline=ink, width=size // 7)
    elif name == "square":
        draw.rectangle(box, fill=ink)
    else:
        if name == "heart":
            x, y = 16 * np.sin(turn) ** 3, -13 * np.cos(turn) + 5 * np.cos(2 * turn)
            x, y = x / 17, (y + 2 * np.cos(3 * turn) + np.cos(4 * turn)) / 17
        else:
            corners = np.arange(3 if name == "triangle" else 10)
            around = 2 * np.pi * corners / len(corners) - np.pi / 2
            radius = np.where(corners % 2, 0.42, 1.0) if name == "star" else np.ones(3)
            x, y = radius * np.cos(around), radius * np.sin(around)
        spots = np.stack([x, y], -1) * size * 0.42 + size / 2
        draw.polygon([tuple(spot) for spot in spots.tolist()], fill=ink)
    return Thing(name, np.asarray(image, np.float32) / 255, "shape")


def icon(icons: dict, key: str, hand: str, size: int = 256) -> Thing | None:
    """Draw an icon of a package with its transparency, or return None if it cannot be drawn."""
    import resvg_py

    entry = icons["icons"][key]
    left, top = entry.get("left", 0), entry.get("top", 0)
    width, height = (entry.get(side, icons.get(side, 16)) for side in ("width", "height"))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'color="#333" viewBox="{left} {top} {width} {height}" width="{size}" height="{size}">'
        f"{entry['body']}</svg>"
    )
    try:
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size))
    except ValueError:
        return None
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    square = Image.new("RGBA", (size, size))
    square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return Thing(key.replace("-", " "), np.asarray(square, np.float32) / 255, hand)


def icon_things(folder: Path, concepts: Sequence[str]) -> list[Thing]:
    """Draw the concepts in every hand whose package lies in the folder as npm packs it."""
    found = []
    for hand, (package, suffix) in HANDS.items():
        for archive in sorted(folder.glob(f"iconify-json-{package}-[0-9]*.tgz"))[:1]:
            with tarfile.open(archive) as tar:
                member = tar.extractfile("package/icons.json")
                assert member is not None, archive
                icons = json.load(member)
            for concept in concepts:
                key = concept.replace(" ", "-") + suffix
                if key in icons["icons"] and not left_out(concept, hand):
                    thing = icon(icons, key, hand)
                    found += [replace(thing, concept=concept)] if thing else []
    return found


def _chosen(things: Sequence[Thing], rng: Rng) -> list[Thing]:
    """Choose one to four things: one alone, some alike, or two or three that differ."""
    first = things[int(rng.integers(len(things)))]
    if rng.random() < 0.8:
        chosen = [first]
    elif rng.random() < 0.5:
        chosen = [first] * int(rng.choice([2, 2, 3, 3, 4]))
    else:
        others = [t for t in things if t.hand == first.hand and t.concept != first.concept]
        picks = rng.permutation(len(others))[: int(rng.integers(1, 3))]
        chosen = [first, *(others[i] for i in picks)]
    return chosen


def _paper(things: Sequence[Thing], kind: str, rng: Rng) -> papers.Paper:
    """Choose a paper on which things of many colours can be seen."""
    own = []
    for thing in things:
        drawn = thing.picture[thing.picture[..., 3] > 0.5][:, :3]
        if len(drawn) and not scenes.one_coloured(thing.picture):
            own.append(drawn.mean(0))
    for _ in range(10):
        ground = papers.paper(rng, SIZE, kind)
        below = ground.picture.mean((0, 1))
        if all(np.abs(colour - below).sum() > CLEAR for colour in own):
            break
    return ground


def _tinted(things: Sequence[Thing], ground: papers.Paper, rng: Rng) -> list[Thing]:
    """Give one-coloured drawings colours that stand out from the paper, one for each concept."""
    below = ground.picture.mean((0, 1))
    tints: dict[str, str] = {}
    named = papers.palette(rng, 12)
    named.sort(key=lambda pair: np.abs(pair[1] - below).sum() < CLEAR)  # stable: still by chance
    free = [name for name, _ in named if name != ground.colour]
    done = []
    for thing in things:
        if scenes.one_coloured(thing.picture):
            name = tints.setdefault(thing.concept, free[len(tints)])
            thing = scenes.tinted(thing, name, rng)
        done.append(thing)
    return done


def example(
    things: Sequence[Thing],
    seed: int,
    *,
    medium: str | None = None,
    media: float = 0.8,
    single: bool = False,
) -> Example:
    """Return picture number seed.

    medium: a name of MEDIA or "" for none; chosen where None, none for a share of 1 - media;
    single: the first thing, alone.
    """
    rng = np.random.default_rng(seed)
    chosen = [things[0]] if single else _chosen(things, rng)
    concepts = {thing.concept for thing in chosen}
    usable = [m for m in MEDIA if not any(left_out(c, m) for c in concepts)]
    if medium is None:
        medium = str(rng.choice(usable)) if usable and rng.random() < media else ""
    way = MEDIA[medium] if medium else PLAIN
    chosen = chosen[:2] if way.coarse else chosen
    ground = _paper(chosen, way.paper, rng)
    chosen = _tinted(chosen, ground, rng)
    colours = {thing.colour for thing in chosen}
    clear = [g for g in scenes.GROUNDS if not colours & set(scenes.GROUND_COLOURS.get(g, ()))]
    if not way.keeps_colour or way.paper == "dark":
        # A full ground of lines hides the lines of the thing, and what it is drawn on.
        clear = [g for g in clear if g not in ("sky", "room")]
    shown = scenes.scene(chosen, rng, size=SIZE, on=str(rng.choice(clear)), placed=not way.coarse)
    picture = way.draw(shown.colour, shown.cover, ground.picture, rng)
    caption = phrases.caption(
        shown,
        rng,
        medium=str(rng.choice(way.words)) or None,
        paper=ground.colour,
        keeps_colour=way.keeps_colour,
    )
    concepts_shown = tuple(t.concept for t in chosen)
    return Example(picture, caption, concepts_shown, medium, ground.colour, shown)


def sheet(examples: Sequence[Example], columns: int) -> Image.Image:
    """Lay examples out with their captions below."""
    rows, line = -(-len(examples) // columns), 34
    page = Image.new("RGB", (columns * (SIZE + 6), rows * (SIZE + line)), "white")
    draw = ImageDraw.Draw(page)
    for index, shown in enumerate(examples):
        x, y = index % columns * (SIZE + 6), index // columns * (SIZE + line)
        page.paste(Image.fromarray(shown.picture), (x, y))
        for row in range(3):
            draw.text((x, y + SIZE + row * 11), shown.caption[row * 22 : row * 22 + 22], "black")
    return page


def media_sheet(things: Sequence[Thing], media: dict[str, Medium]) -> Image.Image:
    """Draw every medium over the same things, one row for each."""
    found = []
    for name, way in media.items():
        for thing in things:
            rng = np.random.default_rng(zlib.crc32(f"{name}{thing.concept}".encode()))
            ground = _paper([thing], way.paper, rng)
            alone = _tinted([thing], ground, rng)
            shown = scenes.scene(alone, rng, size=SIZE, on="none", placed=False)
            picture = way.draw(shown.colour, shown.cover, ground.picture, rng)
            found.append(Example(picture, name, (thing.concept,), name, ""))
    return sheet(found, len(things) * 2 if len(things) < 8 else len(things))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sheet", type=Path, help="contact sheet of the world to write")
    parser.add_argument("--media", type=Path, help="sheet of every medium to write")
    parser.add_argument("--count", type=int, default=60, help="pictures of the contact sheet")
    parser.add_argument("--seed", type=int, default=0, help="number of the first picture")
    parser.add_argument("--icons", type=Path, help="folder of npm packages; without it, shapes")
    parser.add_argument("--concepts", default="castle,penguin,hamburger,teapot,fish")
    args = parser.parse_args()
    names = args.concepts.split(",")
    things = icon_things(args.icons, names) if args.icons else [shape(s) for s in SHAPES]
    if not things:
        raise SystemExit(f"{args.icons} holds none of the packages in HANDS, or no such concepts.")
    if args.sheet:
        found = [example(things, args.seed + n) for n in range(args.count)]
        sheet(found, 10).save(args.sheet)
    if args.media:
        once = list({thing.concept: thing for thing in reversed(things)}.values())[::-1]
        media_sheet(once, MEDIA).save(args.media)


if __name__ == "__main__":
    main()
