"""Trainings that wait their turn, in a database that survives page, worker and machine. Knows no
torch and no gradio.

For the page and for scripts:

    queue = Queue(workspace)
    id = queue.add(config)          # at the end of the queue; starts a worker where there is none
    queue.jobs()                    # every Job, those that train first, then in the queue's order
    queue.move(id, 0)               # to the front of those that wait
    queue.pause(id)                 # a run that trains saves first
    queue.go_on(id)                 # puts it back into the queue
    queue.cancel(id)                # a run that trains saves first and stays on disk
    queue.retry(id)                 # a failed or cancelled one waits again, and resumes
    queue.remove(id)                # out of the list; the run's folder stays
    queue.wake()                    # start missing workers: after a restart of the machine, say

Every method is safe in any number of pages at once; a wrong id or state raises StudioError, and so
does a database that cannot be used. studio.processes.worker does the work.
"""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from studio.processes import process as jobs
from studio.processes.job import CLAIMABLE, Job, JobState, device_of, job_of
from studio.processes.queue_database import OPENING, QueueDatabase
from training.config.loading import to_toml
from training.config.schema import RunConfig
from training.errors import StudioError
from training.storage import run_lock
from training.storage.paths import Workspace, inside
from training.system import processes

GONE = "That job is not in the queue any more. Look at the list of runs again."
MOST_WAITING = 200  # jobs that wait, are interrupted or paused


def worker_command(root: Path, device: str) -> list[str]:
    return [sys.executable, "-m", "studio.processes.worker", str(root), device]


class Queue:
    """The line of a workspace. A database that cannot be used is no error here, only where it is
    asked for something.

    worker: how a worker is started, None for a queue that starts none.
    """

    def __init__(
        self,
        workspace: Workspace,
        worker: Callable[[Path, str], Sequence[str]] | None = worker_command,
    ) -> None:
        self.workspace, self.worker = workspace, worker
        self.folder = workspace.root / "queue"
        self.database = QueueDatabase(self.folder, workspace.runs())
        with contextlib.suppress(StudioError):  # said again by whoever needs it
            self.database.prepare(OPENING)

    def transaction(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """All of it is on disk afterwards, or none. Raises like QueueDatabase.open."""
        return self.database.open()

    def shown(self) -> tuple[list[Job], str]:
        """The jobs for a page that opens in any case, and what it says of the queue: that it cannot
        be used, or was made again; "" if nothing.
        """
        try:
            return self.jobs(), self.database.notice
        except StudioError as error:
            return [], str(error)

    def add(self, config: RunConfig) -> int:
        """Put a run at the end of the queue; return its id.

        Raises StudioError when that run is in it already or finished, or the queue is full.
        """
        run = inside(self.workspace.runs(), config.save.name)
        if config.run_folder != run:
            raise StudioError(
                f"save.folder is {config.save.folder}: runs of the queue lie in "
                f"{self.workspace.runs()}. Set it to that."
            )
        jobs.check(config)
        device = device_of(config)  # before the database is held: torch may have to be asked
        try:
            with self.transaction() as db:
                waiting = db.execute(
                    "SELECT count(*) FROM jobs WHERE state IN ('waiting', 'interrupted', 'paused')"
                ).fetchone()[0]
                if waiting >= MOST_WAITING:
                    raise StudioError(
                        f"{waiting} runs wait in the queue, which is the most. Let some of "
                        "them end, or cancel them."
                    )
                row = db.execute(
                    "INSERT INTO jobs (run, device, settings, state, place, added) "
                    "VALUES (?, ?, ?, 'waiting', (SELECT coalesce(max(place), 0) + 1 FROM "
                    "jobs), ?) RETURNING id",
                    (run.name, device, to_toml(config), time.time()),
                ).fetchone()
        except sqlite3.IntegrityError:
            raise StudioError(
                f"“{run.name}” is in the queue already. Give the new run another name."
            ) from None
        self.wake()
        return row["id"]

    def jobs(self) -> list[Job]:
        """Every job: those that train, then those that wait in their order, then the others."""
        with self.transaction() as db:
            rows = db.execute(
                "SELECT * FROM jobs ORDER BY CASE state WHEN 'running' THEN 0 WHEN "
                "'interrupted' THEN 1 WHEN 'waiting' THEN 2 ELSE 3 END, place, id"
            )
            return [job_of(row) for row in rows]

    def job(self, id: int) -> Job:
        """Raises StudioError when there is none."""
        with self.transaction() as db:
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise StudioError(GONE)
        return job_of(row)

    def of_run(self, run: str) -> Job | None:
        """The job of a run that was added last."""
        with self.transaction() as db:
            row = db.execute(
                "SELECT * FROM jobs WHERE run = ? ORDER BY id DESC LIMIT 1", (run,)
            ).fetchone()
        return job_of(row) if row else None

    def move(self, id: int, place: int) -> None:
        """Give a waiting job a place in the queue, 0 the first."""
        self.job(id)
        with self.transaction() as db:
            line = [
                row["id"]
                for row in db.execute(
                    "SELECT id FROM jobs WHERE state = 'waiting' AND id != ? ORDER BY place, id",
                    (id,),
                )
            ]
            line.insert(max(0, place), id)
            db.executemany("UPDATE jobs SET place = ? WHERE id = ?", list(enumerate(line)))

    def pause(self, id: int) -> None:
        """Take it out of the queue until go_on; one that trains saves first."""
        self._end(id, "pause", "paused")

    def cancel(self, id: int) -> None:
        """Take it out of the queue; one that trains saves first."""
        self._end(id, "cancel", "cancelled")

    def _end(self, id: int, request: str, state: JobState) -> None:
        with self.transaction() as db:
            db.execute("UPDATE jobs SET wish = ? WHERE id = ? AND state = 'running'", (request, id))
            db.execute(
                "UPDATE jobs SET state = ?, message = '' WHERE id = ? AND state IN ('waiting', "
                "'interrupted', 'paused')",
                (state, id),
            )
        if self.job(id).state == "running":
            jobs.stop(
                self.workspace.runs() / self.job(id).run
            )  # at once; a worker that is there would do it too
            self.wake()

    def go_on(self, id: int) -> None:
        """Put a paused job back where it was in the queue."""
        self._again(id, ("paused",))

    def retry(self, id: int) -> None:
        """Let a failed or cancelled job wait again."""
        self._again(id, ("failed", "cancelled"))

    def _again(self, id: int, states: tuple[str, ...]) -> None:
        job = self.job(id)
        if job.state not in states:
            raise StudioError(f"“{job.run}” is {job.state}, so there is nothing to begin again.")
        try:
            with self.transaction() as db:
                db.execute(
                    "UPDATE jobs SET state = 'waiting', wish = '', tries = 0, not_before = 0, "
                    "message = '' WHERE id = ?",
                    (id,),
                )
        except sqlite3.IntegrityError:
            raise StudioError(
                f"“{job.run}” is in the queue a second time already. Remove this one."
            ) from None
        self.wake()

    def remove(self, id: int) -> None:
        """Forget a job that neither waits nor trains."""
        with self.transaction() as db:
            gone = db.execute(
                "DELETE FROM jobs WHERE id = ? AND state IN ('paused', 'finished', 'failed', "
                "'cancelled')",
                (id,),
            ).rowcount
        if not gone:
            raise StudioError(f"“{self.job(id).run}” waits or trains. Cancel it first.")

    def wake(self) -> None:
        """Start a worker for every device that has something to do and none."""
        with self.transaction() as db:
            devices = [
                row["device"]
                for row in db.execute(
                    "SELECT DISTINCT device FROM jobs WHERE state IN ('waiting', "
                    "'interrupted', 'running')"
                )
            ]
        if self.worker is None:
            return
        for device in devices:
            if run_lock.holder(self.place_of(device)) is None:
                child = subprocess.Popen(
                    [*self.worker(self.workspace.root, device)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=jobs.environment(),
                    **processes.own_session(),
                    close_fds=True,
                )
                threading.Thread(target=child.wait, daemon=True).start()  # leaves no zombie

    def place_of(self, device: str) -> Path:
        """The folder whose lock the device's worker holds."""
        folder = inside(self.folder, device.replace(":", "-"))
        folder.mkdir(exist_ok=True)
        return folder

    def has_work(self, device: str) -> bool:
        with self.transaction() as db:
            states = (device, *CLAIMABLE)
            return (
                db.execute(
                    "SELECT 1 FROM jobs WHERE device = ? AND state IN (?, ?, 'running')", states
                ).fetchone()
                is not None
            )
