"""Fetches a base from the hub: `python -m studio.processes.fetch_worker MODEL FOLDER`. How far it
is stands in FOLDER/progress.json; ended at any moment, it goes on from there the next time.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from training.errors import StudioError
from training.models import hub
from training.storage.paths import write_whole
from training.style_files.family_spec import SPECS

EVERY = 0.5  # seconds between two writes of progress.json
PROGRESS = "progress.json"
PARTS = tuple(dict.fromkeys(part for spec in SPECS.values() for part in spec.classes))


class Progress:
    """Writes how far a fetch is."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.last = folder, 0.0

    def far(self, done: int, whole: int) -> None:
        """Bytes that are there, of bytes in all."""
        if time.monotonic() - self.last > EVERY:
            self.last = time.monotonic()
            self.write(done=done, whole=whole)

    def write(self, **what: object) -> None:
        write_whole(self.folder / PROGRESS, json.dumps(what))


def main() -> int:
    model, progress = sys.argv[1], Progress(Path(sys.argv[2]))
    try:
        whole = [0]

        def far(done: int, size: int) -> None:
            whole[0] = size
            progress.far(done, size)

        hub.fetch(model, PARTS, far)
    except StudioError as error:
        progress.write(message=str(error))
        return error.exit_code
    progress.write(done=whole[0], whole=whole[0], ready=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
