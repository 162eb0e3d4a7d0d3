"""`python benchmarks/crashes.py --kills 300`: how often a killed training comes back as the undisturbed one, counted on a tiny base.

Half of the kills are at named points, half at random times; some runs train the text encoder, some do not. Every run is begun again until
its chain of kills is over, and is then compared bit for bit: weights, moments, average, every loss. Exit code 1 when one differs.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from tests import crashes  # noqa: E402
from tests.tiny import tiny_base  # noqa: E402

CHAIN = 20  # kills of one run
KINDS = {"trained": {"prior": {"images": 3, "prompt": "a thing"}}, "frozen": {"optim": {"text_encoder_lr": 0.0, "accumulate": 1, "ema": 0.0}}}


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill trainings and count how many come back as they should.")
    parser.add_argument("--kills", type=int, default=300, help="how many processes to kill (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="decides points and times (default %(default)s)")
    given = parser.parse_args()
    dice, began, where, wrong, chains = random.Random(given.seed), time.time(), Counter(), [], 0
    with tempfile.TemporaryDirectory() as scratch, crashes.Trainer() as trainer:
        folder = Path(scratch)
        base = tiny_base(folder / "base")
        crashes.pictures(folder)
        for kind, sections in KINDS.items():
            trainer.run(crashes.run_toml(folder, base, f"straight-{kind}", **sections))
        while sum(where.values()) < given.kills:
            kind = dice.choice(list(KINDS))
            toml = crashes.run_toml(folder, base, f"chain-{chains}", **KINDS[kind])
            chains += 1
            for _ in range(CHAIN):
                point, at = crashes.random_point(dice)
                late = {"after": dice.uniform(0.05, 2.0)} if dice.random() < 0.5 else {"point": point, "at": at}
                if trainer.run(toml, **late)[0] == 9:
                    where[late.get("point", "a random time")] += 1
                elif (folder / "runs" / toml.stem / f"{toml.stem}.safetensors").exists():
                    break
            ended = trainer.run(toml)
            told = crashes.difference(folder / "runs" / toml.stem, folder / "runs" / f"straight-{kind}") if ended == (0, 0) else f"ended with {ended}"
            wrong += [f"{toml.stem}: {told}"] if told else []
    for point, count in sorted(where.items()):
        print(f"{count:5d}  {point}")
    print(f"{sum(where.values())} kills in {chains} runs, {len(wrong)} of them not as the undisturbed run, {time.time() - began:.0f} s")
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
