"""A run's events for a person at a terminal: one bar, and lines for what is worth a line."""

from __future__ import annotations

import time
from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from training.events import Event, Failed, Finished, Noted, Previewed, Saved, Started, Stepped, Warned

EVERY = 15.0  # seconds between lines where there is no terminal to draw a bar in


def show(stream: Iterable[Event]) -> None:
    """Print events until the stream ends."""
    console = Console(stderr=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[told]}"))
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task, said = None, 0.0
        for event in stream:
            if isinstance(event, Started):
                weights = f"{event.trainable:,} weights trained ({event.trainable / max(1, event.total):.2%})"
                console.print(f"{event.pictures} pictures, {weights}, {event.dtype} on {escape(event.device)}")
                task = bar.add_task("training", total=event.steps, completed=event.step, told="")
            elif isinstance(event, Stepped):
                told = f"loss {event.loss:.4f}  lr {event.learning_rate:.1e}  {event.seconds:.2f} s/update  {clock(event.left)} left"
                if task is not None:
                    bar.update(task, completed=event.step, told=told)
                if not console.is_terminal and time.time() - said > EVERY:
                    console.print(f"update {event.step}  {told}")
                    said = time.time()
            elif (line := sentence(event)) is not None:
                console.print(line, highlight=False)


def sentence(event: Event) -> str | None:
    """One line for an event, or None when it needs none. Rich markup; what comes from outside is escaped."""
    match event:
        case Noted(message):
            return escape(message)
        case Warned(message):
            return f"[yellow]Note:[/] {escape(message)}"
        case Previewed(step, paths, _):
            return f"previews after {step} updates: {escape(paths[0])}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}"
        case Saved(step, _):
            return f"saved after {step} updates"
        case Finished(step, path, stopped, seconds):
            return f"{'stopped' if stopped else 'finished'} after {step} updates, {clock(seconds)}: [bold]{escape(path)}[/]"
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
