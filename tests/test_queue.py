"""The line of trainings with real processes:

claimed once, one at a time, and whatever dies is found out and gone on with.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from studio.processes import process, queue
from studio.processes.queue import Queue
from tests.test_jobs import TRAINER, until
from training import events
from training.config.loading import from_mapping
from training.config.schema import RunConfig
from training.errors import SpaceError, StudioError
from training.storage import run_lock
from training.storage.paths import Workspace

LONG = 300.0  # seconds: only a machine that does nothing at all takes as long
ROOT = Path(__file__).resolve().parents[1]
# A worker as the real one, but for its trainings: these make as many updates as run.toml says by
# the time they start, and know how to stop.
STEPS = (
    "import sys, tomllib; sys.argv.append(tomllib.load(open(sys.argv[1], 'rb'))['optim']['steps'])"
)
WORKER = f"""
import sys
from pathlib import Path
from studio.processes import queue
queue.LOOK = 0.05
def command(run_toml):
    return [sys.executable, "-c", {STEPS + TRAINER!r}, str(run_toml)]
look = queue.Queue.look_after
queue.Queue.look_after = lambda self, device: look(self, device, command)
queue.work(Path(sys.argv[1]), sys.argv[2])
"""


def worker_command(root: Path, device: str) -> list[str]:
    return [sys.executable, "-B", "-c", WORKER, str(root), device]


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """A workspace; whatever still works there at the end is ended."""
    space = Workspace(tmp_path / "w")
    yield space
    for job in Queue(space, None).jobs():
        Queue(space, None).cancel(job.id)
    for folder in (space.root / "queue").glob("*/"):
        if holder := run_lock.holder(folder):
            os.kill(holder.pid, signal.SIGKILL)
    for run in space.runs().glob("*"):
        process.stop(run, at_once=True)
        until(lambda run=run: not process.is_alive(run))


def config(workspace: Workspace, name: str, steps: int = 2, device: str = "cpu") -> RunConfig:
    return from_mapping(
        {
            "base": {"device": device},
            "save": {"name": name, "folder": str(workspace.runs())},
            "optim": {"steps": steps},
        }
    )


def states(line: Queue) -> dict[str, str]:
    return {job.run: job.state for job in line.jobs()}


def comes_to(line: Queue, **wanted: str) -> None:
    """Wait as long as a busy machine needs; a job that failed will not come to anything else, so
    its reason ends the wait.
    """

    def there() -> bool:
        failed = [
            f"{job.run}: {job.message}"
            for job in line.jobs()
            if job.state == "failed" != wanted[job.run]
        ]
        assert not failed, failed
        return states(line) == wanted

    until(there, LONG)


def test_runs_wait_and_finish_in_order_with_one_worker(workspace: Workspace) -> None:
    lines = [Queue(workspace, worker_command) for _ in range(2)]  # two pages
    for i, name in enumerate(("a", "b", "c")):
        lines[i % 2].add(config(workspace, name))
    comes_to(lines[0], a="finished", b="finished", c="finished")
    begun = {
        name: next(iter((workspace.runs() / name / "events.jsonl").read_text().splitlines()))
        for name in "abc"
    }
    assert begun["a"] and sorted(
        begun, key=lambda name: float(begun[name].split('"time": ')[1].split(",")[0])
    ) == ["a", "b", "c"]
    until(
        lambda: run_lock.holder(lines[0].place_of("cpu")) is None, LONG
    )  # nothing left to do: the worker goes


def test_two_workers_cannot_share_a_device_or_a_job(workspace: Workspace) -> None:
    line = Queue(workspace, None)
    for i in range(8):
        line.add(config(workspace, f"r{i}", device="cpu" if i % 2 else "cuda:1"))
    with ThreadPoolExecutor(16) as pool:
        claimed = [
            job
            for job in pool.map(
                lambda i: Queue(workspace, None).claim("cpu" if i % 2 else "cuda:1"), range(32)
            )
            if job
        ]
    assert sorted(job.run for job in claimed) == [
        "r0",
        "r1",
    ]  # one a device, whoever asks and however often
    with run_lock.held(line.place_of("cpu")):
        worker = subprocess.run(
            [sys.executable, "-m", "studio.processes.queue", str(workspace.root), "cpu"],
            cwd=ROOT,
            timeout=LONG,
        )
        assert worker.returncode == 0  # not needed: it leaves


def test_a_killed_worker_stops_no_training_and_the_next_one_finds_it(workspace: Workspace) -> None:
    line = Queue(workspace, worker_command)
    line.add(config(workspace, "a", steps=100_000))
    run = workspace.runs() / "a"
    comes_to(line, a="running")
    until(
        lambda: process.state(run) == "running" and line.jobs()[0].pid == process.read(run).pid,
        LONG,
    )
    training, worker = process.read(run).pid, run_lock.holder(line.place_of("cpu"))
    assert worker is not None
    os.kill(worker.pid, signal.SIGKILL)
    until(lambda: run_lock.holder(line.place_of("cpu")) is None, LONG)
    assert process.is_alive(run)
    seen = line.jobs()[0].heartbeat
    line.wake()
    until(lambda: line.jobs()[0].heartbeat > seen, LONG)
    assert process.read(run).pid == training and states(line) == {"a": "running"}
    line.pause(line.jobs()[0].id)
    comes_to(line, a="paused")


def test_after_a_power_cut_the_row_is_held_against_the_living_and_goes_on(
    workspace: Workspace,
) -> None:
    """Row and record say running, with a pid that is a stranger's by now."""
    line = Queue(workspace, None)
    id = line.add(config(workspace, "a", steps=3))
    assert line.claim("cpu") is not None
    run = workspace.runs() / "a"
    (run / "checkpoints" / "step-0000002").mkdir(parents=True)
    (run / "events.jsonl").write_text(
        events.to_line(events.Started(0, 3, 1, 1, 1, "cpu", "float32")) + "\n"
    )
    (run / "process.json").write_text(
        json.dumps({"pid": os.getpid(), "started": 1.0, "command": []})
    )
    with sqlite3.connect(line.folder / "queue.sqlite") as db:
        db.execute("UPDATE jobs SET pid = ?, started = 1.0", (os.getpid(),))
    line._settle(line.job(id))
    assert (
        line.job(id).state == "interrupted"
        and line.job(id).saved == 2
        and "2 saved updates" in line.job(id).message
    )
    awake = Queue(workspace, worker_command)
    awake.wake()
    comes_to(line, a="finished")


def dies(run_toml: Path) -> list[str]:
    return [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]


def test_what_keeps_dying_waits_longer_each_time_and_is_given_up(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, now, waits = Queue(workspace, None), [time.time()], []
    monkeypatch.setattr(queue.time, "time", lambda: now[0])
    id = line.add(config(workspace, "a"))
    for _ in range(queue.MOST_TRIES):
        line.look_after("cpu", dies)
        assert line.job(id).state == "running"
        until(lambda: process.read(workspace.runs() / "a").exit_code == -9)
        line._settle(line.job(id))
        waits.append(max(0.0, round(line.job(id).not_before - now[0])))
        line.look_after("cpu", dies) if waits[-1] else None  # not before its time
        assert line.job(id).state != "running"
        now[0] += waits[-1] + 1
    assert (
        waits == [0, 30, 60, 120, 0]
        and line.job(id).state == "failed"
        and "5 times" in line.job(id).message
    )
    line.retry(id)
    assert line.job(id).state == "waiting" and line.job(id).tries == 0


@pytest.mark.parametrize(("passing", "wanted"), [(True, "interrupted"), (False, "failed")])
def test_a_failure_is_tried_again_only_when_that_may_help(
    passing: bool, wanted: str, workspace: Workspace
) -> None:
    line = Queue(workspace, None)
    id = line.add(config(workspace, "a"))
    assert line.claim("cpu") is not None
    (workspace.runs() / "a").mkdir(parents=True)
    (workspace.runs() / "a" / "events.jsonl").write_text(
        events.to_line(events.Failed("the disk is full", 0, passing)) + "\n"
    )
    line._settle(line.job(id))
    assert line.job(id).state == wanted and "the disk is full" in line.job(id).message


def test_the_line_can_be_changed(workspace: Workspace) -> None:
    line = Queue(workspace, None)
    a, b, c, d = (line.add(config(workspace, name)) for name in "abcd")

    def order():
        return [job.run for job in line.jobs() if job.state == "waiting"]

    line.move(c, 0)
    line.move(a, 99)
    assert order() == ["c", "b", "d", "a"]
    line.pause(b)
    line.cancel(d)
    assert order() == ["c", "a"] and states(line) == {
        "a": "waiting",
        "b": "paused",
        "c": "waiting",
        "d": "cancelled",
    }
    line.go_on(b)
    assert order() == ["c", "b", "a"]
    line.remove(d)
    with pytest.raises(StudioError, match="not in the queue any more"):
        line.remove(d)
    refused: list[Callable[[], object]] = [
        lambda: line.remove(a),
        lambda: line.retry(a),
        lambda: line.go_on(a),
        lambda: line.add(config(workspace, "a")),
    ]
    for act in refused:
        with pytest.raises(StudioError):
            act()
    elsewhere = config(workspace, "z").model_copy(update={"save": RunConfig().save})
    with pytest.raises(StudioError, match=r"save\.folder"):
        line.add(elsewhere)


def test_a_run_begun_with_start_keeps_the_device(workspace: Workspace) -> None:
    line, other = Queue(workspace, None), config(workspace, "other", steps=100_000)
    process.start_run(
        other, [sys.executable, "-c", TRAINER, str(other.run_folder / "run.toml"), "100000"]
    )
    id = line.add(config(workspace, "a"))
    line.look_after("cpu", dies)
    assert line.job(id).state == "waiting"
    process.stop(other.run_folder, at_once=True)
    until(lambda: not process.is_alive(other.run_folder))
    line.look_after("cpu", dies)
    assert line.job(id).state == "running"


def test_it_is_written_through(workspace: Workspace) -> None:
    with Queue(workspace, None)._open() as db:
        assert (
            db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
            and db.execute("PRAGMA synchronous").fetchone()[0] == 2
        )


# --- a disk that takes nothing more ---


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """full(True): sqlite's own files may not grow by a page any more, as on a full disk;
    full(False): they may again.
    """
    connect, state = sqlite3.connect, [False]

    def limited(*args: object, **keys: object) -> sqlite3.Connection:
        db = connect(*args, **keys)
        if state[0]:
            db.execute(
                "PRAGMA max_page_count = 1"
            )  # sqlite takes the present size where that is more
        return db

    monkeypatch.setattr(queue.sqlite3, "connect", limited)
    return lambda on: state.__setitem__(0, on)


def test_a_full_disk_is_told_and_the_line_stays_as_it_was(
    workspace: Workspace, full: Callable[[bool], None]
) -> None:
    line = Queue(workspace, None)
    first = line.add(config(workspace, "a"))
    before = line.jobs()
    full(True)
    with pytest.raises(SpaceError, match=r"cannot be written \(database or disk is full\)"):
        for i in range(200):  # a few rows fit into the pages there are
            line.add(config(workspace, f"more-{i}"))
    assert [job for job in line.jobs() if job.id == first] == before  # it can still be read
    full(False)
    held = [job.run for job in line.jobs()]
    assert line.add(config(workspace, "z")) and [job.run for job in line.jobs()] == [*held, "z"]


@pytest.mark.parametrize("what", ["disk I/O error", "attempt to write a readonly database"])
def test_a_failing_disk_is_told(
    workspace: Workspace, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Queue(workspace, None)
    line.add(config(workspace, "a"))
    connect = sqlite3.connect

    class Failing(sqlite3.Connection):
        def execute(self, sql: str, *args: object) -> sqlite3.Cursor:
            if sql == "COMMIT":
                raise sqlite3.OperationalError(what)
            return super().execute(sql, *args)

    with monkeypatch.context() as patched:
        patched.setattr(
            queue.sqlite3, "connect", lambda *args, **keys: connect(*args, **keys, factory=Failing)
        )
        for act in (
            lambda: line.add(config(workspace, "b")),
            lambda: line.pause(1),
            lambda: line.claim("cpu"),
        ):
            with pytest.raises(SpaceError, match=what):
                act()
    assert [(job.run, job.state) for job in line.jobs()] == [("a", "waiting")]


def test_a_damaged_line_is_told_and_costs_no_run(workspace: Workspace) -> None:
    line = Queue(workspace, None)
    line.add(config(workspace, "a"))
    for beside in line.folder.glob("queue.sqlite*"):
        beside.write_bytes(b"no database" * 1000)
    with pytest.raises(StudioError, match=r"damaged .*queue/queue\.sqlite"):
        Queue(workspace, None)
    for beside in line.folder.glob("queue.sqlite*"):
        beside.unlink()
    assert Queue(workspace, None).jobs() == []


def test_a_worker_outlives_a_full_disk(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Queue(workspace, None)
    line.add(config(workspace, "a"))
    looks = iter([SpaceError("full"), SpaceError("full"), None])

    def look_after(self: Queue, device: str) -> None:
        if trouble := next(looks):
            raise trouble
        self.cancel(1)

    monkeypatch.setattr(Queue, "look_after", look_after)
    monkeypatch.setattr(queue, "AGAIN", 0.01)
    queue.work(workspace.root, "cpu")
    assert next(looks, "done") == "done" and line.job(1).state == "cancelled"


def test_a_run_that_finds_no_room_at_its_start_waits(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Queue(workspace, None)
    id = line.add(config(workspace, "a"))

    def no_room(*args: object) -> None:
        raise SpaceError("run.toml could not be written (No space left on device).")

    monkeypatch.setattr(process, "start_run", no_room)
    line.look_after("cpu")
    job = line.job(id)
    assert (
        job.state == "interrupted"
        and "No space left" in job.message
        and job.not_before > time.time()
    )


def test_a_clock_that_is_put_back_holds_nothing_up(workspace: Workspace) -> None:
    line = Queue(workspace, None)
    id = line.add(config(workspace, "a"))
    for ahead, begins in ((queue.BACK_OFF, False), (30 * 86_400, True)):
        with line._open() as db:
            db.execute("UPDATE jobs SET not_before = ? WHERE id = ?", (time.time() + ahead, id))
        assert (line.claim("cpu") is not None) == begins
