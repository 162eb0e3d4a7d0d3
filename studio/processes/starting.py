"""The mark of a start under way: who starts what, so that a start which is cut off between its
process and the record of it is found.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from training.errors import BusyError
from training.storage import run_lock
from training.storage.paths import read_regular
from training.system import file_system

NAME = "process.starting"
STALE = 60.0  # seconds after which a start that never came to be is forgotten
LARGEST = 2**20  # bytes of a mark


@contextlib.contextmanager
def marked(folder: Path, command: Sequence[str]) -> Iterator[None]:
    """Only one start at a time in a folder, also from two pages. Raises BusyError, OSError."""
    mark = folder / NAME
    if mark.exists() and not is_under_way(folder):
        file_system.remove(mark)
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        raise BusyError(f"“{folder.name}” is being started already. Wait a moment.") from None
    try:
        record = {"command": [*command], **asdict(run_lock.myself())}
        mark.write_text(json.dumps(record), encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):  # a disk that takes nothing more: it is stale soon
            file_system.remove(mark)


def is_under_way(folder: Path) -> bool:
    """Whether a process is being started here, or was by someone who could not record it."""
    mark = folder / NAME
    try:
        # The clock may have been put back since
        is_fresh = abs(time.time() - mark.stat().st_mtime) < STALE
    except OSError:
        return False
    try:
        found = json.loads(read_regular(mark, LARGEST))
        starter = run_lock.Holder(found["pid"], found["started"], found["start"])
        return (is_fresh and starter.is_alive()) or _is_running(found["command"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return is_fresh  # made a moment ago


def _is_running(command: Any) -> bool:
    """Whether a process of this machine has that command line, but for the name of its program,
    which some systems change.
    """
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.cmdline()[1:] == command[1:]:
                return True
    return False
