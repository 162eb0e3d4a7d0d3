"""What a user wishes of a run that goes on:

a file in the run's folder, taken between two updates. What is learnt does not change by it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from training.errors import SpaceError
from training.storage.disk_errors import advice, cause

RunRequest = Literal["draw", "save"]  # the previews; a checkpoint with its style
FOLDER = "wishes"


def send_request(run: Path, what: RunRequest) -> None:
    """Ask for it; once more before it is done is the same as once. Raises SpaceError."""
    try:
        (run / FOLDER).mkdir(exist_ok=True)
        (run / FOLDER / what).touch()
    except OSError as error:
        raise SpaceError(f"{run} could not be written ({cause(error)}). {advice(error)}") from error


def taken(run: Path) -> list[RunRequest]:
    """What is wished for now, which is then forgotten."""
    found: list[RunRequest] = []
    for what in get_args(RunRequest):
        try:
            (run / FOLDER / what).unlink()
        except OSError:  # nearly always: it is not there
            continue
        found.append(what)
    return found
