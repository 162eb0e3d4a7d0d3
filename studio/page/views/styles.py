"""What the Styles tab shows, as HTML:

the shelf, one style in full, what a file will tell. Knows no files and no gradio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from studio.library.import_export import Brought
from studio.page.scripts import script
from training.style_files.metadata import Told

PICK = script("styles_pick")
LONGEST_VALUE = 600  # characters of a field that are shown


@dataclass(frozen=True)
class Item:
    """A style on the shelf.

    address: of its picture, "" where there is none; facts: short words below the name.
    """

    id: str
    name: str
    address: str
    facts: tuple[str, ...]


def library_html(items: Sequence[Item], chosen: str, searched: str) -> str:
    if not items:
        words = (
            f"No style is found by “{escape(searched)}”."
            if searched
            else "No style yet. Train one, or drop a .safetensors file here."
        )
        return f'<p class="empty">{words}</p>'
    cells = "".join(
        '<button type="button" class="thumb" '
        f'data-at="{escape(item.id)}"{" aria-current=true" if item.id == chosen else ""}>'
        + (
            f'<img src="{escape(item.address)}" alt="" loading="lazy">'
            if item.address
            else '<span class="blank" aria-hidden="true">no picture yet</span>'
        )
        + (
            f'<span class="title">{escape(item.name)}</span><span '
            f'class="facts">{"<br>".join(escape(fact) for fact in item.facts)}</span></button>'
        )
        for item in items
    )
    return f'<div class="shelf" role="group" aria-label="Styles">{cells}</div>'


def detail(
    name: str,
    facts: Mapping[str, str],
    warnings: Sequence[str],
    pictures: Sequence[tuple[str, str]],
    recipe: Mapping[str, object],
) -> str:
    """facts: label -> value; pictures:

    address and what was asked; recipe: section -> settings, of unknown origin.
    """
    listed = "".join(
        f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>"
        for label, value in facts.items()
        if value
    )
    warned = "".join(f'<li class="warning">{escape(words)}</li>' for words in warnings)
    drawn = "".join(
        f'<figure><img src="{escape(address)}" alt="{escape(words)}" '
        f'loading="lazy"><figcaption>{escape(words)}</figcaption></figure>'
        for address, words in pictures
    )
    return (
        f'<article class="style-card"><h2>{escape(name)}</h2><dl>{listed}</dl>'
        + (f'<ul class="run-messages">{warned}</ul>' if warned else "")
        + (f'<div class="examples">{drawn}</div>' if drawn else "")
        + _recipe(recipe)
        + "</article>"
    )


def _recipe(recipe: Mapping[str, object]) -> str:
    rows = [
        f"<tr><th scope=row>{escape(f'{section}.{key}')}</th><td>{escape(_short(value))}</td></tr>"
        for section, values in recipe.items()
        if isinstance(values, dict)
        for key, value in values.items()
        if value not in ("", [], None)
    ]
    return (
        "<details><summary>The recipe: every setting of the "
        f"training</summary><table>{''.join(rows)}</table></details>"
        if rows
        else ""
    )


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "…"


def brought(done: Brought, names: Mapping[str, str]) -> str:
    """What became of dropped files."""
    kept = "".join(
        f"<li><b>{escape(names.get(id, id))}</b> is on the shelf. {escape(words)}</li>"
        for id, words in done.kept
    )
    refused = "".join(
        f"<li><b>{escape(name)}</b> {escape(reason)}</li>" for name, reason in done.refused
    )
    return (f'<ul class="refused">{kept}</ul>' if kept else "") + (
        '<p class="note">Not taken, and nothing of it was kept:</p><ul '
        f'class="refused">{refused}</ul>'
        if refused
        else ""
    )


def published(fields: Sequence[Told]) -> str:
    """Everything that the file will tell, as a table."""
    rows = "".join(
        f"<tr><td>{escape(t.group)}</td><td>{escape(t.key)}</td><td>{escape(_short(t.value))}</td></tr>"
        for t in fields
    )
    return (
        f'<details class="published" open><summary>The file will tell these {len(fields)} '
        "things, and a hash of its weights</summary>"
        f"<table><thead><tr><th>Kind</th><th>Field</th><th>Value</th></tr></thead><tbody>{rows}</tbody></table></details>"
    )
