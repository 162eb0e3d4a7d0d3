"""The caption of every picture: its .txt, else metadata.jsonl, else a .caption, else metadata.csv,
else a list of sd-scripts, else the words of its file name.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from training.data import file_kinds
from training.data.caption_lists import LARGEST_CAPTION as LARGEST_CAPTION
from training.data.caption_lists import Entry, clean, read_kohya_list, read_list
from training.data.complaints import shown_name, some_of
from training.data.file_content import decode_text, read_content
from training.data.file_kinds import METADATA, METADATA_CSV, SUFFIXES
from training.data.listing import Listing, name_key, share_of
from training.errors import DataError

LONGEST_NAME = 255  # characters of a file's name, the most that systems have
KOHYA = "meta_cap.json"  # stands for all lists of sd-scripts
# The first that has a caption counts
ORDER = (".txt", METADATA, ".caption", METADATA_CSV, KOHYA)
LISTED = (METADATA, METADATA_CSV, KOHYA)
SAYS_NOTHING = frozenset(  # words of file names that cameras, phones and browsers give
    "a at copy dcim download downloads dsc dscf dscn file fullsizerender gopr image images img "
    "imgp mvi p pic picture pictures photo photos pxl"
    " s scan screen screenshot shot unbenannt unknown unnamed untitled v wa whatsapp".split()
)


@dataclass(frozen=True)
class Source:
    """A caption and where it stands.

    kind: one of ORDER; file: its name; lines: of a file those with words on them, of a list the
    captions that it has for the picture; never none.
    """

    kind: str
    file: str
    caption: str
    lines: tuple[str, ...] = ()


def metadata_captions(file: Path, names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Return the captions of pictures of these names in a list of captions, and complaints."""
    complaints: list[str] = []
    found = _listed(file, list(names), complaints, [])
    return {name: captions[0] for name, captions in found.items()}, complaints


def written_captions(
    listing: Listing, complaints: list[str], notes: list[str]
) -> dict[str, list[Source]]:
    """Return every caption that is written for a picture, the one that counts first; pictures
    without one are left out.
    """
    found: dict[str, list[Source]] = defaultdict(list)
    for name in listing.lists:
        is_table = name.lower() == METADATA_CSV
        wrong = notes if is_table else complaints  # a table may be there for another program
        captions = _listed(listing.folder / name, listing.pictures, wrong, notes)
        for picture, texts in captions.items():
            kind = METADATA_CSV if is_table else METADATA
            found[picture].append(Source(kind, shown_name(name), texts[0], texts))
    for name in filter(file_kinds.is_kohya_list, listing.others):
        captions = _listed(listing.folder / name, listing.pictures, notes, notes, kohya=True)
        for picture, texts in captions.items():
            found[picture].append(Source(KOHYA, shown_name(name), texts[0], texts))
    read: dict[str, Source] = {}
    for name in listing.pictures:
        for file in _sidecars(listing, name):
            kind = Path(file).suffix.lower()
            # What another caption overrules may be there for another program
            counts = all(ORDER.index(kind) < ORDER.index(s.kind) for s in found[name])
            if file not in read:
                wrong = complaints if counts else notes
                read[file] = _sidecar(listing.folder / file, wrong)
            found[name].append(read[file])
    return {
        name: sorted(sources, key=lambda source: ORDER.index(source.kind))
        for name, sources in found.items()
        if sources
    }


def _sidecars(listing: Listing, picture: str) -> list[str]:
    """Caption files of a picture, `a.txt` before `a.png.txt`; of names that differ in their case
    the last counts.
    """
    whole, stem = name_key(picture), name_key(Path(picture).stem)
    return [*listing.texts.get(stem, ())[::-1], *listing.texts.get(whole, ())[::-1]]


def read_captions(
    listing: Listing,
    written: Mapping[str, list[Source]],
    notes: list[str],
    *,
    lines: bool = False,
    instead: str = "",
) -> dict[str, tuple[str, ...]]:
    """Return the captions for every picture name, at least one; it may be empty. lines: every line
    of a caption file is a caption of its own, as every one of a list in metadata.jsonl always is;
    instead: of pictures without a caption, "" for the words of their names.
    """
    found: dict[str, tuple[str, ...]] = {}
    empty, from_name, wordless = [], [], []
    for name in listing.pictures:
        if sources := written.get(name):
            first, is_list = sources[0], sources[0].kind in LISTED
            several = first.lines if lines or is_list else ()
            found[name] = several or (first.caption,)
            if not first.caption and not is_list:
                empty.append(name)
        else:
            found[name] = (instead or caption_from_name(name),)
            (from_name if found[name][0] else wordless).append(name)
    if from_name and instead:
        notes.append(
            f"{share_of(from_name, listing)} no caption: that of the folder is used ({instead})."
        )
    elif from_name:
        example = f"{shown_name(from_name[0])} -> {found[from_name[0]][0]}"
        notes.append(f"{share_of(from_name, listing)} no caption: file names are used ({example}).")
    if wordless:
        notes.append(
            f"{share_of(wordless, listing)} no caption and a file name that says nothing: the "
            f"caption is empty ({some_of(wordless)})."
        )
    if empty:
        kind = written[empty[0]][0].kind
        notes.append(
            f"{share_of(empty, listing)} an empty {kind}: the caption is empty ({some_of(empty)})."
        )
    used = {name: written[name] for name in listing.pictures if name in written}
    notes += _notes_on_choice(listing, used, lines)
    return found


def _notes_on_choice(listing: Listing, used: Mapping[str, list[Source]], lines: bool) -> list[str]:
    """Say where one of several captions was chosen, or one file serves several pictures."""
    overruled: dict[tuple[str, str], list[str]] = defaultdict(list)
    shared: dict[str, list[str]] = defaultdict(list)
    for name, (first, *others) in used.items():
        for other in others:
            if other.caption != first.caption:
                same = first.kind == other.kind
                key = (first.file, other.file) if same else (first.kind, other.kind)
                overruled[key].append(name)
        if first.kind not in LISTED:
            shared[first.file].append(name)
    notes = [
        f"{share_of(names, listing)} another caption in {other} than in the {first}: the {first} "
        f"counts ({some_of(names)})."
        for (first, other), names in overruled.items()
    ]
    notes += [
        f"{shown_name(file)} is the caption of several pictures: {len(names)} ({some_of(names)}). "
        "Rename one of them if it shows something else."
        for file, names in shared.items()
        if len(names) > 1
    ]
    several = [
        name
        for name, (first, *_) in used.items()
        if first.kind not in LISTED and len(first.lines) > 1
    ]
    if several and not lines:
        notes.append(
            f"{share_of(several, listing)} a caption of several lines: all lines are read as one "
            f"caption ({some_of(several)}). If each line is a caption of its own, set "
            "data.captions = lines."
        )
    return notes


def caption_from_name(name: str) -> str:
    """Return the words of a file name, without numbering; empty when a camera or a hash function
    named the file, or the name cannot be read.
    """
    stem = "".join(c for c in unicodedata.normalize("NFC", Path(name).stem) if c.isprintable())
    words = " ".join(re.split(r"[\s_.-]+", stem)).strip()
    words = re.sub(r"^(0\d*|\d{5,})\s+", "", words)
    while (shorter := re.sub(r"\s*(\d+|\(\d*\))$", "", words)) != words:
        words = shorter
    if is_garbled(Path(name).stem):
        return ""
    return words if any(_says_something(word) for word in words.split()) else ""


def is_garbled(name: str) -> bool:
    """Whether a name was read in another encoding than it was written in: bytes that are no text,
    frames of text screens, signs between letters, or UTF-8 taken for Latin letters.
    """
    if any("\ud800" <= c <= "\udfff" or c == "\ufffd" or "\u2500" <= c <= "\u259f" for c in name):
        return True
    around = zip(name, name[1:], name[2:], strict=False)
    if any(a.isalpha() and _is_sign(c) and b.isalpha() for a, c, b in around):
        return True
    for encoding in ("latin-1", "cp1252"):
        try:
            return not name.encode(encoding).decode("utf-8").isascii()
        except UnicodeError:
            continue
    return False


def _is_sign(c: str) -> bool:
    """Whether a character never stands between two letters of a word."""
    signs = ("Sm", "Sc", "Sk", "No", "Pi", "Pf", "Ps", "Pe", "Po")
    return "\x80" <= c < "\u3000" and unicodedata.category(c) in signs and c not in "’‘·‧،"


def _says_something(word: str) -> bool:
    camera_or_sign = word.lower() in SAYS_NOTHING or not re.search(r"[^\W\d_]", word)
    hexadecimal = re.fullmatch(r"[0-9a-f]{3,}", word, re.IGNORECASE) and re.search(r"\d", word)
    mixed = len(re.findall(r"\d+", word)) > 1
    return not (
        camera_or_sign
        or hexadecimal
        or mixed
        or re.fullmatch(r"[0-9a-f]{24,}", word, re.IGNORECASE)
    )


def _sidecar(path: Path, complaints: list[str]) -> Source:
    kind = path.suffix.lower()
    try:
        text = decode_text(read_content(path, LARGEST_CAPTION))
        whole = clean(text)
        lines = tuple(line for found in text.splitlines() if (line := clean(found)))
        return Source(kind, path.name, whole, lines)
    except DataError as error:
        complaints.append(f"{shown_name(path.name)} {error}")
        return Source(kind, path.name, "")


def _listed(
    file: Path, pictures: list[str], wrong: list[str], notes: list[str], *, kohya: bool = False
) -> dict[str, tuple[str, ...]]:
    """Return picture name -> its captions from a list of captions."""
    names = {name_key(picture): picture for picture in pictures}
    if kohya:  # pictures without their suffixes
        names = {name_key(Path(picture).stem): picture for picture in pictures} | names
    found: dict[str, tuple[str, ...]] = {}
    again: list[str] = []
    for entry in read_kohya_list(file) if kohya else read_list(file):
        if isinstance(entry, DataError):
            wrong.append(str(entry))
            continue
        if kohya and name_key(entry.named) not in names:
            continue  # such a list is often of more folders than one
        try:
            picture = _named_picture(entry, names, file.parent)
        except DataError as error:
            wrong.append(f"{shown_name(file.name)} {entry.where} {error}")
            continue
        if found.get(picture, entry.captions) != entry.captions:
            again.append(picture)
        found[picture] = entry.captions
    if again:
        notes.append(
            f"{shown_name(file.name)} has several captions for the same picture: the last one "
            f"counts ({some_of(again)})."
        )
    return found


def _named_picture(entry: Entry, names: Mapping[str, str], folder: Path) -> str:
    named = entry.named
    if (key := name_key(named)) in names:
        return names[key]
    parts = [part for part in re.split(r"[/\\]", named) if part not in ("", ".")]
    if ".." in parts or named[0] in "/\\" or re.match(r"[A-Za-z]:", named):
        raise DataError(
            f"names {shown_name(named)}, which leads out of the folder. Put the picture into the "
            "folder and write only its name."
        )
    if (key := name_key("/".join(parts))) in names:
        return names[key]
    # A list that lay above its folder and was moved into it
    if len(parts) == 2 and parts[0] == folder.resolve().name and name_key(parts[1]) in names:
        return names[name_key(parts[1])]
    if len(parts) > 1:
        raise DataError(
            f"names {shown_name(named)} in a sub-folder, which is not read. Move the picture up "
            "and write only its name."
        )
    if "\0" not in named and len(named) <= LONGEST_NAME and (folder / named).is_file():
        raise DataError(
            f"names {shown_name(named)}, which is not a {', '.join(SUFFIXES)} file. Save it as "
            "PNG, or remove the line."
        )
    raise DataError(
        f"names {shown_name(named)}, which is not there. Add the picture, or remove the line."
    )
