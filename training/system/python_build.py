"""Whether this Python has what every Python of its system has."""

from __future__ import annotations

import sys


def lacking() -> str:
    """The first module that this Python was built without, where locks and limits need it; "" for
    a whole one, and on Windows, which has other ways.
    """
    if sys.platform == "win32":
        return ""
    try:
        import fcntl  # noqa: F401
        import resource  # noqa: F401
    except ModuleNotFoundError as error:
        return error.name or "a module of POSIX"
    return ""
