"""Files as browsers send them, until they are not needed any more. Knows no gradio.

They lie in gradio's folder under the hash of their content: a picture that two people send at once
is one file, so that whoever is first must not take it from under the other. Each goes a while after
its last use.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Iterable
from pathlib import Path

KEPT = 600.0  # seconds; an upload and what is done with it take less


def used(files: Iterable[str | Path], kept: float = KEPT) -> None:
    """These will go when nobody has sent them again for `kept` seconds; the uploads' own copies,
    never a user's files.
    """
    paths = [Path(file) for file in files if file]
    if not paths:
        return
    _SWEEPER.add(time.monotonic() + kept, paths, kept)


class Sweeper:
    """Removes files when their time has come, in one thread for all of them, which ends when there
    is nothing left to remove.
    """

    def __init__(self) -> None:
        self._due: list[tuple[float, int, list[Path], float]] = []
        self._added = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, due: float, paths: list[Path], kept: float) -> None:
        """Look after these at `due`, in seconds of the monotonic clock."""
        with self._changed:
            heapq.heappush(self._due, (due, self._added, paths, kept))
            self._added += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._sweep, daemon=True, name="uploads")
                self._thread.start()
            self._changed.notify()

    def _sweep(self) -> None:
        while True:
            with self._changed:
                while self._due and (left := self._due[0][0] - time.monotonic()) > 0:
                    self._changed.wait(left)
                if not self._due:
                    self._thread = None
                    return
                _, _, paths, kept = heapq.heappop(self._due)
            _removed(paths, kept)


_SWEEPER = Sweeper()


def _removed(paths: list[Path], kept: float) -> None:
    for path in paths:
        try:
            if (
                time.time() - path.stat().st_ctime >= kept * 0.99
            ):  # else it was sent again, and goes after that
                path.unlink()
        except OSError:  # gone already, or not ours to take away
            continue
