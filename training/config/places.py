"""Settings that name a file or folder: as seen from where they were written, and whether they
decide what is learnt.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

PATHS = (
    "base.model",
    "base.rest",
    "base.assistant",
    "data.folder",
    "prior.folder",
    "adapter.start",
    "preview.model",
    "report.held_out",
    "save.folder",
)
# Seen from the TOML file or, in flags, from where the command is run; save.folder always from there
READ = tuple(key for key in PATHS if key != "save.folder")
# Of these what is there decides what is learnt, not where it lies: a run goes on wherever its
# pictures, base and style have moved to, see training.trainer.resume
BASE = ("base.model", "base.rest")  # the places of a base
PLACES = frozenset({*BASE, "base.assistant", "data.folder", "prior.folder", "adapter.start"})


# Lists of tables each of which names a folder
TABLES = ("data.folders",)


def without_places(record: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted key without those that say where things lie."""
    return {key: value for key, value in record.items() if key not in PLACES}


def absolute(tables: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The tables of a TOML file in `folder` with absolute paths, so that they mean the same
    everywhere.
    """
    made = dict(tables)
    for key in READ:
        section, name = key.split(".")
        values = made.get(section)
        if isinstance(values, Mapping) and isinstance(path := values.get(name), str):
            made[section] = {**values, name: seen_from(folder, key, path)}
    for key in TABLES:
        section, name = key.split(".")
        values = made.get(section)
        if isinstance(values, Mapping) and name in values:
            made[section] = {**values, name: _tables(folder, key, values[name])}
    return made


def _tables(folder: Path, key: str, tables: Any) -> Any:
    """Tables with absolute folders; what is none stays for the checks to judge."""
    if not isinstance(tables, list):
        return tables
    return [
        {**one, "folder": seen_from(folder, key, path)}
        if isinstance(one, Mapping) and isinstance(path := one.get("folder"), str)
        else one
        for one in tables
    ]


def absolute_flags(flags: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Settings by dotted key, the paths among them seen from a folder."""
    made = {
        key: seen_from(folder, key, value) if key in READ and isinstance(value, str) else value
        for key, value in flags.items()
    }
    return made | {key: _tables(folder, key, made[key]) for key in TABLES if key in made}


def seen_from(folder: Path, key: str, path: str) -> str:
    """The absolute path; what may be a built-in name or a hub id, and what no path can be, stays as
    it is for the checks to judge.
    """
    is_model = key in ("base.model", "base.rest", "preview.model")
    if not path or "\0" in path or (is_model and path == "mini"):
        return path
    try:
        found = (folder / Path(path).expanduser()).resolve()
        stays = is_model and not path.startswith((".", "~")) and not found.exists()
    except (RuntimeError, OSError):  # ~ of nobody, links in a circle, a name that is too long
        return path
    return path if stays else str(found)
