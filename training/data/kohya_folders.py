"""Folders as sd-scripts wants them: `10_sks dog` holds pictures of which each counts ten times."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from training.data import file_kinds
from training.errors import DataError

NAMED = re.compile(r"(\d{1,9})_(.*)", re.DOTALL)  # repeats, words
MOST_REPEATS = 1000


@dataclass(frozen=True)
class RepeatedFolder:
    """repeats: how often each picture is seen in a pass over all; words: the caption of pictures
    that have none of their own, "" where the name has no words.
    """

    folder: Path
    repeats: int
    words: str


def repeated_folders(folder: Path) -> list[RepeatedFolder]:
    """Sub-folders NUMBER_WORDS with pictures in them, sorted by name; none where the folder holds
    pictures itself, or cannot be looked at.

    Raises DataError for a number that is none to repeat by.
    """
    try:
        entries = sorted(folder.expanduser().iterdir())
        if any(file_kinds.is_picture(path.name) and path.is_file() for path in entries):
            return []
        named = [(path, found) for path in entries if (found := NAMED.fullmatch(path.name))]
        holding = [
            (path, found)
            for path, found in named
            if path.is_dir() and any(file_kinds.is_picture(one.name) for one in path.iterdir())
        ]
    except (OSError, RuntimeError, ValueError):
        return []  # what is wrong with it is said where it is listed
    for path, found in holding:
        if not 1 <= int(found[1]) <= MOST_REPEATS:
            raise DataError(
                f"{path.name} says that its pictures count {int(found[1]):,} times: 1 to "
                f"{MOST_REPEATS:,} was expected before the _. Rename it."
            )
    return [RepeatedFolder(path, int(found[1]), found[2].strip()) for path, found in holding]
