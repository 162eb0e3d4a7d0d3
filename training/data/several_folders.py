"""Several folders of pictures as one set: how often each picture is seen, how much it counts, and
the trigger of its captions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

from training.data.captions import TEMPLATE
from training.data.complaints import shown_name
from training.data.dataset import Dataset, Example, read_dataset
from training.data.kohya_folders import MOST_REPEATS, NAMED, repeated_folders
from training.errors import DataError


class Reading(TypedDict):
    """How all of them are read, see training.data.dataset.read_dataset."""

    background: str
    lines: bool
    wildcards: bool
    mask: str


@dataclass(frozen=True)
class Source:
    """One of several folders. repeats, weight: of its pictures; words: the caption of pictures
    that have none, "" for their names; part: what its pictures' names begin with in a run's record.
    """

    folder: Path
    part: str
    repeats: int = 1
    weight: float = 1.0
    trigger: str = ""
    template: str = TEMPLATE
    is_class: bool = False
    words: str = ""


def read_folders(sources: Sequence[Source], reading: Reading, *, balance: bool = False) -> Dataset:
    """Read all of them, in their order. One without a part is read as if it were the only one.
    balance: every folder that pictures of the style lie in counts alike, times its weight.

    Raises one DataError with all that is wrong in any of them, and where one is named twice.
    """
    wrong = _twice(sources)
    parts: list[Dataset] = []
    for source in sources if not wrong else ():
        try:
            parts.append(_read(source, reading))
        except DataError as error:
            wrong.append(
                re.sub(r"\bdata\.folder\b", "folder", str(error)) if source.part else str(error)
            )
    if not wrong and all(source.is_class for source in sources):
        wrong = ["Every folder holds class pictures: name one with pictures of the style."]
    if wrong:
        raise DataError("\n".join(wrong))
    names = _names(sources, [{e.within for e in part.examples} for part in parts])
    every = [
        _placed(example, source, name)
        for source, part, name in zip(sources, parts, names, strict=True)
        for example in part.examples
    ]
    notes = [
        f"{shown_name(name)}: {note}" if name else note
        for part, name in zip(parts, names, strict=True)
        for note in part.notes
    ]
    notes += [
        note for source, part in zip(sources, parts, strict=True) for note in _named(source, part)
    ]
    style = [example for example in every if not example.is_class]
    if balance:
        style = balanced(style)
    classes = tuple(example for example in every if example.is_class)
    return Dataset(sources[0].folder.expanduser(), tuple(style), tuple(notes), classes)


def _read(source: Source, reading: Reading) -> Dataset:
    return read_dataset(
        source.folder,
        trigger=source.trigger,
        template=source.template,
        words=source.words,
        **reading,
    )


def _twice(sources: Sequence[Source]) -> list[str]:
    """Complaints about folders that are read twice, by themselves or within another."""
    seen: dict[Path, str] = {}
    found = []
    for source in sources:
        folder = source.folder.expanduser()
        if not folder.is_dir():
            continue  # which is said where it is read
        for one in [found.folder for found in repeated_folders(folder)] or [folder]:
            there, where = one.resolve(), source.part or "data.folder"
            if there in seen:
                found.append(
                    f"{where} reads {shown_name(one)}, which {seen[there]} reads already: name "
                    "every folder once. To see its pictures more often, set repeats."
                )
            seen.setdefault(there, where)
    return found


def _names(sources: Sequence[Source], within: Sequence[set[str]]) -> list[str]:
    """What the names of each folder's pictures begin with: as little of its path as tells it from
    the others.
    """
    whole = [source.folder.expanduser().resolve().parts for source in sources]
    most = max(map(len, whole))
    for count in range(1, most + 1):
        names = [
            "/".join(parts[-count:]) if source.part else ""
            for source, parts in zip(sources, whole, strict=True)
        ]
        used = [
            "/".join(filter(None, (name, sub)))
            for name, subs in zip(names, within, strict=True)
            for sub in subs
        ]
        if len(set(used)) == len(used):
            return names
    return [source.part for source in sources]


def _placed(example: Example, source: Source, name: str) -> Example:
    """A folder's picture as one of the whole set."""
    part = "/".join(filter(None, (source.part, example.within))) if source.part else ""
    return replace(
        example,
        within="/".join(filter(None, (name, example.within))),
        part=part,
        repeats=example.repeats * source.repeats,
        weight=source.weight,
        is_class=source.is_class,
    )


def _named(source: Source, part: Dataset) -> list[str]:
    """Say that a folder's own name, as sd-scripts wants it, changes nothing."""
    found = NAMED.fullmatch(source.folder.name)
    if not (found and source.part and source.repeats == 1 and part.examples):
        return []
    number = int(found[1])
    if not 2 <= number <= MOST_REPEATS:
        return []
    return [
        f"{shown_name(source.folder.name)} is named itself, so its pictures count once: set "
        f"repeats = {number} if its name means that, or name the folder above it."
    ]


def balanced(examples: Sequence[Example]) -> list[Example]:
    """The same with repeats and weights by which every folder counts alike: repeats as near as
    whole numbers are, the rest by weight.
    """
    count: dict[str, int] = {}
    for example in examples:
        count[example.within] = count.get(example.within, 0) + 1
    largest = max(count.values())
    made = []
    for example in examples:
        own = count[example.within]
        repeats = min(MOST_REPEATS, round(largest / own))
        weight = example.weight * largest / (own * repeats)
        made.append(replace(example, repeats=repeats, weight=weight))
    return made


def counted(examples: Sequence[Example]) -> str:
    """How many pictures of which folder, how often each and with which weight, "" for one folder:
    `12 of ink, 3 times each`.
    """
    folders: dict[tuple[str, int, float], int] = {}
    for example in examples:
        key = (example.within, example.repeats, example.weight)
        folders[key] = folders.get(key, 0) + 1
    if len(folders) < 2:
        return ""
    return "; ".join(
        f"{count} of {shown_name(name) if name else 'data.folder'}"
        + (f", {repeats} times each" if repeats != 1 else "")
        + (f", weight {weight:.3g}" if weight != 1 else "")
        for (name, repeats, weight), count in folders.items()
    )
