"""A card beside a style:

what its user says of it. Lies there as `<stem>.card.json` and stays here until the style is
exported.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from training.errors import ConfigError
from training.storage.paths import read_regular, write_whole

LONGEST = {  # characters
    "title": 80,
    "licence": 200,
    "credit": 200,
    "notes": 4000,
    "folder": 60,
    "tags": 200,
}
ONE_LINE = ("title", "folder", "tags")


@dataclass(frozen=True)
class Card:
    """What a user says of a style; it stays here until it is exported. folder: the heading that it
    stands under; tags: with commas between them; both are never exported.
    """

    title: str = ""
    licence: str = ""
    credit: str = ""
    notes: str = ""
    folder: str = ""
    tags: str = ""

    @property
    def each_tag(self) -> list[str]:
        """Every tag once, in the order they were written."""
        return list(dict.fromkeys(filter(None, map(str.strip, self.tags.split(",")))))


def card_file(style: Path) -> Path:
    return style.with_suffix(".card.json")


def card(style: Path) -> Card:
    """What the user says of a style; an empty card where nothing was said or it cannot be read."""
    try:
        return card_of(read_regular(card_file(style)).decode("utf-8"))
    except (OSError, ValueError):
        return Card()


def card_of(text: str) -> Card:
    """Read a card from JSON; an empty card where it is none."""
    try:
        found = json.loads(text)
        return Card(**{f.name: str(found.get(f.name, ""))[: LONGEST[f.name]] for f in fields(Card)})
    except (ValueError, AttributeError, RecursionError):
        return Card()


def merged(saved: Card, *, typed: Card, shown: Card) -> Card:
    """Return the saved card with those fields of `typed` that differ from what was shown before the
    typing.
    """
    changed = {name: text for name, text in asdict(typed).items() if text != getattr(shown, name)}
    return replace(saved, **changed)


def write_card(style: Path, said: Card) -> None:
    """Keep a card. Raises ConfigError for words that are too long, SpaceError when the disk is
    full.
    """
    cleaned = {name: text.strip() for name, text in asdict(said).items()}
    if too_long := [name for name, text in cleaned.items() if len(text) > LONGEST[name]]:
        raise ConfigError(
            "\n".join(
                f"The {name} has {len(cleaned[name])} characters, at most {LONGEST[name]} are kept."
                for name in too_long
            )
        )
    for name in ONE_LINE:
        if "\n" in cleaned[name]:
            has = "have" if name == "tags" else "has"
            raise ConfigError(f"The {name} {has} more than one line. Write one line.")
    write_whole(card_file(style), json.dumps(cleaned, ensure_ascii=False, indent=2) + "\n")
