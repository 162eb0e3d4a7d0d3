"""What the Train tab does with the queue of trainings. Knows no components."""

from __future__ import annotations

import time

from studio.library import library, sample_project
from studio.page.views import queue as queue_view
from studio.processes import process
from studio.processes.queue import GONE, Job, Queue
from training.errors import StudioError
from training.storage.paths import Workspace

BEGINS = 4.0  # seconds in which a run that need not wait has begun
TURNS = ("running", "waiting", "interrupted")  # jobs that will go on by themselves


def begun(queue: Queue, id: int) -> str:
    """The run of a job just added, once it has begun or it is clear that it waits."""
    end = time.monotonic() + BEGINS
    while (job := queue.job(id)).state in ("waiting", "running") and time.monotonic() < end:
        others = any(
            other.state == "running" and other.id != id and other.device == job.device
            for other in queue.jobs()
        )
        if others or process.read(queue.workspace.runs() / job.run) is not None:
            break
        time.sleep(0.1)
    return job.run


def act(queue: Queue, action: object, id: object) -> None:
    """What a button of the queue asks for.

    Raises StudioError for what is not there, or not to be done with it.
    """
    if type(id) is not int or not isinstance(action, str):
        raise StudioError(GONE)
    job = queue.job(id)
    if action not in dict(queue_view.ACTS[job.state]):
        raise StudioError(f"“{job.run}” is by now: {queue_view.WORDS[job.state].lower()}.")
    if action in ("up", "down"):
        waiting = [other.id for other in queue.jobs() if other.state == "waiting"]
        queue.move(id, waiting.index(id) + (1 if action == "down" else -1))
    else:
        getattr(queue, action)(id)


def resume(workspace: Workspace, queue: Queue, name: str | None) -> str:
    """Go on with a run: its job where it has one, else a new one with its settings."""
    job = queue.of_run(name or "")
    if job is not None and job.state in queue_view.ACTS and job.state not in (*TURNS, "finished"):
        (queue.go_on if job.state == "paused" else queue.retry)(job.id)
        return begun(queue, job.id)
    config = process.earlier(library.run(workspace, name))
    if config is None:
        raise StudioError(f"The settings of “{name}” cannot be read any more. Start a new run.")
    return begun(queue, queue.add(config))


def _job_if_readable(queue: Queue, run: str) -> Job | None:
    """The run's job; None also where the queue cannot be used: a training ends without."""
    try:
        return queue.of_run(run)
    except StudioError:
        return None


def pause(workspace: Workspace, queue: Queue, name: str | None) -> None:
    run = library.run(workspace, name)
    job = _job_if_readable(queue, run.name)
    if job is not None and job.state == "running":
        queue.pause(job.id)
    else:
        process.stop(run)  # begun outside of the queue


def stop(workspace: Workspace, queue: Queue, name: str | None) -> None:
    """Save and end; at once where that was asked for already."""
    run = library.run(workspace, name)
    job = _job_if_readable(queue, run.name)
    if process.state(run) == "stopping":
        process.stop(run, at_once=True)
    elif job is not None and job.state == "running":
        queue.cancel(job.id)
    else:
        process.stop(run)


def run_to_show(workspace: Workspace, queue: Queue, name: str | None) -> str | None:
    """The run that is shown when the tab is opened:

    the chosen one; but a training that goes on or waits rather than the example's.
    """
    shows_example = name in library.runs(workspace) and sample_project.is_example_run(
        library.run(workspace, name)
    )
    turn = next((job.run for job in queue.shown()[0] if job.state in TURNS), None)
    return turn if turn and shows_example else name


def listed_runs(
    workspace: Workspace, queue: Queue, name: str | None
) -> tuple[list[str], str | None]:
    """The list of runs, those that wait included, and the one to show: the chosen one, else one
    that is going, else the newest.
    """
    listing = library.runs(workspace)
    listing += [
        job.run
        for job in queue.shown()[0]
        if job.run not in listing and job.state in ("waiting", "paused")
    ]
    going = (run for run in listing if process.state(workspace.runs() / run) in process.GOING)
    return listing, name if name in listing else next(going, next(iter(listing), None))
