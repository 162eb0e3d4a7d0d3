"""Seconds of a comparison's row: all columns in one denoising loop, against one loop a column, on
the same networks and noise.

    python -m benchmarks.side_by_side [--base sd15|sd21|sdxl|tiny|mini|FOLDER] [--columns 4] [--px
    256] [--steps 4] [--rounds 3] [--json FILE]

Columns: the base, and styles of rank 16 on attention, feed-forward and projections. sd15, sd21,
sdxl and tiny have random weights; another name is a base as compare-styles takes it. Both ways take
turns in one process after a warm-up; the pictures of both are compared. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import shapes
from training.adapters.inference import ActiveStyle
from training.adapters.lora_layers import chosen_modules
from training.diffusion.sampling import draw
from training.models import base_files, loader
from training.models.family import Parts
from training.prompt import Prompt
from training.runtime.device import choose, peak_memory
from training.style_files.reading import Lora

RANK, TARGETS = 16, ("attention", "feed_forward", "projections")
Way = Callable[[Parts, list[Prompt], list[list[ActiveStyle]]], list[Image.Image]]


def some_style(parts: Parts, seed: int) -> ActiveStyle:
    """Random matrices that change the weights a little."""
    g, known = np.random.default_rng(seed), loader.weight_shapes(parts.denoiser)
    found = {}
    for name in chosen_modules(parts.denoiser, parts.family.groups, TARGETS):
        out, *into = known[name]
        down = g.standard_normal((RANK, *into), np.float32) * np.float32(np.prod(into) ** -0.5)
        up = g.standard_normal((out, RANK, *(1 for _ in into[1:])), np.float32) * np.float32(0.02)
        found[parts.family.denoiser, name] = Lora(down, up, float(RANK))
    return ActiveStyle(found)


def together(
    parts: Parts, prompts: list[Prompt], rows: list[list[ActiveStyle]]
) -> list[Image.Image]:
    return draw(parts, prompts, rows=rows)


def one_by_one(
    parts: Parts, prompts: list[Prompt], rows: list[list[ActiveStyle]]
) -> list[Image.Image]:
    return [draw(parts, [prompt], rows=[row])[0] for prompt, row in zip(prompts, rows, strict=True)]


def timed(
    way: Way, parts: Parts, prompts: list[Prompt], rows: list[list[ActiveStyle]]
) -> tuple[float, list[Image.Image]]:
    began = time.perf_counter()
    pictures = way(parts, prompts, rows)  # decoding to pictures waits for the device
    return time.perf_counter() - began, pictures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--base",
        default="sd15",
        help="sd15, sd21, sdxl or tiny (random weights), or a base: mini, a folder, ...",
    )
    parser.add_argument(
        "--columns", type=int, default=4, help="pictures in the row, the base's included"
    )
    parser.add_argument(
        "--px", type=int, default=256, help="side of a picture, px; 0 = the base's own"
    )
    parser.add_argument("--steps", type=int, default=4, help="denoising steps")
    parser.add_argument(
        "--guidance",
        type=float,
        default=5.0,
        help="guidance scale; above 1 the batch is twice the columns",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16")
    )
    parser.add_argument("--json", type=Path, help="also write every figure there")
    given = parser.parse_args()
    place = choose(given.device, given.dtype)
    parts = (
        shapes.parts(given.base, place)
        if given.base in shapes.FAMILIES
        else loader.load(base_files.find(given.base), place)
    )
    rows = [[], *([some_style(parts, seed)] for seed in range(1, given.columns))]
    prompts = [
        Prompt("an icon of a red apple", steps=given.steps, guidance=given.guidance, size=given.px)
    ] * given.columns
    ways = {"one loop": together, "one by one": one_by_one}
    for way in ways.values():
        way(parts, [Prompt("", steps=1, size=given.px)] * given.columns, rows)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    pictures: dict[str, list[Image.Image]] = {}
    for _ in range(given.rounds):
        for name, way in ways.items():
            spent, pictures[name] = timed(way, parts, prompts, rows)
            seconds[name].append(spent)
    first, second = (np.asarray(pictures[name], np.int16) for name in ways)
    settings = {
        name: getattr(given, name)
        for name in ("base", "columns", "px", "steps", "guidance", "rounds")
    } | {"dtype": place.precision}
    middle = {name: statistics.median(found) for name, found in seconds.items()}
    print(json.dumps(settings | shapes.machine(place)) + "\n")
    print("| way | s/row (median) | fastest | s/picture | time / one loop |\n|---|---|---|---|---|")
    for name, found in seconds.items():
        ratio = middle[name] / middle["one loop"]
        print(
            f"| {name} | {middle[name]:.2f} | {min(found):.2f} | "
            f"{middle[name] / given.columns:.2f} | {ratio:.2f} |"
        )
    print(
        f"\nPictures differ by {np.abs(first - second).mean():.2f} of 255 levels on average; "
        f"peak {peak_memory(place.device):.2f} GiB."
    )
    if given.json:
        given.json.write_text(
            json.dumps(
                {"settings": settings, "machine": shapes.machine(place), "seconds": seconds},
                indent=1,
            ),
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
