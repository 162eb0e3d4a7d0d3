"""Named folders of pictures and captions in the workspace, as the Data tab edits them. Knows files;
nothing of gradio.

A picture's caption lies beside it as `<stem>.txt`, the place of its crop as `<stem>.crop.json`.
What a user removes goes into the dataset's history, from where undo brings it back.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
import tempfile
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from studio.datasets import history
from studio.datasets.archives import Incoming, is_zip, unpacked
from training.data.caption_files import LARGEST_CAPTION, caption_from_name, metadata_captions
from training.data.crops import CENTRE, crop_file, read_place
from training.data.file_kinds import METADATA, SUFFIXES
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


@dataclass(frozen=True)
class Added:
    """What became of uploaded files:

    names in the dataset, captions taken over, and what was refused with the reason.
    """

    kept: tuple[str, ...]
    captions: int
    refused: tuple[tuple[str, str], ...]


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


def add(dataset: Path, files: Sequence[Path]) -> Added:
    """Copy pictures into the dataset, loose or in zips, with captions from .txt of the same stem or
    from a metadata.jsonl.

    Each bad file is named with its reason, the others go on.
    """
    with tempfile.TemporaryDirectory() as unpacking:
        incoming, refused = [], []
        for number, file in enumerate(files):
            if not is_zip(file):
                incoming.append(Incoming(file.name, file))
                continue
            try:
                members, bad = unpacked(file, Path(unpacking) / str(number))
            except DataError as error:
                refused.append((file.name, str(error)))
                continue
            incoming += members
            refused += [(f"{file.name}: {name}", reason) for name, reason in bad]
        return _taken(dataset, incoming, refused)


Words = dict[
    tuple[str, str], tuple[str, str]
]  # (folder, stem or name of a picture) -> (the file that says it, the caption)


def _taken(dataset: Path, incoming: Sequence[Incoming], refused: list[tuple[str, str]]) -> Added:
    known = {_digest(dataset / name): name for name in pictures(dataset)}
    beside, listed, files = _texts(incoming, refused)
    alone, kept = dict(beside), []
    for file in files:
        stem = Path(file.name).stem
        alone.pop((file.folder, stem), None)
        try:
            open_picture(file.path)
        except DataError as error:
            refused.append((file.name, str(error).removeprefix(f"{file.path} ")))
            continue
        digest = _digest(file.path)
        text = beside.get((file.folder, stem)) or listed.get((file.folder, file.name))
        if digest in known:
            refused.append((file.name, f"is already there as {known[digest]}."))
            if text and not sidecar(dataset / known[digest]).exists():  # a full disk kept it out
                _caption_along(dataset, known[digest], text, refused)
            continue
        name = _free_name(dataset, stem, Path(file.name).suffix.lower())
        write_whole(dataset / name, file.path.read_bytes())
        known[digest] = name
        kept.append(name)
        if text:
            _caption_along(dataset, name, text, refused)
    refused += [
        (source, "came without a picture of the same name.") for source, _ in alone.values()
    ]
    return Added(
        tuple(kept), sum(sidecar(dataset / name).is_file() for name in kept), tuple(refused)
    )


def _texts(
    incoming: Sequence[Incoming], refused: list[tuple[str, str]]
) -> tuple[Words, Words, list[Incoming]]:
    """Captions from .txt by stem, from metadata.jsonl by name, and what is left: pictures."""
    beside: Words = {}
    listed: Words = {}
    files = [
        f for f in incoming if Path(f.name).suffix.lower() != ".txt" and f.name.lower() != METADATA
    ]
    for file in incoming:
        if Path(file.name).suffix.lower() == ".txt":
            beside[file.folder, Path(file.name).stem] = (
                file.name,
                in_utf8(file.path.read_bytes()[: 2 * LARGEST_CAPTION]),
            )
        elif file.name.lower() == METADATA:
            found, bad = metadata_captions(
                file.path, [f.name for f in files if f.folder == file.folder]
            )
            listed |= {(file.folder, name): (file.name, text) for name, text in found.items()}
            refused += [(file.name, words.removeprefix(f"{file.path.name} ")) for words in bad]
    return beside, listed, files


def _caption_along(
    dataset: Path, name: str, text: tuple[str, str], refused: list[tuple[str, str]]
) -> None:
    try:
        write_caption(dataset, name, text[1])
    except DataError as error:
        refused.append((text[0], str(error)))


def in_utf8(content: bytes) -> str:
    """Text of whatever encoding editors write: UTF-8, UTF-16 with its mark, else Windows-1252."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace").replace("\0", "")
    try:
        return content.decode("utf-8-sig").replace("\0", "")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace").replace("\0", "")


def thumbnail(source: Path, *, side: int, into: Path) -> Path:
    """A copy re-encoded for the page, at most side px wide and high, as the trainer sees it; made
    once for every state of the source.
    """
    stat = source.stat()
    state = f"{source}|{stat.st_mtime_ns}|{stat.st_size}|{side}"
    made = into / f"{hashlib.sha256(state.encode()).hexdigest()[:32]}.webp"
    if not made.exists():
        small = open_picture(source)
        small.thumbnail((side, side))
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=into, suffix=".tmp", delete=False) as half:
            small.save(half, "WEBP", quality=88, method=2)
        file_system.replace(Path(half.name), made)
    return made


def _free_name(dataset: Path, stem: str, suffix: str) -> str:
    """A safe name nobody has:

    captions go by stem, so stems differ too, also where case does not count.
    """
    plain = unicodedata.normalize("NFC", stem)
    plain = re.sub(r"[^\w ()+-]+", "-", plain).strip(" .-_")[:60].strip(" .-_") or "picture"
    plain = plain if file_system.is_portable(plain) else f"{plain}-1"
    taken = {unicodedata.normalize("NFC", f.stem).casefold() for f in dataset.iterdir()}
    free, count = plain, 2
    while free.casefold() in taken:
        free, count = f"{plain}-{count}", count + 1
    return free + (suffix if suffix in SUFFIXES else ".png")


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
