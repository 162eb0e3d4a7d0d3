"""Named folders of pictures and captions in the workspace, as the Data tab edits them. Knows files; nothing of gradio.

A picture's caption lies beside it as `<stem>.txt`. What a user removes is moved to `removed/` in the workspace, not deleted.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.dataset import LARGEST_CAPTION, SUFFIXES, open_picture
from training.errors import DataError, SpaceError
from training.workspace import WINDOWS_DEVICES, Workspace, checked_name, inside, write_whole


@dataclass(frozen=True)
class Added:
    """What became of uploaded files: names in the dataset, captions taken over, and what was refused with the reason."""

    kept: tuple[str, ...]
    captions: int
    refused: tuple[tuple[str, str], ...]


def names(workspace: Workspace) -> list[str]:
    """Every dataset, in the order of the alphabet."""
    root = workspace.datasets()
    return sorted((f.name for f in root.iterdir() if f.is_dir() and not f.name.startswith(".")), key=str.casefold) if root.is_dir() else []


def newest(workspace: Workspace) -> str | None:
    """The dataset that was changed last, None when there is none."""
    return max(names(workspace), key=lambda name: (workspace.datasets() / name).stat().st_mtime, default=None)


def make(workspace: Workspace, name: str) -> Path:
    """Make an empty dataset and return its folder. Raises ConfigError for a bad name, DataError when there is one of that name."""
    name = checked_name(unicodedata.normalize("NFC", name.strip()), "the dataset's name")
    if any(name.casefold() == other.casefold() for other in names(workspace)):
        raise DataError(f"There is already a dataset named {name}. Choose it in the list, or give another name.")
    made = inside(workspace.datasets(), name)
    try:
        made.mkdir(parents=True)
    except OSError as error:
        raise SpaceError(f"{made} could not be made ({error.strerror}). Choose a workspace you may write to.") from error
    return made


def folder(workspace: Workspace, name: str) -> Path:
    """The folder of an existing dataset. Raises DataError: a name is looked up, never opened as a path."""
    if name not in names(workspace):
        raise DataError(f"There is no dataset named {name!r}. Choose one in the list, or make it." if name else "Choose a dataset, or make one.")
    return inside(workspace.datasets(), name)


def pictures(dataset: Path) -> list[str]:
    """Names of the pictures, in the order of the alphabet."""
    if not dataset.is_dir():
        return []
    return sorted((f.name for f in dataset.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith(".")), key=str.casefold)


def picture(dataset: Path, name: str) -> Path:
    """The file of a picture of this dataset. Raises DataError for anything that is not in its listing."""
    if name not in pictures(dataset):
        raise DataError(f"{name!r} is not in the dataset {dataset.name} any more. Choose another picture.")
    return inside(dataset, name)


def caption(dataset: Path, name: str) -> str:
    """A picture's caption, "" when it has none."""
    try:
        return picture(dataset, name).with_suffix(".txt").read_text(encoding="utf-8-sig", errors="replace").strip()
    except FileNotFoundError:
        return ""


def write_caption(dataset: Path, name: str, text: str) -> None:
    """Save a picture's caption at once and whole. Raises DataError when it is too long, SpaceError when the disk is full."""
    if (size := len(text.encode("utf-8", "replace"))) >= LARGEST_CAPTION:
        raise DataError(f"The caption of {name} has {size} bytes; fewer than {LARGEST_CAPTION} are allowed. Shorten it.")
    write_whole(picture(dataset, name).with_suffix(".txt"), text.strip() + "\n" if text.strip() else "")


def remove(workspace: Workspace, dataset: Path, name: str) -> Path:
    """Take a picture and its caption out of the dataset and return where they lie now."""
    leaving = picture(dataset, name)
    workspace.root.joinpath("removed").mkdir(exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f"{dataset.name}-", dir=workspace.root / "removed"))
    for file in (leaving, leaving.with_suffix(".txt")):
        if file.exists():
            shutil.move(file, place / file.name)
    return place


def add(dataset: Path, files: Sequence[Path]) -> Added:
    """Copy pictures (and .txt captions of the same stem) into the dataset; each bad file is named with its reason, the others go on."""
    known = {_digest(dataset / name): name for name in pictures(dataset)}
    texts = {f.stem: f for f in files if f.suffix.lower() == ".txt"}
    kept, refused, taken, captions = [], [], set(), 0
    for file in (f for f in files if f.suffix.lower() != ".txt"):
        try:
            open_picture(file)
        except DataError as error:
            refused.append((file.name, str(error).removeprefix(f"{file} ")))
            continue
        digest = _digest(file)
        if digest in known:
            refused.append((file.name, f"is already there as {known[digest]}."))
            continue
        name = _free_name(dataset, file.stem, file.suffix.lower())
        write_whole(dataset / name, file.read_bytes())
        known[digest] = name
        kept.append(name)
        if file.stem in texts:
            taken.add(file.stem)
            try:
                write_caption(dataset, name, texts[file.stem].read_text(encoding="utf-8-sig", errors="replace"))
                captions += 1
            except DataError as error:
                refused.append((texts[file.stem].name, str(error)))
    refused += [(texts[stem].name, "came without a picture of the same name.") for stem in texts if stem not in taken]
    return Added(tuple(kept), captions, tuple(refused))


def thumbnail(source: Path, *, side: int, into: Path) -> Path:
    """A copy re-encoded for the page, at most side px wide and high, as the trainer sees it; made once for every state of the source."""
    stat = source.stat()
    made = into / f"{hashlib.sha256(f'{source}|{stat.st_mtime_ns}|{stat.st_size}|{side}'.encode()).hexdigest()[:32]}.webp"
    if not made.exists():
        small = open_picture(source)
        small.thumbnail((side, side))
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=into, suffix=".tmp", delete=False) as half:
            small.save(half, "WEBP", quality=88, method=2)
        Path(half.name).replace(made)
    return made


def _free_name(dataset: Path, stem: str, suffix: str) -> str:
    """A safe name nobody has: captions go by stem, so stems differ too, also where case does not count."""
    plain = unicodedata.normalize("NFC", stem)
    plain = re.sub(r"[^\w ()+-]+", "-", plain).strip(" .-_")[:60].strip(" .-_") or "picture"
    plain = f"{plain}-1" if plain.lower() in WINDOWS_DEVICES else plain
    taken = {unicodedata.normalize("NFC", f.stem).casefold() for f in dataset.iterdir()}
    free, count = plain, 2
    while free.casefold() in taken:
        free, count = f"{plain}-{count}", count + 1
    return free + (suffix if suffix in SUFFIXES else ".png")


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
