"""What is on a picture: the judge of the coming base, which it brings with it, and the base's
scores by it.

    python judge16.py --state FOLDER --minutes 60     learn from FOLDER/drawn, and go on
    python judge16.py --state FOLDER --ruined         how it falls with ruined pictures
    python judge16.py --state FOLDER --score          draw fixed prompts and count what is right
    python judge16.py --state FOLDER --publish BASE   write it into a base's folder

It learns from true pictures, in their own colours and in others, and from ruined ones, as nothing
that a person would name; it is measured on pictures that are never learnt.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import concepts
import judge as judging
import numpy as np
import phrases
import ruins
import torch
import torch.nn.functional as F
import world
from flat_files import FlatFiles
from long_training import LongTraining, Pace
from numpy.typing import NDArray
from pace import mixed
from shards import FACTS, HANDS, HELD, KINDS, MEDIA_NAMES, PAPERS, drawn_in
from torch import Tensor, nn

from training.evaluation import things

# Pictures of a step: as they are, in other colours, and of every ruin
PLAIN, RECOLOURED, OF_A_RUIN = 24, 16, 6
BATCH = PLAIN + RECOLOURED + OF_A_RUIN * len(ruins.RUINS)
MOST = 4  # things
EACH = 100  # prompts a figure
COLOURS = ("red", "blue", "green", "yellow", "purple", "pink", "orange", "black")
GROUNDS = ("white", "yellow", "pink", "light blue", "black", "green", "red", "dark blue")
OTHER_FACTS = dict(
    zip(FACTS[1:], (MOST + 1, len(HANDS), len(MEDIA_NAMES), len(PAPERS), len(PAPERS)), strict=False)
)


class Judge(nn.Module):
    """The judge that is shipped, and heads for what else is known of the pictures."""

    def __init__(self, names: Sequence[str], widths: Sequence[int]) -> None:
        super().__init__()
        synonyms = {o: name for name in names for o in concepts.said(name)[1:] if o not in names}
        self.things = things.ThingJudge(names, synonyms, widths)
        self.others = nn.Linear(self.things.head.in_features, sum(OTHER_FACTS.values()))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[N, 3, SIDE, SIDE] -> logits by the name of the fact."""
        features = self.things.features(x)
        others = self.others(features).split(list(OTHER_FACTS.values()), 1)
        return {
            "concept": self.things.head(features),
            **dict(zip(OTHER_FACTS, others, strict=True)),
        }


def seen(pictures: NDArray) -> Tensor:
    """uint8 [N, H, W, 3] -> float [N, 3, SIDE, SIDE] in [-1, 1]."""
    x = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.interpolate(x, size=(things.SIDE, things.SIDE), mode="area")


def loss_of(judge: Judge, known: Sequence[NDArray], count: int, step: int) -> Tensor:
    """Return the cross entropies of a step's pictures, out of the first `count`; facts of -1 are
    not asked for, and the concept only where there is one thing.
    """
    rng = torch.Generator().manual_seed(step)
    pictures, _, facts = known
    rows = torch.randint(count, (BATCH,), generator=rng).numpy()
    x, answers = seen(pictures[rows]), torch.from_numpy(facts[rows]).long()
    parts = x.split([PLAIN, RECOLOURED, *[OF_A_RUIN] * len(ruins.RUINS)])
    missing = torch.zeros(BATCH)
    changed = [parts[0], judging.changed(parts[1], rng, colours=True)]
    for place, (kind, ruin) in enumerate(ruins.RUINS.items()):
        strength = torch.rand((), generator=rng).item() * ruins.STEPS[kind][-1]
        if kind == "cut to pieces":
            strength = float(round(strength))  # of no use to one who thinks it a share
        changed.append(ruin(parts[2 + place], strength, rng))
        first = PLAIN + RECOLOURED + place * OF_A_RUIN
        missing[first : first + OF_A_RUIN] = ruins.lost(kind, strength)
    whole = torch.cat(changed).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed("cpu")):
        said = {fact: logits.float() for fact, logits in judge(whole).items()}
    alone = answers[:, 1] == 1
    wanted = F.one_hot(answers[:, 0], said["concept"].shape[1]) * (1 - missing[:, None])
    wanted[:, -1] += missing
    losses = [F.cross_entropy(said["concept"][alone], wanted[alone])]
    for column, logits in enumerate(list(said.values())[1:], 1):
        asked = answers[:PLAIN, column] >= 0
        if asked.any():
            losses.append(F.cross_entropy(logits[:PLAIN][asked], answers[:PLAIN, column][asked]))
    return losses[0] + 0.2 * torch.stack(losses[1:]).sum()


@torch.no_grad()
def right(judge: Judge, x: Tensor, answers: Tensor, fact: str, among: int = 1) -> float:
    """Return the share of pictures whose answer is among the judge's first so many."""
    said = judge(x)[fact]
    first = said.topk(min(among, said.shape[1]), 1).indices
    return (first == answers[:, None]).any(1).float().mean().item()


def truth(judge: Judge, kept: FlatFiles) -> str:
    """Return how often the judge is right on true pictures that are never learnt."""
    pictures, _, facts = (np.array(a) for a in kept.open())
    x, answers = seen(pictures), torch.from_numpy(facts).long()
    said = []
    for number, kind in enumerate(KINDS):
        some = (answers[:, -1] == number) & (answers[:, 1] == 1)
        if some.any():
            first, five = (right(judge, x[some], answers[some, 0], "concept", n) for n in (1, 5))
            said.append(f"{kind} {first:.1%} ({five:.1%} among five)")
    for column, fact in enumerate(OTHER_FACTS, 1):
        asked = answers[:, column] >= 0
        said.append(f"{fact} {right(judge, x[asked], answers[asked, column], fact):.1%}")
    return "  ".join(said)


def falls(judge: Judge, kept: FlatFiles) -> dict[str, list[float]]:
    """Return, for every ruin, how surely pictures show what they do: whole ones, then more and
    more ruined ones; and for pictures whose names are exchanged.
    """
    pictures, _, facts = (np.array(a) for a in kept.open())
    alone = facts[:, 1] == 1
    x, names = seen(pictures[alone]), [judge.things.names[n] for n in facts[alone, 0]]

    def mean(changed: Tensor, texts: Sequence[str] = names) -> float:
        return judge.things.sure(changed, texts).mean().item()

    found = {"another thing": [mean(x), mean(x, [*names[7:], *names[:7]])]}
    for kind, steps in ruins.STEPS.items():
        rng = torch.Generator().manual_seed(0)
        found[kind] = [mean(x), *(mean(ruins.RUINS[kind](x, step, rng)) for step in steps)]
    return found


def loaded(state: Path, widths: Sequence[int] = things.WIDTHS) -> tuple[Judge, LongTraining]:
    """Return the judge as it was kept, and its training."""
    torch.manual_seed(7)
    judge = Judge(drawn_in(state).index()["names"], widths)
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
    pipe = StableDiffusionPipeline.from_pretrained(state / name / "model", safety_checker=None)
    pipe.set_progress_bar_config(disable=True)

    def drawn(prompts: Sequence[str], seed: int) -> Tensor:
        made = []
        for at in range(0, len(prompts), 20):
            some = list(prompts[at : at + 20])
            noise = [torch.Generator().manual_seed(seed + at + i) for i in range(len(some))]
            made += pipe(
                some, num_inference_steps=steps, guidance_scale=guidance, generator=noise
            ).images
        return seen(np.stack([np.asarray(picture) for picture in made]))

    figures: dict[str, float] = {}

    def judged() -> None:
        for label, asked in asked_for(drawn_in(state).index()["names"], npm).items():
            x = drawn([prompt for prompt, _, _ in asked], 0)
            answers = torch.tensor([answer for _, _, answer in asked])
            fact, among = asked[0][1], 5 if asked[0][1] == "concept" else 1
            figures[label] = right(judge, x, answers, fact, among)
            if label == "learnt pairs":
                again = drawn([prompt for prompt, _, _ in asked[:20]], 5000)
                same = (again - x[:20]).square().mean()
                other = (x - x.roll(1, 0)).square().mean()
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
    parser.add_argument("--ruined", action="store_true", help="ruin pictures instead")
    parser.add_argument(
        "--publish", type=Path, metavar="BASE", help="write the judge there instead"
    )
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
    drawn, kept_out = (drawn_in(args.state, held) for held in ("", HELD))
    if args.ruined:
        training.with_averaged(lambda: print(json.dumps(falls(judge, kept_out), indent=1)))
        return
    if args.publish:
        training.with_averaged(lambda: judge.things.save(args.publish / things.FILE))
        return
    known = drawn.open()
    training.notes.setdefault("pictures", len(known[0]))  # a step made again finds the same

    def kept() -> None:
        nonlocal known
        known = drawn.open()
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
