"""Files on their way into a dataset, and which caption belongs to which picture.

The path a file had on its owner's disk goes with it: it tells pictures of one name apart. What
cannot be told apart is left out and named. Knows no gradio.
"""

from __future__ import annotations

import codecs
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from training.data.caption_lists import LARGEST_CAPTION, read_list
from training.data.complaints import shown_name
from training.data.file_kinds import (
    METADATA,
    METADATA_CSV,
    SUFFIXES,
    is_caption,
    is_list,
    is_picture,
    mask_of,
    suffix_of,
)
from training.errors import DataError
from training.storage.paths import read_regular, write_whole
from training.system import file_system

FOLDERS = "style-studio-folders.json"  # goes with the files of a dropped folder; see page.js
LARGEST_FOLDERS = 8 * 2**20  # bytes
LONGEST_PATH = 1000  # characters
MOST_LINES = 20  # of a list, that are named one by one
ORDER = (".txt", METADATA, ".caption", METADATA_CSV)  # as training reads them
NO_MASKS = (
    "looks like a mask, and masks cannot be brought in here yet. If it is a picture, bring it with "
    "a caption or under another name."
)
Refused = list[tuple[str, str]]  # names and reasons


@dataclass(frozen=True)
class Incoming:
    """name: as its owner calls it; folder: where it lay there, "" where that is not known;
    source: the zip it came in; is_readable: whether the name can be used as words.
    """

    name: str
    path: Path
    folder: str = ""
    source: str = ""
    is_readable: bool = True

    @property
    def origin(self) -> str:
        return f"{self.folder}/{self.name}" if self.folder else self.name

    @property
    def stem(self) -> str:
        """What a picture is called, "" where that cannot be read."""
        return PurePosixPath(self.name).stem if self.is_readable else ""


@dataclass(frozen=True)
class Placed:
    """A picture of the dataset. name: there; origin: its path when it came; source: of this
    upload's zips, None for a picture that was there before.
    """

    name: str
    origin: str
    source: str | None = None

    @property
    def folder(self) -> str:
        return self.origin.rpartition("/")[0]

    @property
    def file_name(self) -> str:
        return self.origin.rpartition("/")[2]

    def is_called(self, key: str, *, whole: bool) -> bool:
        """Whether a caption for `key` may be its caption. whole: key is a file name with its
        suffix, else also a stem.
        """
        names = {_key(self.file_name)}
        if self.source is None:
            names.add(_key(self.name))
        stems = set() if whole else {PurePosixPath(name).stem for name in names}
        return _key(key) in names | stems


@dataclass(frozen=True)
class Caption:
    """shown: the file it stands in, and where; kind: one of ORDER; key: the picture's stem or, when
    whole, its file name; folder, source: where that picture lay.
    """

    shown: str
    text: str
    kind: str
    key: str
    folder: str = ""
    source: str = ""
    whole: bool = False


def with_paths(files: Sequence[Path]) -> tuple[list[Path], list[str], list[str]]:
    """Return files, the path of each on its owner's disk, and the paths of files that were not
    sent: of a dropped folder the page tells them in a file that is called FOLDERS.
    """
    others = [file for file in files if file.name != FOLDERS]
    paths: list[str] = []
    left: list[str] = []
    for file in (file for file in files if file.name == FOLDERS):
        try:
            found = json.loads(read_regular(file, LARGEST_FOLDERS).decode("utf-8"))
            paths += [str(path) for path in found["files"]]
            left += [str(path) for path in found["left"]]
        except (OSError, ValueError, RecursionError, TypeError, KeyError):
            continue  # then the files are as they would be without it
    if len(paths) != len(others):
        paths = [file.name for file in others]
    return others, paths, left


def at_path(path: str, file: Path) -> Incoming:
    """A file that was sent, under its path on its owner's disk. Nothing is opened by that path."""
    parts = [part for part in path[-LONGEST_PATH:].replace("\\", "/").split("/") if part]
    return Incoming(parts[-1] if parts else file.name, file, "/".join(parts[:-1]))


def captions_in(incoming: Iterable[Incoming], refused: Refused) -> list[Caption]:
    """Every caption of the files that hold captions."""
    found: list[Caption] = []
    for file in incoming:
        if is_caption(file.name):
            content = read_regular(file.path, 2 * LARGEST_CAPTION)
            kind, stem = suffix_of(file.name), PurePosixPath(file.name).stem
            found.append(
                Caption(file.origin, in_utf8(content), kind, stem, file.folder, file.source)
            )
        elif is_list(file.name):
            found += _listed(file, refused)
    return found


def _listed(file: Incoming, refused: Refused) -> list[Caption]:
    found: list[Caption] = []
    bad: list[str] = []
    for entry in read_list(file.path):
        if isinstance(entry, DataError):
            bad.append(str(entry).removeprefix(f"{shown_name(file.path.name)} "))
            continue
        named = entry.named.replace("\\", "/")
        parts = [part for part in named.split("/") if part not in ("", ".")]
        if ".." in parts or not parts or named[0] == "/" or ":" in parts[0]:
            bad.append(f"{entry.where} names {shown_name(entry.named)}, which leads elsewhere.")
            continue
        folder = "/".join([*filter(None, [file.folder]), *parts[:-1]])
        shown = f"{file.origin} {entry.where} ({shown_name(entry.named)})"
        kind = file.name.lower()
        found.append(
            Caption(
                shown, "\n".join(entry.captions), kind, parts[-1], folder, file.source, whole=True
            )
        )
    refused += [(file.origin, reason) for reason in bad[:MOST_LINES]]
    if len(bad) > MOST_LINES:
        refused.append((file.origin, f"has {len(bad) - MOST_LINES} more lines of that kind."))
    return found


def assigned(
    captions: Sequence[Caption], pictures: Sequence[Placed], refused: Refused
) -> tuple[dict[str, str], list[str]]:
    """Return the caption of each picture by its name in the dataset, and notes on those that others
    overrule. What fits no picture, or several, is refused.
    """
    wanted: dict[str, list[Caption]] = defaultdict(list)
    for caption in captions:
        try:
            for name in _owners(caption, pictures):
                wanted[name].append(caption)
        except DataError as error:
            refused.append((caption.shown, str(error)))
    texts: dict[str, str] = {}
    notes: list[str] = []
    for name, found in wanted.items():
        found.sort(key=lambda caption: ORDER.index(caption.kind))
        best = [caption for caption in found if caption.kind == found[0].kind]
        if len({caption.text.strip() for caption in best}) > 1:
            reason = (
                f"is one of {len(best)} different captions for {name}. Bring only the right one."
            )
            refused += [(caption.shown, reason) for caption in best]
            continue
        texts[name] = best[0].text
        notes += [
            f"{caption.shown} is not used: {best[0].shown} counts more."
            for caption in found[len(best) :]
            if caption.text.strip() != best[0].text.strip()
        ]
    return texts, notes


def _owners(caption: Caption, pictures: Sequence[Placed]) -> list[str]:
    """Names of the pictures that a caption belongs to: those of one stem that lay in one folder.

    Raises DataError where there is none, or where several cannot be told apart.
    """
    fitting = [p for p in pictures if p.is_called(caption.key, whole=caption.whole)]
    own = [p for p in fitting if (p.source, p.folder) == (caption.source, caption.folder)]
    before = [p for p in fitting if p.source is None]
    found = own or _nearest(caption, before)
    names = {picture.name: picture for picture in found}
    if not found and before:
        raise DataError(
            f"lay in another folder than {before[0].name}, which came from "
            f"{before[0].folder or 'no folder'}. Bring it without its folder if it belongs to that."
        )
    if not found:
        raise DataError("came without a picture of the same name. Bring that first, or with it.")
    distinct = {(p.folder, p.file_name) for p in names.values()}
    if len({p.folder for p in names.values()}) > 1 or len(distinct) < len(names):
        raise DataError(
            f"fits several pictures ({', '.join(sorted(names)[:5])}), and none was chosen. Drop "
            "the folder it lies in, or write the caption beside its picture."
        )
    return list(names)


def _nearest(caption: Caption, pictures: Sequence[Placed]) -> list[Placed]:
    """Of pictures that were there before, those whose folder is the caption's, as far as both are
    known.
    """
    if not caption.folder:
        return list(pictures)
    same = [p for p in pictures if p.folder == caption.folder]
    last = caption.folder.rpartition("/")[2]
    alike = [p for p in pictures if p.folder and p.folder.rpartition("/")[2] == last]
    return same or alike or [p for p in pictures if not p.folder]


def masks_in(coming: Sequence[Incoming], there: Iterable[str]) -> set[Incoming]:
    """The files that are masks of pictures that come with them or are there, by their names; with
    a caption of its own a file is a picture whatever its name.
    """
    stems = {PurePosixPath(name).stem for name in there}
    stems |= {PurePosixPath(file.name).stem for file in coming if is_picture(file.name)}
    captioned = {(f.folder, PurePosixPath(f.name).stem) for f in coming if is_caption(f.name)}
    return {
        file
        for file in coming
        if is_picture(file.name)
        and mask_of(file.name, stems)
        and (file.folder, PurePosixPath(file.name).stem) not in captioned
    }


def free_name(taken: Iterable[str], stem: str, suffix: str) -> str:
    """A safe file name whose stem is not taken, also where case does not count: captions go by
    stem.
    """
    plain = _key(stem)
    plain = re.sub(r"[^\w ()+-]+", "-", plain).strip(" .-_")[:60].strip(" .-_") or "picture"
    plain = plain if file_system.is_portable(plain) else f"{plain}-1"
    stems = {_key(name).casefold() for name in taken}
    free, count = plain, 2
    while free.casefold() in stems:
        free, count = f"{plain}-{count}", count + 1
    return free + (suffix if suffix in SUFFIXES else ".png")


def in_utf8(content: bytes) -> str:
    """Text of whatever encoding editors write: UTF-8, UTF-16 with its mark, else Windows-1252."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace").replace("\0", "")
    try:
        return content.decode("utf-8-sig").replace("\0", "")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace").replace("\0", "")


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name)


# --- where the pictures of a dataset came from ---

ORIGINS = ".origins/paths.json"


def origins(dataset: Path) -> dict[str, str]:
    """The path that each picture had when it came, of those that are called otherwise now."""
    try:
        found = json.loads(read_regular(dataset / ORIGINS).decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    pairs = found.items() if isinstance(found, dict) else ()
    return {name: origin for name, origin in pairs if isinstance(origin, str)}


def origins_with(known: Mapping[str, str], placed: Iterable[Placed]) -> dict[str, str]:
    """The same after more pictures came."""
    after = {p.name: p.origin for p in placed}
    return {
        name: origin for name, origin in {**known, **after}.items() if after.get(name, "") != name
    }


def keep_origins(dataset: Path, known: Mapping[str, str]) -> None:
    """Raises SpaceError."""
    write_whole(dataset / ORIGINS, json.dumps(known, ensure_ascii=False, indent=0))
