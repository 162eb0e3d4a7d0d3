"""Tests of studio.processes.process with small real processes:

started, stopped, found again, and told as gone when they are.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from studio.processes import process as jobs
from studio.processes import starting
from training import events
from training.config.loading import from_mapping, read_toml
from training.config.schema import RunConfig
from training.errors import BusyError, SpaceError, StudioError

# A trainer's manners without its work: says Started, makes updates until SIGTERM, then Finished.
TRAINER = """
import signal, sys, time
from pathlib import Path
from training import events
run, updates = Path(sys.argv[1]).parent, int(sys.argv[2])
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
def say(event):
    with (run / "events.jsonl").open("a") as file:
        file.write(events.to_line(event) + "\\n")
say(events.Started(0, updates, 1, 1, 1, "cpu", "float32"))
step = 0
while step < updates and not stop:
    step += 1
    say(events.Stepped(step, 0.5, 1e-4, 1.0, 0.02, 1.0))
    time.sleep(0.02)
say(events.Finished(step, "x.safetensors", bool(stop), 1.0))
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """A run's folder; whatever still works there at the end is ended."""
    folder = tmp_path / "runs" / "x"
    yield folder
    jobs.stop(folder, at_once=True)
    until(lambda: not jobs.is_alive(folder))


def until(true: Callable[[], object], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def trainer(run: Path, updates: int = 100_000) -> list[str]:
    return [sys.executable, "-c", TRAINER, str(run / "run.toml"), str(updates)]


def config(run: Path, **optim: int) -> RunConfig:
    return from_mapping({"save": {"name": run.name, "folder": str(run.parent)}, "optim": optim})


def say(run: Path, *said: events.Event) -> None:
    run.mkdir(parents=True, exist_ok=True)
    with (run / "events.jsonl").open("a") as file:
        file.writelines(events.to_line(event) + "\n" for event in said)


STARTED = events.Started(0, 10, 1, 1, 1, "cpu", "float32")
STEPPED = events.Stepped(1, 0.5, 1e-4, 1.0, 0.1, 1.0)


def test_a_run_is_started_and_finishes(run: Path) -> None:
    assert jobs.state(run) == "new"
    jobs.start_run(config(run), trainer(run, 3))
    assert from_mapping(read_toml(run / "run.toml")) == config(run)
    until(lambda: jobs.state(run) == "finished")


def test_stop_lets_the_run_save_and_end(run: Path) -> None:
    jobs.start_run(config(run), trainer(run))
    until(lambda: jobs.state(run) == "running")
    jobs.stop(run)
    until(lambda: jobs.state(run) == "stopped")
    until(lambda: jobs.read(run).exit_code == 0)


def test_stop_at_once_ends_a_process_that_does_not_listen(run: Path) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', "
        "flush=True); time.sleep(600)"
    )
    jobs.start(run, [sys.executable, "-c", deaf])
    until(lambda: "deaf" in jobs.log_tail(run))
    jobs.stop(run)
    assert jobs.state(run) == "stopping"
    jobs.stop(run, at_once=True)
    until(lambda: not jobs.is_alive(run))
    assert jobs.state(run) == "interrupted"


def test_a_second_start_of_the_same_name_is_refused(run: Path) -> None:
    jobs.start_run(config(run), trainer(run))
    with pytest.raises(StudioError, match="being trained right now"):
        jobs.start_run(config(run), trainer(run))
    with pytest.raises(StudioError, match="already running"):
        jobs.start(run, trainer(run))


def test_a_finished_run_is_not_begun_again(run: Path) -> None:
    jobs.start_run(config(run), trainer(run, 1))
    until(lambda: jobs.state(run) == "finished")
    with pytest.raises(StudioError, match="is finished"):
        jobs.start_run(config(run), trainer(run, 1))


def test_a_run_with_checkpoints_goes_on_only_with_its_own_settings(run: Path) -> None:
    jobs.start_run(config(run, steps=50), trainer(run))
    until(lambda: jobs.state(run) == "running")
    jobs.stop(run)
    until(lambda: not jobs.is_alive(run))
    (run / "checkpoints" / "step-0000001").mkdir(parents=True)
    with pytest.raises(StudioError, match=r"optim\.steps was 50, now it is 60"):
        jobs.start_run(config(run, steps=60), trainer(run))
    assert jobs.earlier(run) == config(run, steps=50)
    jobs.start_run(config(run, steps=50), trainer(run, 1))
    until(lambda: jobs.state(run) == "finished")


def test_the_process_outlives_who_started_it_and_is_found_again(run: Path) -> None:
    code = (
        f"from pathlib import Path; from studio.processes import process; "
        f"process.start(Path({str(run)!r}), "
        f"{trainer(run)!r})"
    )
    run.mkdir(parents=True)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    until(lambda: jobs.state(run) == "running")
    assert os.getpgid(jobs.read(run).pid) != os.getpgid(0)
    jobs.stop(run)
    until(lambda: jobs.state(run) == "stopped")


def test_a_killed_process_counts_as_interrupted_and_can_begin_again(run: Path) -> None:
    jobs.start_run(config(run), trainer(run))
    until(lambda: jobs.state(run) == "running")
    os.kill(jobs.read(run).pid, signal.SIGKILL)
    until(lambda: jobs.state(run) == "interrupted")
    jobs.start_run(config(run), trainer(run, 2))
    until(lambda: jobs.state(run) == "finished")


def test_a_stranger_with_the_same_pid_is_not_taken_for_the_run(run: Path) -> None:
    say(run, STARTED, STEPPED)
    mine = psutil.Process()
    record = {"pid": mine.pid, "started": mine.create_time() - 3600, "command": ["x"]}
    (run / "process.json").write_text(json.dumps(record))
    assert jobs.state(run) == "interrupted"
    jobs.stop(run, at_once=True)  # must not end this test


def test_a_process_that_cannot_begin_has_failed_with_its_last_words(run: Path) -> None:
    jobs.start(run, [sys.executable, "-c", "import sys; sys.exit('base.model is missing')"])
    until(lambda: jobs.read(run).exit_code is not None)
    assert jobs.state(run) == "failed"
    assert jobs.log_tail(run) == "base.model is missing"


def test_the_events_of_an_earlier_start_do_not_count(run: Path) -> None:
    say(run, STARTED, STEPPED, events.Failed("no memory", 0))
    assert jobs.state(run) == "failed"
    jobs.start(run, [sys.executable, "-c", "import time; time.sleep(600)"])
    assert jobs.state(run) == "starting"


def test_a_run_begun_in_a_terminal_shows_up(run: Path) -> None:
    say(run, STARTED, STEPPED)
    assert jobs.state(run) == "running"
    os.utime(run / "events.jsonl", (1, 1))
    assert jobs.state(run) == "interrupted"
    say(run, events.Finished(10, "x.safetensors", False, 1.0))
    assert jobs.state(run) == "finished"


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"pid": 1}', '{"pid": 1, "started": 1, "command": [], "strange": 1}'],
)
def test_a_damaged_record_is_no_process(run: Path, content: str) -> None:
    run.mkdir(parents=True)
    (run / "process.json").write_text(content)
    assert jobs.read(run) is None
    assert jobs.state(run) == "new"


def test_a_start_that_never_came_to_be_does_not_block_for_ever(run: Path) -> None:
    run.mkdir(parents=True)
    (run / "process.starting").touch()
    with pytest.raises(StudioError, match="being started already"):
        jobs.start(run, trainer(run, 1))
    os.utime(run / "process.starting", (1, 1))
    jobs.start(run, trainer(run, 1))


def test_the_tail_reads_on_and_waits_for_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = jobs.Tail(path)
    assert tail.read_on() == []
    line = events.to_line(STEPPED) + "\n"
    path.write_text(line + line[:20])
    assert tail.read_on() == [STEPPED]
    with path.open("a") as file:
        file.write(line[20:] + "no event\n" + line)
    assert tail.read_on() == [STEPPED] * 3
    path.write_text(line)
    assert tail.read_on() == [STEPPED]


def test_a_run_begun_in_a_terminal_can_be_stopped(run: Path) -> None:
    """Its lock says which process it is; there is no record of ours."""
    run.mkdir(parents=True)
    alone = (
        "import runpy, sys; from pathlib import Path; from training.storage import run_lock\nwith "
        "run_lock.held(Path(sys.argv[1]).parent): exec(sys.argv[3])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", alone, str(run / "run.toml"), "100000", TRAINER]
    )
    until(lambda: jobs.state(run) == "running")
    os.utime(run / "events.jsonl", (1, 1))
    assert (
        jobs.is_alive(run) and jobs.read(run) is None and jobs.state(run) == "running"
    )  # however long it is silent
    with pytest.raises(StudioError, match="being trained right now"):
        jobs.start_run(config(run), trainer(run))
    jobs.stop(run)
    assert process.wait(timeout=120) == 0 and jobs.state(run) == "stopped"


def test_what_the_page_starts_leaves_a_core_to_the_browser_unless_set_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert 1 <= int(jobs.environment()["OMP_NUM_THREADS"]) <= max(1, psutil.cpu_count() - 1)
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(
            os, "sched_getaffinity", lambda _: {0}
        )  # a container that has one of many cores
        assert jobs.environment()["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert jobs.environment()["OMP_NUM_THREADS"] == "7"


# --- a disk that fails while a job is begun or ended ---


def no_space(*args: object, **keys: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("what", ["mkdir", "touch", "open"])
def test_what_the_disk_refuses_at_a_start_is_reported(
    run: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.parent.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(Path, what, no_space)
        with pytest.raises(SpaceError, match="could not be started"):
            jobs.start(run, trainer(run))
    assert jobs.read(run) is None and not jobs.is_alive(run)


def test_a_process_that_cannot_be_recorded_is_ended(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would train where nobody knows of it, beside the next one on its device."""
    begun: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def counted(*args: Any, **keys: Any) -> subprocess.Popen[bytes]:
        begun.append(popen(*args, **keys))
        return begun[-1]

    def full(path: Path, content: str) -> None:
        raise SpaceError(f"{path} could not be written")

    with monkeypatch.context() as patched:
        patched.setattr(jobs.subprocess, "Popen", counted)
        patched.setattr(jobs, "write_whole", full)
        with pytest.raises(SpaceError, match=r"process\.json"):
            jobs.start(run, trainer(run))
    (child,) = begun
    assert child.poll() is not None and not jobs.is_alive(run)


def test_a_mark_that_cannot_be_taken_away_stops_no_start(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", no_space)
        jobs.start_run(config(run), trainer(run))
    until(lambda: jobs.state(run) == "running")
    (run / starting.NAME).unlink()


@pytest.mark.parametrize("age", [0.0, starting.STALE + 1, -starting.STALE - 1])
def test_the_mark_of_a_start_that_was_killed_is_forgotten(run: Path, age: float) -> None:
    """Also when the clock was put back since."""
    run.mkdir(parents=True)
    mark = run / "process.starting"
    mark.touch()
    os.utime(mark, (time.time() - age, time.time() - age))
    if age == 0.0:
        with pytest.raises(BusyError, match="being started already"):
            jobs.start(run, trainer(run))
        mark.unlink()
    else:
        jobs.start(run, trainer(run))


def test_a_process_whose_starter_was_killed_is_found(run: Path) -> None:
    """Killed before it could write down whom it had started."""
    run.mkdir(parents=True)
    command = trainer(run)
    mark = {"command": command, "pid": 2**22 + 1, "started": 1.0, "start": ""}
    (run / starting.NAME).write_text(json.dumps(mark))
    assert not jobs.is_alive(run)
    child = subprocess.Popen(command)
    try:
        until(lambda: jobs.is_alive(run))
        assert jobs.state(run) in ("starting", "running")
        with pytest.raises(BusyError, match="being started already"):
            jobs.start(run, command)
    finally:
        child.kill()
        child.wait()
    assert not jobs.is_alive(run)
    jobs.start(run, command)


def test_a_full_disk_keeps_nobody_from_stopping_a_job(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.start_run(config(run), trainer(run))
    until(lambda: jobs.state(run) == "running")

    def full(path: Path, content: str) -> None:
        raise SpaceError(f"{path} could not be written")

    with monkeypatch.context() as patched:
        patched.setattr(jobs, "write_whole", full)
        jobs.stop(run)
        until(lambda: jobs.state(run) == "stopped")
