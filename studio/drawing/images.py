"""Images on disk: those that were drawn, with what they were drawn from, a mark and a note; and the
pictures to begin with. Knows no torch and no gradio.

In the workspace's created/: <id>.png and <id>.json for an image, sources/<id>.png for a picture to
begin with or a mask, kept.json for the favourites. Equal requests have equal ids, so what was drawn
once is not drawn again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from studio.drawing.request import ID, DrawRequest
from training.data.pictures import open_picture
from training.errors import DataError
from training.storage.paths import Workspace, read_regular, write_whole
from training.style_files.reading import printable

MOST_IMAGES = 300  # that are kept beside the favourites; the oldest go first
LARGEST_SOURCE = 2048  # px of a picture's longer side; what is larger is scaled down
LONGEST_NOTE = 500  # characters
LARGEST_RECORD = 2**20  # bytes
GONE = "That image is not there any more. Choose another one, or generate it again."


@dataclass(frozen=True)
class Created:
    """An image that was drawn. note: None where it is no favourite."""

    id: str
    path: Path
    request: DrawRequest
    note: str | None


def folder(workspace: Workspace) -> Path:
    return workspace.root / "created"


def place(workspace: Workspace, id: str) -> Path:
    """Where an image lies. Raises DataError for what is no id."""
    if not ID.fullmatch(str(id)):
        raise DataError(GONE)
    return folder(workspace) / f"{id}.png"


def source(workspace: Workspace, id: str) -> Path:
    """Where a picture to begin with lies. Raises DataError where there is none."""
    found = folder(workspace) / "sources" / place(workspace, id).name
    if not found.is_file():
        raise DataError("The picture to begin with is not there any more. Drop it again.")
    return found


def take_source(workspace: Workspace, file: Path) -> str:
    """Keep a copy of a picture to begin with, decoded apart from this process, upright and at most
    LARGEST_SOURCE px long; return its id. Raises DataError.
    """
    picture = open_picture(file)
    picture.thumbnail((LARGEST_SOURCE, LARGEST_SOURCE), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    picture.save(content, "PNG")
    id = hashlib.sha256(content.getvalue()).hexdigest()[:32]
    write_whole(folder(workspace) / "sources" / f"{id}.png", content.getvalue())
    return id


def write(workspace: Workspace, id: str, request: DrawRequest) -> None:
    """Write down what an image is drawn from. Raises SpaceError."""
    write_whole(place(workspace, id).with_suffix(".json"), request.to_json())


def found(workspace: Workspace, id: str) -> Created | None:
    """An image that was drawn, None where it is gone or its record cannot be read."""
    path = place(workspace, id)
    with contextlib.suppress(OSError, ValueError, RecursionError):
        record = json.loads(read_regular(path.with_suffix(".json"), LARGEST_RECORD))
        request = DrawRequest.from_record(record)
        return Created(id, path, request, notes(workspace).get(id)) if path.is_file() else None
    return None


def newest(workspace: Workspace, most: int, *, favourites: bool = False) -> list[Created]:
    """The last images, the newest first."""
    kept = notes(workspace)
    images = []
    for path in _by_age(workspace):
        if favourites and path.stem not in kept:
            continue
        if len(images) == most:
            break
        if (image := found(workspace, path.stem)) is not None:
            images.append(image)
    return images


def notes(workspace: Workspace) -> dict[str, str]:
    """The favourites' ids, each with its note."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        record = json.loads(read_regular(folder(workspace) / "kept.json", LARGEST_RECORD))
        if isinstance(record, dict):
            return {k: v for k, v in record.items() if ID.fullmatch(k) and isinstance(v, str)}
    return {}


def keep(workspace: Workspace, id: str, note: str | None) -> None:
    """Make an image a favourite with that note, or none with None. Raises DataError, SpaceError."""
    if not place(workspace, id).is_file():
        raise DataError(GONE)
    others = {other: text for other, text in notes(workspace).items() if other != id}
    mine = {} if note is None else {id: printable(note, LONGEST_NOTE)}
    write_whole(folder(workspace) / "kept.json", json.dumps(others | mine, ensure_ascii=False))


def tidy(workspace: Workspace) -> None:
    """Take the oldest images away that are no favourites, until MOST_IMAGES are left."""
    kept = notes(workspace)
    for path in [path for path in _by_age(workspace) if path.stem not in kept][MOST_IMAGES:]:
        for file in (path, path.with_suffix(".json")):
            with contextlib.suppress(OSError):
                file.unlink()


def _by_age(workspace: Workspace) -> list[Path]:
    """The drawn images' files, the newest first."""
    dated = []
    for path in folder(workspace).glob("*.png"):
        with contextlib.suppress(OSError):
            if ID.fullmatch(path.stem):
                dated.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(dated, reverse=True)]
