"""What a user chose for the whole page, in the workspace's settings.json."""

from __future__ import annotations

import json

from training.workspace import Workspace, write_whole

FOLDERS_OF_BASES = "models"  # in the workspace: base models that are found by themselves


def base(workspace: Workspace) -> str | None:
    """The base that is offered first, None when none was chosen."""
    try:
        chosen = json.loads((workspace.root / "settings.json").read_text(encoding="utf-8"))["base"]
        return chosen if isinstance(chosen, str) and chosen else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def choose_base(workspace: Workspace, setting: str) -> None:
    """Offer this base first from now on. Raises SpaceError."""
    write_whole(workspace.root / "settings.json", json.dumps({"base": setting}, ensure_ascii=False) + "\n")
