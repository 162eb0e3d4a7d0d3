"""Base models on their way from the hub: begun, paused, gone on with. Each has a folder in the
workspace for its process; what arrives lies in the hub's own cache, shared with other programs.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from studio.processes import process
from studio.processes.fetch_worker import PROGRESS
from training.errors import BusyError, ModelError
from training.storage.paths import Workspace, read_regular, write_whole

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
NAME = "model.txt"  # in the folder of a fetch: the base's hub id
MOST_GOING = 2  # at once: more share the same line
State = Literal["fetching", "paused", "failed", "ready"]


@dataclass(frozen=True)
class Fetch:
    """A base on its way. done, whole: bytes, 0 before the hub has said how many; message: why it
    failed.
    """

    model: str
    state: State
    done: int = 0
    whole: int = 0
    message: str = ""


def begin(workspace: Workspace, model: str) -> None:
    """Fetch a base, or go on with it, in a process of its own. Raises StudioError."""
    folder = _folder(workspace, model)
    going = [found.model for found in every(workspace) if found.state == "fetching"]
    if model in going:
        return
    if len(going) >= MOST_GOING:
        raise BusyError(f"{' and '.join(going)} are being downloaded. Wait for one, or pause it.")
    write_whole(folder / NAME, model)
    (folder / PROGRESS).unlink(missing_ok=True)
    process.start(
        folder, [sys.executable, "-m", "studio.processes.fetch_worker", model, str(folder)]
    )


def pause(workspace: Workspace, model: str) -> None:
    """End the process; what has arrived stays. A base that is not being fetched is no error."""
    process.stop(_folder(workspace, model), at_once=True)


def forget(workspace: Workspace, model: str) -> None:
    """Take a fetch off the list; what has arrived stays in the hub's cache."""
    folder = _folder(workspace, model)
    if _of(workspace, model).state == "fetching":
        raise BusyError(f"{model} is being downloaded. Pause it first.")
    shutil.rmtree(folder, ignore_errors=True)


def every(workspace: Workspace) -> list[Fetch]:
    """Every fetch of this workspace by its name."""
    root = _root(workspace)
    # Without its name it is one that was forgotten while its process was about to end
    folders = [f for f in root.iterdir() if (f / NAME).is_file()] if root.is_dir() else []
    models = [folder.name.replace("--", "/", 1) for folder in sorted(folders)]
    return [_of(workspace, model) for model in models if HUB_ID.fullmatch(model)]


def _of(workspace: Workspace, model: str) -> Fetch:
    folder = _folder(workspace, model)
    alive = process.is_alive(folder)  # before its words: a process that has ended has said all
    said = _said(folder)
    done, whole = (_bytes(said.get(key)) for key in ("done", "whole"))
    message = said.get("message")
    if said.get("ready") is True:
        return Fetch(model, "ready", whole, whole)
    if alive:
        return Fetch(model, "fetching", done, whole)
    if isinstance(message, str) and message:
        return Fetch(model, "failed", done, whole, message[:1000])
    return Fetch(model, "paused", done, whole)


def _said(folder: Path) -> dict[str, object]:
    try:
        found = json.loads(read_regular(folder / PROGRESS, 2**16))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _bytes(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def _root(workspace: Workspace) -> Path:
    return workspace.root / "fetches"


def _folder(workspace: Workspace, model: str) -> Path:
    """The folder of a fetch. Raises ModelError for a name that is no hub id."""
    if not HUB_ID.fullmatch(model) or "--" in model or ".." in model:
        raise ModelError(
            f"{model[:100]!r} is no name on the hub. Give it as owner/name, as in "
            "stabilityai/stable-diffusion-xl-base-1.0."
        )
    return _root(workspace) / model.replace("/", "--")
