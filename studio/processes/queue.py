"""Trainings that wait their turn, in a database that survives page, worker and machine. Knows no
torch and no gradio.

For the page and for scripts:

    queue = Queue(workspace)
    id = queue.add(config)          # at the end of the line; starts a worker for its device when
    there is none queue.jobs()                    # every Job, those that train first, then in the
    order of the line queue.move(id, 0)               # to the front of those that wait
    queue.pause(id)                 # a run that trains saves first; queue.go_on(id) puts it back
    into the line queue.cancel(id)                # a run that trains saves first and stays on disk
    queue.retry(id)                 # a failed or cancelled one waits again, and goes on after its
    last checkpoint queue.remove(id)                # out of the list; the run's folder stays
    queue.wake()                    # start the workers that are missing: after a restart of the
    machine, say

Every method is safe in any number of pages at once; a wrong id or state raises StudioError. One
worker a device (`python -m studio.processes.queue WORKSPACE DEVICE`) claims a row, starts its
training in a session of its own and looks after it. A page or a worker
that dies stops no training: the next worker finds it by pid and start time, and begins again, from
its checkpoint, what is gone.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from studio.processes import process as jobs
from studio.processes.process import training_command
from training import events
from training.config.loading import from_mapping, to_toml
from training.config.schema import RunConfig
from training.errors import BusyError, SpaceError, StudioError
from training.storage import run_lock
from training.storage.paths import Workspace, inside

JobState = Literal["waiting", "interrupted", "running", "paused", "finished", "failed", "cancelled"]
CLAIMABLE = ("waiting", "interrupted")
LOOK = 1.0  # seconds between two looks of a worker
AGAIN = 5.0  # seconds before a worker whose database could not be written tries again
MOST_WAITING = 200  # jobs that wait, are interrupted or paused
MOST_TRIES = 5  # starts in a row without a new checkpoint before a job has failed
# seconds before the third start in a row; doubled each time, the second comes at once
BACK_OFF = 30.0
# seconds; a start that lies further ahead was set by a clock that has been put back since
LONGEST_WAIT = BACK_OFF * 2**MOST_TRIES
SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run TEXT NOT NULL, device TEXT NOT NULL, settings TEXT NOT NULL,
    state TEXT NOT NULL, wish TEXT NOT NULL DEFAULT '', place INTEGER NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    saved INTEGER NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0, pid INTEGER NOT NULL DEFAULT 0,
    started REAL NOT NULL DEFAULT 0,
    heartbeat REAL NOT NULL DEFAULT 0,
    message TEXT NOT NULL DEFAULT '', added REAL NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS one_at_a_time ON jobs (device) WHERE state = 'running';
CREATE UNIQUE INDEX IF NOT EXISTS one_job_a_run ON jobs (run)
    WHERE state IN ('waiting', 'interrupted', 'running', 'paused');
"""


@dataclass(frozen=True)
class Job:
    """A row. run: name of the run's folder; wish: "pause" or "cancel" while a training is asked to;
    tries: starts since the last new checkpoint;

    pid, started: of the training, 0 while there is none; heartbeat: when a worker last saw it
    alive; message: why it waits or failed. Times are seconds since 1970.
    """

    id: int
    run: str
    device: str
    settings: str
    state: JobState
    wish: str
    place: int
    tries: int
    saved: int
    not_before: float
    pid: int
    started: float
    heartbeat: float
    message: str
    added: float

    @property
    def config(self) -> RunConfig:
        return from_mapping(tomllib.loads(self.settings))


def device_of(config: RunConfig) -> str:
    """The device a run will train on, as far as that can be told without torch:

    cpu, cuda:N or mps.
    """
    asked = config.base.device
    if asked == "auto":
        asked = (
            "cuda"
            if Path("/dev/nvidia0").exists()
            else "mps"
            if sys.platform == "darwin"
            else "cpu"
        )
    return "cuda:0" if asked == "cuda" else asked


def worker_command(root: Path, device: str) -> list[str]:
    return [sys.executable, "-m", "studio.processes.queue", str(root), device]


class Queue:
    """The line of a workspace.

    worker: how a worker is started, None for a queue that starts none.
    """

    def __init__(
        self,
        workspace: Workspace,
        worker: Callable[[Path, str], Sequence[str]] | None = worker_command,
    ) -> None:
        self.workspace, self.worker = workspace, worker
        self.folder = workspace.root / "queue"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SpaceError(
                f"{self.folder} cannot be made ({error.strerror}). Free space on that disk, or "
                "choose another --workspace."
            ) from None
        with self._open() as db:
            db.executescript(SCHEMA)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it is on disk afterwards, or none.

        Raises SpaceError when the disk takes none, StudioError for a damaged file.
        """
        try:
            db = sqlite3.connect(self.folder / "queue.sqlite", timeout=30, isolation_level=None)
        except sqlite3.Error as error:
            raise self._trouble(error) from error
        db.row_factory = sqlite3.Row
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("BEGIN IMMEDIATE")
            yield db
            if db.in_transaction:
                db.execute("COMMIT")
        except sqlite3.IntegrityError:  # a rule of ours, which the caller knows
            raise
        except sqlite3.Error as error:
            raise self._trouble(error) from error
        finally:
            db.close()  # what is not committed by now is undone

    def _trouble(self, error: sqlite3.Error) -> StudioError:
        """What to say of a database that cannot be used now, or not any more."""
        if isinstance(error, sqlite3.OperationalError):
            return SpaceError(
                f"The line of trainings cannot be written ({error}). Free space on the "
                "workspace's disk or look whether it may be written to; "
                "nothing in the line was changed, and what trains goes on."
            )
        return StudioError(
            f"The line of trainings is damaged ({error}). No picture, run or style is in it: "
            f"move {self.folder.name}/queue.sqlite out of the "
            "workspace, open the page again, and start the runs that had waited once more."
        )

    # --- for the page ---

    def add(self, config: RunConfig) -> int:
        """Put a run at the end of the line; return its id.

        Raises StudioError when that run is in it already or finished, or the line is full.
        """
        run = inside(self.workspace.runs(), config.save.name)
        if config.run_folder != run:
            raise StudioError(
                f"save.folder is {config.save.folder}: runs of the queue lie in "
                f"{self.workspace.runs()}."
            )
        jobs.check(config)
        try:
            with self._open() as db:
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
                    (run.name, device_of(config), to_toml(config), time.time()),
                ).fetchone()
        except sqlite3.IntegrityError:
            raise StudioError(
                f"“{run.name}” is in the queue already. Give the new run another name."
            ) from None
        self.wake()
        return row["id"]

    def jobs(self) -> list[Job]:
        """Every job: those that train, then those that wait in their order, then the others."""
        with self._open() as db:
            rows = db.execute(
                "SELECT * FROM jobs ORDER BY CASE state WHEN 'running' THEN 0 WHEN "
                "'interrupted' THEN 1 WHEN 'waiting' THEN 2 ELSE 3 END, place, id"
            )
            return [Job(**row) for row in rows]

    def job(self, id: int) -> Job:
        """Raises StudioError when there is none."""
        with self._open() as db:
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise StudioError("That job is not in the queue any more.")
        return Job(**row)

    def of_run(self, run: str) -> Job | None:
        """The job of a run that was added last."""
        with self._open() as db:
            row = db.execute(
                "SELECT * FROM jobs WHERE run = ? ORDER BY id DESC LIMIT 1", (run,)
            ).fetchone()
        return Job(**row) if row else None

    def move(self, id: int, place: int) -> None:
        """Give a waiting job a place in the line, 0 the first."""
        self.job(id)
        with self._open() as db:
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
        """Take it out of the line until go_on; one that trains saves first."""
        self._end(id, "pause", "paused")

    def cancel(self, id: int) -> None:
        """Take it out of the line; one that trains saves first."""
        self._end(id, "cancel", "cancelled")

    def _end(self, id: int, wish: str, state: JobState) -> None:
        with self._open() as db:
            db.execute("UPDATE jobs SET wish = ? WHERE id = ? AND state = 'running'", (wish, id))
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
        """Put a paused job back where it was in the line."""
        self._again(id, ("paused",))

    def retry(self, id: int) -> None:
        """Let a failed or cancelled job wait again."""
        self._again(id, ("failed", "cancelled"))

    def _again(self, id: int, states: tuple[str, ...]) -> None:
        job = self.job(id)
        if job.state not in states:
            raise StudioError(f"“{job.run}” is {job.state}, so there is nothing to begin again.")
        try:
            with self._open() as db:
                db.execute(
                    "UPDATE jobs SET state = 'waiting', wish = '', tries = 0, not_before = 0, "
                    "message = '' WHERE id = ?",
                    (id,),
                )
        except sqlite3.IntegrityError:
            raise StudioError(f"“{job.run}” is in the queue a second time already.") from None
        self.wake()

    def remove(self, id: int) -> None:
        """Forget a job that neither waits nor trains."""
        with self._open() as db:
            gone = db.execute(
                "DELETE FROM jobs WHERE id = ? AND state IN ('paused', 'finished', 'failed', "
                "'cancelled')",
                (id,),
            ).rowcount
        if not gone:
            raise StudioError(f"“{self.job(id).run}” waits or trains. Cancel it first.")

    def wake(self) -> None:
        """Start a worker for every device that has something to do and none."""
        with self._open() as db:
            devices = [
                row["device"]
                for row in db.execute(
                    "SELECT DISTINCT device FROM jobs WHERE state IN ('waiting', "
                    "'interrupted', 'running')"
                )
            ]
        for device in devices if self.worker else []:
            if run_lock.holder(self.place_of(device)) is None:
                subprocess.Popen(
                    [*self.worker(self.workspace.root, device)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=jobs.environment(),
                    start_new_session=True,
                    close_fds=True,
                )

    # --- for workers ---

    def place_of(self, device: str) -> Path:
        """The folder whose lock the device's worker holds."""
        folder = inside(self.folder, device.replace(":", "-"))
        folder.mkdir(exist_ok=True)
        return folder

    def has_work(self, device: str) -> bool:
        with self._open() as db:
            states = (device, *CLAIMABLE)
            return (
                db.execute(
                    "SELECT 1 FROM jobs WHERE device = ? AND state IN (?, ?, 'running')", states
                ).fetchone()
                is not None
            )

    def claim(self, device: str) -> Job | None:
        """Take the next job for a device, so that nobody else has it; None when none may begin now
        or one is running.
        """
        me, now = run_lock.myself(), time.time()
        with self._open() as db:
            row = db.execute(
                "UPDATE jobs SET state = 'running', pid = ?, started = ?, heartbeat = ?, tries "
                "= tries + 1, message = '' WHERE id = ("
                "  SELECT id FROM jobs WHERE device = ? AND state IN ('waiting', "
                "'interrupted') AND (not_before <= ? OR not_before > ?)"
                "  ORDER BY state = 'interrupted' DESC, place, id LIMIT 1"
                ") AND NOT EXISTS (SELECT 1 FROM jobs WHERE device = ? AND state = 'running') "
                "RETURNING *",
                (me.pid, me.started, now, device, now, now + LONGEST_WAIT, device),
            ).fetchone()
        return Job(**row) if row else None

    def look_after(
        self, device: str, command: Callable[[Path], Sequence[str]] = training_command
    ) -> None:
        """One look of a worker:

        hold what says running against living processes, then begin what is next.
        """
        for job in self.jobs():
            if job.device == device and job.state == "running":
                self._settle(job)
        if not self._occupied(device) and (job := self.claim(device)):
            self._begin(job, command)

    def _occupied(self, device: str) -> bool:
        """Whether a run that is not in the line trains there:

        one begun with the page's Start, say.
        """
        known = {job.run for job in self.jobs() if job.state == "running"}
        runs = [
            run
            for run in self.workspace.runs().glob("*")
            if run.name not in known and jobs.is_alive(run)
        ]
        return any(
            (config := jobs.earlier(run)) is not None and device_of(config) == device
            for run in runs
        )

    def _begin(self, job: Job, command: Callable[[Path], Sequence[str]]) -> None:
        config, run = job.config, self.workspace.runs() / job.run
        try:
            jobs.start_run(config, command(run / "run.toml"))
        except BusyError:
            pass  # it trains already, begun elsewhere: it is looked after from here on
        except StudioError as error:
            if error.passing:  # a full disk, say
                self._set(job, "interrupted", message=str(error), wait=BACK_OFF)
            else:
                self._set(job, "failed", message=str(error))
            return
        # Adapting and beginning anew are done once
        now_exact = config.model_copy(
            update={"save": config.save.model_copy(update={"resume": "exact"})}
        )
        process = run_lock.holder(run) or jobs.read(run)
        with self._open() as db:
            db.execute(
                "UPDATE jobs SET settings = ?, pid = ?, started = ? WHERE id = ?",
                (
                    to_toml(now_exact),
                    process.pid if process else 0,
                    process.started if process else 0,
                    job.id,
                ),
            )

    def _settle(self, job: Job) -> None:
        """What a running job is by now."""
        run = self.workspace.runs() / job.run
        if jobs.is_alive(run):
            if job.wish and jobs.state(run) == "running":
                jobs.stop(run)
            with self._open() as db:
                db.execute(
                    "UPDATE jobs SET heartbeat = ? WHERE id = ? AND state = 'running'",
                    (time.time(), job.id),
                )
            return
        ended, ends = jobs.state(run), {"pause": "paused", "cancel": "cancelled"}
        if ended == "finished":
            self._set(job, "finished")
        elif job.wish or ended == "stopped":
            self._set(job, ends.get(job.wish, "paused"))
        elif ended == "failed" and not _passing(run):
            self._set(job, "failed", message=_why(run))
        else:
            self._interrupted(job, run, "failed" if ended == "failed" else "interrupted")

    def _interrupted(self, job: Job, run: Path, what: str) -> None:
        saved = max(
            (int(p.name[5:]) for p in (run / "checkpoints").glob("step-*") if p.name[5:].isdigit()),
            default=0,
        )
        tries = 1 if saved > job.saved else job.tries  # it gets on, if slowly
        if tries >= MOST_TRIES:
            self._set(
                job,
                "failed",
                message=f"its training ended {tries} times without getting on. {_why(run)}",
                saved=saved,
                tries=tries,
            )
            return
        wait = BACK_OFF * 2 ** (tries - 2) if tries > 1 else 0.0
        self._set(
            job,
            "interrupted",
            message=f"{what} after {saved} saved updates. {_why(run)}",
            saved=saved,
            tries=tries,
            wait=wait,
        )

    def _set(
        self,
        job: Job,
        state: JobState,
        *,
        message: str = "",
        saved: int = 0,
        tries: int = 0,
        wait: float = 0.0,
    ) -> None:
        with self._open() as db:
            db.execute(
                "UPDATE jobs SET state = ?, wish = '', pid = 0, started = 0, message = ?, "
                "saved = max(saved, ?), tries = ?, not_before = ? "
                "WHERE id = ? AND state = 'running'",
                (state, message.strip(), saved, tries, time.time() + wait if wait else 0.0, job.id),
            )


def _last_failure(run: Path) -> events.Failed | None:
    last = None
    for event in events.read(run / "events.jsonl"):
        last = (
            event
            if isinstance(event, events.Failed)
            else None
            if isinstance(event, events.Started)
            else last
        )
    return last


def _passing(run: Path) -> bool:
    failure = _last_failure(run)
    return failure is not None and failure.passing


def _why(run: Path) -> str:
    failure = _last_failure(run)
    return failure.message if failure else jobs.log_tail(run, 3)


def _has_work(queue: Queue, device: str) -> bool:
    try:
        return queue.has_work(device)
    except SpaceError:  # it had some before
        return True


def work(root: Path, device: str) -> None:
    """Be the worker of a device until there is nothing left to do there; return at once when it has
    one.
    """
    queue = Queue(Workspace(root), worker=None)
    while _has_work(
        queue, device
    ):  # asked again once the lock is free: who adds a job while we leave starts no other worker
        try:
            with run_lock.held(queue.place_of(device)):
                while queue.has_work(device):
                    queue.look_after(device)
                    time.sleep(LOOK)
        except BusyError:
            return
        except SpaceError:  # trainings wait for room themselves; so does their line
            time.sleep(AGAIN)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        work(Path(sys.argv[1]), sys.argv[2])
        os._exit(0)  # the threads that wait for trainings need not end with us
