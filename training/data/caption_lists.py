"""Files with the captions of many pictures: metadata.jsonl and metadata.csv, entry by entry.

Knows nothing of the pictures that are there.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.complaints import shown_name, shown_value
from training.data.file_content import decode_text, read_content
from training.data.file_kinds import LARGEST_LIST, suffix_of
from training.errors import DataError

LARGEST_CAPTION = 10_000  # bytes of UTF-8
NAME_COLUMNS = ("file_name", "filename", "image", "file")
TEXT_COLUMNS = ("text", "caption", "prompt")
EXAMPLE = '{"file_name": "a.png", "text": "a red apple"}'


@dataclass(frozen=True)
class Entry:
    """where: `line 3`; named: the picture, as the list calls it; captions: cleaned, at least
    one.
    """

    where: str
    named: str
    captions: tuple[str, ...]

    @property
    def caption(self) -> str:
        """The first of them."""
        return self.captions[0]


def read_list(file: Path) -> Iterator[Entry | DataError]:
    """Yield entries in their order, and what is wrong with the others, with the list's name."""
    name = shown_name(file.name)
    try:
        text = decode_text(read_content(file, LARGEST_LIST))
        found = _from_csv(text) if suffix_of(file.name) == ".csv" else _from_json(text)
    except DataError as error:
        yield DataError(f"{name} {error}")
        return
    for where, value in found:
        try:
            yield _entry(where, value)
        except DataError as error:
            yield DataError(f"{name} {where} {error}")


def read_kohya_list(file: Path) -> Iterator[Entry | DataError]:
    """The same of a list of sd-scripts, {"PICTURE": {"caption": "...", "tags": "..."}}: the tags
    follow the caption (library/train_util.py, FineTuningDataset). PICTURE may be a path of another
    machine, of which the last name counts, and have no suffix.
    """
    name = shown_name(file.name)
    try:
        found = _loaded(decode_text(read_content(file, LARGEST_LIST)))
    except DataError as error:
        yield DataError(f"{name} {error}")
        return
    if not isinstance(found, dict):
        yield DataError(f"{name} is not one JSON object with an entry for every picture.")
        return
    for key, value in found.items():
        where, picture = f"entry {shown_value(key)}", re.split(r"[/\\]", key)[-1]
        words = value if isinstance(value, dict) else {}
        captions = words.get("caption", [])
        captions = captions if isinstance(captions, list) else [captions]
        tags = words.get("tags") or ""
        if not picture or not all(isinstance(one, str) for one in (*captions, tags)):
            yield DataError(f'{name} {where} has no text as "caption" or "tags".')
        elif captions or tags:
            several = [", ".join(filter(None, (one, tags))) for one in captions or [""]]
            try:
                yield Entry(where, picture, tuple(clean(one) for one in several))
            except DataError as error:
                yield DataError(f"{name} {where} {error}")


def _from_json(text: str) -> Iterator[tuple[str, Any]]:
    """Yield where each value stands and the value, a str where it is a line to be parsed.

    Raises DataError for a file that is another form of JSON as a whole.
    """
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    first = lines[0][1] if lines else ""
    is_list = first.lstrip().startswith("[")
    if len(lines) > 1 and _loaded(first) is None:
        whole = _loaded(text)
        if isinstance(whole, dict) and "file_name" not in whole:
            raise DataError(f"is one JSON object. Write one line per picture: {EXAMPLE}.")
        if whole is None and is_list:
            raise _damaged_list(text)
    else:
        whole = _loaded(first) if len(lines) == 1 and is_list else None
    if isinstance(whole, list | dict):
        entries = whole if isinstance(whole, list) else [whole]
        return ((f"entry {n}", value) for n, value in enumerate(entries, 1))
    return ((f"line {number}", line) for number, line in lines)


def _loaded(text: str) -> Any:
    """A JSON value, None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _damaged_list(text: str) -> DataError:
    try:
        json.loads(text)
        what = "it cannot be read"
    except (ValueError, RecursionError) as error:
        what = _parse_error(error)
        what += f" of line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
    return DataError(
        f"is one list that is not JSON ({what}). Mend that, or write one line per picture: "
        f"{EXAMPLE}."
    )


def _parse_error(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    return "it cannot be read"


def _from_csv(text: str) -> Iterator[tuple[str, Any]]:
    """The same of a table. Raises DataError for one without the columns that are needed."""
    first = text.split("\n", 1)[0]
    separator = max(",;\t", key=first.count)  # spreadsheets write what their country uses
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        head = [column.strip().lower() for column in next(rows, [])]
        name = next((head.index(c) for c in NAME_COLUMNS if c in head), None)
        words = next((head.index(c) for c in TEXT_COLUMNS if c in head), None)
        if name is None or words is None:
            raise DataError(
                "has no columns file_name and text in its first line. Name them so to use its "
                "captions."
            )
        good = [(rows.line_num, row) for row in rows if len(row) > max(name, words)]
    except csv.Error as error:
        raise DataError(f"is not a table ({error}). Save it again as CSV (UTF-8).") from None
    return (
        (f"line {number}", {"file_name": row[name], "text": row[words]}) for number, row in good
    )


def _entry(where: str, value: Any) -> Entry:
    """Raises DataError with what is wrong in this entry."""
    if isinstance(value, str) and where.startswith("line"):
        value = _parsed(value)
    if not isinstance(value, dict):
        raise DataError(f"is not an object. Write {EXAMPLE}.")
    named, caption = value.get("file_name"), value.get("text", value.get("caption"))
    if not isinstance(named, str) or not named:
        raise DataError(
            f'has {shown_value(named)} as "file_name". Write the picture\'s name there.'
        )
    several: list[Any] = caption if isinstance(caption, list) and caption else [caption]
    if not all(isinstance(one, str) for one in several):
        raise DataError(
            f'has {shown_value(caption)} as "text". Write the caption there, in quotes, or a list '
            "of several."
        )
    return Entry(where, named, tuple(clean(one) for one in several))


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"is not JSON ({_parse_error(error)}). Write one line per picture: {EXAMPLE}."
        ) from None


def clean(caption: str) -> str:
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
