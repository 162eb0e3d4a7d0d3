"""A drawn grid as PNG -> the comparison that it shows, its styles found again by their hashes.
Knows no torch and no gradio.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from studio.library import import_export, library
from studio.library.comparisons import MOST_COLUMNS, ComparisonSpec
from training.data import image_headers
from training.errors import DataError
from training.prompt import KEY
from training.storage.disk_errors import not_read
from training.storage.paths import Workspace, read_regular

LARGEST_FILE = 512 * 2**20  # bytes
MOST_TEXTS, LONGEST_TEXT = 100, 2000  # prompts and seeds of a grid; characters of a prompt

# Id of a style in the workspace, None when it is not there; its strength; its title
_Found = tuple[str | None, float, str]


def spec_of(workspace: Workspace, file: Path) -> tuple[ComparisonSpec, list[str]]:
    """The comparison in a grid's metadata, and the names of styles that are not in this workspace.

    Raises DataError for any other picture.
    """
    settings = _settings(file)
    try:
        columns = [column for column in settings["columns"] if column.get("sha256")][:MOST_COLUMNS]
        active = next((column["mix"] for column in settings["columns"] if column.get("mix")), [])[
            :MOST_COLUMNS
        ]
        prompts, seeds = settings["prompts"], settings["seeds"]
        good = (
            0 < len(prompts) <= MOST_TEXTS
            and 0 < len(seeds) <= MOST_TEXTS
            and all(isinstance(prompt, str) for prompt in prompts)
        )
        if not good:
            raise ValueError
        known = {import_export.digest(style.path): style.id for style in _all_styles(workspace)}
        styles = [_style_in(column, known) for column in columns]
        mix = [_style_in(one, known) for one in active]
        numbers = (
            tuple(int(seed) for seed in seeds),
            int(settings["steps"]),
            float(settings["guidance"]),
            int(settings["size"]),
        )
        base = _base(workspace, str(settings["base"].get("model", "")))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise DataError(
            f"{file.name} says how it was drawn in a way that cannot be read. Drop a grid that "
            "this page drew."
        ) from None
    missing = list(dict.fromkeys(title for id, _, title in (*styles, *mix) if id is None))
    left = _present(mix)
    # What is left of a mix when all but one are gone is none
    together = left if len(left) > 1 else ()
    shown = tuple(prompt[:LONGEST_TEXT] for prompt in prompts)
    return ComparisonSpec(base, _present(styles), shown, *numbers, together), missing


def _style_in(column: Any, known: Mapping[str, str]) -> _Found:
    return (
        known.get(str(column["sha256"])),
        float(column["strength"]),
        str(column.get("title") or column["file"])[:80],
    )


def _present(found: Iterable[_Found]) -> tuple[tuple[str, float], ...]:
    return tuple((id, strength) for id, strength, _ in found if id is not None)


def _settings(file: Path) -> dict[str, Any]:
    try:
        content = read_regular(file, LARGEST_FILE)
        if len(content) > LARGEST_FILE:
            raise DataError(f"has more than {LARGEST_FILE:,} bytes")
        settings = json.loads(image_headers.png_text(content, KEY) or "null")
    except OSError as error:
        raise DataError(not_read(file.name, error)) from None
    except (ValueError, RecursionError, DataError) as error:
        raise DataError(
            f"{file.name} cannot be read as a PNG ({error}). Drop a grid that this page drew."
        ) from None
    if not isinstance(settings, dict) or settings.get("kind") != "comparison":
        raise DataError(
            f"{file.name} does not say how it was drawn. Drop a grid as it was downloaded "
            "here; other programs leave the settings out."
        )
    return settings


def _base(workspace: Workspace, model: str) -> str:
    """The base of that name among those known here, else the one that is offered first."""
    known = library.bases(workspace)
    return next((base for base in known if base == model or Path(base).name == model), known[0])


def _all_styles(workspace: Workspace) -> list[library.Style]:
    return [
        one
        for style in library.styles(workspace)
        for one in (*library.checkpoints(workspace, style.id), style)
    ]
