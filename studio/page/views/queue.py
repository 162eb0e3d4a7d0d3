"""The line of trainings as HTML:

who trains, who waits, and a button for everything that can be done with them. Knows no files and no
gradio.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from studio.page.scripts import script
from studio.processes.queue import Job, JobState

MOST_ENDED = 6  # of those that neither train nor wait
WORDS: dict[JobState, str] = {
    "running": "Training",
    "waiting": "Waiting",
    "interrupted": "Goes on when its turn comes",
    "paused": "Paused",
    "finished": "Finished",
    "failed": "Failed",
    "cancelled": "Stopped",
}
ACTS: dict[JobState, tuple[tuple[str, str], ...]] = {
    "running": (("pause", "Pause"), ("cancel", "Stop")),
    "waiting": (("up", "↑"), ("down", "↓"), ("pause", "Pause"), ("cancel", "Take out")),
    "interrupted": (("pause", "Pause"), ("cancel", "Take out")),
    "paused": (("go_on", "Go on"), ("cancel", "Take out")),
    "finished": (("remove", "Remove"),),
    "failed": (("retry", "Try again"), ("remove", "Remove")),
    "cancelled": (("retry", "Go on"), ("remove", "Remove")),
}
SAID = {"up": "earlier", "down": "later"}  # what an arrow means to who cannot see it

DO = script("queue_act")


def queue_html(jobs: Sequence[Job], chosen: str = "", notice: str = "") -> str:
    """The list; "" where there is nothing in it. chosen: the run that is shown; notice: what is to
    be said of the list itself.
    """
    ended = [job for job in jobs if job.state in ("finished", "failed", "cancelled")]
    left_out = {job.id for job in sorted(ended, key=lambda job: job.id)[:-MOST_ENDED]}
    rows = "".join(_row(job, chosen) for job in jobs if job.id not in left_out)
    said = f'<p class="note" role="status">{escape(notice)}</p>' if notice else ""
    return said + (f'<ol class="line">{rows}</ol>' if rows else "")


def _row(job: Job, chosen: str) -> str:
    asked = {
        "pause": "Pausing: saving what is learnt",
        "cancel": "Stopping: saving what is learnt",
    }.get(job.wish, "")
    state = asked or WORDS[job.state]
    acts = "" if asked else "".join(
        f'<button type="button" class="mend" data-do="{act}" '
        f'aria-label="{escape(f"{SAID.get(act, words)}: {job.run}")}">{words}</button>'
        for act, words in ACTS[job.state]
    )  # fmt: skip
    why = f"<small>{escape(job.message)}</small>" if job.message else ""
    current = ' aria-current="true"' if job.run == chosen else ""
    return (
        f'<li data-id="{job.id}" class="{job.state}"{current}>'
        f'<button type="button" class="of" data-run="{escape(job.run)}">{escape(job.run)}</button>'
        f'<span class="how">{escape(state)}</span><span class="mends">{acts}</span>{why}</li>'
    )
