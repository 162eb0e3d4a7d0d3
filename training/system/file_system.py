"""Files where systems differ: what another program has open, folders made durable, and names and
paths that Windows does not take.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

WINDOWS_DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    "conin$",
    "conout$",
    *(f"{port}{n}" for port in ("com", "lpt") for n in "123456789¹²³"),
}
# What Windows keeps for itself in a name, beside control characters
RESERVED = '<>:"/\\|?*'
# seconds between tries where another program has a file open: a virus scanner or an indexer looks
# at what is new, and a reader is done in a moment
PAUSES = tuple(0.005 * 2**n for n in range(9))
# What network file systems say that cannot do this for folders
UNSYNCABLE = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EBADF)
LONGEST_PATH = 259  # characters of a path where Windows was not told to take longer ones
BELOW_A_FOLDER = 110  # characters that our own files add to a folder of the user's, at most


def replace(source: Path, target: Path) -> None:
    """Give source the name target, whose file it replaces. Raises OSError.

    Windows refuses that while target is open anywhere, so it is tried for some seconds there.
    """
    retried(lambda: source.replace(target))


def rename(source: Path, target: Path) -> None:
    """The same for a file or folder where no target is. Raises OSError."""
    retried(lambda: source.rename(target))


def remove(path: Path) -> None:
    """Take a file away, if it is there. Raises OSError."""
    retried(lambda: path.unlink(missing_ok=True))


def remove_tree(folder: Path) -> None:
    """Take a folder and all that is in it away. Raises OSError."""
    if sys.platform != "win32":
        shutil.rmtree(folder)
    elif sys.version_info >= (3, 12):
        shutil.rmtree(folder, onexc=_made_writable)
    else:
        shutil.rmtree(folder, onerror=_made_writable)


def _made_writable(remove_one: Callable[..., Any], path: str, error: object) -> None:
    """Try again: Windows removes no read-only file, and none that is open."""
    Path(path).chmod(stat.S_IWRITE)
    retried(lambda: remove_one(path))


def retried(action: Callable[[], T]) -> T:
    """What an action returns; on Windows it is tried again while another program's open file is
    in its way. Raises OSError.
    """
    if sys.platform != "win32":
        return action()
    for pause in PAUSES:
        try:
            return action()
        except PermissionError:
            time.sleep(pause)
    return action()


def open_descriptor(path: Path, flags: int, mode: int = 0o666) -> int:
    """A file descriptor of bytes that no child inherits and that waits for no pipe's other end.

    Raises OSError.
    """
    # Each is there on some systems only
    flags |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    return retried(lambda: os.open(path, flags, mode))


def fsync_folder(folder: Path) -> None:
    """Make renames and new names in a folder last through a power cut. Raises OSError.

    Windows opens no folders for that: NTFS writes its names down before a rename returns.
    """
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNSYNCABLE:
            raise
    finally:
        os.close(handle)


def is_portable(name: str) -> bool:
    """Whether every system takes a name for a file or folder and gives it back as it was."""
    return bool(
        name
        and not name.endswith((".", " "))
        and not any(char in RESERVED or ord(char) < 32 for char in name)
        and name.split(".")[0].rstrip().lower() not in WINDOWS_DEVICES
    )


def takes_names(*names: str) -> bool:
    """Whether these names lead to files of this system: on Windows a colon leads to a drive or to
    another stream of a file, and some names to devices.
    """
    if sys.platform != "win32":
        return True
    parts = [part for name in names for part in Path(name).parts]
    return all(is_portable(part) for part in parts if part not in (".", "..", "\\"))


def is_too_deep(folder: Path) -> bool:
    """Whether what is written into a folder would have paths that this system does not take."""
    if sys.platform != "win32" or len(str(folder)) + BELOW_A_FOLDER <= LONGEST_PATH:
        return False
    probe = folder / ("long-path-" + "0" * (BELOW_A_FOLDER - 11))
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return True
    return False
