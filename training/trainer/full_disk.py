"""Waiting for room on a disk that is full. Knows no torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import TypeVar

from training.errors import SpaceError
from training.events import Warned

Stop = Callable[[], bool]
T = TypeVar("T")
PATIENCE = 3600.0  # seconds a training waits for room on the disk before it gives up
PATIENCE_ON_STOP = 30.0  # the same when it was asked to stop: someone waits for it
AGAIN = 10.0  # seconds between two tries


def never() -> bool:
    return False


def retry_on_full_disk(act: Callable[[], T], stop: Stop) -> Generator[Warned, None, T]:
    """Act; while the disk is full or cannot be written, say so, wait and try again.

    Raises SpaceError in the end.
    """
    began, warned = time.monotonic(), False
    while True:
        try:
            return act()
        except SpaceError as error:
            if time.monotonic() - began > (PATIENCE_ON_STOP if stop() else PATIENCE):
                raise
            if not warned:
                yield Warned(
                    f"{error} The training waits and tries again for {PATIENCE / 60:.0f} minutes."
                )
                warned = True
            _wait(AGAIN, stop)


def _wait(seconds: float, stop: Stop) -> None:
    """Sleep, but wake soon when asked to stop."""
    end, asked = time.monotonic() + seconds, stop()
    while time.monotonic() < end and stop() == asked:
        time.sleep(min(0.2, seconds))
