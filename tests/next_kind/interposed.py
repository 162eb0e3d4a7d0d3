"""A process whose system calls on the files of one folder are counted, failed and recorded: also
those of sqlite and of compiled libraries.

The C source beside this module is built once and preloaded (Linux, with a C compiler).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("interposed.c")
ROOT = Path(__file__).resolve().parents[2]
FIELDS = 7  # of a line of the record


@dataclass(frozen=True)
class Call:
    """A call that succeeded. kind: open, write, sync, truncate, rename, unlink or mkdir.

    fd: -1 where there is none; a: offset or size or flags; b: 1 for a file without a name.
    """

    kind: str
    fd: int
    a: int
    b: int
    path: str
    target: str
    data: bytes


def compiler() -> str | None:
    """The C compiler by which the library can be built, None where it cannot be used."""
    return (shutil.which("cc") or shutil.which("gcc")) if sys.platform == "linux" else None


def library() -> Path:
    """The built library; the same source is built once."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    built = Path(tempfile.gettempdir()) / f"style-studio-interposed-{os.getuid()}-{digest}.so"
    if not built.exists():
        new = built.with_suffix(f".{os.getpid()}")
        command = [compiler() or "cc", "-O1", "-w", "-shared", "-fPIC", "-o", new, SOURCE, "-ldl"]
        subprocess.run(command, check=True)
        new.replace(built)
    return built


def memory_folder() -> str | None:
    """Where files lie in memory, so that an fsync costs nothing; None where there is no such."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def run(module: str, *arguments: str, **keys: object) -> subprocess.CompletedProcess[str]:
    """Run a module of this folder with the library loaded."""
    environment = {**os.environ, "LD_PRELOAD": str(library()), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-B", "-m", f"tests.next_kind.{module}", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, text=True, capture_output=True, **keys
    )


class Calls:
    """The calls of this process; the library has to be loaded."""

    def __init__(self, folder: Path, record: Path | None = None) -> None:
        self._library = ctypes.CDLL(None)
        self._library.interposed_failed.restype = ctypes.c_char_p
        self._library.interposed_seen.restype = ctypes.c_long
        self.folder, self._record = folder.resolve(), -1
        if record:
            self._record = os.open(record, os.O_RDWR | os.O_CREAT | os.O_TRUNC)

    def __enter__(self) -> Calls:
        """Follow the folder from here on."""
        self._library.interposed_set(os.fsencode(self.folder), self._record)
        return self

    def __exit__(self, *_: object) -> None:
        self._library.interposed_set(b"", -1)

    def fail(self, which: int, error: int, *, lasts: bool, is_short: bool, kind: str = "") -> None:
        """Let a call fail, the first is 1, and all after it where that lasts; count from here on.

        is_short: half of a write is written instead. kind: count calls of this kind only.
        """
        self._library.interposed_fail(ctypes.c_long(which), error, lasts, is_short, kind.encode())

    @property
    def seen(self) -> int:
        return self._library.interposed_seen()

    @property
    def failed(self) -> str:
        """The call that failed, "" while none did."""
        return self._library.interposed_failed().decode()

    def recorded(self) -> list[Call]:
        """Every call so far."""
        size = os.fstat(self._record).st_size
        content, found, place = os.pread(self._record, size, 0), [], 0
        while place < len(content):
            end = content.index(b"\n", place)
            fields = content[place:end].decode().split("\t")
            length = int(fields[FIELDS - 1])
            place = end + 1 + length
            numbers = (int(field) for field in fields[1:4])
            found.append(Call(fields[0], *numbers, *fields[4:6], content[end + 1 : place]))
        return found
