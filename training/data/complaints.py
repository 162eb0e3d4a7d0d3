"""Names and values as complaints about a dataset show them: printable, and never too long."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from training.data.image_decoding import printable

LONGEST_SHOWN = 1000  # characters of a path in a complaint


def some_of(names: Iterable[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown_name(name) for name in names[:most]) + more


def shown_name(name: str | Path) -> str:
    """Return a name that any terminal can show, cut when it is too long.

    File names may hold line ends, escape codes and bytes that are no text.
    """
    text = str(name) if len(str(name)) <= LONGEST_SHOWN else str(name)[:LONGEST_SHOWN] + "..."
    return printable(text)


def shown_value(value: object) -> str:
    """A value out of a JSON file, as JSON, cut to 60 characters."""
    return "nothing" if value is None else shown_name(json.dumps(value, ensure_ascii=False)[:60])
