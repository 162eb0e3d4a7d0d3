"""What a run's events look like: the state, the bar, the curves and the messages, as HTML and SVG
text. Knows events only; no gradio, no files.

Everything that comes from an event is escaped. Colours are the theme's own variables, so that light
and dark both fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from studio.processes.process import State
from training import events

WIDTH, HEIGHT = 640, 190  # of a curve, in px before scaling to the column
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 26  # px around the curve, for its numbers
REDRAWN = 32  # a growing curve is drawn anew when it grew by about one part in so many
POINTS = 400  # most points drawn: more than the screen has columns helps nobody
WORDS: dict[State, str] = {
    "new": "Not started yet",
    "starting": "Starting",
    "running": "Training",
    "stopping": "Stopping: saving what is learnt",
    "finished": "Finished",
    "stopped": "Stopped, and saved",
    "failed": "Failed",
    "interrupted": "Interrupted: its process is gone",
}


@dataclass(frozen=True)
class Progress:
    """A run so far. curve: one entry an update, none twice; previews:

    the newest first; style: the style's file, "" before the end.
    """

    step: int
    steps: int
    curve: tuple[events.Stepped, ...]
    previews: tuple[events.Previewed, ...]
    messages: tuple[events.Noted | events.Warned | events.Failed, ...]
    style: str
    saved: int  # updates in the last checkpoint


def progress(seen: Sequence[events.Event]) -> Progress:
    """Sum up events. A resumed run repeats updates:

    what came after its checkpoint before is dropped.
    """
    step = steps = saved = 0
    curve: list[events.Stepped] = []
    previews: dict[int, events.Previewed] = {}
    messages: dict[
        events.Noted | events.Warned | events.Failed, None
    ] = {}  # ordered; what a resumed run says again is kept once
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
    figures = [("Updates", f"{so_far.step} of {so_far.steps}" if so_far.steps else "–")]
    if so_far.curve:
        last = so_far.curve[-1]
        pace = _median([s.seconds for s in so_far.curve[-20:]])
        figures += [
            ("Loss", f"{smoothed([s.loss for s in so_far.curve])[-1]:.4f}"),
            ("Learning rate", f"{last.learning_rate:.2e}"),
            ("Per update", f"{pace:.2f} s" if pace < 100 else duration(pace)),
        ]
        if state == "running":
            figures.append(("Time left", duration(last.left)))
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in figures
    )
    return (
        f'<div class="run-status {state}" data-run="{escape(run)}" data-state="{state}" '
        f'data-told="{escape(WORDS[state])}" '
        f'data-share="{share * 100:.0f}">'
        f'<div class="run-head"><strong>{escape(run)}</strong><span '
        f'class="run-state">{escape(WORDS[state])}</span></div>'
        '<div class="run-bar" role="progressbar" aria-label="Progress" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{share * 100:.0f}">'
        f'<div style="width:{share * 100:.1f}%"></div></div><dl>{cells}</dl></div>'
    )


def waits(run: str, words: str) -> str:
    """The head of a run that has not begun."""
    head = (
        f'<div class="run-head"><strong>{escape(run)}</strong><span '
        f'class="run-state">{escape(words)}</span></div>'
    )
    return f'<div class="run-status waiting">{head}</div>'


def loss_curve(curve: Sequence[events.Stepped]) -> str:
    """The loss of every update, faint, under its running mean."""
    steps, losses = [s.step for s in curve], [s.loss for s in curve]
    return line_chart(
        "Loss, and its running mean", steps, [("raw", losses), ("mean", smoothed(losses))]
    )


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


def messages(seen: Sequence[events.Noted | events.Warned | events.Failed], most: int = 30) -> str:
    """Warnings, failures and the last note, the newest first; the notes before it are
    folded away.
    """
    if not seen:
        return ""
    newest = list(seen)[: -most - 1 : -1]
    notes = [event for event in newest if isinstance(event, events.Noted)]
    first = "".join(_message(event) for event in newest if event not in notes[1:])
    earlier = "".join(_message(event) for event in notes[1:])
    folded = (
        "<details><summary>Earlier notes</summary><ul "
        f'class="run-messages">{earlier}</ul></details>'
        if earlier
        else ""
    )
    return f'<ul class="run-messages">{first}</ul>{folded}'


def _message(event: events.Noted | events.Warned | events.Failed) -> str:
    css, word = {
        events.Noted: ("note", "Note"),
        events.Warned: ("warning", "Warning"),
        events.Failed: ("failure", "Failed"),
    }[type(event)]
    kept = (
        f" {event.saved} updates are saved."
        if isinstance(event, events.Failed) and event.saved
        else ""
    )
    return (
        f'<li class="{css}"><b>{word}</b> '
        f"{escape(event.message + kept).replace(chr(10), '<br>')}</li>"
    )


def terminal(text: str) -> str:
    """The last words of a process that reported nothing else."""
    return (
        f'<div class="run-terminal"><b>The process said:</b><pre>{escape(text)}</pre></div>'
        if text
        else ""
    )


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
        return (
            f'<figure class="chart"><figcaption>{escape(title)}</figcaption><p '
            'class="chart-empty">Appears with the first update.</p></figure>'
        )
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

    grid = "".join(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y(t) + 4:.1f}" text-anchor="end">{_short(t)}</text>'
        for t in ticks
    )
    below = "".join(
        f'<text x="{x(t):.1f}" y="{height - 8}" text-anchor="middle">{_short(t)}</text>'
        for t in _ticks(first, last, 6)
        if first <= t <= last and t == int(t)
    )
    drawn = "".join(
        f'<polyline class="{css}" '
        f'points="{" ".join(f"{x(steps[i]):.1f},{y(line[i]):.1f}" for i in kept)}"/>'
        + (
            f'<circle class="{css}" cx="{x(steps[-1]):.1f}" cy="{y(line[-1]):.1f}" r="3"/>'
            if css == "mean"
            else ""
        )
        for css, line in lines
    )
    label = escape(f"{title}: {_short(lines[-1][1][-1])} after {steps[-1]} updates")
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{label}">{grid}{below}{drawn}</svg></figure>'
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
    raw = (high - low) / most
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
