"""Lists of tables among the settings ([[data.folders]]): as one line each in flags and on the page,
and named in complaints.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tomli_w

from training.config.section import Section
from training.config.settings import Setting, members, settings


def written(table: Section) -> str:
    """A table as one line of TOML, without what is as it was declared."""
    found = table.model_dump(exclude_defaults=True)
    return "{" + ", ".join(tomli_w.dumps({key: found[key]}).strip() for key in found) + "}"


def parsed(line: str) -> Any:
    """What a line of TOML says; what cannot be read stays text, so that the check names it."""
    try:
        found = tomllib.loads(f"table = {line}")
    except ValueError:  # also what is more than one line
        return line
    return found["table"] if set(found) == {"table"} else line


def with_floats(tables: Any, of: type[Section]) -> Any:
    """Tables in which a whole number stands as a float where a float is expected."""
    floats = {s.name for s in members(of, "") if s.kind is float}
    if not isinstance(tables, list):
        return tables
    return [
        {
            k: float(v) if k in floats and type(v) is int and abs(v) < 2**53 else v
            for k, v in one.items()
        }
        if isinstance(one, Mapping)
        else one
        for one in tables
    ]


def setting_at(place: Sequence[Any]) -> Setting | None:
    """The list of tables that a place such as (data, folders, 0, repeats) lies in."""
    key = ".".join(str(part) for part in place[:2])
    return next((s for s in settings() if s.table and s.key == key), None)


def named(place: Sequence[Any]) -> str:
    """How a complaint names it: `data.folders, table 1, repeats`."""
    key = ".".join(str(part) for part in place[:2])
    words = [f"table {part + 1}" if isinstance(part, int) else str(part) for part in place[2:]]
    return ", ".join([key, *words])


def member(place: Sequence[Any]) -> Setting | None:
    """The declaration of what a place in a table holds."""
    found = setting_at(place)
    if found is None or found.table is None or len(place) < 4:
        return None
    return next((s for s in members(found.table, found.key) if s.name == place[3]), None)


def texts(tables: Sequence[Section]) -> Iterator[str]:
    """Every text in them."""
    for table in tables:
        yield from (value for value in table.model_dump().values() if isinstance(value, str))
