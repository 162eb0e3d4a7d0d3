"""What makes a style good on the built-in base: `python -m benchmarks.style_recipes STYLE ...
--work FOLDER`.

Every recipe below is trained on 24 pictures of a style that the base never saw, and draws other
things; true pictures judge (see sample_data/mini-sd/recipe/truth.py). Prints a markdown table; what
was measured already is read from the work folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

RECIPE = Path(__file__).resolve().parents[1] / "sample_data" / "mini-sd" / "recipe"
TRIES: dict[
    str, tuple[str, ...]
] = {  # settings of the run, and `pictures`: how many of the 24 are learnt
    "as the sample style": (),
    "as it was: mirrored too, 450 updates of 8, 3e-3": (
        "data.flip=on",
        "optim.unet_lr=3e-3",
        "optim.batch_size=8",
        "optim.steps=450",
    ),
    "450 updates of 8, 3e-3": ("optim.unet_lr=3e-3", "optim.batch_size=8", "optim.steps=450"),
    "450 updates of 8, 2e-3": ("optim.unet_lr=2e-3", "optim.batch_size=8", "optim.steps=450"),
    "450 updates of 8": ("optim.batch_size=8", "optim.steps=450"),
    "600 updates": ("optim.steps=600",),
    "600 updates, 2e-3": ("optim.unet_lr=2e-3", "optim.steps=600"),
    "mirrored pictures too": ("data.flip=on",),
    "half as long": ("optim.steps=450",),
    "twice as long": ("optim.steps=1800",),
    "UNet learning rate halved": ("optim.unet_lr=7.5e-4",),
    "UNet learning rate doubled": ("optim.unet_lr=3e-3",),
    "rank 4": ("adapter.rank=4", "adapter.alpha=4"),
    "rank 8": ("adapter.rank=8", "adapter.alpha=8"),
    "rank 32": ("adapter.rank=32", "adapter.alpha=32"),
    "alpha twice the rank": ("adapter.alpha=32",),
    "text encoder left alone": ("optim.text_encoder_lr=0",),
    "text encoder three times as fast": ("optim.text_encoder_lr=1e-3",),
    "attention, feed-forward, projections": ("adapter.targets=attention,feed_forward,projections",),
    "everything": ("adapter.targets=attention,feed_forward,projections,convolutions",),
    "no empty captions": ("data.caption_dropout=0",),
    "30 % empty captions": ("data.caption_dropout=0.3",),
    "no min-SNR weights": ("optim.min_snr=0",),
    "more noise (bias 1)": ("optim.timestep_bias=1",),
    "less noise (bias -1)": ("optim.timestep_bias=-1",),
    "2 pictures an update, twice as long": ("optim.batch_size=2", "optim.steps=1800"),
    "16 pictures an update, a quarter as long": ("optim.batch_size=16", "optim.steps=225"),
    "12 pictures": ("pictures=12",),
    "12 pictures, half as long": ("pictures=12", "optim.steps=450"),
    "6 pictures": ("pictures=6",),
    "6 pictures, a quarter as long": ("pictures=6", "optim.steps=225"),
    "an average (EMA 0.98)": ("optim.ema=0.98",),
    "staying with the base (0.5)": ("prior.frozen_weight=0.5",),
}


def main() -> None:
    sys.path.insert(0, str(RECIPE))
    import truth
    from lessons import for_painter

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("styles", nargs="+")
    parser.add_argument("--work", type=Path, default=Path("work/mini"))
    parser.add_argument("--drawn", type=int, default=40, help="things that are drawn")
    parser.add_argument(
        "--recipes",
        nargs="*",
        default=list(TRIES),
        choices=list(TRIES),
        metavar="RECIPE",
        help="some of them only, by name",
    )
    asked = parser.parse_args()
    things = sorted(set(for_painter(asked.work / "npm").concepts))
    print("| recipe | " + " | ".join(f"{style}: style | things" for style in asked.styles) + " |")
    print("|---|" + "---|---|" * len(asked.styles), flush=True)
    for recipe in asked.recipes:
        at, chosen = list(TRIES).index(recipe), TRIES[recipe]
        cells = []
        for style in asked.styles:
            name = f"recipe-{style}-{at:02d}"
            done = asked.work / "truth" / name / "truth.json"
            if not done.exists():
                flags = [
                    "--work",
                    str(asked.work),
                    "--drawn",
                    str(asked.drawn),
                    "--strengths",
                    "1",
                    "--name",
                    name,
                ]
                flags += [
                    word
                    for one in chosen
                    if one.startswith("pictures=")
                    for word in ("--learnt", one.partition("=")[2])
                ]
                settings = [one for one in chosen if not one.startswith("pictures=")]
                truth.tried(
                    style,
                    truth.arguments([style, *flags, "--set", "save.every=0", *settings]),
                    things,
                )
            last = json.loads(done.read_text())["tries"][-1]
            cells += [f"{last['style']:.0%}", f"{last['content']:.0%}"]
        print(f"| {recipe} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
