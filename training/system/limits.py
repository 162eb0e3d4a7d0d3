"""Limits that a process sets for itself, as far as its system holds it to them: Windows does not,
there whoever began the process watches it.
"""

from __future__ import annotations

import contextlib
import signal
import sys


def confine() -> None:
    """Write no files, begin no processes, leave no cores."""
    if sys.platform == "win32":
        return
    import resource

    for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE, resource.RLIMIT_NPROC):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (0, 0))


def close_files() -> None:
    """Open no more files or connections: those of input, output and complaints are open already."""
    if sys.platform == "win32":
        return
    import resource

    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))


def limit(seconds: float, on_the_clock: float, memory: int) -> None:
    """Have the system end this process after so many seconds of processor time or on the clock, and
    give it no more bytes of memory. 0: no limit.
    """
    if sys.platform == "win32":
        return
    import resource

    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, on_the_clock)
    with contextlib.suppress(ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        soft = memory if memory else hard
        resource.setrlimit(
            resource.RLIMIT_AS, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard)
        )
