"""What a run's events look like: the state, the bar, the curves and the messages, as HTML and SVG
text. Knows events only; no gradio, no files.

Templates escape everything that comes from an event. Colours are the theme's own variables, so that
light and dark both fit.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from studio.page.templates import render
from studio.processes.process import State
from training import events

WIDTH, HEIGHT = 640, 190  # of a curve, in px before scaling to the column
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 26  # px around the curve, for its numbers
SMALLEST_STEP = 5 * sys.float_info.min  # between two numbers beside a curve
REDRAWN = 32  # a growing curve is drawn anew when it grew by about one part in so many
POINTS = 400  # most points drawn: more than the screen has columns helps nobody
WORDS: dict[State, str] = {
    "new": "Not started yet",
    "starting": "Starting",
    "running": "Training",
    "stopping": "Saving and stopping",
    "finished": "Finished",
    "stopped": "Stopped and saved",
    "failed": "Failed",
    "interrupted": "Interrupted",
}

Reported = events.Noted | events.Warned | events.Failed
KINDS: dict[type[Reported], tuple[str, str]] = {
    events.Noted: ("note", "Note"),
    events.Warned: ("warning", "Warning"),
    events.Failed: ("failure", "Failed"),
}


@dataclass(frozen=True)
class Progress:
    """A run so far. curve: one entry an update, none twice; previews: the newest first; style: the
    style's file, "" before the end.
    """

    step: int
    steps: int
    curve: tuple[events.Stepped, ...]
    previews: tuple[events.Previewed, ...]
    messages: tuple[Reported, ...]
    style: str
    saved: int  # updates in the last checkpoint


def progress(seen: Sequence[events.Event]) -> Progress:
    """Sum up events. A resumed run repeats updates: what came after its checkpoint before goes."""
    step = steps = saved = 0
    curve: list[events.Stepped] = []
    previews: dict[int, events.Previewed] = {}
    messages: dict[Reported, None] = {}  # ordered; what a resumed run says again is kept once
    style = ""
    for event in seen:
        match event:
            case events.Started():
                step, steps, style = event.step, event.steps, ""
                curve = [s for s in curve if s.step <= step]
                previews = {at: p for at, p in previews.items() if at <= step}
            case events.Stepped():
                step = event.step
                curve.append(event)
            case events.Previewed():
                previews[event.step] = event
            case events.Saved():
                saved = event.step
            case events.Finished():
                step, style = event.step, event.path
            case events.Noted() | events.Warned() | events.Failed():
                messages.pop(event, None)
                messages[event] = None
    return Progress(
        step,
        steps,
        tuple(curve),
        tuple(previews[at] for at in sorted(previews, reverse=True)),
        tuple(messages),
        style,
        saved,
    )


def status(run: str, state: State, so_far: Progress) -> str:
    """The head of a run: name, state, bar and the figures of the last update."""
    share = so_far.step / so_far.steps if so_far.steps else 0.0
    figures = [("Steps", f"{so_far.step} of {so_far.steps}" if so_far.steps else "–")]
    if so_far.curve:
        last = so_far.curve[-1]
        pace = _median([s.seconds for s in so_far.curve[-20:]])
        figures += [
            ("Loss", f"{smoothed([s.loss for s in so_far.curve])[-1]:.4f}"),
            ("Learning rate", f"{last.learning_rate:.2e}"),
            ("Time per step", f"{pace:.2f} s" if pace < 100 else duration(pace)),
        ]
        if state == "running" and last.step < so_far.steps:
            figures.append(("Time left", duration(last.left)))
    return render(
        "run_status",
        run=run,
        state=state,
        words=_words(state, so_far),
        share=100 * share,
        figures=figures,
    )


def _words(state: State, so_far: Progress) -> str:
    """How a run stands; after its last step it is not training any more."""
    if state != "running" or not so_far.steps or so_far.step < so_far.steps:
        return WORDS[state]
    last = so_far.messages[-1] if so_far.messages else None
    reports = isinstance(last, events.Noted) and last.message.startswith("report:")
    return "Writing the report" if reports else "Saving the style"


def waits(run: str, words: str) -> str:
    """The head of a run that has not begun."""
    return render("run_waits", run=run, words=words)


def loss_curve(curve: Sequence[events.Stepped]) -> str:
    """The loss of every update, faint, under its running mean."""
    steps, losses = [s.step for s in curve], [s.loss for s in curve]
    return line_chart("Loss (smoothed)", steps, [("raw", losses), ("mean", smoothed(losses))])


def settled(curve: Sequence[events.Stepped]) -> Sequence[events.Stepped]:
    """A growing curve up to where it is worth another drawing."""
    stride = 1 << max(0, (len(curve) // REDRAWN).bit_length() - 1)
    return curve[: len(curve) - len(curve) % stride]


def rate_curve(curve: Sequence[events.Stepped]) -> str:
    """The learning rate of every update."""
    return line_chart(
        "Learning rate",
        [s.step for s in curve],
        [("mean", [s.learning_rate for s in curve])],
        from_zero=True,
        height=110,
    )


@dataclass(frozen=True)
class Message:
    """What a run reported. kind: its CSS class; word: before it."""

    kind: str
    word: str
    lines: list[str]


def messages(seen: Sequence[Reported], most: int = 30) -> str:
    """Warnings, failures and the last note, the newest first; the notes before it are
    folded away.
    """
    if not seen:
        return ""
    newest = list(seen)[: -most - 1 : -1]
    notes = [event for event in newest if isinstance(event, events.Noted)]
    return render(
        "run_messages",
        shown=[_message(event) for event in newest if event not in notes[1:]],
        earlier=[_message(event) for event in notes[1:]],
    )


def _message(event: Reported) -> Message:
    text = event.message
    if isinstance(event, events.Failed) and event.saved:
        text += f" {event.saved} steps are saved."
    return Message(*KINDS[type(event)], text.split("\n"))


def terminal(text: str) -> str:
    """The last words of a process that reported nothing else."""
    return render("run_terminal", text=text) if text else ""


def smoothed(values: Sequence[float], window: int = 50) -> list[float]:
    """An exponential running mean over about window values, without the pull towards the first one
    (as in Adam's bias correction).
    """
    keep = 1 - 2 / (max(2, min(window, len(values) // 5 + 1)) + 1)
    mean, weight, means = 0.0, 0.0, []
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        means.append(mean / weight)
    return means


def line_chart(
    title: str,
    steps: Sequence[int],
    lines: Sequence[tuple[str, Sequence[float]]],
    *,
    from_zero: bool = False,
    height: int = HEIGHT,
) -> str:
    """Lines over updates as one SVG that scales with its column.

    lines: a CSS class and one value per step.
    """
    if not steps:
        return render("line_chart", title=title, lines=[])
    kept = range(0, len(steps), math.ceil(len(steps) / POINTS))
    kept = [*kept, len(steps) - 1] if kept[-1] != len(steps) - 1 else [*kept]
    values = [line[i] for _, line in lines for i in kept]
    ticks = _ticks(0.0 if from_zero else min(values), max(values))
    low, high = min(ticks[0], min(values)), max(ticks[-1], max(values))
    first, last = steps[0], max(steps[-1], steps[0] + 1)

    def x(step: float) -> float:
        return LEFT + (step - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return height - BOTTOM - (value - low) / (high - low) * (height - TOP - BOTTOM)

    below = [t for t in _ticks(first, last, 6) if first <= t <= last and t == int(t)]
    return render(
        "line_chart",
        title=title,
        label=f"{title}: {_short(lines[-1][1][-1])} after {steps[-1]} steps",
        width=WIDTH,
        height=height,
        left=LEFT,
        right=WIDTH - RIGHT,
        grid=[(y(t), _short(t)) for t in ticks],
        below=[(x(t), _short(t)) for t in below],
        lines=[
            {
                "css": css,
                "points": " ".join(f"{x(steps[i]):.1f},{y(line[i]):.1f}" for i in kept),
                "end": (x(steps[-1]), y(line[-1])) if css == "mean" else None,
            }
            for css, line in lines
        ],
    )


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 3 min 20 s, 2 h 05 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    return (
        f"{whole // 60} min {whole % 60:02} s"
        if whole < 3600
        else f"{whole // 3600} h {whole % 3600 // 60:02} min"
    )


def _ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from below low to above high, about most of them."""
    high = high if high > low else low + (abs(low) or 1.0)
    # Neither nothing nor more than a float holds, however close or far apart they are
    least = max(SMALLEST_STEP, math.ulp(low), math.ulp(high))
    raw = max(high / most - low / most, least)
    step = 10 ** math.floor(math.log10(raw))
    step *= next(m for m in (1, 2, 5, 10) if m * step >= raw)
    start = math.floor(low / step)
    return [round(i * step, 12) for i in range(start, math.ceil(high / step) + 1)]


def _short(value: float) -> str:
    return (
        f"{value:.3g}"
        if value == 0 or 0.001 <= abs(value) < 10_000
        else f"{value:.0e}"
        if abs(value) < 0.001
        else f"{value:g}"
    )


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
