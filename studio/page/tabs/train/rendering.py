"""What the Train tab shows of a run, by the name of the component that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from studio.library import recommended
from studio.page import forms
from studio.page.handlers import address, framed, offered
from studio.page.polling import Late
from studio.page.templates import empty, render
from studio.page.views import charts
from studio.page.views import previews as previews_view
from studio.page.views import queue as queue_view
from studio.processes import process
from studio.processes.queue import Job
from training import events
from training.errors import ConfigError

SMALL, LARGE = 160, 1024  # px of a preview's longer side, in the strip and opened
BUTTONS = (
    "draw", "save", "pause", "stop", "resume", "style", "last", "use", "compare", "reuse", "go_on"
)  # fmt: skip
NOTHING_YET = empty("No runs yet. Choose a dataset, name your style and start training.")


def run_view(
    run: Path, state: process.State, waits: bool, so_far: charts.Progress
) -> dict[str, Any]:
    """Everything that shows a run. waits: its turn in the queue comes."""
    page = run / "report" / "report.html"
    of_report = f"{run}|{page.stat().st_mtime_ns if page.exists() else 0}"
    of_strip = f"{run}|{[(p.step, p.paths) for p in so_far.previews]}"
    curve = charts.settled(so_far.curve) if state in process.GOING else so_far.curve
    of_curve = f"{run}|{len(curve)}|{curve[-1] if curve else 0}"
    return {
        "status": charts.status(run.name, state, so_far),
        "loss": Late(of_curve, lambda: charts.loss_curve(curve)),
        "rate": Late(of_curve, lambda: charts.rate_curve(curve)),
        "messages": _messages(run, state, so_far),
        "report": Late(of_report, lambda: framed(page)),
        "previews": Late(
            of_strip, lambda: previews_view.preview_strip(_previews(run, so_far.previews))
        ),
        "verdict": _verdict(run, state, so_far),
        **_buttons(run, state, waits, so_far),
    }


def chip(run: str, state: process.State, so_far: charts.Progress) -> str:
    """The run that is going, as it is shown in every place."""
    share = 100 * so_far.step / so_far.steps if so_far.steps else 0.0
    left = so_far.curve[-1].left if so_far.curve and so_far.step < so_far.steps else 0.0
    words = charts.duration(left) + " left" if left and state == "running" else charts.WORDS[state]
    return render("job_chip", run=run, share=share, words=words)


def _verdict(run: Path, state: process.State, so_far: charts.Progress) -> str:
    """Which checkpoint of a finished run is recommended, at which strength."""
    found = recommended.recommended(run) if state == "finished" else None
    if found is None:
        return ""
    step = found.step or so_far.step
    return render("run_verdict", step=step, strength=found.strength, last=step == so_far.step)


def wrong(error: ConfigError) -> str:
    """What is wrong in the form, each complaint with the controls that it names."""
    return render("train_wrong", complaints=forms.complaints(error))


def nothing_to_show(waiting: Job | None) -> dict[str, Any]:
    """The same where there is no run yet, or one that has not begun."""
    words = NOTHING_YET
    if waiting is not None:
        words = charts.waits(waiting.run, queue_view.WORDS[waiting.state])
    empty = dict.fromkeys(("loss", "rate", "messages", "report", "previews", "verdict"), "")
    return {"status": words, **empty, **dict.fromkeys(BUTTONS, gr.update(visible=False))}


def _buttons(
    run: Path, state: process.State, waits: bool, so_far: charts.Progress
) -> dict[str, Any]:
    """What can be done with a run as it stands."""
    stop = "Stop without saving" if state == "stopping" else "Stop and save"
    return {
        **dict.fromkeys(("draw", "save", "pause"), gr.update(visible=state == "running")),
        "stop": gr.update(value=stop, visible=state in process.GOING),
        "resume": gr.update(visible=state in process.RESUMABLE and not waits),
        **_files(run, state, so_far),
        "reuse": gr.update(visible=state not in process.GOING),
    }


def _files(run: Path, state: process.State, so_far: charts.Progress) -> dict[str, Any]:
    """The style to download, the recommended one first, and what else is done with it."""
    file = run / so_far.style if so_far.style else None
    if file is None or state not in ("finished", "stopped") or not file.is_file():
        return {
            **dict.fromkeys(("style", "last"), gr.update(value=None, visible=False)),
            **dict.fromkeys(("use", "compare", "go_on"), gr.update(visible=False)),
        }
    found = recommended.recommended(run) if state == "finished" else None
    offers: dict[str, Any] = {
        "style": gr.update(value=offered(file), label="Download the style", visible=True),
        "last": gr.update(value=None, visible=False),
        "use": gr.update(visible=False),
        "compare": gr.update(visible=True),
        "go_on": gr.update(visible=True),
    }
    if found is None or not found.step or found.step == so_far.step:
        return offers
    kept = recommended.checkpoint_of(run, so_far.step)
    last = kept if found.in_use and kept.is_file() else file
    offers["style"] = gr.update(
        value=offered(found.path),
        label=f"Download step {found.step} (recommended)",
        visible=True,
    )
    if not found.in_use or last != file:
        offers["last"] = gr.update(
            value=offered(last), label=f"Download step {so_far.step} (the last)", visible=True
        )
        used = f"Use step {so_far.step} again" if found.in_use else f"Use step {found.step}"
        offers["use"] = gr.update(value=used, visible=True)
    return offers


def _messages(run: Path, state: process.State, so_far: charts.Progress) -> str:
    """What the run reported; the end of its log where it ended without a reason."""
    last = so_far.messages[-1:]
    unexplained = state in ("failed", "interrupted") and not isinstance(
        last[0] if last else None, events.Failed
    )
    log = charts.terminal(process.log_tail(run)) if unexplained else ""
    return log + charts.messages(
        [replace(m, message=forms.in_words(m.message)) for m in so_far.messages]
    )


def _previews(run: Path, previews: Sequence[events.Previewed]) -> list[previews_view.Look]:
    """The pictures of the strip that are there. previews: the newest first."""
    steps = previews_view.kept([p.step for p in previews])
    found = []
    for preview in reversed(previews):
        for path, prompt in zip(preview.paths, preview.prompts, strict=False):
            picture = run / path
            if preview.step in steps and picture.exists():
                small, large = address(picture, SMALL), address(picture, LARGE)
                found.append(previews_view.Look(preview.step, prompt, small, large))
    return found
