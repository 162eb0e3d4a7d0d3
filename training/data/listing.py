"""What lies in a folder of pictures: pictures, captions beside them, and what is not read."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from training.data.complaints import shown_name, some_of
from training.data.image_decoding import reason
from training.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# Pictures that are not read
UNREAD_SUFFIXES = tuple(".avif .bmp .gif .heic .heif .jfif .jxl .svg .tif .tiff".split())
METADATA = "metadata.jsonl"


@dataclass(frozen=True)
class Listing:
    """What lies in a folder, names sorted.

    texts: stem -> .txt; nested: sub-folder -> pictures directly in it; others: suffix -> files.
    """

    folder: Path
    pictures: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    metadata: list[str] = field(default_factory=list)
    nested: dict[str, int] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)


def list_folder(folder: Path) -> Listing:
    """List a folder. Raises DataError when it cannot be read or has no pictures."""
    try:
        listing = Listing(folder.expanduser())
        names = sorted(
            entry.name for entry in listing.folder.iterdir() if not entry.name.startswith(".")
        )
        for name in names:
            _sort_in(listing, name)
    except FileNotFoundError:
        raise DataError(
            "the folder is not there. Set data.folder to the folder with your pictures."
        ) from None
    except NotADirectoryError:
        raise DataError(
            "this is a file, a folder with pictures was expected. Set data.folder to the "
            "folder it lies in."
        ) from None
    # RuntimeError: ~name of an unknown user; ValueError: a NUL in the name
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(
            f"the folder cannot be read ({reason(error)}). Mend that, or set data.folder to "
            "another one."
        ) from None
    if not listing.pictures:
        raise DataError(f"the folder holds no pictures, {_found_instead(listing)}")
    return listing


def _sort_in(listing: Listing, name: str) -> None:
    path = listing.folder / name
    suffix = path.suffix.lower()
    if path.is_dir():
        listing.nested[name] = _pictures_directly_in(path)
    elif suffix in SUFFIXES:
        listing.pictures.append(name)
    elif name.lower() == METADATA:
        listing.metadata.append(name)
    elif suffix == ".txt":
        listing.texts[name_key(path.stem)] = name
    else:
        listing.others[suffix or "without a suffix"] += 1


def _pictures_directly_in(folder: Path) -> int:
    """Count pictures, not deeper: data.folder may be a home folder."""
    try:
        return sum(
            path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
            for path in folder.iterdir()
        )
    except OSError:
        return 0  # only counted for a note


def _found_instead(listing: Listing) -> str:
    advice = "Put .png, .jpg or .webp pictures in it, or set data.folder to another one."
    for name, count in listing.nested.items():
        if count:
            there = shown_name(listing.folder / name)
            return (
                f"but its sub-folder {shown_name(name)} holds {count}. Set data.folder to "
                f"{there}, or move the pictures up."
            )
    read = {
        ".txt": len(listing.texts),
        METADATA: len(listing.metadata),
        "sub-folder": len(listing.nested),
    }
    kinds = Counter(read) + listing.others
    if not kinds:
        return f"it is empty. {advice}"
    found = ", ".join(f"{count} {shown_name(kind)}" for kind, count in kinds.most_common(6))
    return f"only other things ({found}). {advice}"


def notes_on_unread(listing: Listing) -> Iterator[str]:
    """Yield a note on each kind of file that may be meant for training and is not read."""
    if nested := {name: count for name, count in listing.nested.items() if count}:
        yield f"Pictures in sub-folders are not read: {sum(nested.values())} ({some_of(nested)})."
    if unread := {
        suffix: count for suffix, count in listing.others.items() if suffix in UNREAD_SUFFIXES
    }:
        yield (
            f"Pictures of other kinds are not read: {sum(unread.values())} "
            f"({some_of(sorted(unread))}). Save them as PNG to use them."
        )
    stems = {name_key(Path(name).stem) for name in listing.pictures}
    if orphans := [name for stem, name in listing.texts.items() if stem not in stems]:
        yield (
            f"Captions without a picture of the same name are not used: {len(orphans)} "
            f"({some_of(orphans)})."
        )


def share_of(names: list[str], listing: Listing) -> str:
    """How a note begins: `3 of 20 pictures have`."""
    return (
        f"{len(names)} of {len(listing.pictures)} pictures {'has' if len(names) == 1 else 'have'}"
    )


def name_key(name: str) -> str:
    """Return the name in NFC: systems differ in how they compose accents."""
    return unicodedata.normalize("NFC", name)
