"""Every error this project raises on purpose. Knows nothing else.

StudioError
├── ConfigError      a setting is unknown, of the wrong type or out of bounds
├── DataError        pictures or captions cannot be used as they are
├── ModelError       a base model is missing, of an unknown kind or damaged
├── StyleFileError   a style file is damaged, unsafe or made for another base
├── SpaceError       a disk is full or a folder cannot be written
├── BusyError        another process works there
├── DivergedError    the loss or the gradients stopped being finite
├── OthersEndedError another process of the same training has ended
└── OutOfMemory      the device's memory is not enough

A message says what was found, what was expected and what to do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Control characters but line ends and tabs, overrides of the direction of text, and halves of
# characters, which no terminal and no page can show
UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def without_controls(text: str) -> str:
    """Return a text with its control characters written out: names of files and words out of them
    may hold codes that a terminal obeys.
    """
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


MOST_LISTED = 100  # complaints in one message


def listed(complaints: Sequence[str]) -> list[str]:
    """Return complaints as lines of a message, the first of them, and how many more there are."""
    more = len(complaints) - MOST_LISTED
    lines = [f"  - {complaint}" for complaint in complaints[:MOST_LISTED]]
    return [*lines, f"  and {more:,} more."] if more > 0 else lines


class StudioError(Exception):
    """What a user can understand and change. The message is shown as it is, without a traceback."""

    exit_code = 2  # nothing was started
    passing = False  # whether it may be gone when the same is tried again later

    def __init__(self, message: str = "") -> None:
        super().__init__(without_controls(message))


class ConfigError(StudioError):
    pass


class DataError(StudioError):
    pass


class ModelError(StudioError):
    pass


class StyleFileError(StudioError):
    pass


class SpaceError(StudioError):
    passing = True


class BusyError(StudioError):
    passing = True


class DivergedError(StudioError):
    exit_code = 1  # the run had begun


class OthersEndedError(StudioError):
    exit_code = 1
    passing = True


class OutOfMemory(StudioError):
    exit_code = 1
    passing = True  # another program may have held it
