"""Pictures drawn ahead for the autoencoder, as shards on disk: `python pool.py --state FOLDER`.

Shard n is the same for everybody who draws it; a training may read while more are drawn.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import strokes
import world
from icons import LEFT_OUT
from icons import drawn as icon_on_white
from packages import KEPT_OUT, PACKAGES, icons_of
from PIL import Image
from reconstruction import KEPT_OUT_ICONS
from scenes import Thing
from texture import Array, Rng

SHARD = 500  # pictures
ICONS = 140  # different icons in a shard
PLAIN = 0.2  # share of single icons on one flat colour
TEXTURES = 0.12  # share of noise, gradients, strokes and patterns without a thing


def things(rng: Rng, npm: Path, count: int) -> list[Thing]:
    """Draw icons chosen by chance from every package."""
    packages = list(PACKAGES.values())
    shares = np.array([package.share for package in packages])
    found: list[Thing] = []
    while len(found) < count:
        package = packages[int(rng.choice(len(packages), p=shares / shares.sum()))]
        icons = icons_of(package, npm)
        keys = list(icons["icons"])
        key = keys[int(rng.integers(len(keys)))]
        if LEFT_OUT.search(key) or icons["icons"][key].get("hidden"):
            continue
        thing = world.icon(icons, key, package.name)
        if thing and thing.picture[..., 3].mean() > 0.02:
            found.append(thing)
    return found


def alone(thing: Thing, rng: Rng) -> Array:
    """Return one icon as its package shows it, on white or on a flat colour."""
    picture = np.asarray(Image.fromarray((thing.picture * 255).astype(np.uint8)))
    margin = int(rng.integers(0, 9))
    side = world.SIZE - 2 * margin
    image = Image.fromarray(picture).convert("RGBa").resize((side, side)).convert("RGBA")
    ground = (255, 255, 255) if rng.random() < 0.6 else tuple(rng.integers(0, 256, 3).tolist())
    canvas = Image.new("RGB", (world.SIZE, world.SIZE), ground)
    canvas.paste(image, (margin, margin), image)
    return np.asarray(canvas)


def shard(number: int, npm: Path) -> Array:
    """Draw shard `number`, uint8 [SHARD, SIZE, SIZE, 3]."""
    rng = np.random.default_rng([number, 20])
    drawn = things(rng, npm, ICONS)
    pictures = []
    for index in range(SHARD):
        kind = rng.random()
        if kind < TEXTURES:
            pictures.append(strokes.texture(rng, world.SIZE))
        elif kind < TEXTURES + PLAIN:
            pictures.append(alone(drawn[int(rng.integers(len(drawn)))], rng))
        else:
            pictures.append(world.example(drawn, number * SHARD + index).picture)
    return np.stack(pictures)


def kept_out_icons(npm: Path, each: int = 60) -> Array:
    """Draw icons of every kept-out package on white, uint8 [N, SIZE, SIZE, 3]."""
    found = []
    for package in KEPT_OUT.values():
        icons = icons_of(package, npm)
        keys = [k for k in sorted(icons["icons"]) if not LEFT_OUT.search(k)]
        for key in keys[:: max(1, len(keys) // each)][:each]:
            picture = icon_on_white(icons, key)
            found += [] if picture is None else [picture]
    return np.stack(found)


def path_of(pool: Path, number: int) -> Path:
    return pool / f"{number:05}.npy"


def drawn_so_far(pool: Path) -> int:
    """Count the shards from number 0 on, without a gap."""
    count = 0
    while path_of(pool, count).exists():
        count += 1
    return count


def draw(pool: Path, npm: Path, number: int) -> None:
    """Draw a shard and put it into the pool whole or not at all."""
    pool.mkdir(parents=True, exist_ok=True)
    unfinished = pool / f"{number:05}.tmp.npy"
    np.save(unfinished, shard(number, npm))
    unfinished.replace(path_of(pool, number))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, default=Path("work/mini"), help="folder of the pool")
    parser.add_argument("--npm", type=Path, help="folder of the packages; STATE/npm without it")
    parser.add_argument("--shards", type=int, default=40, help="draw until the pool holds so many")
    parser.add_argument("--fast", type=int, default=1_000, help="shards without a pause")
    parser.add_argument("--pause", type=float, default=60.0, help="seconds between later shards")
    args = parser.parse_args()
    pool, npm = args.state / "pool", args.npm or args.state / "npm"
    pool.mkdir(parents=True, exist_ok=True)
    if not (pool / KEPT_OUT_ICONS).exists():
        np.save(pool / KEPT_OUT_ICONS, kept_out_icons(npm))
    while (number := drawn_so_far(pool)) < args.shards:
        began = time.time()
        draw(pool, npm, number)
        print(f"shard {number}: {time.time() - began:.0f} s", flush=True)
        if number + 1 >= args.fast:
            time.sleep(args.pause)


if __name__ == "__main__":
    main()
