"""Locks of files that end with the process which holds them, however it ends."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from pathlib import Path

import filelock

from training.system import file_system

# Some network file systems have no locks
UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


def open_lock_file(path: Path) -> int:
    """Open the file that is locked for `path`. Raises OSError."""
    return file_system.open_descriptor(lock_file(path), os.O_RDWR | os.O_CREAT, 0o644)


def lock_file(path: Path) -> Path:
    """The file whose lock guards `path`: itself, but on Windows, where nobody else can read what is
    locked, one beside it.
    """
    return path.with_name(f"{path.name}.guard") if sys.platform == "win32" else path


def lock(handle: int) -> bool:
    """Lock an open file, or return False: another process has. True also where the file system has
    no locks. Raises OSError.
    """
    try:
        return filelock.lock_descriptor(handle, blocking=False)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return True


def are_kept(folder: Path) -> bool:
    """Whether the drive under a folder has locks; also True where that cannot be tried."""
    try:
        with tempfile.NamedTemporaryFile(prefix=".probe-", dir=folder) as probe:
            filelock.lock_descriptor(probe.fileno(), blocking=False)
    except OSError as error:
        return error.errno not in UNSUPPORTED
    return True


def is_at(handle: int, path: Path) -> bool:
    """Whether the open file is still the one that guards `path`. Raises FileNotFoundError."""
    return os.path.samestat(os.fstat(handle), lock_file(path).stat())


def release(handle: int, path: Path) -> None:
    """Take `path` and its lock away. Raises OSError where the files stay; the lock is free then,
    too.
    """
    try:
        path.unlink(missing_ok=True)  # before the lock is free: then it is another's
    finally:
        os.close(handle)
        if sys.platform == "win32":
            try:
                lock_file(path).unlink(missing_ok=True)
            except PermissionError:  # the next one has it open, and takes it away
                pass
