"""What lies in a folder of pictures: pictures, captions beside them, and what is not read."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from training.data import file_kinds
from training.data.complaints import shown_name, some_of
from training.data.file_kinds import LARGEST_LIST, LISTS, SUFFIXES, UNREAD_SUFFIXES
from training.data.image_decoding import reason
from training.errors import DataError
from training.storage.disk_errors import reading_aid
from training.storage.paths import read_regular

MOST_SNIFFED = 200  # files of no known kind whose beginning is looked at
ARCHIVES = (".zip", ".rar", ".7z", ".tar", ".gz", ".tgz")
BEGINNINGS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF")


@dataclass(frozen=True)
class Listing:
    """What lies in a folder, names sorted.

    texts: stem or whole name of a picture -> its caption files; lists: files with the captions of
    many; nested: sub-folder -> pictures directly in it; others: the rest.
    """

    folder: Path
    pictures: list[str] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)
    lists: list[str] = field(default_factory=list)
    nested: dict[str, int] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)

    @property
    def stems(self) -> set[str]:
        return {name_key(Path(name).stem) for name in self.pictures}


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
        if folder.suffix.lower() in ARCHIVES:
            raise DataError(
                "this is an archive, a folder with pictures was expected. Unpack it and set "
                "data.folder to the folder that comes out."
            ) from None
        raise DataError(
            "this is a file, a folder with pictures was expected. Set data.folder to the "
            "folder it lies in."
        ) from None
    # RuntimeError: ~name of an unknown user; ValueError: a NUL in the name
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(
            f"the folder cannot be read ({reason(error)}). {reading_aid(error) or 'Mend that'}, "
            "or set data.folder to another one."
        ) from None
    listing.lists.sort(key=lambda name: LISTS.index(name.lower()))
    if not listing.pictures:
        raise DataError(f"the folder holds no pictures, {_found_instead(listing)}")
    return listing


def _sort_in(listing: Listing, name: str) -> None:
    path = listing.folder / name
    if path.is_dir():
        listing.nested[name] = _pictures_directly_in(path)
    elif file_kinds.is_picture(name):
        listing.pictures.append(name)
    elif file_kinds.is_list(name):
        listing.lists.append(name)
    elif file_kinds.is_caption(name):
        listing.texts.setdefault(name_key(path.stem), []).append(name)
    elif not file_kinds.is_clutter(name):
        listing.others.append(name)


def _pictures_directly_in(folder: Path) -> int:
    """Count pictures, not deeper: data.folder may be a home folder."""
    try:
        return sum(
            path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
            for path in folder.iterdir()
        )
    except OSError:
        return 0  # only counted for a note


def without_masks(
    listing: Listing, captioned: Collection[str], notes: list[str], *, used: bool = False
) -> tuple[Listing, list[str]]:
    """Return the listing without the masks of its pictures, and the masks.

    captioned: pictures with a caption of their own, which are pictures whatever their name; used:
    whether masks are wanted.
    """
    stems = listing.stems
    named = [n for n in listing.pictures if file_kinds.mask_of(name_key(n), stems)]
    masks = [name for name in named if name not in captioned]
    perhaps = [n for n in listing.pictures if file_kinds.perhaps_mask_of(name_key(n), stems)]
    perhaps += [name for name in named if name in captioned]
    if masks and not used:
        notes.append(
            f"Masks are left out: {len(masks)} ({some_of(masks)}). Set data.mask = file to use "
            "them."
        )
    if perhaps:
        notes.append(
            f"Some pictures are named like masks of others and trained as pictures: "
            f"{len(perhaps)} ({some_of(perhaps)}). Move them away if they are masks."
        )
    return replace(listing, pictures=[n for n in listing.pictures if n not in masks]), masks


def _found_instead(listing: Listing) -> str:
    advice = "Put .png, .jpg or .webp pictures in it, or set data.folder to another one."
    for name, count in listing.nested.items():
        if count:
            there = shown_name(listing.folder / name)
            lists = " and ".join(shown_name(found) for found in listing.lists)
            rest = f" and move {lists} into it, too" if lists else ", or move the pictures up"
            return (
                f"but its sub-folder {shown_name(name)} holds {count}. Set data.folder to "
                f"{there}{rest}."
            )
    captions = [name for names in listing.texts.values() for name in names]
    kinds = Counter(
        Path(name).suffix.lower() or "without a suffix" for name in (*captions, *listing.others)
    )
    kinds += Counter({name.lower(): 1 for name in listing.lists})
    kinds += Counter({"sub-folder": len(listing.nested)})
    if not kinds:
        return f"it is empty. {advice}"
    found = ", ".join(f"{count} {shown_name(kind)}" for kind, count in kinds.most_common(6))
    return f"only other things ({found}). {advice}"


def notes_on_unread(listing: Listing, passed_over: Collection[str] = ()) -> Iterator[str]:
    """Yield a note on each kind of file that may be meant for training and is not read.

    passed_over: sub-folders that are read otherwise.
    """
    skipped = {name.lower() for name in passed_over}
    nested = {n: count for n, count in listing.nested.items() if count and n.lower() not in skipped}
    if nested:
        yield f"Pictures in sub-folders are not read: {sum(nested.values())} ({some_of(nested)})."
    if unread := [n for n in listing.others if file_kinds.suffix_of(n) in UNREAD_SUFFIXES]:
        yield (
            f"Pictures of other kinds are not read: {len(unread)} ({some_of(unread)}). Save them "
            "as PNG to use them."
        )
    if hidden := list(_pictures_by_content(listing)):
        yield (
            f"Pictures without the suffix of a picture are not read: {len(hidden)} "
            f"({some_of(hidden)}). Rename them to .png, .jpg or .webp to use them."
        )
    unread = [n for n in listing.others if not file_kinds.is_kohya_list(n)]
    if captions := [n for n in unread if file_kinds.may_hold_captions(n)]:
        yield (
            f"Files that may hold captions are not read: {len(captions)} ({some_of(captions)}). "
            f"{file_kinds.READ_CAPTIONS}."
        )
    known = {*listing.stems, *(name_key(name) for name in listing.pictures)}
    orphans = [n for key, names in listing.texts.items() if key not in known for n in names]
    if orphans:
        yield (
            f"Captions without a picture of the same name are not used: {len(orphans)} "
            f"({some_of(orphans)})."
        )


def _pictures_by_content(listing: Listing) -> Iterator[str]:
    known = (*UNREAD_SUFFIXES, *file_kinds.UNREAD_CAPTION_SUFFIXES)
    unknown = [name for name in listing.others if file_kinds.suffix_of(name) not in known]
    for name in unknown[:MOST_SNIFFED]:
        try:
            beginning = read_regular(listing.folder / name, 12)
        except OSError:
            continue  # only looked at for a note
        if beginning.startswith(BEGINNINGS) and beginning[8:12] not in (b"AVI ", b"WAVE"):
            yield name


def note_on_list_above(listing: Listing) -> Iterator[str]:
    """Say that a list beside the folder names pictures of it, as data sets of the hub do."""
    folder = listing.folder.resolve()
    for name in LISTS:
        try:
            content = read_regular(folder.parent / name, LARGEST_LIST)
        except OSError:
            continue
        if f"{folder.name}/".encode() in content:
            yield (
                f"{name} in the folder above names pictures of this one and is not read. Move it "
                f"into {shown_name(folder.name)} to use its captions."
            )


def share_of(names: list[str], listing: Listing) -> str:
    """How a note begins: `3 of 20 pictures have`."""
    return (
        f"{len(names)} of {len(listing.pictures)} pictures {'has' if len(names) == 1 else 'have'}"
    )


def name_key(name: str) -> str:
    """Return the name in NFC: systems differ in how they compose accents."""
    return unicodedata.normalize("NFC", name)
