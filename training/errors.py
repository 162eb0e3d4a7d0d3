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


class StudioError(Exception):
    """What a user can understand and mend. The message is shown as it is, without a traceback."""

    exit_code = 2  # nothing was started
    passing = False  # whether it may be gone when the same is tried again later


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
