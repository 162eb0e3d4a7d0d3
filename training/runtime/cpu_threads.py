"""How many threads compute on a CPU that other programs use too: as many as they leave cores.

torch's threads meet at the end of every operation. Where another program holds one of the cores,
all wait for the thread that has none, and an update takes several times as long as with a thread
fewer. So the time that others take is measured, and the count follows it.

How many threads add up a sum decides how it is rounded. The count is therefore changed between two
updates only, and a run writes down from which update on it was another: see `RecordedThreads`.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from training.config.places import without_places
from training.errors import SpaceError
from training.storage.paths import read_regular, write_whole
from training.system import processes

FILE = "threads.json"  # in a run's folder; not there as long as the count never changed
CHOICE = "STUDIO_THREADS"  # "follow" or "fixed"; unset: fixed where OMP_NUM_THREADS is set
WINDOW = 1.0  # seconds that are looked at together, at least
CALM = 2  # windows with a free core before a thread more
MOST_CALM = 64  # the same after threads more have been too many again and again
SPARE = 0.75  # of a core that must be free for a thread more: a half would swing to and fro


@dataclass(frozen=True)
class Sample:
    """at: seconds; others: CPU seconds that other processes have taken on our cores; yielding:
    those of them at a lower priority than ours; cores: those that this process may use.
    """

    at: float
    others: float
    yielding: float
    cores: int


@dataclass(frozen=True)
class Free:
    """Cores that others left free; possible: if those of a lower priority give way as well."""

    cores: float
    possible: float


def sample() -> Sample:
    """Look at the cores of this process now."""
    all_cores = psutil.cpu_times(percpu=True)
    per_core = [all_cores[i] for i in processes.usable_cores() if i < len(all_cores)]
    own = psutil.Process()
    is_nice = processes.has_low_priority()
    kinds = ("user", "nice", "system", "irq", "softirq", "steal")
    busy = sum(getattr(core, kind, 0.0) for core in per_core for kind in kinds)
    nice = sum(getattr(core, "nice", 0.0) for core in per_core)
    mine = own.cpu_times()
    others = busy - mine.user - mine.system
    return Sample(time.monotonic(), others, 0.0 if is_nice else nice, len(per_core))


class FreeCores:
    """Cores that other programs left free, window after window."""

    def __init__(self, read: Callable[[], Sample] = sample, window: float = WINDOW) -> None:
        self._read, self._window, self._last = read, window, read()

    def look(self) -> Free | None:
        """Return how many were free since the last answer; None while that is too short ago."""
        if time.monotonic() - self._last.at < self._window:
            return None
        before, self._last = self._last, self._read()
        seconds = self._last.at - before.at
        if seconds < self._window:
            return None
        others = max(0.0, self._last.others - before.others) / seconds
        yielding = max(0.0, self._last.yielding - before.yielding) / seconds
        free = self._last.cores - others
        return Free(free, free + min(others, yielding))


class Threads:
    """Follows the free cores between one thread and `most`.

    Whether programs of a lower priority give way shows only when they are asked to. So a thread
    more is tried where their cores would do, and tried half as often each time that it was too
    many.
    """

    def __init__(self, free: FreeCores, most: int) -> None:
        self.free, self.most, self.count = free, most, most
        self._calm, self._patience = 0, CALM
        self._since_more = MOST_CALM  # windows

    def wanted(self) -> int:
        """Return the count that the last window speaks for: fewer at once, more when it is calm."""
        free = self.free.look()
        if free is None:
            return self.count
        self._since_more += 1
        if round(free.cores) < self.count:
            tried = self._since_more <= CALM
            self._patience = min(MOST_CALM, 2 * self._patience) if tried else CALM
            self._calm = 0
            return max(1, round(free.cores))
        more = math.floor(free.possible + 1 - SPARE)
        self._calm = self._calm + 1 if more > self.count else 0
        if self._calm < self._patience:
            return self.count
        self._calm = self._since_more = 0
        return min(self.most, more)


class RecordedThreads:
    """The threads of a run's updates: as recorded where they were made before, else followed.

    threads: None where the count is what the user has set; by_step: update -> threads from it on;
    write: keeps that; where it raises SpaceError the count stays.
    """

    def __init__(
        self,
        threads: Threads | None,
        by_step: Mapping[int, int],
        write: Callable[[Mapping[int, int]], None],
    ) -> None:
        self.threads, self.by_step, self._write = threads, dict(by_step), write

    def begin(self, *, choose: bool) -> None:
        """Take the count with which everything before the first update is made; choose: whether
        that is open, as in a run that was not begun before.
        """
        if choose and not self.by_step:
            self.at(0)
        else:
            self._use(self.by_step.get(0, most()))

    def at(self, step: int) -> None:
        """Choose the count of an update that is about to begin."""
        recorded = [count for first, count in sorted(self.by_step.items()) if first <= step]
        before = min(recorded[-1], most()) if recorded else most()
        self._use(before)
        if any(first > step for first in self.by_step):  # it is made again
            return
        wanted = self.threads.wanted() if self.threads else most()
        if wanted == before:
            return
        changed = {**self.by_step, step: wanted}
        try:
            self._write(changed)
        except SpaceError:
            return
        self.by_step = changed
        self._use(wanted)

    def _use(self, count: int) -> None:
        if self.threads:
            self.threads.count = count
        if count != torch.get_num_threads():
            torch.set_num_threads(count)


def follows() -> bool:
    """Whether the count follows the free cores, or is what the user has set."""
    choice = os.environ.get(CHOICE) or ("fixed" if "OMP_NUM_THREADS" in os.environ else "follow")
    return choice == "follow" and most() > 1


def of_run(
    folder: Path, settings: Mapping[str, Any], device: torch.device, *, anew: bool
) -> RecordedThreads:
    """The threads of a run. settings: those that a record must have been made for; anew: whether
    what is there does not count.
    """
    record: Mapping[str, Any] = json.loads(json.dumps(dict(settings)))

    def write(by_step: Mapping[int, int]) -> None:
        kept = {"settings": record, "threads": sorted(by_step.items())}
        write_whole(folder / FILE, json.dumps(kept))

    return RecordedThreads(followed(device), {} if anew else _read(folder, record), write)


def followed(device: torch.device) -> Threads | None:
    """What follows the free cores, where this process may and computes on the CPU."""
    return Threads(_FREE, most()) if follows() and device.type == "cpu" else None


def _read(folder: Path, settings: Mapping[str, Any]) -> dict[int, int]:
    """The record of a run with these settings; empty where there is none that can be read."""
    try:
        record = json.loads(read_regular(folder / FILE))
        same = without_places(record["settings"]) == without_places(settings)
        found = dict(record["threads"]) if same else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return found if is_sound(found) else {}


def is_sound(by_step: Mapping[Any, Any]) -> bool:
    """Whether these can be counts of threads by updates."""
    return all(
        type(step) is int and type(count) is int and 0 < count <= 4096
        for step, count in by_step.items()
    )


_FREE = FreeCores()  # since this process began to load
_following: list[Threads | None] = []
_begun_with: list[int] = []


def most() -> int:
    """The threads that this process was given, whatever their number is at present."""
    return _begun_with[0] if _begun_with else torch.get_num_threads()


@contextmanager
def given_back() -> Iterator[None]:
    """While inside, the count may be changed; afterwards it is the former one."""
    before = torch.get_num_threads()
    _begun_with.append(before)
    try:
        yield
    finally:
        _begun_with.pop()
        torch.set_num_threads(before)


@contextmanager
def following() -> Iterator[None]:
    """While inside, `follow` changes the count: for work whose rounding nobody repeats, as the
    drawing of a comparison.
    """
    with given_back():
        _following.append(Threads(_FREE, most()) if follows() else None)
        try:
            yield
        finally:
            _following.pop()


def follow() -> None:
    """Use as many threads as there are free cores, between two pieces of work."""
    threads = _following[-1] if _following else None
    if threads is not None:
        threads.count = threads.wanted()
        if threads.count != torch.get_num_threads():
            torch.set_num_threads(threads.count)
