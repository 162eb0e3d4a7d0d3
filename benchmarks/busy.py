"""Seconds per update on a CPU that other processes use too: ours against the plain way.

    python -m benchmarks.busy [--updates 60] [--beside 0 2 6] [--json FILE]

The same updates alone, beside busy processes of the same priority and of the lowest (nice 19).

ours     the update of training/trainer, whose number of threads follows the free cores
default  the same, libgomp's threads spinning as long as they do by themselves
one      the same with one thread
plain    the loop of diffusers + peft

Loops and networks are those of benchmarks.train_step. Every variant is a process that is made once;
all take turns within each surrounding, so that a machine shared with other work is so for all. A
variant that is slow gives up a surrounding after --seconds; its median is of what it had by then.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import training  # noqa: F401  sets how OpenMP waits, before anything loads torch

# isort: split
import torch

from benchmarks.train_step import case, ours, plain
from training.runtime.cpu_threads import FreeCores, Threads, most

VARIANTS: dict[str, dict[str, str]] = {
    "ours": {},
    "default": {"GOMP_SPINCOUNT": "300000", "STUDIO_THREADS": "fixed"},
    "one": {"OMP_NUM_THREADS": "1"},
    "plain": {"GOMP_SPINCOUNT": "300000"},
}
CASE = "tiny@128"
TURN = 10  # updates of a variant before the next one's turn
SETTLE = 4.0  # seconds


def child(variant: str) -> None:
    """Make as many updates as a line of stdin says, and print their seconds.

    Before a turn is timed the variant runs for SETTLE seconds: what follows the free cores must see
    those that are busy now, not the variants whose turn it was before.
    """
    update = (plain if variant == "plain" else ours)(case(CASE), 1, "cpu", "auto")
    free = FreeCores()
    threads = Threads(free, most())
    step = 0

    def made() -> float:
        nonlocal step
        began = time.perf_counter()
        if variant == "ours":
            threads.count = threads.wanted()
            torch.set_num_threads(threads.count)
        update(step)
        step += 1
        return time.perf_counter() - began

    made()
    print("ready", flush=True)
    for line in sys.stdin:
        free.look()  # a new window
        end = time.monotonic() + SETTLE
        while time.monotonic() < end:
            made()
        print(json.dumps([made() for _ in range(int(line))]), flush=True)


class Child:
    """A variant in a process of its own, which sleeps while others have their turn."""

    def __init__(self, variant: str) -> None:
        argv = [sys.executable, "-m", "benchmarks.busy", "--child", variant]
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **VARIANTS[variant]},
            cwd=Path(__file__).resolve().parents[1],
        )

    def ready(self) -> None:
        self._answer()

    def _answer(self) -> str:
        assert self.process.stdout
        if not (line := self.process.stdout.readline()):
            raise SystemExit("A variant's process has ended early.")
        return line

    def seconds(self, updates: int) -> list[float]:
        assert self.process.stdin
        self.process.stdin.write(f"{updates}\n")
        self.process.stdin.flush()
        return json.loads(self._answer())

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def busy(count: int, nice: int) -> Iterator[None]:
    """So many processes that never rest, while inside."""
    code = f"import os\nos.nice({nice})\nwhile True: pass"
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def measured(children: dict[str, Child], updates: int, limit: float) -> dict[str, list[float]]:
    """Seconds of every update, the variants in turn."""
    took: dict[str, list[float]] = {variant: [] for variant in children}
    for _ in range(-(-updates // TURN)):
        for variant, one in children.items():
            if sum(took[variant]) < limit:
                took[variant] += one.seconds(TURN)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--updates", type=int, default=60, help="of each variant and surrounding")
    parser.add_argument("--beside", type=int, nargs="+", default=[0, 2, 6], help="busy processes")
    parser.add_argument("--seconds", type=float, default=8.0, help="see above")
    parser.add_argument("--json", type=Path, help="also write every figure there")
    parser.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child)
        return
    children = {variant: Child(variant) for variant in VARIANTS}
    for one in children.values():
        one.ready()
    found: dict[str, dict[str, list[float]]] = {}
    print(f"| beside | {' | '.join(VARIANTS)} |\n{'|---' * (len(VARIANTS) + 1)}|", flush=True)
    try:
        for count, nice in [(c, n) for c in given.beside for n in ((0, 19) if c else (0,))]:
            name = f"{count} busy{', nice 19' if nice else ''}" if count else "alone"
            with busy(count, nice):
                found[name] = measured(children, given.updates, given.seconds)
            medians = (f"{statistics.median(took):.3f}" for took in found[name].values())
            print(f"| {name} | {' | '.join(medians)} |", flush=True)
    finally:
        for one in children.values():
            one.end()
    if given.json:
        given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
