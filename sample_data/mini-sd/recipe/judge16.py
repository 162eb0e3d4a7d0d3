"""What is on a picture, by its latents: a judge of the coming base, and the base's scores by it.

    python judge16.py --state FOLDER --minutes 60     learn from FOLDER/prepared, and go on
    python judge16.py --state FOLDER --score          draw fixed prompts and count what is right

It learns from true pictures alone and is measured on those that are never learnt.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import concepts
import numpy as np
import phrases
import torch
import torch.nn.functional as F
import world
from flat_files import FlatFiles
from long_training import LongTraining, Pace
from shards import FACTS, HANDS, HELD, MEDIA_NAMES, PAPERS, SHAPE, prepared_in
from torch import Tensor, nn

BATCH = 64
WIDTH = 96
BLUR = 0.3  # most noise a latent gets in training, so that drawn ones look familiar
MOST = 4  # things
EACH = 100  # prompts a figure
COLOURS = ("red", "blue", "green", "yellow", "purple", "pink", "orange", "black")
GROUNDS = ("white", "yellow", "pink", "light blue", "black", "green", "red", "dark blue")


class Judge(nn.Module):
    """Latents [N, *SHAPE] to logits of every fact that can be told."""

    def __init__(self, names: int) -> None:
        super().__init__()
        sizes = [SHAPE[0], WIDTH, 2 * WIDTH, 3 * WIDTH]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            stride = 1 if before == SHAPE[0] else 2
            layers += [nn.Conv2d(before, after, 3, stride, 1), nn.GroupNorm(8, after), nn.GELU()]
            layers += [nn.Conv2d(after, after, 3, 1, 1), nn.GroupNorm(8, after), nn.GELU()]
        self.body = nn.Sequential(*layers)
        self.kinds = dict(
            zip(FACTS, (names, MOST + 1, len(HANDS), len(MEDIA_NAMES), len(PAPERS), len(PAPERS)),
                strict=False)
        )  # fmt: skip
        self.heads = nn.Linear(2 * sizes[-1], sum(self.kinds.values()))

    def forward(self, latents: Tensor) -> dict[str, Tensor]:
        seen = self.body(latents)
        both = torch.cat([seen.mean((2, 3)), seen.amax((2, 3))], 1)
        parts = self.heads(both).split(list(self.kinds.values()), 1)
        return dict(zip(self.kinds, parts, strict=True))


def loss_of(judge: Judge, known: Sequence[np.ndarray], count: int, step: int) -> Tensor:
    """Return the cross entropies of a step's pictures, out of the first `count`; facts of -1 are
    not asked for.
    """
    rng = torch.Generator().manual_seed(step)
    latents, _, facts = known
    rows = torch.randint(count, (BATCH,), generator=rng).numpy()
    x = torch.from_numpy(latents[rows]).float()
    amount = torch.rand((BATCH, 1, 1, 1), generator=rng) * BLUR
    x = x + amount * torch.randn(x.shape, generator=rng)
    answers = torch.from_numpy(facts[rows]).long()
    said = judge(x.contiguous(memory_format=torch.channels_last))
    losses = []
    for column, logits in enumerate(said.values()):
        asked = answers[:, column] >= 0
        if asked.any():
            losses.append(F.cross_entropy(logits[asked], answers[asked, column]))
    return torch.stack(losses).sum()


@torch.no_grad()
def right(judge: Judge, latents: Tensor, answers: Tensor, fact: str, among: int = 1) -> float:
    """Return the share of latents whose answer is among the judge's first so many."""
    said = judge(latents.float())[fact]
    first = said.topk(min(among, said.shape[1]), 1).indices
    return (first == answers[:, None]).any(1).float().mean().item()


def truth(judge: Judge, kept: FlatFiles) -> str:
    """Return how often the judge is right on true pictures that are never learnt."""
    latents, _, facts = (torch.from_numpy(np.array(a)) for a in kept.open())
    said = [f"right thing among five {right(judge, latents, facts[:, 0], 'concept', 5):.1%}"]
    for column, fact in enumerate(judge.kinds):
        asked = facts[:, column] >= 0
        said.append(f"{fact} {right(judge, latents[asked], facts[asked, column], fact):.1%}")
    return "  ".join(said)


def loaded(state: Path) -> tuple[Judge, LongTraining]:
    """Return the judge as it was kept, and its training."""
    torch.manual_seed(7)
    judge = Judge(len(prepared_in(state).index()["names"]))
    judge.to(memory_format=torch.channels_last)
    training = LongTraining(judge.parameters(), state / "judge", Pace(1e-3, horizon=500))
    training.resume()
    return judge, training


def asked_for(names: Sequence[str], npm: Path) -> dict[str, list[tuple[str, str, int]]]:
    """Return for every figure its prompts, each with the fact it asks and the right answer."""
    rng = np.random.default_rng(11)
    found: dict[str, list[tuple[str, str, int]]] = {}
    for label, out in (("learnt pairs", False), ("pairs left out", True)):
        pairs = [
            (name, hand)
            for name in names
            for hand in concepts.chosen(npm)[name]
            if world.left_out(name, hand) == out
        ]
        picked = [pairs[i] for i in rng.permutation(len(pairs))[:EACH]]
        found[label] = [(f"{n}, {h} style", "concept", names.index(n)) for n, h in picked]
    some = [names[i] for i in rng.integers(len(names), size=EACH)]
    found["count"] = [
        (f"{phrases.NUMBERS[2 + i % 2]} {phrases.plural(n)}", "count", 2 + i % 2)
        if i % 3
        else (phrases.article(n), "count", 1)
        for i, n in enumerate(some)
    ]
    found["said colour"] = [
        (f"a {c} {n}, solid style", "colour", PAPERS.index(c))
        for n, c in zip(some, COLOURS * EACH, strict=False)
    ]
    found["said ground"] = [
        (f"a {n} on {c} paper", "paper", PAPERS.index(c))
        for n, c in zip(some, GROUNDS * EACH, strict=False)
    ]
    return found


@torch.no_grad()
def score(state: Path, npm: Path, *, name: str, guidance: float, steps: int) -> dict[str, float]:
    """Draw every prompt once, and one prompt in five again by another seed; count."""
    from diffusers import StableDiffusionPipeline

    judge, training = loaded(state)
    pipe = StableDiffusionPipeline.from_pretrained(
        state / name / "model", dtype=torch.float32, safety_checker=None
    )
    pipe.set_progress_bar_config(disable=True)

    def drawn(prompts: Sequence[str], seed: int) -> Tensor:
        made = []
        for at in range(0, len(prompts), 20):
            some = list(prompts[at : at + 20])
            noise = [torch.Generator().manual_seed(seed + at + i) for i in range(len(some))]
            made.append(
                pipe(
                    some,
                    num_inference_steps=steps,
                    guidance_scale=guidance,
                    generator=noise,
                    output_type="latent",
                ).images
            )
        return torch.cat(made)

    figures: dict[str, float] = {}

    def judged() -> None:
        for label, asked in asked_for(prepared_in(state).index()["names"], npm).items():
            latents = drawn([prompt for prompt, _, _ in asked], 0)
            answers = torch.tensor([answer for _, _, answer in asked])
            fact, among = asked[0][1], 5 if asked[0][1] == "concept" else 1
            figures[label] = right(judge, latents, answers, fact, among)
            if label == "learnt pairs":
                again = drawn([prompt for prompt, _, _ in asked[:20]], 5000)
                same = (again - latents[:20]).square().mean()
                other = (latents - latents.roll(1, 0)).square().mean()
                figures["two seeds over two prompts"] = (same / other).item()

    training.with_averaged(judged)
    return {label: round(value, 3) for label, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--state", type=Path, default=Path("work/mini"))
    parser.add_argument("--npm", type=Path, help="folder of the packages; STATE/npm without it")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--steps", type=int, default=1 << 60)
    parser.add_argument("--score", action="store_true", help="score the painter instead")
    parser.add_argument("--name", default="unet", help="the painter's folder in --state")
    parser.add_argument("--guidance", type=float, default=4.0)
    args = parser.parse_args()
    if args.score:
        npm = args.npm or args.state / "npm"
        figures = score(args.state, npm, name=args.name, guidance=args.guidance, steps=20)
        print(json.dumps(figures, indent=1))
        (args.state / args.name / "scores.json").write_text(json.dumps(figures, indent=1))
        return
    judge, training = loaded(args.state)
    prepared, kept_out = (prepared_in(args.state, held) for held in ("", HELD))
    known = prepared.open()
    training.notes.setdefault("pictures", len(known[0]))  # a step made again finds the same

    def kept() -> None:
        training.notes["pictures"] = len(known[0])
        training.with_averaged(
            lambda: print(f"step {training.step}  {truth(judge, kept_out)}", flush=True)
        )

    training.run(
        lambda step: loss_of(judge, known, training.notes["pictures"], step),
        seconds=args.minutes * 60,
        steps=args.steps,
        kept=kept,
    )


if __name__ == "__main__":
    main()
