"""`--dry-run`: everything is checked, two updates are measured in a way that fits the memory, the
plan is printed, nothing is kept.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.markup import escape
from rich.table import Table

from training.adapters import lora_layers
from training.cli.for_programs import print_line
from training.cli.terminal import clock, unwrapped_console
from training.config.schema import RunConfig
from training.data.several_folders import counted
from training.errors import without_controls
from training.events import Event, Warned
from training.runtime.device import finished, peak_memory
from training.storage.paths import checked_writable
from training.trainer.engine import update
from training.trainer.joint import checked
from training.trainer.lifecycle import memory_errors
from training.trainer.pace import AT_ONCE
from training.trainer.plan import check_same_run, planned
from training.trainer.setup import set_up
from training.trainer.trainer import Trainer

PROBES = 2  # updates measured; the first one also pays for setting things up


def print_plan(config: RunConfig, began: float, *, as_json: bool = False) -> None:
    """Print pictures, buckets, updates, share of weights, memory and time expected.

    Raises StudioError as the run itself would.
    """
    rows, notes = measured(config, began)
    if as_json:
        print_line({"style": config.save.name, "plan": rows, "notes": list(notes)})
        return
    table = Table(show_header=False, title=f"plan of {config.save.name}")
    table.add_column()
    table.add_column(overflow="fold")  # long paths are shown whole
    for name, text in rows.items():
        table.add_row(name, escape(text))
    console = unwrapped_console()
    console.print(table)
    for note in notes:
        console.print(f"- {without_controls(note)}", markup=False, soft_wrap=True)


def print_sweep(configs: Sequence[RunConfig], began: float, *, as_json: bool = False) -> None:
    """Print what a sweep stands for, every style of it checked, and the plan of the first one.

    Raises StudioError as the sweep itself would.
    """
    plans = checked(configs)
    for config in configs:
        check_same_run(config)
    if as_json:
        for plan in plans:
            folder, count = str(plan.config.run_folder), len(plan.dataset.examples)
            print_line({"style": plan.config.save.name, "folder": folder, "pictures": count})
        print_plan(configs[0], began, as_json=True)
        return
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
    console = unwrapped_console()
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
        with memory_errors():
            trainer, events = _set_up(away)
            setting_up = time.time() - began
            while trainer.step < PROBES:
                before, event = trainer.step, update(trainer)
                # Else it is made again in a smaller way, which the plan itself tells
                events += [event] if trainer.step > before else []
            message = fit(trainer)
    used = Counter(f"{b.width}x{b.height}" for b in trainer.data.bucket_of)
    optim = config.optim
    seen = optim.steps * optim.batch_size * optim.accumulate
    classes = config.prior.images + len(trainer.plan.dataset.class_examples)
    parts, place, trained = trainer.parts, trainer.place, trainer.attached.count
    kept = f", weights kept as {place.storage}" if place.storage else ""
    rows = {
        "base": f"{parts.title} ({parts.family.title}), {place.precision} on {place.name}" + kept,
        "pictures": f"{len(trainer.data.examples)}"
        + (f" ({folders})" if (folders := counted(trainer.data.examples)) else "")
        + (f" and {classes} class pictures" if classes else ""),
        "buckets": ", ".join(f"{size} px: {count}" for size, count in sorted(used.items())),
        "updates": f"{optim.steps} of {optim.batch_size * optim.accumulate} pictures: every "
        f"picture {seen / sum(e.repeats for e in trainer.data.examples):.0f} times"
        + (", times its folder's" if any(e.repeats > 1 for e in trainer.data.examples) else ""),
        "trained": f"{trained:,} of {trainer.total:,} weights ({trained / trainer.total:.2%})",
        "style file": f"about {trained * 2 / 1e6:.1f} MB",
        "memory": message,
        "time": f"about {clock(setting_up + trainer.pace[-1] * optim.steps)}, previews not counted"
        if trainer.pace
        else "unknown",
        "goes to": str(config.run_folder),
    }
    return rows, [event.message for event in events if isinstance(event, Warned)]


def _set_up(config: RunConfig) -> tuple[Trainer, list[Event]]:
    """Make a trainer of which nothing is kept; return it with what was said meanwhile."""
    events: list[Event] = []
    steps = set_up(planned(config), trial=True)
    while True:
        try:
            events.append(next(steps))
        except StopIteration as ended:
            return ended.value, events


def fit(trainer: Trainer) -> str:
    """How what was measured fits into the memory; where not as the settings say, in which way, what
    that costs in time, and why.
    """
    watch, plans, pace = trainer.watch, trainer.microbatches, trainer.pace
    if not watch.peaks:
        return f"about {peak_memory(trainer.place.device):.1f} GiB"
    taken = f"{max(watch.peaks.values()):.1f} GiB of {watch.room:.1f} free"
    if plans.current == plans.as_set:
        return f"fits as the settings say: {taken}"
    slower = ""
    if plans.current.checkpointing and not plans.as_set.checkpointing and pace:
        without = max(pace[-1] - recomputing(trainer), pace[-1] / 2)
        slower = f", {pace[-1] / without:.1f} times as slow as without checkpointing"
    message = plans.as_set.words(plans.largest)
    why = (
        f"{message[0].upper()}{message[1:]} it would take more than {watch.limit:.1f} GiB; the "
        "rest is left to other programs"
    )
    return f"fits {plans.words}: {taken}{slower}. {why}"


@torch.no_grad()
def recomputing(trainer: Trainer) -> float:
    """Seconds of an update that gradient checkpointing takes, measured: those of the blocks that
    it computes a second time.
    """
    device, count = trainer.place.device, trainer.config.optim.accumulate
    seconds = began = 0.0

    def begin(*_: object) -> None:
        nonlocal began
        finished(device)
        began = time.monotonic()

    def end(*_: object) -> None:
        nonlocal seconds
        finished(device)
        seconds += time.monotonic() - began

    hooks = [
        hook
        for block in lora_layers.recomputed(trainer.parts.denoiser)
        for hook in (block.register_forward_pre_hook(begin), block.register_forward_hook(end))
    ]
    try:
        for number in range(trainer.step * count, (trainer.step + 1) * count):
            for some in trainer.in_parts(trainer.batches(number)):
                trainer.predict(some.noisy, some.t, some.captions)
    finally:
        for hook in hooks:
            hook.remove()
    return seconds


def _nearest_there(folder: Path) -> Path:
    """The folder, or the closest one above it that is there: a run would be made in it."""
    return next(path for path in (folder, *folder.parents) if path.exists())
