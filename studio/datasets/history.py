"""Changes of a dataset that can be undone, one after another, also after a reload. Knows files;
nothing of captions or gradio.

A change is kept in `<dataset>/.history/<number>/`: what it was, and every file as it was before;
one that was undone in `.history/redo/<number>/` until something else is changed.
Undo puts back what nobody changed since.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import DataError, SpaceError
from training.storage.disk_errors import advice, cause, system_error
from training.storage.paths import (
    fsync_folder,
    inside,
    make_folder,
    read_regular,
    write_whole,
)
from training.system import file_system

FOLDER = ".history"
TURN = threading.RLock()  # two tabs of a browser, one journal


@dataclass(frozen=True)
class Undone:
    """What was undone, and the files that were changed again since and therefore stay."""

    what: str
    stayed: tuple[str, ...]


def change(dataset: Path, what: str, files: Mapping[str, bytes | None], *, act: str = "") -> int:
    """Write these files of a dataset (None: take away) so that it can be undone; return how many
    differ. Raises SpaceError.

    act: names what is done bit by bit; what follows the last change with the same one is a part of
    it, and undone with it.
    """
    with TURN:
        count = _change(dataset, what, files, act)
        if count:
            shutil.rmtree(_redo_folder(dataset), ignore_errors=True)
        return count


def _change(dataset: Path, what: str, files: Mapping[str, bytes | None], act: str) -> int:
    with TURN:
        differing = {name: new for name, new in files.items() if _content(dataset, name) != new}
        if not differing:
            return 0
        latest = max([0, *_numbers(dataset)])
        earlier = _recorded_act(dataset, latest) if act else None
        record: dict[str, Any] = {"what": what, "act": act, "files": {}}
        grows = earlier is not None and earlier.get("act") == act
        if earlier is not None and grows:
            record = earlier
        entry = dataset / FOLDER / f"{latest + (not grows):06d}"
        try:
            make_folder(entry / "before")
            for name, new in differing.items():
                had = (
                    record["files"][name]["had"]
                    if name in record["files"]
                    else inside(dataset, name).is_file()
                )
                if had and name not in record["files"]:  # written through: undo relies on it
                    write_whole(entry / "before" / name, (dataset / name).read_bytes())
                record["files"][name] = {"had": had, "after": _digest(new)}
        except (OSError, SpaceError) as error:
            if not grows:
                shutil.rmtree(entry, ignore_errors=True)
            reason = system_error(error)
            raise SpaceError(
                f"{entry} could not be written ({cause(reason)}). Nothing was changed. "
                f"{advice(reason, 'move the workspace to another one')}"
            ) from error
        write_whole(
            entry / "change.json", json.dumps(record, ensure_ascii=False)
        )  # before the first file: undo knows also half a change
        for name, new in differing.items():
            _put(dataset, name, new)
        return len(differing)


def last(dataset: Path) -> str | None:
    """What the next undo takes back, None when there is nothing."""
    return next(
        (
            record["what"]
            for n in reversed(_numbers(dataset))
            if (record := _recorded_act(dataset, n))
        ),
        None,
    )


def undone(dataset: Path) -> str | None:
    """What the next redo makes again, None when there is nothing."""
    found = _next_redo(dataset)
    return found[1]["what"] if found else None


def redo(dataset: Path) -> str:
    """Make the change again that was undone last, which undo takes back again; return what it was.

    Raises DataError when there is none or its files were changed since, SpaceError.
    """
    with TURN:
        found = _next_redo(dataset)
        if found is None:
            raise DataError(
                f"Nothing was undone in {dataset.name} that could be made again. Make the change "
                "itself."
            )
        entry, record = found
        if [name for name, of in record["files"].items() if _now(dataset, name) != of["now"]]:
            shutil.rmtree(_redo_folder(dataset), ignore_errors=True)
            raise DataError(
                f"“{record['what']}” cannot be made again: its files have changed since."
            )
        files = {
            name: (entry / "after" / name).read_bytes() if of["has"] else None
            for name, of in record["files"].items()
        }
        _change(dataset, record["what"], files, "")
        shutil.rmtree(entry, ignore_errors=True)
        return record["what"]


def undo(dataset: Path) -> Undone:
    """Take the last change back. Raises DataError when there is none, SpaceError."""
    with TURN:
        for number in reversed(_numbers(dataset)):
            entry, record = dataset / FOLDER / f"{number:06d}", _recorded_act(dataset, number)
            if record is None:
                continue
            stayed = []
            after: dict[str, bytes | None] = {}
            for name, was in record["files"].items():
                before = (entry / "before" / name).read_bytes() if was["had"] else None
                now = _content(dataset, name)
                if _digest(now) == was["after"]:
                    after[name] = now
                    _put(dataset, name, before)
                elif now != before:
                    stayed.append(name)
            # First: what a crash leaves of the entry is no change that can be undone
            with _disk_errors(entry):
                file_system.replace(entry / "change.json", entry / "undone.json")
                fsync_folder(entry)
            if not stayed:  # else what was before stays on disk
                shutil.rmtree(entry, ignore_errors=True)
            _keep_for_redo(dataset, number, record["what"], {} if stayed else after)
            return Undone(record["what"], tuple(stayed))
    raise DataError(f"Nothing was changed in {dataset.name} that could be undone.")


def _redo_folder(dataset: Path) -> Path:
    return dataset / FOLDER / "redo"


def _keep_for_redo(
    dataset: Path, number: int, what: str, after: Mapping[str, bytes | None]
) -> None:
    """Keep what an undo took back. What is on a full disk cannot be made again, only that."""
    root = _redo_folder(dataset)
    if not after:
        shutil.rmtree(root, ignore_errors=True)
        return
    entry = root / f"{number:06d}"
    files = {n: {"has": new is not None, "now": _now(dataset, n)} for n, new in after.items()}
    try:
        make_folder(entry / "after")
        for name, new in after.items():
            if new is not None:
                write_whole(entry / "after" / name, new)
        record = {"what": what, "files": files}
        write_whole(entry / "redo.json", json.dumps(record, ensure_ascii=False))
    except (OSError, SpaceError):
        shutil.rmtree(root, ignore_errors=True)


def _next_redo(dataset: Path) -> tuple[Path, dict[str, Any]] | None:
    """The lowest entry, which was undone last; None where there is none or it is damaged."""
    root = _redo_folder(dataset)
    numbers = [f.name for f in root.iterdir() if f.name.isdigit()] if root.is_dir() else []
    if not numbers:
        return None
    entry = root / min(numbers)
    record = _record_in(entry / "redo.json", {"has", "now"})
    return (entry, record) if record else None


def _now(dataset: Path, name: str) -> str | None:
    return _digest(_content(dataset, name))


def _numbers(dataset: Path) -> list[int]:
    root = dataset / FOLDER
    return (
        sorted(int(f.name) for f in root.iterdir() if f.name.isdigit() and f.is_dir())
        if root.is_dir()
        else []
    )


def _recorded_act(dataset: Path, number: int) -> dict[str, Any] | None:
    """What an entry says; None for one that was never finished or is damaged."""
    return _record_in(dataset / FOLDER / f"{number:06d}" / "change.json", {"had", "after"})


def _record_in(file: Path, keys: set[str]) -> dict[str, Any] | None:
    """The record in a file. keys: what it says of each of its files."""
    try:
        record = json.loads(read_regular(file).decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    files = record.get("files") if isinstance(record, dict) else None
    if not isinstance(files, dict) or not isinstance(record.get("what"), str):
        return None
    names_only = all(Path(name).name == name for name in files)
    are_whole = all(isinstance(f, dict) and keys <= set(f) for f in files.values())
    return record if names_only and are_whole else None


def _content(dataset: Path, name: str) -> bytes | None:
    file = inside(dataset, name)
    return file.read_bytes() if file.is_file() else None


def _put(dataset: Path, name: str, content: bytes | None) -> None:
    if content is None:
        with _disk_errors(dataset / name):
            file_system.remove(inside(dataset, name))
            fsync_folder(dataset)
    else:
        write_whole(inside(dataset, name), content)


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SpaceError(
            f"{path} could not be changed ({cause(error)}). "
            f"{advice(error, 'move the workspace to another one')}"
        ) from error


def _digest(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()
