"""Comparisons on disk: what was wanted, what was drawn, who was found better. Knows files and ids;
no torch, no gradio.

A comparison is a folder in the workspace: wish.json says what was wanted, events.jsonl how far its
process is, grid.png and cells/<row>-<column>.png are what was drawn, picks.json which column a
blind look preferred in each row. Column 0 is the base, then come the styles.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from studio.library import library
from studio.processes import process
from training.errors import BusyError, StudioError
from training.storage.paths import Workspace, read_regular, write_whole

MOST_COLUMNS = 12  # styles of a comparison
EVERY = 1.0  # seconds between two events of a drawing


@dataclass(frozen=True)
class ComparisonSpec:
    """What to compare. styles:

    id and strength, each a column; size: px, 0 for the base's own; mix: the same applied together,
    one more column.
    """

    base: str
    styles: tuple[tuple[str, float], ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    guidance: float
    size: int
    mix: tuple[tuple[str, float], ...] = ()

    @property
    def columns(self) -> list[str]:
        """What a user calls the columns, the base first."""
        single = [
            _called(id) + (f" × {strength:g}" if strength != 1 else "")
            for id, strength in self.styles
        ]
        mixed = " + ".join(f"{_called(id)} × {strength:g}" for id, strength in self.mix)
        return ["base", *single, *([mixed] if mixed else [])]

    @property
    def rows(self) -> list[tuple[str, int]]:
        """Prompt and seed of every row."""
        return [(prompt, seed) for prompt in self.prompts for seed in self.seeds]

    @property
    def title(self) -> str:
        """What a user finds it by."""
        return f"{', '.join(self.columns[1:]) or self.base}: {' / '.join(self.prompts)}"[:160]


def _called(id: str) -> str:
    """A style's name, of a checkpoint with its updates: `ink`, `ink after 200`."""
    kind, _, name = id.partition(":")
    return " after ".join(name.rsplit(":", 1)) if kind == "step" else name


def names(workspace: Workspace) -> list[str]:
    """The comparisons, the newest first."""
    root = workspace.comparisons()
    return (
        sorted((f.name for f in root.iterdir() if (f / "process.json").exists()), reverse=True)
        if root.is_dir()
        else []
    )


def folder(workspace: Workspace, name: str) -> Path | None:
    """The folder of a comparison in the listing, None for any other name."""
    return workspace.comparisons() / name if name in names(workspace) else None


def begin(workspace: Workspace, spec: ComparisonSpec) -> Path:
    """Start drawing a comparison in a process of its own; return the comparison's folder.

    Raises StudioError.
    """
    if any(process.is_alive(workspace.comparisons() / name) for name in names(workspace)[:10]):
        raise BusyError("A comparison is being drawn right now. Wait for it, or stop it.")
    made = _free_folder(workspace)
    drawing = command(workspace, spec, made)
    write_whole(made / "wish.json", json.dumps(asdict(spec), ensure_ascii=False))
    process.start(made, drawing)
    return made


def keep(workspace: Workspace, spec: ComparisonSpec, grid: Path) -> Path:
    """Keep a grid that was drawn elsewhere as a comparison; return its folder."""
    made = _free_folder(workspace)
    write_whole(made / "grid.png", grid.read_bytes())
    write_whole(made / "wish.json", json.dumps(asdict(spec), ensure_ascii=False))
    process.write_ended(made)
    return made


def command(workspace: Workspace, spec: ComparisonSpec, folder: Path) -> list[str]:
    """The argument list that draws a comparison into folder/grid.png.

    Raises StudioError for a style that is not in the workspace.
    """

    def weighted(chosen: Iterable[tuple[str, float]]) -> list[str]:
        return [f"{library.style(workspace, id).path}:{strength:g}" for id, strength in chosen]

    styles = weighted(spec.styles)
    if spec.mix:
        styles.append("+".join(weighted(spec.mix)))
    argv = [sys.executable, "-m", "studio.compare", "--base", spec.base]
    argv += ["--style", *styles] if styles else []
    # A prompt that begins with a dash must not be taken for an option.
    argv += ["--prompt", *(f" {text}" if text.startswith("-") else text for text in spec.prompts)]
    argv += [
        "--seed",
        *map(str, spec.seeds),
        "--steps",
        str(spec.steps),
        "--guidance",
        f"{spec.guidance:g}",
    ]
    argv += ["--size", str(spec.size)] if spec.size else []
    return [
        *argv,
        "--every",
        f"{EVERY:g}",
        "--out",
        str(folder / "grid.png"),
        "--cells",
        str(folder / "cells"),
        "--events",
        str(events_file(folder)),
    ]


def events_file(folder: Path) -> Path:
    """Where the process of a comparison reports; see studio.grid_events."""
    return folder / "events.jsonl"


def has_spec(folder: Path) -> bool:
    """Whether it is written down what a comparison was drawn with."""
    return (folder / "wish.json").is_file()


def read_spec(folder: Path) -> ComparisonSpec | None:
    """What a comparison was drawn with; None when its wish.json is missing or damaged."""
    try:
        record = json.loads(read_regular(folder / "wish.json").decode("utf-8"))
        return ComparisonSpec(
            str(record["base"]),
            _with_strengths(record["styles"]),
            tuple(map(str, record["prompts"])),
            tuple(map(int, record["seeds"])),
            int(record["steps"]),
            float(record["guidance"]),
            int(record["size"]),
            _with_strengths(record.get("mix", ())),
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _with_strengths(found: Any) -> tuple[tuple[str, float], ...]:
    """Style ids and strengths out of a JSON list of pairs."""
    pairs = tuple((str(id), float(strength)) for id, strength in found)
    return pairs[:MOST_COLUMNS]


def cell(folder: Path, row: int, column: int) -> Path:
    """Where one picture of a comparison lies."""
    return folder / "cells" / f"{row}-{column}.png"


def with_style(workspace: Workspace, id: str, most: int) -> Iterator[tuple[Path, str]]:
    """Pictures that comparisons drew with a style at about its full strength, each with its prompt,
    the newest first, at most so many.
    """
    for name in names(workspace):
        found = workspace.comparisons() / name
        spec = read_spec(found)
        column = (
            next(
                (
                    i
                    for i, (one, strength) in enumerate(spec.styles, 1)
                    if one == id and 0.6 <= strength <= 1.2
                ),
                0,
            )
            if spec
            else 0
        )
        for row, (prompt, _) in enumerate(spec.rows if spec and column else ()):
            if most > 0 and (path := cell(found, row, column)).is_file():
                most -= 1
                yield path, prompt


# Which column a blind look preferred


def keep_picks(folder: Path, picks: Sequence[object]) -> None:
    """Write down the column that was picked in each row, None where none was.

    Raises StudioError for what the comparison does not have.
    """
    if not _fit(read_spec(folder), picks):
        raise StudioError(
            "These picks do not belong to this comparison. Open it again and look blind once more."
        )
    write_whole(folder / "picks.json", json.dumps(list(picks)))


def picks(folder: Path) -> list[int | None]:
    """The column that was picked in each row, [] when nobody looked or what is written there cannot
    be read.
    """
    spec = read_spec(folder)
    try:
        found = json.loads(read_regular(folder / "picks.json").decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    return found if isinstance(found, list) and _fit(spec, found) else []


def _fit(spec: ComparisonSpec | None, picks: Sequence[object]) -> bool:
    """Whether each row has the number of a column, or None."""
    if spec is None or len(picks) != len(spec.rows):
        return False
    columns = range(len(spec.columns))
    return all(pick is None or (type(pick) is int and pick in columns) for pick in picks)


def _free_folder(workspace: Workspace) -> Path:
    stamp = time.strftime("%Y-%m-%d %H-%M-%S")
    for name in (stamp, *(f"{stamp} ({n})" for n in range(2, 100))):
        if not (workspace.comparisons() / name).exists():
            return workspace.comparisons() / name
    raise StudioError("Too many comparisons were begun in this second. Wait a moment.")
