"""What the Styles tab shows, as HTML: the library, one style in full, what a file will hold. Knows
no files and no gradio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from studio.library.import_export import Brought
from studio.page.scripts import script
from studio.page.templates import render
from training.style_files.metadata import MetadataField

PICK = script("styles_pick")
# The slider between a picture of the base and the same one in the style
HERO = script("styles_hero")
LONGEST_VALUE = 600  # characters of a field that are shown


@dataclass(frozen=True)
class Item:
    """A style of the library. address: of its picture, "" where there is none; facts: short words
    below the name; folder: the heading that it stands under, "" for none.
    """

    id: str
    name: str
    address: str
    facts: tuple[str, ...]
    folder: str = ""


def library_html(
    items: Sequence[Item], chosen: str, searched: str, tags: Sequence[str] = ()
) -> str:
    """The styles as cards, under the names of their folders, those of none first. chosen: id of the
    one that is shown; tags: offered above, to be searched for.
    """
    folders: dict[str, list[Item]] = {}
    for item in items:
        folders.setdefault(item.folder, []).append(item)
    ordered = sorted(folders.items(), key=lambda pair: pair[0].casefold())
    return render("styles_library", folders=ordered, chosen=chosen, searched=searched, tags=tags)


def differences(names: Sequence[str], recipes: Sequence[Mapping[str, object]]) -> str:
    """Two styles' settings where they differ. names: of the styles; recipes: section -> settings,
    of unknown origin.
    """
    one, other = (dict(_recipe(recipe)) for recipe in recipes)
    keys = list(dict.fromkeys([*one, *other]))
    rows = [(k, one.get(k, "–"), other.get(k, "–")) for k in keys if one.get(k) != other.get(k)]
    said = [name for name, known in zip(names, (one, other), strict=True) if not known]
    return render("styles_differences", names=names, rows=rows, silent=said)


def detail(
    name: str,
    facts: Mapping[str, str],
    warnings: Sequence[str],
    pictures: Sequence[tuple[str, str]],
    recipe: Mapping[str, object],
    hero: tuple[str, str, str] | None = None,
) -> str:
    """facts: label -> value; pictures: address and prompt; recipe: section -> settings, of unknown
    origin; hero: addresses of one picture before and after training, and its prompt.
    """
    return render(
        "styles_detail",
        name=name,
        facts=facts,
        warnings=warnings,
        pictures=pictures,
        recipe=_recipe(recipe),
        hero=hero,
    )


def _recipe(recipe: Mapping[str, object]) -> list[tuple[str, str]]:
    """Setting and value of every setting that says something."""
    rows = []
    for section, values in recipe.items():
        if isinstance(values, dict):
            given = {key: value for key, value in values.items() if value not in ("", [], None)}
            rows += [(f"{section}.{key}", _short(value)) for key, value in given.items()]
    return rows


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "…"


def brought(done: Brought, names: Mapping[str, str]) -> str:
    """What became of dropped files."""
    kept = [(names.get(id, id), words) for id, words in done.kept]
    return render("styles_brought", kept=kept, refused=done.refused)


def published(fields: Sequence[MetadataField]) -> str:
    """Everything that the file will hold, as a table."""
    rows = [(field.group, field.key, _short(field.value)) for field in fields]
    return render("styles_published", fields=rows)
