"""Files as browsers send them, until they are not needed any more. Knows no gradio.

They lie in gradio's folder under the hash of their content: a picture that two people send at once
is one file, so that whoever is first must not take it from under the other. Each goes a while after
its last use.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path

KEPT = 600.0  # seconds; an upload and what is done with it take less


def used(files: Iterable[str | Path], kept: float = KEPT) -> None:
    """These will go when nobody has sent them again for `kept` seconds; the uploads' own copies,
    never a user's files.
    """
    paths = [Path(file) for file in files if file]
    if not paths:
        return
    timer = threading.Timer(kept, _removed, (paths, kept))
    timer.daemon = True
    timer.start()


def _removed(paths: list[Path], kept: float) -> None:
    for path in paths:
        try:
            if (
                time.time() - path.stat().st_ctime >= kept * 0.99
            ):  # else it was sent again, and goes after that
                path.unlink()
        except OSError:  # gone already, or not ours to take away
            continue
