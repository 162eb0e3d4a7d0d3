"""What the process of a comparison reports, one JSON object a line of a file; the page reads there
how far it is. Knows no torch.

A line is the record with its name under `event` and the wall-clock time in seconds under `time`.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from training.storage.paths import open_regular

LONGEST = 16_384  # bytes of a line, and most that is read from the end of a file
MOST_STEPS = 10**9


@dataclass(frozen=True)
class Noted:
    """Something worth knowing that is no trouble, such as a prompt that is cut off."""

    message: str


@dataclass(frozen=True)
class Drawn:
    """How far the drawing is. done, steps: denoising steps of all rows."""

    done: int
    steps: int


GridEvent = Noted | Drawn


def to_line(event: GridEvent) -> str:
    """One JSON object without a line end, in ASCII."""
    name = type(event).__name__.lower()
    return json.dumps({"event": name, "time": round(time.time(), 3), **asdict(event)})


def append(path: Path, event: GridEvent) -> None:
    """Add one line. Raises OSError."""
    with path.open("ab") as file:
        file.write(to_line(event).encode() + b"\n")


def last(path: Path) -> GridEvent | None:
    """The newest event that is written whole; None where there is none."""
    try:
        with open_regular(path) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST))
            whole, _, _ = file.read().rpartition(b"\n")
    except OSError:
        return None
    for line in reversed(whole.splitlines()):
        if (event := _parsed(line)) is not None:
            return event
    return None


def _parsed(line: bytes) -> GridEvent | None:
    """The event of a line; None for one that was cut off, or that a later version wrote."""
    with contextlib.suppress(ValueError, RecursionError):
        match json.loads(line):
            case {"event": "noted", "message": str(message)}:
                return Noted(message)
            case {"event": "drawn", "done": int(done), "steps": int(steps)}:
                return Drawn(done, steps) if 0 <= done <= steps < MOST_STEPS else None
    return None
