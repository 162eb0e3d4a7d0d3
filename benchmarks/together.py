"""Several styles in one pass against one after another: `python benchmarks/together.py [--styles 4] [--batch 1 4]`.

The built-in base and its sample style with several seeds; each way in turn, several rounds, one process: the ratio is what counts.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from training.config import RunConfig, from_mapping
from training.device import memory_full, peak_memory
from training.events import Event, Stepped
from training.loop import train
from training.together import together

LINOCUT = Path(__file__).resolve().parents[1] / "sample_data" / "linocut"


def config(folder: Path, name: str, *, seed: int, batch: int, steps: int) -> RunConfig:
    return from_mapping(
        {
            "base": {"model": "mini"},
            "data": {"folder": str(LINOCUT), "trigger": "linocut"},
            "adapter": {"rank": 16, "alpha": 16.0, "targets": ["convolutions"]},
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--styles", type=int, default=4)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--updates", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for batch in args.batch:
            alone, many = [], []
            try:
                for turn in range(args.rounds):
                    made = [config(root / f"{batch}-{turn}", f"s{i}", seed=i, batch=batch, steps=args.updates + 2) for i in range(args.styles)]
                    alone.append(pace([(time.perf_counter(), event) for event in train(made[0])], 1))
                    others = [c.model_copy(update={"save": c.save.model_copy(update={"folder": str(root / f"many-{batch}-{turn}")})}) for c in made]
                    many.append(pace([(time.perf_counter(), event) for _, event in together(others)], args.styles))
            except torch.OutOfMemoryError as error:
                raise memory_full(error) from None
            a, b = statistics.median(alone), statistics.median(many)
            print(
                f"batch {batch}: {a:.3f} s an update alone, {b:.3f} s a style's update with {args.styles} together: {a / b:.2f} times, "
                f"all {b * args.styles / a:.2f} times one; {torch.get_num_threads()} threads, peak {peak_memory(torch.device('cpu')):.1f} GiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
