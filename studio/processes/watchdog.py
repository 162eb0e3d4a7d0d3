"""Whether a training still gets on: one that says nothing is named, one that neither speaks nor
computes is ended. Knows no queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from studio.processes import process
from training.storage import run_lock

SILENT = 1800.0  # seconds without an event, after which the queue says so
# seconds without an event and without work, after which a training is ended; one that waits for
# room on a full disk gives up by itself before
HUNG = 4 * 3600.0
IDLE = 0.01  # seconds of processor time a second, below which a training does no work
Finding = Literal["", "silent", "hung"]


@dataclass
class _Trace:
    """What a training last did. Times are seconds of the watchdog's own clock."""

    spoken: tuple[int, int]  # bytes of its events and its log
    spoke_at: float
    worked: float  # seconds of processor time
    worked_at: float


class Watchdog:
    """Follows trainings by a clock that nobody sets."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._traces: dict[Path, _Trace] = {}

    def look(self, run: Path) -> Finding:
        """What is to be thought of a training that lives."""
        now, spoken, worked = self._clock(), _spoken(run), processor_seconds(run)
        trace = self._traces.setdefault(run, _Trace(spoken, now, worked, now))
        if spoken != trace.spoken:
            trace.spoken, trace.spoke_at = spoken, now
        if not 0 <= worked - trace.worked < 1.0 + IDLE * (now - trace.worked_at):
            trace.worked, trace.worked_at = worked, now
        if now - max(trace.spoke_at, trace.worked_at) >= HUNG:
            return "hung"
        return "silent" if now - trace.spoke_at >= SILENT else ""

    def forget(self, run: Path) -> None:
        """Begin anew with a run whose training has ended."""
        self._traces.pop(run, None)


def _spoken(run: Path) -> tuple[int, int]:
    def size(name: str) -> int:
        try:
            return (run / name).stat().st_size
        except OSError:
            return 0

    return size("events.jsonl"), size("terminal.log")


def processor_seconds(run: Path) -> float:
    """Processor time of the run's training and its children so far, 0 for one that is gone."""
    record = run_lock.holder(run) or process.read(run)
    if record is None:
        return 0.0
    try:
        leader = psutil.Process(record.pid)
        family = [leader, *leader.children(recursive=True)]
    except (psutil.Error, ValueError):
        return 0.0
    total = 0.0
    for member in family:
        try:
            times = member.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total
