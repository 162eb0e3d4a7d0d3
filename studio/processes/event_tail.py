"""What a job said last, read from the end of its files; all it says, read on from the last look."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

from training import events
from training.storage.paths import open_regular

TAIL = 65_536  # bytes read from the end of a log


class Tail:
    """The events of one file, read on from where the last look ended; begins anew when the file was
    replaced by a shorter one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[events.Event] = []
        self._offset = 0
        self._lock = threading.Lock()

    def read_on(self) -> list[events.Event]:
        """Every event so far, oldest first.

        A line that is still being written waits for the next look.
        """
        with self._lock:
            size = self.path.stat().st_size if self.path.is_file() else 0
            if size < self._offset:
                self.events, self._offset = [], 0
            if size > self._offset:
                with open_regular(self.path) as file:
                    file.seek(self._offset)
                    whole, end, _ = file.read().rpartition(b"\n")
                self._offset += len(whole) + len(end)
                self.events += parsed(whole)
            return list(self.events)


def parsed(lines: bytes) -> Iterator[events.Event]:
    return (
        e
        for line in lines.decode("utf-8", errors="replace").splitlines()
        if (e := events.from_line(line)) is not None
    )


def last_events(folder: Path, since: int) -> list[events.Event]:
    return list(parsed(end_of(folder / "events.jsonl", since)))


def end_of(path: Path, since: int) -> bytes:
    """At most TAIL bytes from the end of a file, none of them before since."""
    try:
        with open_regular(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - TAIL, since if since <= size else 0))
            return file.read()
    except OSError:
        return b""
