"""Several styles in one pass against one after another: `python -m benchmarks.together [--styles 4]
[--batch 1 4] [--base FOLDER --px 256]`.

The sample style with several seeds on the built-in base, or on another: `python -m
benchmarks.full_size --make sd15 --folder FOLDER` makes one of full size with random weights. Each
way in turn, several rounds, one process: the ratio is what counts. Memory: what one style alone
takes at worst, and all together, each in a process of its own; the frozen base is in both once.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from training.config.loading import from_mapping
from training.config.schema import RunConfig
from training.events import Event, Stepped
from training.runtime.device import choose, memory_full, peak_memory
from training.trainer.joint import together
from training.trainer.loop import train

LINOCUT = Path(__file__).resolve().parents[1] / "sample_data" / "linocut"


def config(
    folder: Path, name: str, *, seed: int, batch: int, steps: int, base: str = "mini", px: int = 0
) -> RunConfig:
    targets = ["convolutions"] if base == "mini" else ["attention", "feed_forward", "projections"]
    return from_mapping(
        {
            "base": {"model": base},
            "data": {"folder": str(LINOCUT), "trigger": "linocut", "resolution": px},
            "adapter": {"rank": 16, "alpha": 16.0, "targets": targets},
            "optim": {"steps": steps, "batch_size": batch, "seed": seed, "text_encoder_lr": 3e-4},
            "preview": {"every": 0},
            "report": {"minutes": 0.0},
            "save": {"folder": str(folder), "name": name, "every": 0},
        }
    )


def pace(stream: list[tuple[float, Event]] | None, styles: int) -> float:
    """Seconds a style's update costs: between the end of the second and of the last one."""
    ends = [at for at, event in stream or () if isinstance(event, Stepped)]
    return (ends[-1] - ends[2 * styles - 1]) / (len(ends) - 2 * styles)


def peak(count: int, batch: int, args: argparse.Namespace) -> float:
    """GiB that a process takes at worst that trains so many styles, two updates each."""
    argv = [
        sys.executable,
        "-m",
        "benchmarks.together",
        "--child",
        "--styles",
        str(count),
        "--batch",
        str(batch),
        "--base",
        args.base,
    ]
    ended = subprocess.run(
        [*argv, "--px", str(args.px)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=LINOCUT.parents[1],
    )
    return float(ended.stdout.split()[-1])


def child(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        made = [
            config(
                Path(scratch),
                f"s{i}",
                seed=i,
                batch=args.batch[0],
                steps=2,
                base=args.base,
                px=args.px,
            )
            for i in range(args.styles)
        ]
        for _ in together(made, at_once=args.styles) if args.styles > 1 else train(made[0]):
            pass
    print(peak_memory(choose().device))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="mini", help="mini or a diffusers folder")
    parser.add_argument(
        "--px", type=int, default=0, help="side of the pictures; 0 = the base's own"
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--styles", type=int, default=4)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--updates", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.child:
        child(args)
        return
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for batch in args.batch:
            alone, many = [], []
            try:
                for turn in range(args.rounds):
                    own = {
                        "batch": batch,
                        "steps": args.updates + 2,
                        "base": args.base,
                        "px": args.px,
                    }
                    made = [
                        config(root / f"{batch}-{turn}", f"s{i}", seed=i, **own)
                        for i in range(args.styles)
                    ]
                    alone.append(
                        pace([(time.perf_counter(), event) for event in train(made[0])], 1)
                    )
                    others = [
                        c.model_copy(
                            update={
                                "save": c.save.model_copy(
                                    update={"folder": str(root / f"many-{batch}-{turn}")}
                                )
                            }
                        )
                        for c in made
                    ]
                    many.append(
                        pace(
                            [
                                (time.perf_counter(), event)
                                for _, event in together(others, at_once=args.styles)
                            ],
                            args.styles,
                        )
                    )
            except torch.OutOfMemoryError as error:
                raise memory_full(error) from None
            a, b = statistics.median(alone), statistics.median(many)
            print(
                f"batch {batch}: {a:.3f} s an update alone, {b:.3f} s a style's update with "
                f"{args.styles} together: {a / b:.2f} times, "
                f"all {b * args.styles / a:.2f} times one; {torch.get_num_threads()} threads",
                flush=True,
            )
            one, all_ = peak(1, batch, args), peak(args.styles, batch, args)
            print(
                f"batch {batch}: {one:.2f} GiB alone, {all_:.2f} GiB with {args.styles} "
                f"together: {all_ / one:.2f} times",
                flush=True,
            )


if __name__ == "__main__":
    main()
