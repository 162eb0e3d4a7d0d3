"""The signals that ask a process to end politely, and how a training hears them. Knows no torch."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from types import FrameType

from training.system import processes

# As systems have them. SIGHUP: the terminal or the connection is gone; SIGBREAK: on Windows,
# Ctrl-Break or the window's X
INSISTENT = ("SIGINT", "SIGTERM", "SIGBREAK")
QUIET = ("SIGHUP",)


def listen(heard: Callable[[int, FrameType | None], object]) -> None:
    """Have `heard` called for each polite signal. SIGHUP stays ignored where it was, as nohup and
    disown want it.
    """
    for name in (*INSISTENT, *QUIET):
        kind = getattr(signal, name, None)
        if kind is None:
            continue
        if name in QUIET and signal.getsignal(kind) is signal.SIG_IGN:
            continue
        signal.signal(kind, heard)


class Interrupts:
    """The first Ctrl-C, SIGTERM or SIGHUP asks the run to save and leave; a second Ctrl-C or
    SIGTERM leaves at once.

    A closed terminal sends SIGHUP more than once (the kernel, then the shell), and systems that
    shut down send it beside SIGTERM: it never counts as somebody's insisting.
    """

    def __init__(self) -> None:
        self.asked = False
        self._insistent = False  # whether a signal was heard of which a second one leaves at once
        listen(self._heard)

    def _heard(self, kind: int, frame: FrameType | None) -> None:
        quiet = kind in [getattr(signal, name, None) for name in QUIET]
        if self._insistent and not quiet:
            os._exit(128 + kind)
        self._insistent = self._insistent or not quiet
        if self.asked:
            return
        self.asked = True
        message = (
            b"\nStopping after this update: saving and writing the style. Once more leaves "
            b"at once.\n"
        )
        # Not print: the signal may have come in the middle of one
        with contextlib.suppress(OSError):
            os.write(2, message)

    def __call__(self) -> bool:
        self.asked = self.asked or processes.is_asked_to_end()
        return self.asked
