"""One process a run: who works in a run's folder holds `run.lock`, which says its pid and when it
started. Knows no torch.

The system's own lock ends with the process, however it ends; pid and start tell others whom to wait
for or to stop. On Linux the start is counted since the machine's own, so that a clock that is set
makes no stranger of a process.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from training.errors import BusyError, SpaceError
from training.storage.disk_errors import advice, cause
from training.storage.paths import read_regular
from training.system import locks

NAME = "run.lock"
# seconds: the clock may be set while a process runs, but a pid does not come back this soon
SAME_START = 5.0
LARGEST = 4096  # bytes of run.lock
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
START_TICKS = 19  # place of the start in /proc/PID/stat, counted behind the command's name


@dataclass(frozen=True)
class Holder:
    """A process. started: seconds since 1970, as the system counts it, so that no stranger is taken
    for it when the pid comes back; start: the same whatever the clock is set to, "" where the
    system does not say.
    """

    pid: int
    started: float
    start: str = field(default="", compare=False)

    def is_alive(self) -> bool:
        """Whether this very process still runs."""
        try:
            found = psutil.Process(self.pid)
            if found.status() == psutil.STATUS_ZOMBIE:
                return False
            if self.start and (now := start_of(self.pid)):
                return now == self.start
            return abs(found.create_time() - self.started) < SAME_START
        except (psutil.NoSuchProcess, psutil.AccessDenied, ValueError, OverflowError):
            return False


def process_of(pid: int) -> Holder:
    """A living process as others recognise it. Raises psutil.NoSuchProcess."""
    return Holder(pid, psutil.Process(pid).create_time(), start_of(pid))


def myself() -> Holder:
    return process_of(os.getpid())


def start_of(pid: int) -> str:
    """When a process began, as boot and clock ticks since then, "" where the system does not
    say.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return f"{_boot_id()}:{int(fields[START_TICKS])}"
    except (OSError, ValueError, IndexError):
        return ""


@functools.cache
def _boot_id() -> str:
    return BOOT_ID.read_text(encoding="ascii").strip()


def holder(folder: Path) -> Holder | None:
    """The living process that works in a run's folder, or None."""
    found = _recorded_holder(folder / NAME)
    return found if found is not None and found.is_alive() else None


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Work in folder alone.

    Raises BusyError, naming run and process, while another one does; SpaceError when nothing can be
    written.
    """
    path = folder / NAME
    handle = _taken(path)
    try:
        _write(path)
        yield
    finally:
        # A disk that takes nothing more: the file names a process that is gone then
        with contextlib.suppress(OSError):
            locks.release(handle, path)


def _write(path: Path) -> None:
    try:
        path.write_bytes(json.dumps(asdict(myself())).encode())
    except OSError as error:
        raise SpaceError(
            f"{path} could not be written ({cause(error)}). {advice(error)}"
        ) from error


def _taken(path: Path) -> int:
    """An open file that this process alone has locked."""
    while True:
        try:
            handle = locks.open_lock_file(path)
        except OSError as error:
            raise SpaceError(
                f"{path} could not be written ({cause(error)}). {advice(error)}"
            ) from error
        if not _locked(handle) or _is_anothers(path):
            os.close(handle)
            raise _busy(path)
        with contextlib.suppress(FileNotFoundError):
            if locks.is_at(handle, path):
                return handle
        os.close(handle)  # the one before took its file away between our two steps


def _locked(handle: int) -> bool:
    return locks.lock(handle)


def _is_anothers(path: Path) -> bool:
    """Where the file system has no locks, the word of the file counts."""
    found = _recorded_holder(path)
    return found is not None and found.pid != os.getpid() and found.is_alive()


def _recorded_holder(path: Path) -> Holder | None:
    try:
        found = json.loads(read_regular(path, LARGEST))
        return Holder(int(found["pid"]), float(found["started"]), str(found.get("start", "")))
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ):
        return None


def _busy(path: Path) -> BusyError:
    found = _recorded_holder(path)
    who = f"process {found.pid}" if found else "another process"
    return BusyError(
        f"“{path.parent.name}” is being trained right now by {who}. Wait for it, stop it, or "
        "choose another save.name."
    )
