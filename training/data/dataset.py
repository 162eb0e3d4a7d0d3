"""A folder of pictures and captions -> examples, and every complaint about it at once.

Knows nothing of models; never writes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from training.data.caption_files import read_captions, written_captions
from training.data.caption_variants import resolved
from training.data.captions import TEMPLATE, captioned, names_in
from training.data.complaints import shown_name
from training.data.crops import CENTRE, read_places
from training.data.kohya_folders import repeated_folders
from training.data.listing import (
    list_folder,
    note_on_list_above,
    notes_on_unread,
    without_masks,
)
from training.data.masks import FOLDERS, Mask, find_masks
from training.data.pictures import examine_pictures, parse_colour
from training.errors import DataError, listed


@dataclass(frozen=True)
class Example:
    """A picture that decodes.

    width, height: px, upright; caption: the first one, with the trigger; plain: the same without
    it; digest: sha256 of the file's bytes, hex; place: of its crop, as training.data.buckets.fit
    takes it; written: all captions as they are in the files, without the trigger; mask: what of it
    counts, None: all of it; repeats: how often it is seen in a pass over all pictures; weight: of
    the loss on it; trigger, template: what its captions are made with; part: what its name begins
    with in a run's record, "" for what is shown.
    """

    path: Path
    caption: str
    width: int
    height: int
    digest: str
    place: tuple[float, float] = CENTRE
    plain: str = ""
    written: tuple[str, ...] = ()
    mask: Mask | None = None
    repeats: int = 1
    within: str = ""  # the sub-folder that it lies in, or one of several folders
    part: str = ""
    weight: float = 1.0
    trigger: str = ""
    template: str = TEMPLATE
    is_class: bool = False  # a class picture with a caption of its own

    @property
    def name(self) -> str:
        """Of its file, with the sub-folder."""
        return f"{self.within}/{self.path.name}" if self.within else self.path.name

    @property
    def recorded(self) -> str:
        """Its name in a run's record, which stays where a folder is renamed or moved."""
        return f"{self.part}/{self.path.name}" if self.part else self.name

    @property
    def all_written(self) -> tuple[str, ...]:
        """Every caption, without the trigger; at least one."""
        return self.written or (self.plain,)

    @property
    def words(self) -> str:
        """All that is written about it: what makes it another example."""
        return self.caption if self.all_written == (self.plain,) else "\n".join(self.written)

    @property
    def identity(self) -> str:
        """What is learnt from, hex: of another file, place of the crop or mask it is another."""
        parts = [self.digest]
        parts += [f"{self.place}"] if self.place != CENTRE else []
        parts += [f"mask {self.mask.digest}"] if self.mask and not self.mask.is_alpha else []
        if len(parts) == 1:
            return self.digest
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Dataset:
    """examples: in the order of their names; notes: on the folder, one sentence each;
    class_examples: class pictures with captions of their own.
    """

    folder: Path
    examples: tuple[Example, ...]
    notes: tuple[str, ...]
    class_examples: tuple[Example, ...] = ()


def read_dataset(
    folder: Path,
    *,
    trigger: str = "",
    template: str = TEMPLATE,
    background: str = "white",
    lines: bool = False,
    wildcards: bool = False,
    mask: str = "none",
    words: str = "",
) -> Dataset:
    """Read all pictures and captions of a folder, without its sub-folders, or of its sub-folders
    where those are named as sd-scripts wants them (see training.data.kohya_folders). lines: each
    line of a caption file is a caption of its own; wildcards: {a|b} in a caption stands for one of
    them; mask: none, alpha or file, see training.data.masks; words: the caption of pictures that
    have none, "" for their names.

    Raises one DataError that lists what is wrong, the first of it.
    """
    read = partial(
        _read_folder,
        trigger=trigger,
        template=template,
        background=background,
        lines=lines,
        wildcards=wildcards,
        mask=mask,
    )
    found = repeated_folders(folder)
    if not found:
        return read(folder, words=words)
    parts: list[Dataset] = []
    wrong: list[str] = []
    for one in found:
        try:
            parts.append(read(one.folder, words=words or one.words))
        except DataError as error:
            wrong.append(str(error))
    if wrong:
        raise DataError("\n".join(wrong))
    pairs = list(zip(found, parts, strict=True))
    examples = tuple(
        replace(example, repeats=one.repeats, within=one.folder.name)
        for one, part in pairs
        for example in part.examples
    )
    counted = [
        f"{len(part.examples)} of {shown_name(one.folder.name)}, {one.repeats} times each"
        for one, part in pairs
    ]
    notes = [f"Pictures are taken from sub-folders: {'; '.join(counted)}."]
    notes += [
        f"{shown_name(one.folder.name)}: {note}" for one, part in pairs for note in part.notes
    ]
    return Dataset(folder.expanduser(), examples, tuple(notes))


def _read_folder(
    folder: Path,
    *,
    trigger: str,
    template: str,
    background: str,
    lines: bool,
    wildcards: bool,
    mask: str,
    words: str = "",
) -> Dataset:
    """One folder; words: the caption of pictures without one, "" for their names."""
    complaints: list[str] = []
    notes: list[str] = []
    for check, value in ((parse_colour, background), (names_in, template)):
        try:
            check(value)
        except DataError as error:
            complaints.append(str(error))
    try:
        listing = list_folder(folder)
    except DataError as error:
        raise _all_in_one(folder, [*complaints, str(error)]) from None
    notes += notes_on_unread(listing, FOLDERS if mask == "file" else ())
    written = written_captions(listing, complaints, notes)
    listing, beside = without_masks(listing, written, notes, used=mask == "file")
    if any(name not in written for name in listing.pictures):
        notes += note_on_list_above(listing)
    texts = read_captions(listing, written, notes, lines=lines, instead=words)
    pictures = examine_pictures(listing, complaints, notes)
    masks = find_masks(listing, beside, pictures, mask, complaints, notes)
    places = read_places(listing, complaints, notes)
    if complaints:
        raise _all_in_one(folder, complaints)
    first = {name: resolved(one[0]) if wildcards else one[0] for name, one in texts.items()}
    examples = tuple(
        Example(
            listing.folder / name,
            captioned(first[name], trigger, template),
            seen.width,
            seen.height,
            seen.digest,
            places[name],
            " ".join(first[name].split()),
            texts[name],
            masks.get(name),
            trigger=trigger,
            template=template,
        )
        for name, seen in pictures.items()
    )
    return Dataset(listing.folder, examples, tuple(notes))


def _all_in_one(folder: Path, complaints: list[str]) -> DataError:
    if len(complaints) == 1:
        return DataError(f"{shown_name(folder)}: {complaints[0]}")
    return DataError(
        "\n".join(
            [
                f"{len(complaints)} things are wrong in {shown_name(folder)}:",
                *listed(complaints),
            ]
        )
    )
