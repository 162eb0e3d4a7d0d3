"""What is done with finished styles: pictures of them, bringing one in, taking one away and back.
Knows no torch and no gradio.

What is taken away goes into the workspace's trash, from where undo brings it back.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from studio.library import comparisons, library
from studio.library.cards import card_file
from studio.processes import process
from training import events
from training.errors import BusyError, DataError, SpaceError, StudioError, StyleFileError
from training.storage.disk_errors import advice, cause
from training.storage.paths import Workspace, inside, read_regular, write_whole
from training.style_files.reading import MAX_FILE, style_from_bytes
from training.system import file_system, processes

MOST_PICTURES = 12


class Brought(NamedTuple):
    """What became of dropped files:

    ids on the shelf with what is worth knowing of each, and what was refused with the reason.
    """

    kept: tuple[tuple[str, str], ...]
    refused: tuple[tuple[str, str], ...]


def pictures(
    workspace: Workspace, style: library.Style, most: int = MOST_PICTURES
) -> list[tuple[Path, str]]:
    """Pictures of a style with what they were asked to show:

    its run's last previews, else what comparisons drew with it.
    """
    found: list[tuple[Path, str]] = []
    if (run := run_of(workspace, style)) is not None:
        drawn = [e for e in events.read(run / "events.jsonl") if isinstance(e, events.Previewed)]
        for path, prompt in zip(drawn[-1].paths, drawn[-1].prompts, strict=False) if drawn else ():
            place = (run / path).resolve()
            if place.is_relative_to(run.resolve()) and place.is_file():
                found.append((place, prompt))
    return [*found, *comparisons.with_style(workspace, style.id, most - len(found))][:most]


def before_and_after(workspace: Workspace, style: library.Style) -> tuple[Path, Path, str] | None:
    """One preview before the first step and the same one at the last, with its prompt; None where
    the run has not both.
    """
    run = run_of(workspace, style)
    drawn = events.read(run / "events.jsonl") if run is not None else ()
    looks = [e for e in drawn if isinstance(e, events.Previewed) and e.paths and e.prompts]
    if run is None or not looks or looks[0].step or not looks[-1].step:
        return None
    if looks[0].prompts[0] != looks[-1].prompts[0]:
        return None
    before, after = ((run / look.paths[0]).resolve() for look in (looks[0], looks[-1]))
    inside_run = all(p.is_relative_to(run.resolve()) and p.is_file() for p in (before, after))
    return (before, after, looks[-1].prompts[0]) if inside_run else None


def run_of(workspace: Workspace, style: library.Style) -> Path | None:
    """The run that made a style, None for one that was brought."""
    return inside(workspace.runs(), style.path.parent.name) if style.id.startswith("run:") else None


# Bringing one in


def bring(workspace: Workspace, files: Sequence[Path]) -> Brought:
    """Copy style files onto the shelf, each after all of it was read and checked; a bad one is
    named with its reason, nothing of it is kept.
    """
    kept, refused = [], []
    for file in files:
        try:
            if file.stat().st_size > MAX_FILE:
                raise StyleFileError(
                    f"{file.name} is larger than {MAX_FILE // 2**20} MiB, which no style is. "
                    "A whole model is chosen as Base in Train, by its path."
                )
            content = file.read_bytes()
            style = style_from_bytes(content, file.name)
            if there := _same(workspace, style.sha256):
                raise StyleFileError(f"is here already, as {there.name}.")
            path = workspace.styles() / f"{_free_stem(workspace, file.stem)}.safetensors"
            write_whole(path, content)
        except (StyleFileError, SpaceError) as error:
            refused.append((file.name, str(error).removeprefix(f"{file.name} ")))
            continue
        dora = (
            (
                "It is DoRA: before it can be drawn with, rewrite it for its base with "
                "`style-file convert`.",
            )
            if style.magnitudes
            else ()
        )
        kept.append((f"file:{path.stem}", " ".join((*style.warnings, *dora))))
    return Brought(tuple(kept), tuple(refused))


def mixed(workspace: Workspace, parts: Sequence[tuple[str, float]]) -> str:
    """Merge styles, each by its weight, into a new one on the shelf and return its id.

    Raises StudioError with what style-file says of it.
    """
    styles = [library.style(workspace, id) for id, _ in parts]
    stem = _free_stem(workspace, " + ".join(style.name for style in styles))
    out = workspace.styles() / f"{stem}.safetensors"
    out.parent.mkdir(parents=True, exist_ok=True)
    weighted = [
        f"{style.path}:{weight:g}" for style, (_, weight) in zip(styles, parts, strict=True)
    ]
    command = [
        sys.executable,
        "-m",
        "training.cli.style_file",
        "merge",
        *weighted,
        "--out",
        str(out),
    ]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        env=process.environment(),
    )
    if done.returncode:
        said = done.stderr.strip()[-500:].removeprefix("style-file: ")
        said = said or f"{processes.ending(done.returncode)}. Close other programs and try again."
        raise StudioError(f"The styles could not be mixed: {said}")
    return f"file:{stem}"


def digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _same(workspace: Workspace, sha256: str) -> library.Style | None:
    return next(
        (style for style in library.styles(workspace) if digest(style.path) == sha256), None
    )


def plain_stem(text: str) -> str:
    """A text as the stem of a file's name that every system takes."""
    plain = (
        re.sub(r"[^\w ()+-]+", "-", unicodedata.normalize("NFC", text))
        .strip(" .-_")[:60]
        .strip(" .-_")
        or "style"
    )
    return plain if file_system.is_portable(plain) else f"{plain}-1"


def _free_stem(workspace: Workspace, wanted: str) -> str:
    plain = plain_stem(wanted)
    taken = (
        {f.name.partition(".")[0].casefold() for f in workspace.styles().iterdir()}
        if workspace.styles().is_dir()
        else set()
    )
    free, count = plain, 2
    while free.casefold() in taken:
        free, count = f"{plain}-{count}", count + 1
    return free


# Taking one away


def trash(workspace: Workspace) -> Path:
    return workspace.root / "trash"


def take_away(workspace: Workspace, id: str) -> str:
    """Move a style into the trash, the whole run of one that was trained here; return what undo
    calls it. Raises BusyError, SpaceError.
    """
    style = library.style(workspace, id)
    run = run_of(workspace, style)
    if run is not None and process.is_alive(run):
        raise BusyError(f"“{run.name}” is being trained right now. Stop it first.")
    leaving = (
        [run] if run is not None else [f for f in (style.path, card_file(style.path)) if f.exists()]
    )
    entry = _free_entry(workspace)
    record = {
        "title": style.name,
        "moved": [path.relative_to(workspace.root).as_posix() for path in leaving],
    }
    try:
        entry.mkdir(parents=True)
        write_whole(
            entry / "what.json", json.dumps(record, ensure_ascii=False)
        )  # before the first move: undo knows also half of it
        for path in leaving:
            file_system.rename(path, entry / path.name)
    except OSError as error:
        raise SpaceError(
            f"{style.name} could not be moved into {entry} ({cause(error)}). "
            f"{advice(error, 'delete its files by hand')}"
        ) from error
    return style.name


def all_taken(workspace: Workspace) -> list[str]:
    """The styles in the trash by name, the one that was deleted last first."""
    records = (_trash_record(entry) for entry in _entries(workspace))
    return [record["title"] for record in records if record]


def last_taken(workspace: Workspace) -> str | None:
    """What undo brings back next, None when the trash is empty."""
    return next(iter(all_taken(workspace)), None)


def bring_back(workspace: Workspace) -> str:
    """Move what was taken away last back to where it was; return its name.

    Raises DataError when its place is taken or there is nothing.
    """
    for entry in _entries(workspace):
        if (record := _trash_record(entry)) is None:
            continue
        places = [
            (entry / Path(to).name, inside(workspace.root, *Path(to).parts))
            for to in record["moved"]
        ]
        if taken := [to for there, to in places if there.exists() and to.exists()]:
            raise DataError(
                f"{taken[0]} is there again. Move it away, then bring {record['title']} back "
                f"from {entry}."
            )
        for there, to in places:
            if there.exists():
                to.parent.mkdir(parents=True, exist_ok=True)
                file_system.rename(there, to)
        file_system.remove_tree(entry)
        return record["title"]
    raise DataError("The trash is empty: there is nothing to bring back.")


def _entries(workspace: Workspace) -> list[Path]:
    root = trash(workspace)
    return sorted((f for f in root.iterdir() if f.is_dir()), reverse=True) if root.is_dir() else []


def _trash_record(entry: Path) -> dict | None:
    try:
        record = json.loads(read_regular(entry / "what.json").decode("utf-8"))
        good = isinstance(record["title"], str) and all(
            isinstance(to, str) and Path(to).parts[0] in ("runs", "styles")
            for to in record["moved"]
        )
        return record if good else None
    except (OSError, ValueError, TypeError, KeyError, IndexError, RecursionError):
        return None


def _free_entry(workspace: Workspace) -> Path:
    stamp, root = time.strftime("%Y-%m-%d %H-%M-%S"), trash(workspace)
    return next(
        root / f"{stamp} {n:03d}" for n in range(1000) if not (root / f"{stamp} {n:03d}").exists()
    )
