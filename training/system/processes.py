"""Processes where systems differ: begun apart from their parent, asked to end, ended with their
children, counted cores.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import TypedDict

import psutil

ENDED = 15  # exit code of a process that psutil ends on Windows
CRASHED = 0xC0000000  # the least exit code of one that Windows ends for what it did
NO_MEMORY = (0xC0000017, 0xC000012D)  # those of them for memory that could not be had


class PopenOptions(TypedDict, total=False):
    """What subprocess.Popen is given."""

    start_new_session: bool
    creationflags: int


def own_group() -> PopenOptions:
    """For a child that a Ctrl-C in this terminal does not reach."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def own_session() -> PopenOptions:
    """For a child that outlives this process and its terminal, and leads a group of its own."""
    if sys.platform == "win32":
        return {
            "creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW,
        }
    return {"start_new_session": True}


def ask_to_end(pid: int) -> None:
    """Ask a process to save and end. Raises ProcessLookupError when it is gone, OSError.

    Windows has no signal that reaches a process with a console of its own, so there a file asks,
    and the process has to look: see is_asked_to_end.
    """
    if sys.platform != "win32":
        os.kill(pid, signal.SIGTERM)
        return
    try:
        _request_file(pid, psutil.Process(pid).create_time()).touch()
    except psutil.NoSuchProcess:
        raise ProcessLookupError(pid) from None


def is_asked_to_end() -> bool:
    """Whether a file asks this process to end; it asks once. Always False where signals do that."""
    if sys.platform != "win32":
        return False
    found = [file for file in _own_request_files() if file.exists()]
    for file in found:
        file.unlink(missing_ok=True)
    return bool(found)


@cache
def _own_request_files() -> tuple[Path, ...]:
    """Also the parent's: the python.exe of a virtual environment only starts another one, and its
    pid is the one that is known outside.
    """
    own = psutil.Process()
    family = [own, *filter(None, [own.parent()])]
    return tuple(_request_file(one.pid, one.create_time()) for one in family)


def _request_file(pid: int, started: float) -> Path:
    """A file that asks a process to end. started: seconds since 1970; a pid comes back."""
    return Path(tempfile.gettempdir()) / f"style-studio-end-{pid}-{started:.2f}"


def end(pid: int) -> None:
    """End a process at once. Raises ProcessLookupError when it is gone, PermissionError."""
    if sys.platform != "win32":
        os.kill(pid, signal.SIGKILL)
        return
    _end_all([_process(pid)])


def end_session(pid: int) -> None:
    """End a process that own_session began, and its children, at once. Raises like end."""
    if sys.platform != "win32":
        os.killpg(pid, signal.SIGKILL)  # it leads its own group
        return
    leader = _process(pid)
    _end_all([leader, *leader.children(recursive=True)])


def _process(pid: int) -> psutil.Process:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        raise ProcessLookupError(pid) from None


def _end_all(family: list[psutil.Process]) -> None:
    """End processes, the first of which has to be there."""
    for place, member in enumerate(family):
        try:
            member.kill()
        except psutil.NoSuchProcess:
            if not place:
                raise ProcessLookupError(member.pid) from None
        except psutil.AccessDenied:
            raise PermissionError(member.pid) from None


def exit_code(code: int) -> int:
    """How a child ended, as POSIX counts it: below 0 for one that was ended or crashed."""
    if sys.platform == "win32" and (code == ENDED or code >= CRASHED):
        return -ENDED
    return code


def ending(code: int) -> str:
    """How a child ended, in words, from its return code."""
    if sys.platform == "win32":
        if code in NO_MEMORY:
            return "the memory was full"
        crashed = f"it crashed with code {code:#x}" if code >= CRASHED else f"exit code {code}"
        return "another program ended it" if code == ENDED else crashed
    if code == -signal.SIGKILL:
        return "it was killed, as systems do when the memory is full"
    if -code in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        return f"it was asked to end, with {signal.Signals(-code).name}"
    return f"it crashed with signal {-code}" if code < 0 else f"exit code {code}"


def usable_cores() -> set[int]:
    """Numbers of the cores that this process may use."""
    if sys.platform == "win32":
        return set(psutil.Process().cpu_affinity())
    if sys.platform != "darwin" and hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def has_low_priority() -> bool:
    """Whether this process gives way to those of usual priority."""
    priority = psutil.Process().nice()
    if sys.platform == "win32":
        return priority in (psutil.IDLE_PRIORITY_CLASS, psutil.BELOW_NORMAL_PRIORITY_CLASS)
    return priority > 0
