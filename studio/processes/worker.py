"""The worker of a device: `python -m studio.processes.worker WORKSPACE DEVICE` claims a job, starts
its training in a session of its own and looks after it. Knows no torch.

A page or a worker that dies stops no training: the next worker finds it by pid and start, and
begins again, from its checkpoint, what is gone.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from studio.processes import process as jobs
from studio.processes.job import Job, JobState, device_of, job_of
from studio.processes.process import training_command
from studio.processes.queue import Queue
from studio.processes.watchdog import Watchdog
from training import events
from training.cli.interrupts import Interrupts
from training.config.loading import to_toml
from training.errors import BusyError, ConfigError, StudioError
from training.storage import run_lock
from training.storage.paths import Workspace

LOOK = 1.0  # seconds between two looks of a worker
AGAIN = 5.0  # seconds before a worker whose database could not be written tries again
MOST_TRIES = 5  # starts in a row without a new checkpoint before a job has failed
# seconds before the third start in a row; doubled each time, the second comes at once
BACK_OFF = 30.0
# seconds; a start that lies further ahead was set by a clock that has been put back since
LONGEST_WAIT = BACK_OFF * 2**MOST_TRIES
ENDS: dict[str, JobState] = {"pause": "paused", "cancel": "cancelled"}
SILENT = "its training has said nothing since {when}. Look at its log, wait, or stop it."


class Worker:
    """One device's looks at the queue."""

    def __init__(self, line: Queue, device: str, watchdog: Watchdog | None = None) -> None:
        self.line, self.device = line, device
        self.watchdog = watchdog or Watchdog()

    def look(self, command: Callable[[Path], Sequence[str]] = training_command) -> None:
        """Hold what says running against living processes, then begin what is next."""
        for job in self.line.jobs():
            if job.device == self.device and job.state == "running":
                self.settle(job)
        if not self._is_occupied() and (job := self.claim()):
            self._begin(job, command)

    def claim(self) -> Job | None:
        """Take the next job for the device, so that nobody else has it; None when none may begin
        now or one is running.
        """
        now, device = time.time(), self.device
        with self.line.transaction() as db:
            row = db.execute(
                "UPDATE jobs SET state = 'running', heartbeat = ?, tries = tries + 1, message = '' "
                "WHERE id = ("
                "  SELECT id FROM jobs WHERE device = ? AND state IN ('waiting', "
                "'interrupted') AND (not_before <= ? OR not_before > ?)"
                "  ORDER BY state = 'interrupted' DESC, place, id LIMIT 1"
                ") AND NOT EXISTS (SELECT 1 FROM jobs WHERE device = ? AND state = 'running') "
                "RETURNING *",
                (now, device, now, now + LONGEST_WAIT, device),
            ).fetchone()
            if row is None:
                return None
            # Of an earlier training, if any; below zero, for this one has not begun. One that
            # nobody could record is known by what it said
            run = self.line.workspace.runs() / row["run"]
            record = jobs.read(run)
            said = float(jobs.events_length(run))
            before = (-record.pid, record.started) if record else (0, said)
            row = db.execute(
                "UPDATE jobs SET pid = ?, started = ? WHERE id = ? RETURNING *",
                (*before, row["id"]),
            ).fetchone()
        return job_of(row)

    def _run(self, job: Job) -> Path:
        return self.line.workspace.runs() / job.run

    def _is_occupied(self) -> bool:
        """Whether a run that is not in the queue trains on the device: one begun in a terminal,
        say.
        """
        known = {job.run for job in self.line.jobs() if job.state == "running"}
        runs = [
            run
            for run in self.line.workspace.runs().glob("*")
            if run.name not in known and jobs.is_alive(run)
        ]
        return any(
            (config := jobs.earlier(run)) is not None and device_of(config) == self.device
            for run in runs
        )

    def _begin(self, job: Job, command: Callable[[Path], Sequence[str]]) -> None:
        run = self._run(job)
        try:
            config = job.config
        except ConfigError as error:
            self._set(job, "failed", message=f"its settings in the queue are damaged. {error}")
            return
        if config.save.resume == "exact" and jobs.state(run) == "finished":
            self._set(job, "finished")  # it ended while nobody could write it down
            return
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
        exact = config.model_copy(
            update={"save": config.save.model_copy(update={"resume": "exact"})}
        )
        process = run_lock.holder(run) or jobs.read(run)
        found = (process.pid, process.started) if process else (job.pid, job.started)
        with self.line.transaction() as db:
            db.execute(
                "UPDATE jobs SET settings = ?, pid = ?, started = ? WHERE id = ?",
                (to_toml(exact), *found, job.id),
            )

    def settle(self, job: Job) -> None:
        """Write down what a running job is by now."""
        run = self._run(job)
        if jobs.is_alive(run):
            self._watch(job, run)
            return
        self.watchdog.forget(run)
        ended = jobs.state(run)
        if _ended_before(job, run):
            ended = "interrupted"
        if ended == "finished":
            self._set(job, "finished")
        elif job.request or ended == "stopped":
            self._set(job, ENDS.get(job.request, "paused"))
        elif ended == "failed" and not _passing(run):
            self._set(job, "failed", message=_why(run))
        else:
            self._interrupted(job, run, "failed" if ended == "failed" else "interrupted")

    def _watch(self, job: Job, run: Path) -> None:
        """Note that a training lives, pass on what is asked of it, and end one that hangs."""
        if job.request and jobs.state(run) == "running":
            jobs.stop(run)
        found, message = self.watchdog.look(run), job.message
        if found == "hung":
            jobs.stop(run, at_once=True)
        elif found == "silent":
            when = time.strftime("%d %B, %H:%M", time.localtime(_last_spoke(run)))
            message = SILENT.format(when=when)
        elif message.startswith(SILENT.partition("{")[0]):
            message = ""
        record = jobs.read(run)
        is_its_own = (
            record is not None
            and run_lock.Holder(record.pid, record.started, record.start).is_alive()
        )
        known = (record.pid, record.started) if record and is_its_own else (job.pid, job.started)
        with self.line.transaction() as db:
            db.execute(
                "UPDATE jobs SET heartbeat = ?, message = ?, pid = ?, started = ? "
                "WHERE id = ? AND state = 'running'",
                (time.time(), message, *known, job.id),
            )

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
        with self.line.transaction() as db:
            db.execute(
                "UPDATE jobs SET state = ?, wish = '', pid = 0, started = 0, message = ?, "
                "saved = max(saved, ?), tries = ?, not_before = ? "
                "WHERE id = ? AND state = 'running'",
                (state, message.strip(), saved, tries, time.time() + wait if wait else 0.0, job.id),
            )


def _ended_before(job: Job, run: Path) -> bool:
    """Whether the folder tells of a training that had ended before this job was claimed: its worker
    went before it could begin, or the new one before it said anything.
    """
    record = jobs.read(run)
    if record is None:
        return job.pid == 0 and jobs.events_length(run) <= job.started
    if job.pid <= 0:  # nobody wrote down that it began: is it still the record of before?
        return (-job.pid, job.started) == (record.pid, record.started)
    is_jobs_own = record.pid == job.pid and abs(record.started - job.started) < run_lock.SAME_START
    return not is_jobs_own and record.started < job.heartbeat - 1.0


def _last_spoke(run: Path) -> float:
    try:
        return (run / "events.jsonl").stat().st_mtime
    except OSError:
        return time.time()


def _last_failure(run: Path) -> events.Failed | None:
    last = None
    for event in events.read(run / "events.jsonl"):
        if isinstance(event, events.Failed):
            last = event
        elif isinstance(event, events.Started):
            last = None
    return last


def _passing(run: Path) -> bool:
    failure = _last_failure(run)
    return failure is not None and failure.passing


def _why(run: Path) -> str:
    failure = _last_failure(run)
    return failure.message if failure else jobs.log_tail(run, 3)


def _has_work(line: Queue, device: str) -> bool:
    try:
        return line.has_work(device)
    except StudioError:  # it had some before
        return True


def work(root: Path, device: str, stop: Callable[[], bool] = lambda: False) -> None:
    """Be the worker of a device until there is nothing left to do there, or until stop() says so;
    return at once when it has one.

    A training that runs then goes on; the next worker finds it.
    """
    line = Queue(Workspace(root), worker=None)
    worker = Worker(line, device)
    while not stop() and _has_work(
        line, device
    ):  # asked again once the lock is free: who adds a job while we leave starts no other worker
        try:
            with run_lock.held(line.place_of(device)):
                while not stop() and line.has_work(device):
                    worker.look()
                    time.sleep(LOOK)
        except BusyError:
            return
        except StudioError:  # trainings wait for room themselves; so does their line
            time.sleep(AGAIN)


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2], Interrupts())
    os._exit(0)  # the threads that wait for trainings need not end with us
