"""The datasets of a workspace: what they are called, copies, deleting and bringing back. Knows
files; nothing of gradio.

A dataset's folder keeps its name for good, because runs refer to it; its title, which may hold any
sign, lies in a file of its own.
"""

from __future__ import annotations

import json
import re
import shutil
import time
import unicodedata
from pathlib import Path

from studio.datasets import history, incoming, store
from studio.processes import process
from studio.processes.queue import Queue
from training.errors import BusyError, ConfigError, DataError, SpaceError, StudioError
from training.storage.disk_errors import advice, cause
from training.storage.paths import Workspace, checked_name, inside, read_regular, write_whole

TITLE = ".title"  # in a dataset's folder
RECORD = "dataset.json"  # in an entry of the trash: what was deleted
NOT_COPIED = (history.FOLDER, ".example", TITLE)
LONGEST_TITLE = 80  # characters
NEEDED = ("running", "waiting", "interrupted", "paused")  # jobs that still read their pictures


def title(dataset: Path) -> str:
    """What a user calls a dataset: the name of its folder, unless it was named otherwise."""
    try:
        found = read_regular(dataset / TITLE, 4 * LONGEST_TITLE).decode("utf-8")
        return checked_title(found)
    except (OSError, ValueError, ConfigError):
        return dataset.name


def choices(workspace: Workspace) -> list[str | tuple[str, str]]:
    """The datasets to choose from, as a dropdown takes them: title and name where they differ."""
    found = [(title(workspace.datasets() / name), name) for name in store.names(workspace)]
    return [name if called == name else (called, name) for called, name in found]


def checked_title(text: str) -> str:
    """Return a title as it is kept. Raises ConfigError."""
    plain = " ".join(unicodedata.normalize("NFC", str(text or "")).split())
    bad = re.search(r'^\.|[/\\:*?"<>|]', plain) or not all(map(_is_shown, plain))
    if not plain or len(plain) > LONGEST_TITLE or bad:
        raise ConfigError(
            f"{plain[:100]!r} cannot be a dataset's name. Use 1 to {LONGEST_TITLE} letters, digits "
            'or other signs, but none of / \\ : * ? " < > | and no dot at the beginning.'
        )
    return plain


def _is_shown(sign: str) -> bool:
    """Whether it can be seen, or joins emoji."""
    return sign.isprintable() or unicodedata.category(sign) == "Cf"


def make(workspace: Workspace, called: str) -> Path:
    """Make an empty dataset and return its folder. Raises ConfigError for a bad name, DataError for
    one that is taken.
    """
    called = checked_title(called)
    _check_free(workspace, called)
    try:
        return store.make(workspace, called)
    except ConfigError:  # a folder cannot have that name on every system
        made = store.make(workspace, _free_name(workspace, called))
        write_whole(made / TITLE, called)
        return made


def rename(workspace: Workspace, name: str, called: str) -> None:
    """Call a dataset otherwise; its folder stays. Raises ConfigError, DataError, SpaceError."""
    dataset, called = store.folder(workspace, name), checked_title(called)
    _check_free(workspace, called, but=name)
    if called == name:
        (dataset / TITLE).unlink(missing_ok=True)
    else:
        write_whole(dataset / TITLE, called)


def duplicate(workspace: Workspace, name: str) -> Path:
    """Copy a dataset, without its history, and return the copy's folder. Raises SpaceError."""
    dataset = store.folder(workspace, name)
    called, count = f"{title(dataset)} copy"[:LONGEST_TITLE], 2
    while _is_taken(workspace, called):
        called, count = f"{title(dataset)} copy {count}"[-LONGEST_TITLE:], count + 1
    made = make(workspace, called)
    try:
        for file in sorted(dataset.iterdir()):
            if file.is_file() and file.name not in NOT_COPIED:
                shutil.copy2(file, made / file.name)
        if known := incoming.origins(dataset):
            incoming.keep_origins(made, known)
    except OSError as error:
        shutil.rmtree(made, ignore_errors=True)
        raise SpaceError(
            f"“{title(dataset)}” could not be copied ({cause(error)}). "
            f"{advice(error, 'delete datasets that you no longer need')}"
        ) from error
    return made


def delete(workspace: Workspace, name: str) -> str:
    """Move a dataset into the trash; return what undo calls it. Raises BusyError while a training
    needs its pictures, SpaceError.
    """
    dataset = store.folder(workspace, name)
    called = title(dataset)
    if (run := _needed_by(workspace, dataset)) is not None:
        raise BusyError(f"“{run}” is being trained on “{called}”, or waits for it. Stop it first.")
    entry = _free_entry(workspace)
    try:
        entry.mkdir(parents=True)
        write_whole(entry / RECORD, json.dumps({"title": called, "name": name}, ensure_ascii=False))
        dataset.rename(entry / name)
    except OSError as error:
        raise SpaceError(
            f"“{called}” could not be moved into the trash ({cause(error)}). "
            f"{advice(error, f'delete {dataset} by hand')}"
        ) from error
    return called


def bring_back(workspace: Workspace) -> str:
    """Move the dataset that was deleted last back; return its name. Raises DataError when there is
    none, or another of its name.
    """
    for entry in _entries(workspace):
        name = _recorded_name(entry)
        if name is None or not (entry / name).is_dir():
            continue
        place = inside(workspace.datasets(), name)
        if place.exists():
            raise DataError(
                f"There is a dataset named {name} again. Move it away, then bring the other one "
                f"back from {entry}."
            )
        place.parent.mkdir(parents=True, exist_ok=True)
        (entry / name).rename(place)
        shutil.rmtree(entry)
        return name
    raise DataError("No deleted dataset is in the trash.")


def all_deleted(workspace: Workspace) -> list[str]:
    """The datasets in the trash by title, the one that was deleted last first."""
    found = [(entry, _recorded_name(entry)) for entry in _entries(workspace)]
    return [title(entry / name) for entry, name in found if name and (entry / name).is_dir()]


def _needed_by(workspace: Workspace, dataset: Path) -> str | None:
    """The run that is trained on a dataset now, or waits for it."""
    jobs = Queue(workspace, None).shown()[0] if (workspace.root / "queue").is_dir() else []
    for job in jobs:
        try:
            if job.state in NEEDED and Path(job.config.data.folder) == dataset:
                return job.run
        except ConfigError:
            continue
    runs = workspace.runs()
    for run in sorted(runs.iterdir()) if runs.is_dir() else ():
        config = process.earlier(run)
        if config and Path(config.data.folder) == dataset and process.is_alive(run):
            return run.name
    return None


def _check_free(workspace: Workspace, called: str, but: str = "") -> None:
    if _is_taken(workspace, called, but):
        raise DataError(
            f"There is already a dataset named {called}. Choose it in the list, or give another "
            "name."
        )


def _is_taken(workspace: Workspace, called: str, but: str = "") -> bool:
    """Whether another dataset has that title, or a folder of that name."""
    others = [name for name in store.names(workspace) if name != but]
    known = {name.casefold() for name in others}
    known |= {title(workspace.datasets() / name).casefold() for name in others}
    return called.casefold() in known


def _free_name(workspace: Workspace, called: str) -> str:
    """A folder's name for a title: its plain letters, and a number where that is taken."""
    plain = re.sub(r"[^\w ()+-]+", " ", called)
    plain = " ".join(plain.split()).strip(" .-_")[:60].strip(" .-_") or "dataset"
    free, count = plain, 2
    while _is_taken(workspace, free) or not _is_name(free):
        free, count = f"{plain}-{count}", count + 1
    return free


def _is_name(name: str) -> bool:
    try:
        return bool(checked_name(name))
    except StudioError:
        return False


def _entries(workspace: Workspace) -> list[Path]:
    root = workspace.root / "trash"
    return sorted((f for f in root.iterdir() if f.is_dir()), reverse=True) if root.is_dir() else []


def _recorded_name(entry: Path) -> str | None:
    """The folder's name in an entry of the trash, None where it holds no dataset."""
    try:
        name = json.loads(read_regular(entry / RECORD).decode("utf-8"))["name"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    plain = isinstance(name, str) and Path(name).name == name and not name.startswith(".")
    return name if plain and name else None


def _free_entry(workspace: Workspace) -> Path:
    stamp, root = time.strftime("%Y-%m-%d %H-%M-%S"), workspace.root / "trash"
    return next(
        root / f"{stamp} {n:03d}" for n in range(1000) if not (root / f"{stamp} {n:03d}").exists()
    )
