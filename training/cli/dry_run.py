"""`--dry-run`: everything is checked, two updates are measured in a way that fits the memory, the
plan is printed, nothing is kept.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.markup import escape
from rich.table import Table

from training.cli.terminal import clock, escaping_console
from training.config.schema import RunConfig
from training.events import Warned
from training.runtime.device import memory_full, peak_memory
from training.storage.paths import checked_writable
from training.trainer.joint import checked
from training.trainer.pace import AT_ONCE
from training.trainer.plan import check_same_run, planned
from training.trainer.trainer import Trainer

PROBES = 2  # updates measured; the first one also pays for setting things up


def print_plan(config: RunConfig, began: float) -> None:
    """Print pictures, buckets, updates, share of weights, memory and time expected.

    Raises StudioError as the run itself would.
    """
    rows, notes = measured(config, began)
    table = Table(show_header=False, title=f"plan of {config.save.name}")
    table.add_column()
    table.add_column(overflow="fold")  # long paths are shown whole
    for name, text in rows.items():
        table.add_row(name, escape(text))
    console = escaping_console()
    console.print(table)
    for note in notes:
        console.print(f"- {note}", markup=False, soft_wrap=True)


def print_sweep(configs: Sequence[RunConfig], began: float) -> None:
    """Print what a sweep stands for, every style of it checked, and the plan of the first one.

    Raises StudioError as the sweep itself would.
    """
    plans = checked(configs)
    for config in configs:
        check_same_run(config)
    table = Table(
        "style",
        "pictures",
        "updates",
        "goes to",
        title=f"{len(plans)} styles over one base, {min(len(plans), AT_ONCE)} at once",
    )
    for plan in plans:
        optim, name = plan.config.optim, plan.config.save.name
        updates = f"{optim.steps} of {optim.batch_size * optim.accumulate} pictures"
        table.add_row(
            escape(name),
            str(len(plan.dataset.examples)),
            updates,
            escape(str(plan.config.run_folder)),
        )
    console = escaping_console()
    console.print(table)
    console.print(
        "How many go through the base in one pass is timed when they begin. One alone, the first:",
        markup=False,
        soft_wrap=True,
    )
    print_plan(configs[0], began)


def measured(config: RunConfig, began: float) -> tuple[dict[str, str], list[str]]:
    """The plan's rows and what is worth noting, after two real updates, tried in smaller ways until
    they fit, as the run itself will.

    began: seconds since 1970, when loading started.
    """
    check_same_run(config)
    checked_writable(_nearest_there(config.run_folder), "save.folder")
    with tempfile.TemporaryDirectory() as scratch:  # the user's folders stay as they are
        away = config.model_copy(
            update={"save": config.save.model_copy(update={"folder": scratch})}
        )
        run = Trainer(planned(away))
        try:
            said = list(run.prepare(trial=True))
            setting_up = time.time() - began
            while run.step < PROBES:
                before, event = run.step, run.update()
                said += (
                    [event] if run.step > before else []
                )  # else it is made again in a smaller way, which the plan itself tells
            message = fit(run)
        except torch.OutOfMemoryError as error:
            raise memory_full(error) from None
    used = Counter(f"{b.width}x{b.height}" for b in run.bucket_of)
    optim = config.optim
    seen = optim.steps * optim.batch_size * optim.accumulate
    rows = {
        "base": f"{run.parts.title} ({run.parts.family.title}), {run.place.precision} on "
        f"{run.place.name}",
        "pictures": f"{len(run.examples)}"
        + (f" and {config.prior.images} class pictures" if config.prior.images else ""),
        "buckets": ", ".join(f"{size} px: {count}" for size, count in sorted(used.items())),
        "updates": f"{optim.steps} of {optim.batch_size * optim.accumulate} pictures: every "
        f"picture {seen / len(run.examples):.0f} times",
        "trained": f"{run.trainable:,} of {run.total:,} weights ({run.trainable / run.total:.2%})",
        "style file": f"about {run.trainable * 2 / 1e6:.1f} MB",
        "memory": message,
        "time": f"about {clock(setting_up + run.pace[-1] * optim.steps)}, previews not counted"
        if run.pace
        else "unknown",
        "goes to": str(config.run_folder),
    }
    return rows, [event.message for event in said if isinstance(event, Warned)]


def fit(run: Trainer) -> str:
    """How what was measured fits into the memory; where not as the settings say, in which way, what
    that costs in time, and why.
    """
    if not run.peaks or not math.isfinite(run.room):
        return f"about {peak_memory(run.place.device):.1f} GiB"
    taken = f"{max(run.peaks.values()):.1f} GiB of {run.room:.1f} free"
    if run.passes == run.as_set:
        return f"fits as the settings say: {taken}"
    slower = ""
    if run.passes.checkpointing and not run.as_set.checkpointing and run.pace:
        slower = (
            ", "
            f"{run.pace[-1] / max(run.pace[-1] - run.recomputing(), run.pace[-1] / 2):.1f} "
            "times as slow as without checkpointing"
        )
    message = run.as_set.words(run.largest)
    why = (
        f"{message[0].upper()}{message[1:]} it would take more than {run.limit:.1f} GiB; the rest "
        "is left to other programs"
    )
    return f"fits {run.passes.words(run.largest)}: {taken}{slower}. {why}"


def _nearest_there(folder: Path) -> Path:
    """The folder, or the closest one above it that is there: a run would be made in it."""
    return next(path for path in (folder, *folder.parents) if path.exists())
