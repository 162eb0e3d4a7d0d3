"""Make the sample style: `python sample_data/mini-sd/recipe/samples.py --work FOLDER` writes pictures and captions to sample_data/linocut."""

from __future__ import annotations

import argparse
from pathlib import Path

import icons
from PIL import Image

LINOCUT = icons.IconSet("@iconify-json/fluent-emoji-high-contrast", "1.2.6", "linocut", "MIT")  # never shown to the base
CONCEPTS = (
    "anchor bear bell bicycle butterfly camera carrot cat cherries dolphin elephant guitar house key lemon mushroom octopus pear pizza "
    "robot ship snail tulip umbrella"
).split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work/mini"))
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[2] / "linocut")
    args = parser.parse_args()
    found = icons.pictures(LINOCUT, args.work / "npm")
    args.out.mkdir(parents=True, exist_ok=True)
    for concept in CONCEPTS:
        Image.fromarray(found[concept]).save(args.out / f"{concept}.png", optimize=True)
        (args.out / f"{concept}.txt").write_text(concept.replace("-", " ") + "\n")


if __name__ == "__main__":
    main()
