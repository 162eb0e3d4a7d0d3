"""What the Compare tab shows, read from the workspace, by the name of the component that shows it;
what shall stay as it is is left out. Knows no components.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from studio import grid_events
from studio.library import comparisons, library
from studio.library.comparisons import ComparisonSpec
from studio.library.import_export import plain_stem
from studio.page import polling
from studio.page.handlers import address, offered, offered_address
from studio.page.views import compare as views
from studio.page.views.charts import terminal
from studio.processes import process
from training.errors import DataError
from training.storage.paths import Workspace

LOOK = 1.0  # seconds between two looks while it draws and somebody is at the page
MOST_PAST = 24  # comparisons that are offered again at once
THUMBNAIL = 320  # px
LONGEST_NOTE = 200  # characters
HIDDEN = gr.update(visible=False)


def choices(workspace: Workspace) -> list[tuple[str, str]]:
    """Title and id of the styles to choose from, each followed by its checkpoints."""
    found: list[library.Style] = []
    for style in library.styles(workspace):
        found += [style, *library.checkpoints(workspace, style.id)]
    return [(style.title, style.id) for style in found]


def view(workspace: Workspace, folder: Path | None, searched: str = "") -> dict[str, Any]:
    """Everything that shows a comparison. folder: None where there is none yet."""
    if folder is None:
        return {
            "status": views.nothing_yet(),
            "grid": "",
            "download": HIDDEN,
            "reuse": HIDDEN,
            **_ended(workspace, None, searched),
        }
    if process.is_alive(folder):
        return {
            "status": _drawing(folder),
            "stop": gr.update(visible=True),
            "follower": polling.following(LOOK),
        }
    file = folder / "grid.png"
    drawn = file.is_file()
    return {
        "status": "" if drawn else _why_not(folder),
        "grid": _grid(folder) if drawn else "",
        "download": gr.update(value=_download(folder), visible=True) if drawn else HIDDEN,
        "reuse": gr.update(visible=comparisons.has_spec(folder)),
        **_ended(workspace, folder, searched),
    }


def _ended(workspace: Workspace, folder: Path | None, searched: str) -> dict[str, Any]:
    """What is the same for all that are not being drawn."""
    return {"stop": HIDDEN, "past": past(workspace, folder, searched), "follower": ""}


def _drawing(folder: Path) -> str:
    """How far a drawing is, from what its process reported last."""
    match grid_events.last(comparisons.events_file(folder)):
        case grid_events.Drawn(done, steps):
            return views.drawing(done, steps, f"{done} of {steps} sampling steps")
        case grid_events.Noted(message):
            return views.drawing(0, 0, message[:LONGEST_NOTE])
        case _:
            return views.drawing(0, 0, "Loading the base model")


def _why_not(folder: Path) -> str:
    """Why a comparison ended without a grid."""
    found = process.read(folder)
    if found and found.stop_asked:
        return views.stopped()
    return views.failed() + terminal(process.log_tail(folder))


def _grid(folder: Path) -> str:
    """The single pictures as a table; the whole sheet as it was drawn where one of them is
    missing.
    """
    spec = comparisons.read_spec(folder)
    places = _places(folder, spec) if spec else []
    if spec and all(place.is_file() for row in places for place in row):
        cells = [[offered_address(place) for place in row] for row in places]
        picks = comparisons.picks(folder)
        return views.grid(folder.name, spec.columns, spec.rows, cells, picks, spec.title)
    title = spec.title if spec else folder.name
    return views.whole(offered_address(folder / "grid.png"), title)


def _download(folder: Path) -> str:
    """The grid under a name that says what it shows."""
    spec = comparisons.read_spec(folder)
    shown = ", ".join(spec.columns[1:]) or "base" if spec else ""
    name = plain_stem(f"{shown} - {spec.prompts[0]}") if spec and spec.prompts else folder.name
    return offered(folder / "grid.png", f"{name}.png")


def _places(folder: Path, spec: ComparisonSpec) -> list[list[Path]]:
    """Where the single pictures lie, [rows][columns]."""
    columns = range(len(spec.columns))
    return [
        [comparisons.cell(folder, row, column) for column in columns]
        for row in range(len(spec.rows))
    ]


def past(workspace: Workspace, chosen: Path | None, searched: str = "") -> str:
    """The last comparisons that were drawn and hold every searched word."""
    items, wanted = [], (searched or "").casefold().split()
    for name in comparisons.names(workspace):
        grid = workspace.comparisons() / name / "grid.png"
        if len(items) == MOST_PAST:
            break
        if not grid.is_file():
            continue
        spec = comparisons.read_spec(grid.parent)
        title = spec.title if spec else name
        if not all(word in f"{title} {name}".casefold() for word in wanted):
            continue
        try:
            items.append((address(grid, THUMBNAIL), name, title))
        except DataError:
            continue  # a grid that somebody damaged
    return views.past(items, chosen.name if chosen else "", searched or "")
