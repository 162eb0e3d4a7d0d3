"""Scores of a mini base: `python sample_data/mini-sd/recipe/score.py --work FOLDER [--base
FOLDER]`. Prints and writes scores.json there.

Text fidelity: is the right one of 100 concepts among the five true pictures of that style that are
nearest? Composition: the same for (concept, style) pairs that were left out of the training.
Diversity: how far two seeds' pictures of one prompt lie apart, as a share of the distance between
true pictures of different concepts. Guidance: fidelity at 2, 4 and 7. The autoencoder: PSNR on
held-out icons.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

import autoencoder
import icons
import judge as judging
import numpy as np
import torch
from diffusers import AutoencoderKL
from lessons import for_autoencoder, for_painter, joined
from PIL import Image
from truth import FILTERS

AMONG = 100  # concepts


def drawn(
    generator, pairs: Sequence[tuple[str, str]], *, guidance: float = 4.0, seed: int = 0
) -> list[Image.Image]:
    from training.prompt import Prompt

    prompts = [
        Prompt(f"{c}, {s} style", steps=20, guidance=guidance, seed=seed + i)
        for i, (c, s) in enumerate(pairs)
    ]
    return [
        picture
        for at in range(0, len(prompts), 25)
        for picture in generator.draw(prompts[at : at + 25])
    ]


def fidelity(
    judge: judging.Judge,
    true: dict[str, dict[str, np.ndarray]],
    pairs: Sequence[tuple[str, str]],
    pictures: Sequence[Image.Image],
) -> dict:
    """Shares whose concept is the nearest, and among the five nearest, of AMONG true pictures of
    the style that was asked for.
    """
    first = five = 0
    for (concept, style), picture in zip(pairs, pictures, strict=True):
        others = sorted(set(true[style]) - {concept})
        random.Random(concept).shuffle(others)
        pool = {c: true[style][c] for c in [concept, *others[: AMONG - 1]]}
        near = judging.nearest(judge, [picture], pool)[0]
        first, five = first + (near[0] == concept), five + (concept in near[:5])
    hands = judging.style_of(judge, pictures, sorted(true))
    right = sum(hand == style for hand, (_, style) in zip(hands, pairs, strict=True))
    return {
        "pairs": len(pairs),
        "first": first / len(pairs),
        "first_five": five / len(pairs),
        "style": right / len(pairs),
    }


@torch.no_grad()
def diversity(
    judge: judging.Judge, generator, true: dict[str, np.ndarray], pairs: Sequence[tuple[str, str]]
) -> float:
    """Mean squared pixel distance between two seeds' pictures of one prompt, over that between true
    pictures of different concepts.
    """
    one, two = (judging.seen(drawn(generator, pairs, seed=seed)) for seed in (0, 10_000))
    different = judging.seen(random.Random(0).sample(list(true.values()), 60))
    return ((one - two).square().mean() / (different[:30] - different[30:]).square().mean()).item()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("work/mini"))
    parser.add_argument("--base", default="mini")
    parser.add_argument("--pairs", type=int, default=100, help="trained pairs that are drawn")
    args = parser.parse_args()
    from studio.library.generator import Generator
    from training.models.base_files import find

    sets = [*icons.SETS.values(), *judging.OTHERS.values()]
    judge, _ = judging.ready(sets, args.work / "npm", painted=FILTERS)
    lessons = for_painter(args.work / "npm")
    true: dict[str, dict[str, np.ndarray]] = {}
    for concept, style, picture in zip(
        lessons.concepts, lessons.styles, lessons.pictures, strict=True
    ):
        true.setdefault(style, {})[concept] = picture.permute(1, 2, 0).numpy()
    every = {
        s.style: {joined(k): p for k, p in icons.pictures(s, args.work / "npm").items()}
        for s in icons.SETS.values()
    }
    for concept, style in lessons.left_out:
        true[style][concept] = every[style][concept.replace(" ", "")]
    generator = Generator()
    generator.load(args.base)
    trained = random.Random(0).sample(
        sorted(zip(lessons.concepts, lessons.styles, strict=True)), args.pairs
    )
    left_out = sorted(lessons.left_out)
    scores: dict = {
        "true pictures": fidelity(
            judge, true, trained, [Image.fromarray(true[s][c]) for c, s in trained]
        )
    }
    pictures = drawn(generator, trained)
    scores["trained pairs"] = fidelity(judge, true, trained, pictures)
    scores["trained pairs, by style"] = {
        style: fidelity(
            judge,
            true,
            [p for p in trained if p[1] == style],
            [x for x, p in zip(pictures, trained, strict=True) if p[1] == style],
        )
        for style in sorted(true)
    }
    scores["left-out pairs"] = fidelity(judge, true, left_out, drawn(generator, left_out))
    for guidance in (2.0, 7.0):
        some = trained[: args.pairs // 2]
        scores[f"trained pairs, guidance {guidance:g}"] = fidelity(
            judge, true, some, drawn(generator, some, guidance=guidance)
        )
    scores["diversity over seeds"] = diversity(judge, generator, true["noto"], trained[:30])
    vae = AutoencoderKL.from_pretrained(find(args.base).folder / "vae", dtype=torch.float32)
    scores["PSNR of the autoencoder, dB"] = autoencoder.psnr(
        vae, for_autoencoder(args.work / "npm")[1]
    )
    print(json.dumps(scores, indent=1))
    (args.work / "scores.json").write_text(json.dumps(scores, indent=1))


if __name__ == "__main__":
    main()
