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

import psutil
import pytest

from studio.page.tabs.train import queue_actions
from studio.processes import process, queue_database, starting, watchdog, worker
from studio.processes.queue import Queue
from studio.processes.worker import Worker
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
from studio.processes import worker
worker.LOOK = 0.05
def command(run_toml):
    return [sys.executable, "-c", {STEPS + TRAINER!r}, str(run_toml)]
look = worker.Worker.look
worker.Worker.look = lambda self: look(self, command)
worker.work(Path(sys.argv[1]), sys.argv[2])
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
                lambda i: Worker(Queue(workspace, None), "cpu" if i % 2 else "cuda:1").claim(),
                range(32),
            )
            if job
        ]
    assert sorted(job.run for job in claimed) == [
        "r0",
        "r1",
    ]  # one a device, whoever asks and however often
    with run_lock.held(line.place_of("cpu")):
        second = subprocess.run(
            [sys.executable, "-m", "studio.processes.worker", str(workspace.root), "cpu"],
            cwd=ROOT,
            timeout=LONG,
        )
        assert second.returncode == 0  # not needed: it leaves


def test_a_killed_worker_stops_no_training_and_the_next_one_finds_it(workspace: Workspace) -> None:
    line = Queue(workspace, worker_command)
    line.add(config(workspace, "a", steps=100_000))
    run = workspace.runs() / "a"
    comes_to(line, a="running")
    until(
        lambda: process.state(run) == "running" and line.jobs()[0].pid == process.read(run).pid,
        LONG,
    )
    training, keeper = process.read(run).pid, run_lock.holder(line.place_of("cpu"))
    assert keeper is not None
    os.kill(keeper.pid, signal.SIGKILL)
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
    assert Worker(line, "cpu").claim() is not None
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
    Worker(line, "cpu").settle(line.job(id))
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
    monkeypatch.setattr(worker.time, "time", lambda: now[0])
    id = line.add(config(workspace, "a"))
    for _ in range(worker.MOST_TRIES):
        Worker(line, "cpu").look(dies)
        assert line.job(id).state == "running"
        until(lambda: process.read(workspace.runs() / "a").exit_code == -9)
        Worker(line, "cpu").settle(line.job(id))
        waits.append(max(0.0, round(line.job(id).not_before - now[0])))
        Worker(line, "cpu").look(dies) if waits[-1] else None  # not before its time
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
    assert Worker(line, "cpu").claim() is not None
    (workspace.runs() / "a").mkdir(parents=True)
    (workspace.runs() / "a" / "events.jsonl").write_text(
        events.to_line(events.Failed("the disk is full", 0, passing)) + "\n"
    )
    Worker(line, "cpu").settle(line.job(id))
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
    Worker(line, "cpu").look(dies)
    assert line.job(id).state == "waiting"
    process.stop(other.run_folder, at_once=True)
    until(lambda: not process.is_alive(other.run_folder))
    Worker(line, "cpu").look(dies)
    assert line.job(id).state == "running"


def test_it_is_written_through(workspace: Workspace) -> None:
    with Queue(workspace, None).transaction() as db:
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

    monkeypatch.setattr(queue_database.sqlite3, "connect", limited)
    return lambda on: state.__setitem__(0, on)


def test_a_full_disk_is_reported_and_the_line_stays_as_it_was(
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
def test_a_failing_disk_is_reported(
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
            queue_database.sqlite3,
            "connect",
            lambda *args, **keys: connect(*args, **keys, factory=Failing),
        )
        for act in (
            lambda: line.add(config(workspace, "b")),
            lambda: line.pause(1),
            lambda: Worker(line, "cpu").claim(),
        ):
            with pytest.raises(SpaceError, match=what):
                act()
    assert [(job.run, job.state) for job in line.jobs()] == [("a", "waiting")]


def damage(line: Queue) -> None:
    for beside in line.folder.glob("queue.sqlite*"):
        beside.write_bytes(b"no database" * 1000)


def test_a_damaged_line_is_made_again_and_costs_no_run(workspace: Workspace) -> None:
    line = Queue(workspace, None)
    ids = [line.add(config(workspace, name)) for name in "abc"]
    line.move(ids[2], 0)
    line.pause(ids[1])
    before = [(job.run, job.state, job.settings) for job in line.jobs()]
    damage(line)
    with pytest.raises(StudioError, match="damaged"):
        line.jobs()  # one that is open notices, and makes it again when it is next asked
    assert [(job.run, job.state, job.settings) for job in line.jobs()] == before
    assert "was damaged and has been rebuilt, with 3 runs" in Queue(workspace, None).shown()[1]
    (aside,) = line.folder.glob("damaged-*")
    assert (aside / "queue.sqlite").read_bytes().startswith(b"no database")
    week = time.time() - 8 * 86_400
    os.utime(aside / "notice.txt", (week, week))
    assert line.shown()[1] == ""


def test_without_its_copy_the_line_is_made_again_from_the_runs(workspace: Workspace) -> None:
    line = Queue(workspace, None)
    trains, gone, done = (config(workspace, name, steps=100_000) for name in ("t", "g", "d"))
    for one, steps in ((trains, "100000"), (gone, "100000"), (done, "1")):
        run_toml = one.run_folder / "run.toml"
        process.start_run(one, [sys.executable, "-c", TRAINER, str(run_toml), steps])
    until(lambda: process.state(done.run_folder) == "finished", LONG)
    until(lambda: process.state(gone.run_folder) == "running", LONG)
    process.stop(gone.run_folder, at_once=True)
    until(lambda: process.state(gone.run_folder) == "interrupted", LONG)
    damage(line)
    (line.folder / "jobs.json").write_text("[{}, 5, null]")
    again = Queue(workspace, None)
    assert states(again) == {"t": "running", "g": "paused"}
    assert "2 runs" in again.shown()[1]


def test_a_line_of_another_program_is_put_aside(workspace: Workspace) -> None:
    line = Queue(workspace, None)
    line.add(config(workspace, "a"))
    with sqlite3.connect(line.folder / "queue.sqlite") as db:
        db.executescript("DROP TABLE jobs; CREATE TABLE jobs (something TEXT);")
    assert states(Queue(workspace, None)) == {"a": "waiting"}


def test_a_damaged_row_has_failed_and_hides_no_other(workspace: Workspace) -> None:
    line = Queue(workspace, None)
    for name in "ab":
        line.add(config(workspace, name))
    with sqlite3.connect(line.folder / "queue.sqlite") as db:
        db.execute("UPDATE jobs SET state = 'waitinh', message = cast(x'ff41' AS TEXT), run = 'é'")
        db.execute("UPDATE jobs SET state = 'waiting' WHERE id = 2")
    assert {job.id: job.state for job in line.jobs()} == {1: "failed", 2: "waiting"}


def test_a_job_whose_settings_are_damaged_fails_in_words(workspace: Workspace) -> None:
    line = Queue(workspace, None)
    id = line.add(config(workspace, "a"))
    with line.transaction() as db:
        db.execute("UPDATE jobs SET settings = '[base'")
    Worker(line, "cpu").look(dies)
    assert line.job(id).state == "failed" and "damaged" in line.job(id).message


def test_a_locked_line_is_reported_and_is_there_again_afterwards(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_database, "TIMEOUT", 0.1)
    Queue(workspace, None).add(config(workspace, "a"))
    other = sqlite3.connect(workspace.root / "queue" / "queue.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    line = Queue(workspace, None)  # opens all the same
    with pytest.raises(SpaceError, match="locked by another program"):
        line.jobs()
    assert line.shown()[0] == [] and "locked by another program" in line.shown()[1]
    other.execute("ROLLBACK")
    other.close()
    assert states(line) == {"a": "waiting"}


def _begun(workspace: Workspace, name: str) -> str:
    """A training that was begun outside of the line and runs by now."""
    one = config(workspace, name, steps=100_000)
    run_toml = one.run_folder / "run.toml"
    process.start_run(one, [sys.executable, "-c", TRAINER, str(run_toml), "100000"])
    until(lambda: process.state(one.run_folder) == "running", LONG)
    return name


def test_a_place_that_cannot_be_made_is_reported(workspace: Workspace) -> None:
    workspace.root.mkdir()
    (workspace.root / "queue").write_text("a file stands where the folder would")
    line = Queue(workspace, None)
    with pytest.raises(SpaceError, match="cannot be made"):
        line.jobs()
    run = workspace.runs() / "a"
    queue_actions.stop(workspace, line, _begun(workspace, "a"))
    assert queue_actions.run_to_show(workspace, line, "a") == "a"
    assert queue_actions.listed_runs(workspace, line, None) == (["a"], "a")
    until(lambda: not process.is_alive(run), LONG)  # it can be ended without the line
    (workspace.root / "queue").unlink()
    assert line.jobs() == []


def test_a_training_killed_while_it_loads_goes_on(workspace: Workspace) -> None:
    """It had printed something and said no event, and nobody saw how it ended."""
    line = Queue(workspace, None)
    id = line.add(config(workspace, "a"))
    Worker(line, "cpu").look(
        lambda _: [sys.executable, "-c", "import time; print('loads', flush=True); time.sleep(600)"]
    )
    run = workspace.runs() / "a"
    until(lambda: "loads" in process.log_tail(run), LONG)
    record = process.read(run)
    process.stop(run, at_once=True)
    until(lambda: process.read(run).exit_code is not None, LONG)
    (run / "process.json").write_text(json.dumps({**vars(record), "exit_code": None}))
    Worker(line, "cpu").settle(line.job(id))
    assert line.job(id).state == "interrupted"


def test_a_worker_that_dies_before_it_begins_fails_no_job(workspace: Workspace) -> None:
    """The folder's record is of an earlier training, which failed."""
    line, run = Queue(workspace, None), workspace.runs() / "a"
    id = line.add(config(workspace, "a"))
    Worker(line, "cpu").look(lambda _: [sys.executable, "-c", "raise SystemExit('no base')"])
    until(lambda: process.read(run).exit_code is not None, LONG)
    Worker(line, "cpu").settle(line.job(id))
    assert line.job(id).state == "failed"
    record = json.loads((run / "process.json").read_text())
    (run / "process.json").write_text(json.dumps({**record, "started": record["started"] - 60}))
    line.retry(id)
    assert Worker(line, "cpu").claim() is not None
    Worker(line, "cpu").settle(line.job(id))
    assert line.job(id).state == "interrupted"


def test_no_worker_stays_a_zombie(workspace: Workspace) -> None:
    others = {child.pid for child in psutil.Process().children()}
    line = Queue(workspace, lambda root, device: [sys.executable, "-c", "pass"])
    line.add(config(workspace, "a"))
    # One that has ended is a child for as long as it is a zombie
    until(lambda: not {child.pid for child in psutil.Process().children()} - others, LONG)


# --- trainings that say nothing ---


def test_a_silent_training_is_named_and_one_that_hangs_is_ended(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, now, worked = Queue(workspace, None), [0.0], [0.0]
    monkeypatch.setattr(watchdog, "processor_seconds", lambda run: worked[0])
    keeper = Worker(line, "cpu", watchdog.Watchdog(lambda: now[0]))
    id = line.add(config(workspace, "a"))
    run = workspace.runs() / "a"
    keeper.look(lambda _: [sys.executable, "-c", "import time; time.sleep(600)"])
    keeper.look()
    assert line.job(id).message == ""
    now[0] = watchdog.SILENT
    keeper.look()
    assert "said nothing since" in line.job(id).message
    with (run / "events.jsonl").open("a") as file:
        file.write(events.to_line(events.Noted("still here")) + "\n")
    keeper.look()
    assert line.job(id).message == ""
    now[0] += watchdog.HUNG
    worked[0] += watchdog.HUNG / 2  # it computes
    keeper.look()
    assert line.job(id).state == "running" and process.is_alive(run)
    now[0] += watchdog.HUNG
    keeper.look()
    until(lambda: not process.is_alive(run), LONG)
    keeper.settle(line.job(id))
    assert line.job(id).state == "interrupted"


def test_processor_time_of_a_training_is_seen(tmp_path: Path) -> None:
    spin = "import time\nwhile time.process_time() < 0.3: pass\nprint('done')\ntime.sleep(600)"
    process.start(tmp_path, [sys.executable, "-uc", spin])
    until(lambda: "done" in process.log_tail(tmp_path), LONG)
    assert watchdog.processor_seconds(tmp_path) >= 0.25
    process.stop(tmp_path, at_once=True)


def test_a_worker_outlives_a_full_disk(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Queue(workspace, None)
    line.add(config(workspace, "a"))
    looks = iter([SpaceError("full"), SpaceError("full"), None])

    def look(self: Worker) -> None:
        if trouble := next(looks):
            raise trouble
        self.line.cancel(1)

    monkeypatch.setattr(Worker, "look", look)
    monkeypatch.setattr(worker, "AGAIN", 0.01)
    worker.work(workspace.root, "cpu")
    assert next(looks, "done") == "done" and line.job(1).state == "cancelled"


def test_a_run_that_finds_no_room_at_its_start_waits(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Queue(workspace, None)
    id = line.add(config(workspace, "a"))

    def no_room(*args: object) -> None:
        raise SpaceError("run.toml could not be written (No space left on device).")

    monkeypatch.setattr(process, "start_run", no_room)
    Worker(line, "cpu").look()
    job = line.job(id)
    assert (
        job.state == "interrupted"
        and "No space left" in job.message
        and job.not_before > time.time()
    )


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts starts without the clock")
def test_a_clock_that_is_set_starts_no_second_training(workspace: Workspace) -> None:
    line = Queue(workspace, None)
    id = line.add(config(workspace, "a", steps=100_000))
    keeper, run = Worker(line, "cpu"), workspace.runs() / "a"
    keeper.look(
        lambda run_toml: [sys.executable, "-c", STEPS + TRAINER, str(run_toml), "100000", "0.05"]
    )
    until(lambda: process.state(run) == "running", LONG)
    for name in ("process.json", "run.lock"):
        record = json.loads((run / name).read_text()) if (run / name).exists() else {}
        if record:
            (run / name).write_text(json.dumps({**record, "started": record["started"] + 60}))
    training = process.read(run).pid
    keeper.look(dies)
    assert line.job(id).state == "running" and process.read(run).pid == training
    process.stop(run, at_once=True)
    until(lambda: not process.is_alive(run), LONG)


def test_a_clock_that_is_put_back_holds_nothing_up(workspace: Workspace) -> None:
    line = Queue(workspace, None)
    id = line.add(config(workspace, "a"))
    for ahead, begins in ((worker.BACK_OFF, False), (30 * 86_400, True)):
        with line.transaction() as db:
            db.execute("UPDATE jobs SET not_before = ? WHERE id = ?", (time.time() + ahead, id))
        assert (Worker(line, "cpu").claim() is not None) == begins


def test_a_start_that_was_killed_fails_no_job(workspace: Workspace) -> None:
    """Its mark says for a minute that someone begins the training."""
    line = Queue(workspace, None)
    id = line.add(config(workspace, "a"))
    run = workspace.runs() / "a"
    run.mkdir(parents=True)
    (run / "process.starting").touch()
    for _ in range(2):
        Worker(line, "cpu").look()
        assert line.job(id).state == "running"
    old = time.time() - starting.STALE
    os.utime(run / "process.starting", (old, old))
    Worker(line, "cpu").settle(line.job(id))
    assert line.job(id).state == "interrupted"


def test_a_run_that_ended_unseen_is_finished_when_its_turn_comes(workspace: Workspace) -> None:
    line = Queue(workspace, None)
    id = line.add(config(workspace, "a"))
    run = workspace.runs() / "a"
    run.mkdir(parents=True)
    events.append(run / "events.jsonl", events.Finished(2, "a.safetensors", False, 1.0))
    Worker(line, "cpu").look()
    assert line.job(id).state == "finished"


@pytest.mark.parametrize("exit_code", [None, 0])  # None: nobody saw the training end
def test_a_worker_that_dies_before_it_begins_leaves_no_earlier_end_to_the_job(
    workspace: Workspace, exit_code: int | None
) -> None:
    """A training that was stopped is resumed; the word of its first half is not the second's."""
    line = Queue(workspace, None)
    id = line.add(config(workspace, "a"))
    run = workspace.runs() / "a"
    run.mkdir(parents=True)
    events.append(run / "events.jsonl", events.Finished(1, "", True, 1.0))
    record = {"pid": 2**22 + 1, "started": time.time() - 60, "command": [], "exit_code": exit_code}
    (run / "process.json").write_text(json.dumps(record))
    assert Worker(line, "cpu").claim() is not None
    (run / starting.NAME).touch()  # someone begins it; what is recorded is the earlier one still
    Worker(line, "cpu").settle(line.job(id))
    assert line.job(id).state == "running"
    (run / starting.NAME).unlink()
    Worker(line, "cpu").settle(line.job(id))
    assert line.job(id).state == "interrupted"


def test_an_end_that_nobody_recorded_is_not_the_next_trainings(workspace: Workspace) -> None:
    """A worker was killed between its training's process and the record of it, twice."""
    line = Queue(workspace, None)
    id = line.add(config(workspace, "a"))
    run = workspace.runs() / "a"
    run.mkdir(parents=True)
    for ended_then, state in ((True, "interrupted"), (False, "paused")):
        if ended_then:
            events.append(run / "events.jsonl", events.Finished(1, "", True, 1.0))
        assert Worker(line, "cpu").claim() is not None
        if not ended_then:
            events.append(run / "events.jsonl", events.Finished(1, "", True, 1.0))
        Worker(line, "cpu").settle(line.job(id))
        assert line.job(id).state == state
