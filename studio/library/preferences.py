"""What a user chose for the whole page, in the workspace's settings.json."""

from __future__ import annotations

import json

from training.storage.paths import Workspace, read_regular, write_whole

FOLDERS_OF_BASES = "models"  # in the workspace: base models that are found by themselves


def base(workspace: Workspace) -> str | None:
    """The base that is offered first, None when none was chosen."""
    return _kept(workspace).get("base")


def choose_base(workspace: Workspace, setting: str) -> None:
    """Offer this base first from now on. Raises SpaceError."""
    _keep(workspace, _kept(workspace) | {"base": setting})


def go_on_from(workspace: Workspace, style: str) -> None:
    """Let the training form be filled for going on from this style (its id) when it is opened next.
    Raises SpaceError.
    """
    _keep(workspace, _kept(workspace) | {"go_on_from": style})


def take_start(workspace: Workspace) -> str | None:
    """The id that go_on_from left, once. Raises SpaceError."""
    kept = _kept(workspace)
    if (found := kept.pop("go_on_from", None)) is not None:
        _keep(workspace, kept)
    return found


def compare_with(workspace: Workspace, style: str, strength: float) -> None:
    """Let the comparison be filled with this style (its id) when it is opened next. Raises
    SpaceError.
    """
    _keep(workspace, _kept(workspace) | {"compare_with": f"{strength:g} {style}"})


def take_comparison(workspace: Workspace) -> tuple[str, float] | None:
    """The id and the strength that compare_with left, once. Raises SpaceError."""
    kept = _kept(workspace)
    if (found := kept.pop("compare_with", None)) is None:
        return None
    _keep(workspace, kept)
    strength, _, style = found.partition(" ")
    try:
        return style, float(strength)
    except ValueError:
        return None


def create_with(workspace: Workspace, style: str) -> None:
    """Let Create be filled with this style (its id) when it is opened next. Raises SpaceError."""
    _keep(workspace, _kept(workspace) | {"create_with": style})


def take_creation(workspace: Workspace) -> str | None:
    """The id that create_with left, once. Raises SpaceError."""
    kept = _kept(workspace)
    if (found := kept.pop("create_with", None)) is not None:
        _keep(workspace, kept)
    return found


def _kept(workspace: Workspace) -> dict[str, str]:
    try:
        found = json.loads(read_regular(workspace.root / "settings.json").decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return (
        {key: value for key, value in found.items() if isinstance(value, str) and value}
        if isinstance(found, dict)
        else {}
    )


def _keep(workspace: Workspace, kept: dict[str, str]) -> None:
    write_whole(workspace.root / "settings.json", json.dumps(kept, ensure_ascii=False) + "\n")
