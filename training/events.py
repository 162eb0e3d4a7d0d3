"""What a training run says, one small record at a time; the terminal, the page and the tests all
read the same lines.

Knows nothing of torch. A line of `events.jsonl` is the record as one JSON object with its name
under `event` and the wall-clock time in seconds under `time`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from training.storage.paths import open_regular

LARGEST = 1e100  # of a figure; those of a training are float32's, which end at 3.4e38


@dataclass(frozen=True)
class Started:
    """Everything was checked and loaded.

    step: updates already done (more than 0 on a resumed run); steps: updates in all.
    """

    step: int
    steps: int
    pictures: int
    trainable: int  # weights
    total: int  # weights of the adapted parts
    device: str
    dtype: str


@dataclass(frozen=True)
class Stepped:
    """One update was made. seconds:

    wall-clock time of this update; left: estimated seconds to the end.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds: float
    left: float


@dataclass(frozen=True)
class Previewed:
    """Pictures were drawn after `step` updates; paths are relative to the run's folder, in the
    order of preview.prompts.
    """

    step: int
    paths: tuple[str, ...]
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Saved:
    """A checkpoint is complete on disk; path is relative to the run's folder."""

    step: int
    path: str


@dataclass(frozen=True)
class Noted:
    """Something worth knowing that is no trouble:

    a phase that takes time, a fallback that was taken.
    """

    message: str


@dataclass(frozen=True)
class Warned:
    message: str


@dataclass(frozen=True)
class Finished:
    """The style is on disk, read back and compared; path is relative to the run's folder, "" when
    nothing was learnt yet.

    stopped: on request, before the end.
    """

    step: int
    path: str
    stopped: bool
    seconds: float


@dataclass(frozen=True)
class Failed:
    """The run cannot go on.

    saved: updates in the last checkpoint, 0 when there is none; passing: trying again later may
    help.
    """

    message: str
    saved: int
    passing: bool = False


Event = Started | Stepped | Previewed | Saved | Noted | Warned | Finished | Failed
KINDS: dict[str, type] = {
    kind.__name__.lower(): kind
    for kind in (Started, Stepped, Previewed, Saved, Noted, Warned, Finished, Failed)
}


def to_line(event: Event) -> str:
    """One JSON object without a line end, in ASCII.

    Raises ValueError for a figure that is not finite: JSON has none.
    """
    name = type(event).__name__.lower()
    return json.dumps(
        {"event": name, "time": round(time.time(), 3), **dataclasses.asdict(event)}, allow_nan=False
    )


def append(path: Path, event: Event) -> None:
    """Add one line. What a crash or a full disk cut off before stays a line of its own, so that it
    costs no other event.

    What others rely on lasts through a power cut; an update's figures need not.
    """
    line = to_line(event).encode() + b"\n"
    with path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        cut_off = file.read(1) not in (b"\n", b"")
        file.write(b"\n" + line if cut_off else line)
        if isinstance(event, Saved | Finished | Failed):
            file.flush()
            os.fsync(file.fileno())


def from_line(line: str) -> Event | None:
    """Return the event, or None for a line that is not one (cut off by a crash, written by a later
    version, or with values of other kinds: who reads events calculates with them).
    """
    try:
        found = json.loads(line)
        kind = KINDS[found.pop("event")]
        found.pop("time", None)
        event = kind(
            **{
                key: tuple(value) if isinstance(value, list) else value
                for key, value in found.items()
            }
        )
        return event if _is_sound(event) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _is_sound(event: Event) -> bool:
    return all(FITS[str(one.type)](getattr(event, one.name)) for one in dataclasses.fields(event))


def _is_number(value: object) -> bool:
    """Finite, and of a size that can be calculated with."""
    return type(value) in (int, float) and -LARGEST <= value <= LARGEST  # type: ignore[operator]


# Whether a value is of the kind that a field is declared with
FITS: dict[str, Callable[[object], bool]] = {
    "int": lambda value: type(value) is int and _is_number(value),
    "float": _is_number,
    "bool": lambda value: type(value) is bool,
    "str": lambda value: isinstance(value, str),
    "tuple[str, ...]": lambda value: (
        isinstance(value, tuple) and all(isinstance(one, str) for one in value)
    ),
}


def read(path: Path) -> Iterator[Event]:
    """Every readable event of an events.jsonl, oldest first; nothing when the file is not there."""
    try:
        lines = open_regular(path)
    except OSError:
        return
    with lines:
        for line in lines:
            if (event := from_line(line.decode("utf-8", errors="replace"))) is not None:
                yield event
