"""Start, stop and find again the processes that train and draw; read what they say. Knows no torch
and no gradio.

A job is a folder: `process.json` says which process works there, `terminal.log` holds what it
printed, `events.jsonl` what it reported. The process has its own session, so it outlives the page;
whoever opens the folder later finds it by pid and start time.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil

import training
from studio.processes import starting
from studio.processes.event_tail import Tail as Tail
from studio.processes.event_tail import end_of, last_events
from training import events
from training.config.loading import changes, from_mapping, read_toml, write_run
from training.config.places import PLACES
from training.config.schema import RunConfig
from training.errors import BusyError, ConfigError, SpaceError, StudioError
from training.storage import run_lock
from training.storage.disk_errors import advice, cause
from training.storage.paths import checked_writable, read_regular, write_whole
from training.system import processes

State = Literal[
    "new", "starting", "running", "stopping", "finished", "stopped", "failed", "interrupted"
]
GOING: tuple[State, ...] = ("starting", "running", "stopping")
RESUMABLE: tuple[State, ...] = ("stopped", "failed", "interrupted")
STALE = 60.0  # seconds after which a silent run begun elsewhere counts as gone
LONGEST_ANSWER = 120.0  # seconds; torch alone takes several to load
LARGEST_RECORD = 2**20  # bytes of process.json


@dataclass(frozen=True)
class Process:
    """Who works in a job's folder.

    since: bytes of events.jsonl when it started; exit_code: None while it runs or when nobody saw
    it end.
    """

    pid: int
    started: float  # seconds since 1970, as the system counts the process's start
    command: tuple[str, ...]
    since: int = 0
    stop_asked: float = 0.0  # seconds since 1970, 0 = not asked
    exit_code: int | None = None
    start: str = ""  # the start whatever the clock is set to, see run_lock


def training_command(run_toml: Path) -> list[str]:
    return [sys.executable, "-m", "training.train_style", str(run_toml)]


def start_run(config: RunConfig, command: Sequence[str] = ()) -> Path:
    """Write run.toml and start the training; return the run's folder. command: a stand-in for
    training_command.

    A run of that name that has something saved is resumed. Raises StudioError when it is going, is
    finished, or learnt with other settings.
    """
    run = config.run_folder
    check(config)
    if is_alive(run):
        raise BusyError(
            f"“{run.name}” is being trained right now. Wait for it, stop it, or give the new "
            "run another name."
        )
    checked_writable(run, "the run's folder")
    write_run(config, run)
    with _disk_errors(run):  # where this is, the trainer also writes why it could not begin
        (run / "events.jsonl").touch()
    start(run, command or training_command(run / "run.toml"))
    return run


def check(config: RunConfig) -> None:
    """Refuse a run that is finished, or that learnt with other settings. Raises StudioError."""
    run = config.run_folder
    if state(run) == "finished" and config.save.resume == "exact":
        raise StudioError(f"“{run.name}” is finished. Give the new run another name.")
    before = earlier(
        run
        # the trainer compares run.toml with what it is told; who writes run.toml anew has to
        # compare before
    )
    if (
        config.save.resume != "exact"
        or before is None
        or not any((run / "checkpoints").glob("step-*"))
    ):
        return
    changed = [
        f"  - {key} was {then!r}, now it is {now!r}"
        for key, then, now in changes(before, config)
        if not (key in PLACES and _is_gone(then))
    ]
    if changed:
        head = f"There is a run named “{run.name}” with other settings:"
        raise StudioError(
            "\n".join(
                [
                    head,
                    *changed,
                    "Give the new run another name, or choose the old one in the list and "
                    "resume it.",
                ]
            )
        )


def _is_gone(place: str) -> bool:
    """Whether what lay in a place was moved or deleted: its content decides, which the trainer
    compares.
    """
    path = Path(place)
    return path.is_absolute() and not path.exists()


def earlier(run: Path) -> RunConfig | None:
    """The settings a run was started with; None when there are none that can be read."""
    try:
        return from_mapping(read_toml(run / "run.toml"))
    except ConfigError:
        return None


def start(folder: Path, command: Sequence[str]) -> Process:
    """Start command in a session of its own, its words going to terminal.log.

    Raises StudioError when one is already going.
    """
    with _disk_errors(folder), _starting(folder, command):
        if _is_there(folder):
            raise BusyError(f"“{folder.name}” is already running. Wait for it, or stop it first.")
        since = events_length(folder)
        with (folder / "terminal.log").open("wb") as log:
            child = subprocess.Popen(
                [*command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
                **processes.own_session(),
                close_fds=True,
            )
        begun = run_lock.process_of(child.pid)
        process = Process(child.pid, begun.started, tuple(command), since, start=begun.start)
        try:
            _write(folder, process)
        except SpaceError:  # nobody would find it again
            child.kill()
            child.wait()
            raise
    threading.Thread(target=_see_end, args=(folder, child, process), daemon=True).start()
    return process


def events_length(folder: Path) -> int:
    """How many bytes trainings have written to events.jsonl so far."""
    try:
        return (folder / "events.jsonl").stat().st_size
    except FileNotFoundError:
        return 0


def stop(folder: Path, *, at_once: bool = False) -> None:
    """Ask the job to save and end; at_once ends it and all its children without saving.

    A job that is gone is no error.
    """
    process = read(folder)
    if process is None or not _runs(process):
        _stop_elsewhere(folder, at_once)
        return
    with contextlib.suppress(SpaceError):  # a full disk keeps nobody from stopping a job
        _write(folder, replace(process, stop_asked=process.stop_asked or time.time()))
    with contextlib.suppress(ProcessLookupError):
        if at_once:
            processes.end_session(process.pid)
        else:
            processes.ask_to_end(process.pid)


def _stop_elsewhere(folder: Path, at_once: bool) -> None:
    """The same for a run begun in a terminal, which its lock names; it may share its group with
    other work.
    """
    holder = run_lock.holder(folder)
    if holder is not None and holder.pid != os.getpid():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if at_once:
                processes.end(holder.pid)
            else:
                processes.ask_to_end(holder.pid)


def read(folder: Path) -> Process | None:
    """What process.json says; None when there is none that can be read."""
    try:
        found = json.loads(read_regular(folder / "process.json", LARGEST_RECORD))
        process = Process(**{**found, "command": tuple(found["command"])})
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return process if _is_sound(process) else None


def _is_sound(process: Process) -> bool:
    """Whether a record that was read holds values of the kinds that are written."""
    return (
        type(process.pid) is int
        and type(process.since) is int
        and type(process.exit_code) in (int, type(None))
        and isinstance(process.start, str)
        and all(type(time_) in (int, float) for time_ in (process.started, process.stop_asked))
    )


def is_alive(folder: Path) -> bool:
    """Whether the process that was started here still runs, or is being started, or another one
    holds the run's lock.
    """
    return _is_there(folder) or starting.is_under_way(folder)


def _is_there(folder: Path) -> bool:
    process = read(folder)
    return (process is not None and _runs(process)) or run_lock.holder(folder) is not None


def _runs(process: Process) -> bool:
    """The same pid and the same start, so that no stranger is taken for it."""
    holder = run_lock.Holder(process.pid, process.started, process.start)
    return process.exit_code is None and holder.is_alive()


def state(folder: Path) -> State:
    """How a run stands, from its process and the last thing it said."""
    process, alive = read(folder), is_alive(folder)
    # begun here once, and gone on with in a terminal
    elsewhere = process is not None and not _runs(process) and alive
    process = None if elsewhere else process
    said = [
        e
        for e in last_events(folder, process.since if process else 0)
        if not isinstance(e, events.Noted | events.Warned)
    ]
    last = said[-1] if said else None
    if process is None and alive and isinstance(last, events.Finished | events.Failed):
        return "starting"  # gone on with in a terminal
    if isinstance(last, events.Finished):
        return "stopped" if last.stopped else "finished"
    if isinstance(last, events.Failed):
        return "failed"
    if alive:
        return (
            "stopping"
            if process is not None and process.stop_asked
            else "running"
            if last
            else "starting"
        )
    if process is None:
        return _state_elsewhere(folder, bool(last))
    if (process.exit_code or 0) > 0:
        return "failed"
    if last or process.stop_asked or process.exit_code != 0:  # None: nobody saw it end
        return "interrupted"
    return "failed" if log_tail(folder) else "interrupted"


def _state_elsewhere(folder: Path, spoke: bool) -> State:
    """A run begun in a terminal has no process.json: it goes on as long as it speaks."""
    if not spoke:
        return "new"
    return (
        "running"
        if time.time() - (folder / "events.jsonl").stat().st_mtime < STALE
        else "interrupted"
    )


def log_tail(folder: Path, lines: int = 20) -> str:
    """The last lines a job printed, "" when it printed nothing."""
    text = end_of(folder / "terminal.log", 0).decode("utf-8", errors="replace")
    return "\n".join(text.replace("\r", "\n").rstrip().splitlines()[-lines:])


@contextlib.contextmanager
def _starting(folder: Path, command: Sequence[str]) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with starting.marked(folder, command):
        yield


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Raise SpaceError for what the system refuses while a job is begun."""
    try:
        yield
    except OSError as error:
        raise SpaceError(
            f"“{folder.name}” could not be started ({cause(error)}). "
            f"{advice(error, 'choose another workspace')}"
        ) from error


def asked(command: Sequence[str], seconds: float = LONGEST_ANSWER) -> Any:
    """What a command says in its last line, as JSON; it ends by itself.

    seconds: the most it may take. Raises OSError, SubprocessError, ValueError or IndexError.
    """
    said = subprocess.run(
        [*command],
        capture_output=True,
        encoding="utf-8",
        timeout=seconds,
        env=environment(),
        check=True,
    ).stdout
    return json.loads(said.splitlines()[-1])


def environment() -> dict[str, str]:
    """The child's environment: it finds this project also when that is a clone, speaks without
    delay, and leaves a core to the browser.

    OpenMP's threads wait for each other at every operation: one core taken by a neighbour makes all
    of them wait, and a step several times as long.
    """
    home = str(Path(training.__file__).resolve().parents[1])
    path = os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH")])])
    ours = len(processes.usable_cores())
    threads = os.environ.get("OMP_NUM_THREADS") or str(
        max(1, min(ours, psutil.cpu_count(logical=False) or ours) - 1)
    )
    # Fewer while other programs are busy, unless the user has said how many
    follow = {} if "OMP_NUM_THREADS" in os.environ else {"STUDIO_THREADS": "follow"}
    return {
        **os.environ,
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
        "PYTHONUTF8": "1",
        "OMP_NUM_THREADS": threads,
        **follow,
    }


def write_ended(folder: Path) -> None:
    """Say of a folder that its job, made elsewhere, has ended well. Raises OSError."""
    _write(folder, Process(0, 0.0, (), exit_code=0))


def _see_end(folder: Path, child: subprocess.Popen[bytes], process: Process) -> None:
    """Wait for the child (so that no zombie stays) and write down how it ended, unless the folder
    is gone or another works there.
    """
    code = child.wait()
    now = read(folder)
    if now is not None and (now.pid, now.started) == (process.pid, process.started):
        with contextlib.suppress(StudioError):
            _write(folder, replace(now, exit_code=processes.exit_code(code)))


def _write(folder: Path, process: Process) -> None:
    write_whole(folder / "process.json", json.dumps(asdict(process)))
