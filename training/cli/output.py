"""Standard output and error that outlive their reader: what is printed to a closed pipe, a full
disk or a terminal that is gone is lost, and the work goes on. Letters that the encoding does not
have, as Windows' pipes lack most (cp1252), are escaped.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import Any

PATIENCE = 1.0  # seconds that a reader who takes nothing is waited for, where writing does not wait


class _LastingFile(io.FileIO):
    """A file descriptor that takes everything, and drops what cannot be written."""

    def write(self, data: Any, /) -> int:
        size = memoryview(data).nbytes
        try:
            written = super().write(data)
            if written is None:  # it does not block, and its reader is behind
                select.select([], [self.fileno()], [], PATIENCE)
                written = super().write(data)
        except OSError:
            return size
        return size if written is None else written


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """While inside, no print and no progress bar raises an error for where its output goes or for
    what it says.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_on_lasting_file(stream) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        sys.stdout, sys.stderr = before


def _on_lasting_file(stream: Any) -> Any:
    """The same stream on a lasting descriptor; what is no file of the system's stays as it is."""
    if stream is None:  # closed before the start, as by `>&-`
        return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    raw = getattr(stream.buffer, "raw", stream.buffer)
    if not isinstance(raw, io.FileIO) or isinstance(raw, _LastingFile):
        return stream
    with contextlib.suppress(OSError):
        stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_LastingFile(raw.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace" if stream.errors == "strict" else stream.errors,
        newline=None,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
