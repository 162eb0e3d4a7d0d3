"""A run's events for a person at a terminal: one bar, and lines for what is worth a line."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape as escape_markup
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from training.errors import without_controls
from training.events import (
    Event,
    Failed,
    Finished,
    Noted,
    Previewed,
    Saved,
    Started,
    Stepped,
    Warned,
)

WIDEST = 10_000  # characters of a line where there is no terminal: nothing is wrapped for a script
EVERY = 15.0  # seconds between lines where there is no terminal to draw a bar in


def escape(text: str) -> str:
    """A text from outside as rich and any terminal show it."""
    return escape_markup(without_controls(text))


def unwrapped_console() -> Console:
    """What prints to stdout: a message is one line where there is no terminal."""
    return Console(width=None if sys.stdout.isatty() else WIDEST)


def show(stream: Iterable[Event], folder: Path) -> None:
    """Print the events of the run in folder until the stream ends.

    A message is one line, however long: scripts read it too.
    """
    console = unwrapped_console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task, said = None, 0.0
        for event in stream:
            if isinstance(event, Started):
                weights = (
                    f"{event.trainable:,} weights trained "
                    f"({event.trainable / max(1, event.total):.2%})"
                )
                console.print(
                    f"{event.pictures} pictures, {weights}, {event.dtype} on "
                    f"{escape(event.device)}",
                    soft_wrap=True,
                )
                task = bar.add_task("training", total=event.steps, completed=event.step, figures="")
            elif isinstance(event, Stepped):
                figures = (
                    f"loss {event.loss:.4f}  lr {event.learning_rate:.1e}  "
                    f"{event.seconds:.2f} s/update  {clock(event.left)} left"
                )
                if task is not None:
                    bar.update(task, completed=event.step, figures=figures)
                if not console.is_terminal and time.monotonic() - said > EVERY:
                    console.print(f"update {event.step}  {figures}", soft_wrap=True)
                    said = time.monotonic()
            elif (line := sentence(event, folder)) is not None:
                console.print(line, highlight=False, soft_wrap=True)


def show_many(
    stream: Iterable[tuple[int, Event]], names: Sequence[str], folders: Sequence[Path]
) -> None:
    """Print the events of several runs until the stream ends:

    a bar each, and every line with the run's name before it.
    """
    console = unwrapped_console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        tasks = [bar.add_task(escape(name), total=None, figures="") for name in names]
        said = time.monotonic()
        reached: dict[int, str] = {}
        for number, event in stream:
            if isinstance(event, Started):
                bar.update(tasks[number], total=event.steps, completed=event.step)
            elif isinstance(event, Stepped):
                bar.update(
                    tasks[number],
                    completed=event.step,
                    figures=f"loss {event.loss:.4f}  {clock(event.left)} left",
                )
                reached[number] = f"{escape(names[number])} {event.step} (loss {event.loss:.4f})"
                if not console.is_terminal and time.monotonic() - said > EVERY:
                    console.print(
                        "updates: " + ", ".join(reached[i] for i in sorted(reached)), soft_wrap=True
                    )
                    said = time.monotonic()
            elif (line := sentence(event, folders[number])) is not None:
                console.print(f"{escape(names[number])}: {line}", highlight=False, soft_wrap=True)


def sentence(event: Event, folder: Path) -> str | None:
    """One line for an event of the run in folder, or None when it needs none.

    Rich markup; what comes from outside is escaped.
    """
    match event:
        case Noted(message):
            return escape(message)
        case Warned(message):
            return f"[yellow]Note:[/] {escape(message)}"
        case Previewed(step, (first, *more), _):
            return (
                f"previews after {step} updates: "
                f"{escape(first)}{f' and {len(more)} more' if more else ''}"
            )
        case Saved(step, _):
            return f"saved after {step} updates"
        case Finished(step, path, stopped, seconds):
            file = f": [bold]{escape(str(folder / path))}[/]" if path else ""
            return (
                f"{'stopped' if stopped else 'finished'} after {step} updates, "
                f"{clock(seconds)}{file}"
            )
        case Failed(message, _):
            return f"[red]{escape(message)}[/]"
    return None


def clock(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
