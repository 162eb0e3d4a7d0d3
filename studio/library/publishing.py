"""A style as it goes out:

which fields it tells, field by field, and the file itself. Knows no torch and no gradio.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from studio.library.cards import Card
from studio.library.import_export import plain_stem
from training.errors import StyleFileError
from training.style_files.family_spec import SPECS
from training.style_files.merge import packed
from training.style_files.metadata import GROUPS, PUBLIC, MetadataField, published, rewritten
from training.style_files.reading import Style, read_style, style_from_bytes
from training.style_files.writing import named, placed, style_bytes, written_dialect

Form = Literal["kohya", "diffusers", "zip"]
FORMS: Mapping[str, Form] = {
    "For nearly all programs (kohya names)": "kohya",
    "For diffusers (dotted names)": "diffusers",
    "Zip with picture and card": "zip",
}
TOGETHER = ("recipe", "training")  # groups that are told as a whole or not at all


@dataclass(frozen=True)
class Field:
    """Something that a style tells and need not.

    key: of the metadata, or a group of TOGETHER; text: what it says, in words.
    """

    key: str
    group: str
    text: str
    at_first: bool  # whether it is told unless somebody turns it off


def private_fields(style: Style, card: Card) -> list[Field]:
    """Every field that may be left out, with what the user's card says put in.

    The kind of base always stays: programs need it.
    """
    found = [field for field in published(_offered(style, card)) if field.group != "kind"]
    alone = [
        Field(t.key, t.group, t.value, not (t.key == "modelspec.description" and card.notes))
        for t in found
        if t.group not in TOGETHER
    ]
    whole = []
    for group in TOGETHER:
        if count := sum(t.group == group for t in found):
            whole.append(
                Field(
                    group,
                    group,
                    f"{GROUPS[group][0]} ({count} field{'' if count == 1 else 's'})",
                    True,
                )
            )
    return alone + whole


def published_fields(style: Style, card: Card, keep: Collection[str]) -> list[MetadataField]:
    """Exactly what the file will tell with those fields, hashes aside."""
    return published(_kept(style, card, keep))


def made(
    path: Path, card: Card, form: Form, keep: Collection[str], picture: Path | None = None
) -> tuple[str, bytes]:
    """Name and content of the file that goes out, read back and compared before it does.

    keep: keys of private_fields. Raises StyleFileError.
    """
    style = read_style(path)
    family = style.family
    if family not in SPECS:
        raise StyleFileError(
            f"{path.name} does not show which kind of base it is for, so that it cannot be "
            "rewritten. Share the file as it is."
        )
    stem = plain_stem(card.title or style.title or path.stem)
    dialect = written_dialect("diffusers" if form == "diffusers" else "kohya", family)
    modules = named(placed(style, family), dialect, family)
    content = style_bytes(
        f"{stem}.safetensors",
        modules,
        _kept(style, card, keep),
        dtype=style.dtype,
        dialect=dialect,
        words=style.words,
    )
    again = style_from_bytes(content, f"{stem}.safetensors")
    if form != "zip":
        return f"{stem}.safetensors", content
    return f"{stem}.zip", packed(stem, content, again, family, picture)


def _kept(style: Style, card: Card, keep: Collection[str]) -> dict[str, str]:
    return {
        t.key: t.value
        for t in published(_offered(style, card))
        if t.group == "kind" or {t.key, t.group} & set(keep)
    }


def _offered(style: Style, card: Card) -> dict[str, str]:
    """All that could be told:

    the file's public metadata as it will be rewritten, over it what the card says.
    """
    said = {
        "modelspec.title": card.title,
        "ss_output_name": card.title,
        "modelspec.license": card.licence,
        "modelspec.author": card.credit,
        "modelspec.description": card.notes,
    }
    found = (
        rewritten(style.metadata, style.family, list(style.modules.values()))
        if style.family in SPECS
        else dict(style.metadata)
    )
    found |= {key: text for key, text in said.items() if text}
    return {t.key: t.value for t in published(found) if t.group in PUBLIC and t.value}
