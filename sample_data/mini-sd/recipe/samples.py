"""Make the sample styles: `python sample_data/mini-sd/recipe/samples.py --work FOLDER` writes
pictures and captions to sample_data.

linocut is an icon set of its own; blueprint, watercolour and risograph are painted by program over
the flat set.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import icons
import numpy as np
from PIL import Image
from risograph import risograph
from truth import FILTERS

LINOCUT = icons.IconSet(
    "@iconify-json/fluent-emoji-high-contrast", "1.2.6", "linocut", "MIT"
)  # never shown to the base
FLAT = "fluent-emoji-flat"
CONCEPTS = (
    "anchor bear bell bicycle butterfly camera carrot cat cherries dolphin elephant guitar "
    "house key lemon mushroom octopus pear pizza "
    "robot ship snail tulip umbrella"
).split()
# Without what people ask a new style for first: castle, penguin, hamburger, rocket, crown, teapot
RISOGRAPH = (
    "anchor bear bell butterfly camera carrot cat cherries dolphin elephant guitar house "
    "lemon mushroom octopus pear robot snail tulip umbrella"
).split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work/mini"))
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[2])
    args = parser.parse_args()
    flat = icons.pictures(icons.SETS[FLAT], args.work / "npm")
    written(icons.pictures(LINOCUT, args.work / "npm"), CONCEPTS, args.out / "linocut")
    for style in ("blueprint", "watercolour"):
        painted = {c: np.asarray(FILTERS[style](Image.fromarray(flat[c]))) for c in CONCEPTS}
        written(painted, CONCEPTS, args.out / style)
    printed = {c: np.asarray(risograph(Image.fromarray(flat[c]), c)) for c in RISOGRAPH}
    written(printed, RISOGRAPH, args.out / "risograph")


def written(found: Mapping[str, np.ndarray], concepts: Sequence[str], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for concept in concepts:
        Image.fromarray(found[concept]).save(
            out / f"{concept.replace(' ', '-')}.png", optimize=True
        )
        (out / f"{concept.replace(' ', '-')}.txt").write_text(concept.replace("-", " ") + "\n")


if __name__ == "__main__":
    main()
