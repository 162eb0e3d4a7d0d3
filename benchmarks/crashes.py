"""`python benchmarks/crashes.py --kills 320`: how often a killed training comes back as the
undisturbed one, counted on a tiny base.

A chain is one run that is killed twenty times, at named points or when a random time is over, is
begun again each time, is then killed at the points of its export, and ends. It is compared bit for
bit with the undisturbed run: weights, moments, average, every loss, the pictures seen. The chains
go round ten variations: text encoder trained or frozen, class pictures or none, accumulation and
average or neither, two of them with a learnt word as well.

With `--optimizers` the chains go round every optimiser that is installed and every adapter method,
in runs of fewer updates with a checkpoint after each.

With `--sweeps` a chain is a sweep of two or three styles that are trained together, of different
ranks, text encoder trained or frozen; in every other chain the size of pass that was timed to be
quickest is exchanged for another. It is compared with the undisturbed sweep of the same sizes.

Each chain is told as it ends, and kept as a line of JSON with `--out FILE`; begun again with the
same file, only what is missing is done. Exit code 1 when a chain differs.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import random
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from tests import crashes  # noqa: E402
from tests.tiny import tiny_base  # noqa: E402
from training.trainer import optimizers  # noqa: E402

CHAIN = 20  # kills of one run before those at its end
UPDATES = 160  # of one run
FEWER = 24  # of one run where every update has a checkpoint
ADAPTERS = ("lora", "lokr", "loha")
LONGEST = 0.8  # seconds of one attempt at a sweep
SHARE = 0.25  # of the undisturbed run: one attempt at a run, so that busy machines get as far
STYLES = (  # of a sweep
    {"optim": {"accumulate": 1, "steps": 100}},
    {"adapter": {"rank": 4}, "optim": {"text_encoder_lr": 0.0, "ema": 0.0, "steps": 60}},
    {
        "adapter": {"rank": 3, "tokens": 2},
        "optim": {"batch_size": 1, "accumulate": 1, "steps": 80},
        "save": {"every": 3},
    },
)
AT_THE_END = (
    "before the style is written",
    "before the style gets its name",
    "after the style got its name",
    "writing a learnt word",
)
Chain = dict[str, Any]  # number, kind, kills by where, and what differs ("" when nothing does)


def variations() -> dict[str, dict[str, Any]]:
    """Settings by a name that says what is on."""
    found = {}
    for text, prior, accumulate in itertools.product((True, False), repeat=3):
        name = "-".join(
            (
                "text" if text else "frozen",
                "prior" if prior else "alone",
                "accumulated" if accumulate else "single",
            )
        )
        optim = {
            "text_encoder_lr": 1e-3 if text else 0.0,
            "accumulate": 2 if accumulate else 1,
            "ema": 0.9 if accumulate else 0.0,
        }
        found[name] = {"optim": {**optim, "steps": UPDATES}, "preview": {"every": 10}}
        found[name] |= {"prior": {"images": 3, "prompt": "a thing"}} if prior else {}
    return found | {
        f"{name}-words": {**found[name], "adapter": {"tokens": 2}}
        for name in ("text-prior-accumulated", "frozen-alone-single")
    }


def of_optimizers() -> dict[str, dict[str, Any]]:
    """Settings by the names of an installed optimiser and of the method it trains."""
    rates = {"prodigy": 1.0, "lion": 1e-4}
    pairs = [("adamw", method) for method in ADAPTERS]
    there = (
        name
        for name, one in optimizers.METHODS.items()
        if not one.module or importlib.util.find_spec(one.module) is not None
    )
    pairs += zip(there, itertools.cycle(reversed(ADAPTERS)))
    found = {}
    for optimizer, method in pairs:
        lr = rates.get(optimizer, 1e-3)
        optim = {"method": optimizer, "unet_lr": lr, "text_encoder_lr": lr, "steps": FEWER}
        if optimizer == "schedule-free":  # which averages, and has no schedule
            optim |= {"schedule": "constant", "ema": 0.0}
        found[f"{optimizer}-{method}"] = {
            "optim": optim,
            "adapter": {"method": method},
            "preview": {"every": 10},
            "save": {"every": 1},
        }
    return found


def chain(
    trainer: crashes.Trainer, toml: Path, straight: Path, rng: random.Random, longest: float
) -> tuple[Counter[str], str]:
    """Kill a run again and again, let it end; return the kills by where they were, and what differs
    from the undisturbed one. longest: seconds of one attempt.
    """
    where: Counter[str] = Counter()
    style = straight.parent / toml.stem / f"{toml.stem}.safetensors"
    while sum(where.values()) < CHAIN and not style.exists():
        point, at = crashes.random_point(rng) if rng.random() < 0.5 else ("", 1)
        if trainer.run(toml, point, at, after=rng.uniform(0.02, longest))[0] == 9:
            where[_when(style.parent) if trainer.late else point] += 1
    for point in AT_THE_END:
        if trainer.run(toml, point)[0] == 9:
            where[point] += 1
    ended = trainer.run(toml)
    return where, crashes.difference(style.parent, straight) if ended == (
        0,
        0,
    ) else f"ended with {ended}"


def _when(run: Path) -> str:
    """What a kill at a random time is called: one before any checkpoint shows little."""
    begun = any((run / "checkpoints").glob("*"))
    return "a random time" if begun else "before the first checkpoint"


def sweep_chain(
    trainer: crashes.Trainer, folder: Path, base: Path, number: int, count: int, rng: random.Random
) -> tuple[Counter[str], str]:
    """The same of a sweep of so many styles."""
    where: Counter[str] = Counter()

    def written(name):
        return crashes.sweep_toml(folder, base, name, STYLES[-count:], preview={"every": 10})

    toml, sweep = written(f"sweep-{number}"), folder / "runs" / f"sweep-{number}"
    if number % 2 and trainer.run(toml, "after a company is written", 2)[0] == 9:
        where["after a company is written"] += 1
        crashes.paced(sweep, rng.sample(range(1, count + 1), count))
    while True:
        point, at = crashes.random_point(rng, sweep=True) if rng.random() < 0.5 else ("", 1)
        killed, code = trainer.run(
            toml,
            point,
            at,
            after=rng.uniform(0.02, 2 * LONGEST) if sum(where.values()) < CHAIN else 0,
        )
        if killed != 9:
            break
        where["a random time" if trainer.late else point] += 1
    if (killed, code) != (0, 0):
        return where, f"ended with {killed, code}"
    straight = folder / "runs" / f"straight-{count}-{crashes.order(sweep)}"
    if not straight.exists():
        crashes.same_schedule(straight, sweep)
        if trainer.run(written(straight.name)) != (0, 0):
            raise SystemExit(f"{straight.name} did not end; see {folder}")
    return where, crashes.differences(sweep, straight)


def earlier(out: Path | None) -> list[Chain]:
    lines = out.read_text().splitlines() if out is not None and out.exists() else []
    return [json.loads(line) for line in lines]


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Kill trainings and count how many come back as they should."
    )
    parser.add_argument(
        "--kills",
        type=int,
        default=320,
        help="how many processes to kill at least (default %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="decides points and times (default %(default)s)"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--sweeps", action="store_true", help="kill sweeps, not single runs")
    what.add_argument(
        "--optimizers", action="store_true", help="go round the optimisers and adapter methods"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="file of finished chains, one JSON a line; those in it are not done again",
    )
    given = parser.parse_args()
    began, done = time.time(), earlier(given.out)
    kinds = of_optimizers() if given.optimizers else variations()
    took: dict[str, float] = {}  # seconds of the undisturbed run

    def kills():
        return sum(sum(one["kills"].values()) for one in done)

    with tempfile.TemporaryDirectory() as scratch, crashes.Trainer() as trainer:
        folder = Path(scratch)
        base = tiny_base(folder / "base")
        crashes.pictures(folder)
        while kills() < given.kills:
            number = len(done)
            rng = random.Random(f"{given.seed}-{number}")
            if given.sweeps:
                count = 2 + number // 2 % 2
                where, differs = sweep_chain(trainer, folder, base, number, count, rng)
                keep(
                    done,
                    given.out,
                    {
                        "chain": number,
                        "kind": f"{count} styles together",
                        "kills": dict(where),
                        "difference": differs,
                    },
                )
                continue
            kind = list(kinds)[number % len(kinds)]
            straight = folder / "runs" / f"straight-{kind}"
            if kind not in took:
                start = time.monotonic()
                if trainer.run(crashes.run_toml(folder, base, straight.name, **kinds[kind])) != (
                    0,
                    0,
                ):
                    raise SystemExit(f"{straight.name} did not end; see {folder}")
                took[kind] = time.monotonic() - start
            toml = crashes.run_toml(folder, base, f"chain-{number}", **kinds[kind])
            where, differs = chain(trainer, toml, straight, rng, SHARE * took[kind])
            keep(
                done,
                given.out,
                {"chain": number, "kind": kind, "kills": dict(where), "difference": differs},
            )
    return summary(done, time.time() - began)


def keep(done: list[Chain], out: Path | None, one: Chain) -> None:
    """Tell a chain that has ended, and keep it where the user wants."""
    done.append(one)
    print(
        f"chain {one['chain']} ({one['kind']}): {sum(one['kills'].values())} kills, "
        f"{one['difference'] or 'equal'}",
        flush=True,
    )
    if out is not None:
        with out.open("a") as file:
            file.write(json.dumps(one) + "\n")


def summary(done: list[Chain], seconds: float) -> int:
    where = sum((Counter(one["kills"]) for one in done), Counter())
    for point, count in sorted(where.items()):
        print(f"{count:5d}  {point}")
    wrong = [one for one in done if one["difference"]]
    shortest = min(sum(one["kills"].values()) for one in done)
    print(
        f"{sum(where.values())} kills in {len(done)} chains, {shortest} or more in each; "
        f"{len(wrong)} chains unlike the undisturbed run"
    )
    print(
        f"{seconds:.0f} s; torch {version('torch')}, diffusers {version('diffusers')}, peft "
        f"{version('peft')}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
