"""The caption of every picture: its .txt, else metadata.jsonl, else the words of its file name."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

from training.data.complaints import shown_name, shown_value, some_of
from training.data.file_content import decode_text, read_content
from training.data.listing import METADATA, SUFFIXES, Listing, name_key, share_of
from training.errors import DataError

LARGEST_CAPTION = 10_000  # bytes of UTF-8
LARGEST_METADATA = 20 * 2**20  # bytes
LONGEST_NAME = 255  # characters of a file's name, the most that systems have
SAYS_NOTHING = frozenset(  # words of file names that cameras, phones and browsers give
    "a at copy dcim download downloads dsc dscf dscn file fullsizerender gopr image images img "
    "imgp mvi p pic picture pictures photo photos pxl"
    " s scan screen screenshot shot unbenannt unknown unnamed untitled v wa whatsapp".split()
)


def metadata_captions(file: Path, names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Return the captions of pictures of these names in a metadata.jsonl, and complaints."""
    listing = Listing(file.parent, pictures=list(names))
    complaints: list[str] = []
    return _metadata(listing, file.name, complaints, []), complaints


def read_captions(listing: Listing, complaints: list[str], notes: list[str]) -> dict[str, str]:
    """Return a caption for every picture name; it may be empty."""
    listed: dict[str, str] = {}
    for name in listing.metadata:
        listed |= _metadata(listing, name, complaints, notes)
    found: dict[str, str] = {}
    overruled, empty, from_name, wordless = [], [], [], []
    for name in listing.pictures:
        text = listing.texts.get(name_key(Path(name).stem))
        if text is not None:
            found[name] = _sidecar(listing.folder / text, complaints)
            if not found[name]:
                empty.append(name)
            if name in listed and listed[name] != found[name]:
                overruled.append(name)
        elif name in listed:
            found[name] = listed[name]
        else:
            found[name] = caption_from_name(name)
            (from_name if found[name] else wordless).append(name)
    if from_name:
        example = f"{shown_name(from_name[0])} -> {found[from_name[0]]}"
        notes.append(f"{share_of(from_name, listing)} no caption: file names are used ({example}).")
    if wordless:
        notes.append(
            f"{share_of(wordless, listing)} no caption and a file name that says nothing: the "
            f"caption is empty ({some_of(wordless)})."
        )
    if empty:
        notes.append(
            f"{share_of(empty, listing)} an empty .txt: the caption is empty ({some_of(empty)})."
        )
    if overruled:
        notes.append(
            f"{share_of(overruled, listing)} another caption in {METADATA} than in the .txt: the "
            f".txt counts ({some_of(overruled)})."
        )
    return found


def caption_from_name(name: str) -> str:
    """Return the words of a file name, without numbering; empty when a camera or a hash function
    named the file.
    """
    stem = "".join(
        c for c in unicodedata.normalize("NFC", Path(name).stem) if c.isprintable()
    )  # no lone surrogates either
    words = " ".join(re.split(r"[\s_.-]+", stem)).strip()
    words = re.sub(r"^(0\d*|\d{5,})\s+", "", words)
    while (shorter := re.sub(r"\s*(\d+|\(\d*\))$", "", words)) != words:
        words = shorter
    return words if any(_says_something(word) for word in words.split()) else ""


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


def _sidecar(path: Path, complaints: list[str]) -> str:
    try:
        return _clean(decode_text(read_content(path, LARGEST_CAPTION)))
    except DataError as error:
        complaints.append(f"{shown_name(path.name)} {error}")
        return ""


def _metadata(
    listing: Listing, name: str, complaints: list[str], notes: list[str]
) -> dict[str, str]:
    """Return picture name -> caption from a metadata.jsonl.

    A line is like {"file_name": "a.png", "text": "a red apple"}.
    """
    try:
        lines = decode_text(read_content(listing.folder / name, LARGEST_METADATA)).split("\n")
    except DataError as error:
        complaints.append(f"{shown_name(name)} {error}")
        return {}
    names = {name_key(picture): picture for picture in listing.pictures}
    found: dict[str, str] = {}
    again: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            picture, caption = _entry(line, names, listing.folder)
        except DataError as error:
            complaints.append(f"{shown_name(name)} line {number} {error}")
            continue
        if found.get(picture, caption) != caption:
            again.append(picture)
        found[picture] = caption
    if again:
        notes.append(
            f"{shown_name(name)} has several captions for the same picture: the last one counts "
            f"({some_of(again)})."
        )
    return found


def _entry(line: str, names: Mapping[str, str], folder: Path) -> tuple[str, str]:
    """Return (picture name, caption).

    names: key -> name as it is on disk. Raises DataError with what is wrong in this line.
    """
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        what = (
            f"{error.msg}, column {error.colno}"
            if isinstance(error, json.JSONDecodeError)
            else "it cannot be read"
        )
        raise DataError(
            f'is not JSON ({what}). Write one line per picture: {{"file_name": "a.png", '
            '"text": "a red apple"}.'
        ) from None
    if not isinstance(entry, dict):
        raise DataError('is not an object. Write {"file_name": "a.png", "text": "a red apple"}.')
    named, caption = entry.get("file_name"), entry.get("text", entry.get("caption"))
    if not isinstance(named, str) or not named:
        raise DataError(
            f'has {shown_value(named)} as "file_name". Write the picture\'s name there.'
        )
    if not isinstance(caption, str):
        raise DataError(
            f'has {shown_value(caption)} as "text". Write the caption there, in quotes.'
        )
    return _named_picture(named, names, folder), _clean(caption)


def _named_picture(named: str, names: Mapping[str, str], folder: Path) -> str:
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


def _clean(caption: str) -> str:
    """Return one line of single-spaced words without control characters.

    Raises DataError for what cannot be a caption.
    """
    if "\0" in caption:
        raise DataError("has a NUL character in its caption. Remove it.")
    if any("\ud800" <= c <= "\udfff" for c in caption):
        raise DataError("has half a character (a lone surrogate) in its caption. Write it anew.")
    if (size := len(caption.encode())) > LARGEST_CAPTION:
        raise DataError(
            f"has a caption of {size:,} bytes, {LARGEST_CAPTION:,} is the most. Shorten it: "
            "models read about 75 words."
        )
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", caption).split())
