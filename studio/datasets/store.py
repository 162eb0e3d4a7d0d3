"""Named folders of pictures and captions in the workspace, as the Data tab edits them. Knows files;
nothing of gradio.

A picture's caption lies beside it as `<stem>.txt`, the place of its crop as `<stem>.crop.json`.
What a user removes goes into the dataset's history, from where undo brings it back.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from studio.datasets import history
from studio.datasets.archives import is_zip, note_on_names, unpacked
from studio.datasets.incoming import (
    NO_MASKS,
    Incoming,
    Placed,
    Refused,
    assigned,
    at_path,
    captions_in,
    free_name,
    keep_origins,
    masks_in,
    origins,
    origins_with,
)
from studio.datasets.incoming import in_utf8 as in_utf8
from training.data.caption_files import LARGEST_CAPTION, caption_from_name, metadata_captions
from training.data.crops import CENTRE, crop_file, read_place
from training.data.file_kinds import (
    METADATA,
    SUFFIXES,
    is_caption,
    is_clutter,
    is_list,
    is_picture,
    why_not_taken,
)
from training.data.pictures import open_picture
from training.errors import DataError, SpaceError
from training.storage.disk_errors import advice, cause
from training.storage.paths import (
    Workspace,
    checked_name,
    fsync_folder,
    inside,
    make_folder,
    read_regular,
    write_whole,
)
from training.system import file_system

MOST_REFUSED = 200  # files that are named


@dataclass(frozen=True)
class Added:
    """What became of uploaded files.

    kept: names in the dataset; captions: how many of them have one; refused: names and reasons;
    captioned: pictures that were there before and have another caption now.
    """

    kept: tuple[str, ...]
    captions: int
    refused: tuple[tuple[str, str], ...]
    captioned: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def names(workspace: Workspace) -> list[str]:
    """Every dataset, in the order of the alphabet."""
    root = workspace.datasets()
    return (
        sorted(
            (f.name for f in root.iterdir() if f.is_dir() and not f.name.startswith(".")),
            key=str.casefold,
        )
        if root.is_dir()
        else []
    )


def newest(workspace: Workspace) -> str | None:
    """The dataset that was changed last, None when there is none."""
    return max(
        names(workspace),
        key=lambda name: (workspace.datasets() / name).stat().st_mtime,
        default=None,
    )


def make(workspace: Workspace, name: str) -> Path:
    """Make an empty dataset and return its folder.

    Raises ConfigError for a bad name, DataError when there is one of that name.
    """
    name = checked_name(unicodedata.normalize("NFC", (name or "").strip()), "the dataset's name")
    if any(name.casefold() == other.casefold() for other in names(workspace)):
        raise DataError(
            f"There is already a dataset named {name}. Choose it in the list, or give another name."
        )
    made = inside(workspace.datasets(), name)
    try:
        make_folder(made.parent)
        made.mkdir()
        fsync_folder(made.parent)
    except OSError as error:
        raise SpaceError(
            f"{made} could not be made ({cause(error)}). "
            f"{advice(error, 'choose another --workspace')}"
        ) from error
    return made


def folder(workspace: Workspace, name: str) -> Path:
    """The folder of an existing dataset.

    Raises DataError: a name is looked up, never opened as a path.
    """
    if name not in names(workspace):
        raise DataError(
            f"There is no dataset named {name!r}. Choose one in the list, or make it."
            if name
            else "Choose a dataset, or make one."
        )
    return inside(workspace.datasets(), name)


def pictures(dataset: Path) -> list[str]:
    """Names of the pictures, in the order of the alphabet."""
    if not dataset.is_dir():
        return []
    return sorted(
        (
            f.name
            for f in dataset.iterdir()
            if f.suffix.lower() in SUFFIXES and not f.name.startswith(".")
        ),
        key=str.casefold,
    )


def picture(dataset: Path, name: str) -> Path:
    """The file of a picture of this dataset.

    Raises DataError for anything that is not in its listing.
    """
    if name not in pictures(dataset):
        raise DataError(
            f"{name!r} is not in the dataset {dataset.name} any more. Choose another picture."
        )
    return inside(dataset, name)


def captions(dataset: Path) -> dict[str, str]:
    """Every picture's caption as its owner wrote it:

    its .txt, else metadata.jsonl, else ""; "" also for one that is no text.
    """
    return {name: text or "" for name, text in _owners(dataset).items()}


def trained_captions(dataset: Path) -> dict[str, str]:
    """Every picture's caption as a training reads it: the words of the file's name where its owner
    wrote none.
    """
    return {
        name: caption_from_name(name) if text is None else text
        for name, text in _owners(dataset).items()
    }


def _owners(dataset: Path) -> dict[str, str | None]:
    """What the owner wrote for every picture; None where nothing was written."""
    listing = pictures(dataset)
    listed = (
        metadata_captions(dataset / METADATA, listing)[0] if (dataset / METADATA).is_file() else {}
    )
    found = {name: _written(dataset / name) for name in listing}
    return {name: listed.get(name) if text is None else text for name, text in found.items()}


def caption(dataset: Path, name: str) -> str:
    """One picture's caption."""
    text = _written(picture(dataset, name))
    return captions(dataset)[name] if text is None else text


def write_caption(dataset: Path, name: str, text: str) -> None:
    """Save a picture's caption at once and whole.

    Raises DataError when it is too long, SpaceError when the disk is full.
    """
    write_whole(sidecar(picture(dataset, name)), as_caption(name, text))


def as_caption(name: str, text: str) -> str:
    """What the .txt of a picture holds. Raises DataError when the caption is too long."""
    if (size := len(text.encode("utf-8", "replace"))) >= LARGEST_CAPTION:
        raise DataError(
            f"The caption of {name} has {size} bytes; fewer than {LARGEST_CAPTION} are "
            "allowed. Shorten it."
        )
    return text.strip() + "\n" if text.strip() else ""


def sidecar(picture: Path) -> Path:
    """The .txt of a picture."""
    return picture.with_suffix(".txt")


def _written(picture: Path) -> str | None:
    """The .txt's words, None when there is no .txt."""
    try:
        return read_regular(sidecar(picture)).decode("utf-8-sig", errors="replace").strip()
    except FileNotFoundError:
        return None


def rewrite(dataset: Path, what: str, texts: Mapping[str, str], *, act: str = "") -> int:
    """Give pictures other captions, all or none, so that it can be undone (with all of one act);
    return how many changed.

    Raises DataError, SpaceError.
    """
    files = {
        sidecar(picture(dataset, name)).name: as_caption(name, text).encode()
        for name, text in texts.items()
    }
    return history.change(dataset, what, files, act=act)


def remove(dataset: Path, names: Sequence[str], *, act: str = "") -> None:
    """Take pictures with all that lies beside them out of the dataset, so that it can be undone
    (with all of one act).
    """
    leaving = [picture(dataset, name) for name in names]
    beside = [
        file
        for path in leaving
        for file in (path, sidecar(path), crop_file(path))
        if file.is_file()
    ]
    what = f"remove {', '.join(names)[:80]}"
    history.change(dataset, what, {file.name: None for file in beside}, act=act)


def place_crop(dataset: Path, name: str, place: tuple[float, float]) -> None:
    """Keep where a picture's crop lies, as shares of the room it has; the centre needs no file."""
    file, shares = (
        crop_file(picture(dataset, name)),
        tuple(round(min(1.0, max(0.0, share)), 3) for share in place),
    )
    if shares == CENTRE:
        file_system.remove(file)
    else:
        write_whole(file, json.dumps({"across": shares[0], "down": shares[1]}))


def place_of(dataset: Path, name: str) -> tuple[float, float]:
    """Where a picture's crop lies, the centre when what is written there cannot be read."""
    try:
        return read_place(picture(dataset, name))
    except DataError:
        return CENTRE


def add(
    dataset: Path, files: Sequence[Path], paths: Sequence[str] = (), left: Sequence[str] = ()
) -> Added:
    """Copy pictures into the dataset, loose or in zips, with their captions; captions may also
    belong to pictures that are there already.

    paths: of each file on its owner's disk, where known; left: of files that were not sent. Each
    bad file is named with its reason, the others go on.
    """
    refused: Refused = [
        (path, why_not_taken(path)) for path in left[:MOST_REFUSED] if not is_clutter(path)
    ]
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as unpacking:
        coming: list[Incoming] = []
        for number, file in enumerate(files):
            sent = at_path(paths[number] if paths else file.name, file)
            if not is_zip(file):
                coming.append(sent)
                continue
            try:
                members, bad = unpacked(file, Path(unpacking) / str(number))
            except DataError as error:
                refused.append((sent.origin, str(error)))
                continue
            coming += members
            refused += [(f"{sent.origin}: {name}", reason) for name, reason in bad]
            notes += note_on_names(sent.origin, members)
        return _taken(dataset, coming, refused, notes)


def _taken(dataset: Path, coming: Sequence[Incoming], refused: Refused, notes: list[str]) -> Added:
    known = origins(dataset)
    there = [Placed(name, known.get(name, name)) for name in pictures(dataset)]
    placed, kept = _pictures_taken(dataset, coming, refused)
    captions = captions_in(coming, refused)
    texts, overruled = assigned(captions, [*placed, *there], refused)
    if (after := origins_with(known, placed)) != known:
        keep_origins(dataset, after)
    changed = _captioned(dataset, texts, refused)
    return Added(
        tuple(kept),
        sum(sidecar(dataset / name).is_file() for name in kept),
        tuple(refused[:MOST_REFUSED]),
        tuple(name for name in changed if name not in kept),
        (*notes, *overruled[:MOST_REFUSED], *_more(len(refused) - MOST_REFUSED)),
    )


def _more(count: int) -> list[str]:
    return [f"{count} more files were not taken."] if count > 0 else []


def _pictures_taken(
    dataset: Path, coming: Sequence[Incoming], refused: Refused
) -> tuple[list[Placed], list[str]]:
    """Copy the pictures; return where each of them is now, and the names of those that are new."""
    by_content = {_digest(dataset / name): name for name in pictures(dataset)}
    placed: list[Placed] = []
    kept: list[str] = []
    masks = masks_in(coming, pictures(dataset))
    for file in coming:
        if is_caption(file.name) or is_list(file.name):
            continue
        if file in masks:
            refused.append((file.origin, NO_MASKS))
            continue
        try:
            open_picture(file.path)
        except DataError as error:
            reason = str(error).removeprefix(f"{file.path} ")
            said = reason if is_picture(file.name) else why_not_taken(file.name)
            refused.append((file.origin, said))
            continue
        digest = _digest(file.path)
        if digest in by_content:
            refused.append((file.origin, f"is already there as {by_content[digest]}."))
        else:
            stem = Path(file.name).stem if file.is_readable else ""
            name = free_name(
                (f.stem for f in dataset.iterdir()), stem, Path(file.name).suffix.lower()
            )
            write_whole(dataset / name, file.path.read_bytes())
            by_content[digest] = name
            kept.append(name)
        placed.append(Placed(by_content[digest], file.origin, file.source))
    return placed, kept


def _captioned(dataset: Path, texts: Mapping[str, str], refused: Refused) -> list[str]:
    """Write captions that came with an upload, those of pictures that had another one so that it
    can be undone; return whose captions changed.
    """
    before = captions(dataset)
    changed: dict[str, str] = {}
    for name, text in texts.items():
        if text.strip() == before.get(name):
            continue
        try:
            as_caption(name, text)
        except DataError as error:
            refused.append((sidecar(dataset / name).name, str(error)))
            continue
        if before.get(name):
            changed[name] = text
        elif text.strip():
            write_caption(dataset, name, text)
            changed.setdefault(name, text)
    others = {name: text for name, text in changed.items() if before.get(name)}
    if others:
        rewrite(dataset, f"{len(others)} captions that were brought", others)
    return list(changed)


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
