"""The queue of trainings as HTML: who trains, who waits, and a button for everything that can be
done with them. Knows no files and no gradio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from studio.page.scripts import script
from studio.page.templates import render
from studio.processes.queue import Job, JobState

MOST_ENDED = 6  # of those that neither train nor wait
WORDS: dict[JobState, str] = {
    "running": "Training",
    "waiting": "Waiting",
    "interrupted": "Will resume",
    "paused": "Paused",
    "finished": "Finished",
    "failed": "Failed",
    "cancelled": "Stopped",
}
ACTS: dict[JobState, tuple[tuple[str, str], ...]] = {
    "running": (("pause", "Pause"), ("cancel", "Stop")),
    "waiting": (("up", "↑"), ("down", "↓"), ("pause", "Pause"), ("cancel", "Remove")),
    "interrupted": (("pause", "Pause"), ("cancel", "Remove")),
    "paused": (("go_on", "Resume"), ("cancel", "Remove")),
    "finished": (("remove", "Remove"),),
    "failed": (("retry", "Try again"), ("remove", "Remove")),
    "cancelled": (("retry", "Resume"), ("remove", "Remove")),
}
# What an arrow means to who cannot see it
ALOUD = {"up": "earlier", "down": "later"}
STOPPING = {
    "pause": "Saving and pausing",
    "cancel": "Saving and stopping",
}

DO = script("queue_act")


@dataclass(frozen=True)
class Row:
    """A job of the list. words: how it stands; acts: what can be done with it, with its label."""

    id: int
    run: str
    state: JobState
    words: str
    acts: tuple[tuple[str, str], ...]
    message: str


def queue_html(
    jobs: Sequence[Job], chosen: str = "", notice: str = "", together: Sequence[str] = ()
) -> str:
    """The list; "" where there is nothing in it. chosen: the run that is shown; notice: what is to
    be said of the list itself; together: runs that are trained jointly now, outside of the queue.
    """
    ended = [job for job in jobs if job.state in ("finished", "failed", "cancelled")]
    left_out = {job.id for job in sorted(ended, key=lambda job: job.id)[:-MOST_ENDED]}
    rows = [_row(job) for job in jobs if job.id not in left_out]
    return render("queue", rows=rows, chosen=chosen, aloud=ALOUD, notice=notice, together=together)


def _row(job: Job) -> Row:
    stopping = STOPPING.get(job.request, "")
    words, acts = stopping or WORDS[job.state], () if stopping else ACTS[job.state]
    return Row(job.id, job.run, job.state, words, acts, job.message)
