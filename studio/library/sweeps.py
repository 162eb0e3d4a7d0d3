"""Several styles at once: datasets that are trained together, or one with several values of its
settings. Knows no torch and no gradio.

A sweep is a folder under the workspace's sweeps/: sweep.toml as `train-style --sweep` reads it,
and what jobs keeps of its process. Every style of it is a run like any other.
"""

from __future__ import annotations

import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from studio.datasets import store
from studio.library import comparisons, library, reload_grid
from studio.processes import process
from training.cli.sweep import styles_of
from training.config.schema import RunConfig
from training.config.settings import settings
from training.errors import BusyError, ConfigError, DataError
from training.storage.paths import Workspace, read_regular, write_whole

MOST_VALUES = 16  # of one setting


def varied() -> dict[str, str]:
    """Settings that a sweep can try values of: key -> its sentence."""
    return {
        s.key: s.help
        for s in settings()
        if s.kind in (int, float, bool) and s.section in ("adapter", "optim", "data", "prior")
    }


def values(key: str, text: str) -> list[Any]:
    """What was typed for a setting, with commas between. Raises ConfigError."""
    kinds = {s.key: s.kind for s in settings()}
    found = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        try:
            value = tomllib.loads(f"v = {word}")["v"]
        except tomllib.TOMLDecodeError:
            raise ConfigError(
                f"{key}: {word[:40]!r} is no value of it. Numbers with commas between were "
                "expected, for instance 1e-4, 3e-4."
            ) from None
        found.append(float(value) if kinds.get(key) is float and type(value) is int else value)
    if not found or len(found) > MOST_VALUES:
        raise ConfigError(f"{key}: 1 to {MOST_VALUES} values with commas between were expected.")
    return found


def planned(
    workspace: Workspace, config: RunConfig, sets: Sequence[str], tries: Mapping[str, str]
) -> tuple[dict[str, Any], list[RunConfig]]:
    """A sweep's tables and the runs it stands for. config: what all share; sets: datasets, each a
    style; tries: key -> values as typed.

    Raises StudioError with what is wrong.
    """
    tables: dict[str, Any] = config.model_dump()
    tables["save"] |= {"folder": str(workspace.runs()), "resume": "exact"}
    if len(sets) > 1:
        tables["styles"] = [_style(workspace, config, name) for name in sets]
    elif sets:
        tables["data"]["folder"] = str(_folder(workspace, sets[0]))
    grid: dict[str, dict[str, Any]] = {}
    for key, text in tries.items():
        if key not in varied():
            raise ConfigError(f"{key[:80]!r} is not a setting that can vary here. Choose another.")
        section, name = key.split(".")
        grid.setdefault(section, {})[name] = values(key, text)
    if grid:
        tables["grid"] = grid
    if not grid and len(sets) < 2:
        raise ConfigError(
            "One style alone is no sweep: choose several datasets, or a setting with several "
            "values."
        )
    configs = styles_of(tables, "the form")
    taken = {name.casefold() for name in library.runs(workspace)}
    if there := [c.save.name for c in configs if c.save.name.casefold() in taken]:
        raise ConfigError(
            f"There are runs of these names already: {', '.join(there[:5])}. Give the style "
            "another name."
        )
    return tables, configs


def begin(workspace: Workspace, tables: Mapping[str, Any]) -> Path:
    """Train them all in a process of its own; return the sweep's folder.

    Raises StudioError, also while another sweep goes on.
    """
    root = workspace.root / "sweeps"
    if root.is_dir() and any(process.is_alive(folder) for folder in root.iterdir()):
        raise BusyError(
            "Several styles are being trained together right now. Wait for them, or stop one "
            "of them, which stops all."
        )
    folder = root / time.strftime("%Y-%m-%d %H-%M-%S")
    write_whole(folder / "sweep.toml", tomli_w.dumps(tables))
    process.start(
        folder,
        [sys.executable, "-m", "training.train_style", str(folder / "sweep.toml"), "--sweep"],
    )
    return folder


def newest(workspace: Workspace) -> Path | None:
    """The sweep that was begun last, None when there was none."""
    root = workspace.root / "sweeps"
    return (
        max(
            (folder for folder in root.iterdir() if (folder / "sweep.toml").is_file()), default=None
        )
        if root.is_dir()
        else None
    )


def runs_of(folder: Path) -> list[str]:
    """Names of a sweep's runs, [] when its file cannot be read."""
    try:
        return [
            config.save.name
            for config in styles_of(
                tomllib.loads(read_regular(folder / "sweep.toml").decode("utf-8")), folder.name
            )
        ]
    except (OSError, ValueError, ConfigError):
        return []


def going(workspace: Workspace) -> Path | None:
    """The sweep that is trained now, None where there is none."""
    folder = newest(workspace)
    return folder if folder is not None and process.is_alive(folder) else None


def grid_of(workspace: Workspace, folder: Path) -> Path | None:
    """The picture of all styles of a sweep; None where it drew none."""
    picture, plan = workspace.runs() / "together.png", folder / "sweep.toml"
    if not picture.is_file() or picture.stat().st_mtime < plan.stat().st_mtime:
        return None
    return picture


def keep_grid(workspace: Workspace, folder: Path) -> None:
    """Keep the picture of a sweep that has ended among the comparisons, once."""
    grid, mark = grid_of(workspace, folder), folder / "comparison"
    if grid is None or mark.exists():
        return
    try:
        spec, _ = reload_grid.spec_of(workspace, grid)
    except DataError:  # not as this version draws them
        return
    write_whole(mark, comparisons.keep(workspace, spec, grid).name)


def _style(workspace: Workspace, config: RunConfig, name: str) -> dict[str, Any]:
    return {
        "data": {"folder": str(_folder(workspace, name))},
        "save": {"name": library.free_run_name(workspace, f"{config.save.name}-{name}"[:72])},
    }


def _folder(workspace: Workspace, name: str) -> Path:
    folder = store.folder(workspace, name)
    if not store.pictures(folder):
        raise DataError(
            f"The dataset {folder.name} has no pictures yet. Add some in the Dataset tab."
        )
    return folder
