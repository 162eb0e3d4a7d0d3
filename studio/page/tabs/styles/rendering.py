"""What the Styles tab shows, read from the workspace. Knows no components."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

from studio.library import import_export, library, publishing
from studio.library.cards import Card, card
from studio.page.handlers import address, framed
from studio.page.templates import empty
from studio.page.views import styles as views
from training.errors import DataError, StyleFileError
from training.storage.paths import Workspace
from training.style_files.base_family import bases
from training.style_files.reading import Style, read_style

THUMBNAIL, EXAMPLE, HERO = 256, 320, 768  # px of the longer side
MOST_TAGS = 30  # that are offered above the library, the most used first
LONGEST_CHOICE = 60  # characters of a value that a shared file may hold
NO_STYLE = empty("Styles that you train or import appear here.")
NONE_CHOSEN = empty("Choose a style to see its details.")
EMPTY_CARD = (*astuple(Card()), "")


@dataclass(frozen=True)
class Shown:
    """One style. card: its fields and the same as JSON; choices, kept: what a shared file may hold
    and what it holds at first; delete: what the button says.
    """

    detail: str = NO_STYLE
    can_act: bool = False
    card: tuple[str, ...] = EMPTY_CARD
    choices: tuple[tuple[str, str], ...] = ()
    kept: tuple[str, ...] = ()
    published: str = ""
    delete: str = "Delete"
    report: str = ""


def listing(workspace: Workspace, chosen: str, searched: str) -> str:
    """The styles that hold every searched word, or the tag that follows a #, by folder; the tags
    of all.
    """
    items, tags = [], Counter[str]()
    for style in library.styles(workspace):
        said = card(style.path)
        tags.update(said.each_tag)
        if _matches(style, said, (searched or "").strip().casefold()):
            picture, facts = _first_picture(workspace, style), _short_facts(style)
            items.append(views.Item(style.id, style.name, picture, facts, said.folder))
    most = [tag for tag, _ in tags.most_common(MOST_TAGS)]
    return views.library_html(items, chosen, searched or "", most)


def _matches(style: library.Style, said: Card, searched: str) -> bool:
    if searched.startswith("#"):
        return searched[1:].strip() in map(str.casefold, said.each_tag)
    text = f"{style.name} {style.trigger} {style.base} {said.folder} {said.tags}".casefold()
    return all(word in text for word in searched.split())


def others(workspace: Workspace, chosen: library.Style | None) -> list[tuple[str, str]]:
    """Styles to compare the chosen one with: what each is called, and its id."""
    found = library.styles(workspace) if chosen is not None else []
    return [(s.name, s.id) for s in found if chosen is not None and s.id != chosen.id]


def differences(workspace: Workspace, id: str, other: str | None) -> str:
    """In which settings two styles were trained differently, as a table; "" without another one."""
    if not other:
        return ""
    pair = [library.style(workspace, one) for one in (id, other)]
    return views.differences(
        [style.name for style in pair], [read_style(style.path).recipe for style in pair]
    )


def one(workspace: Workspace, style: library.Style | None, *, any_there: bool = False) -> Shown:
    """Everything that shows one style. any_there: whether there is one to choose."""
    if style is None:
        return Shown(NONE_CHOSEN) if any_there else Shown()
    try:
        read = read_style(style.path)
    except StyleFileError as error:
        return Shown(views.detail(style.name, {}, [str(error)], [], {}))
    said, run = card(style.path), import_export.run_of(workspace, style)
    pictures = _pictures(workspace, style)
    fields = publishing.private_fields(read, said)
    kept = [f.key for f in fields if f.at_first]
    return Shown(
        detail=views.detail(
            style.name,
            _facts(style, read, said),
            read.warnings,
            pictures,
            read.recipe,
            _hero(workspace, style),
        ),
        can_act=True,
        card=_card_fields(style, read, said),
        choices=tuple((_choice(f.key, f.text), f.key) for f in fields),
        kept=tuple(kept),
        published=views.published(publishing.published_fields(read, said, kept)),
        delete="Delete style and run" if run is not None else "Delete style",
        report=framed(run / "report" / "report.html") if run is not None else "",
    )


def _short_facts(style: library.Style) -> tuple[str, ...]:
    """What stands below a style's name in the library."""
    stat = style.path.stat()
    day = time.strftime("%Y-%m-%d", time.localtime(stat.st_mtime))
    called = [f"“{style.trigger}”"] if style.trigger else []
    rank = f"rank {style.rank}" if style.rank else ""
    kind = " · ".join(filter(None, [Path(style.base).name, rank]))
    return (*called, kind, f"{stat.st_size / 1e6:.1f} MB · {day}")


def _first_picture(workspace: Workspace, style: library.Style) -> str:
    for path, _ in import_export.pictures(workspace, style, 1):
        try:
            return address(path, THUMBNAIL)
        except DataError:
            break  # a picture that somebody damaged
    return ""


def _pictures(workspace: Workspace, style: library.Style) -> list[tuple[str, str]]:
    """Addresses of a style's pictures, each with its prompt; damaged ones are left out."""
    found = []
    for path, prompt in import_export.pictures(workspace, style):
        try:
            found.append((address(path, EXAMPLE), prompt))
        except DataError:
            continue
    return found


def _hero(workspace: Workspace, style: library.Style) -> tuple[str, str, str] | None:
    """One picture before and after training, from the same noise, with its prompt."""
    found = import_export.before_and_after(workspace, style)
    if found is None:
        return None
    try:
        return address(found[0], HERO), address(found[1], HERO), found[2]
    except DataError:
        return None


def _choice(key: str, text: str) -> str:
    """A field that a shared file may hold, in words."""
    shown = text[:LONGEST_CHOICE] + ("…" if len(text) > LONGEST_CHOICE else "")
    return f"{key.rpartition('.')[2].replace('_', ' ')}: {shown}"


def _card_fields(style: library.Style, read: Style, said: Card) -> tuple[str, ...]:
    """The card as the form shows it, filled up from the file's own metadata, and the same once more
    as JSON.
    """
    shown = Card(
        said.title or style.name,
        said.licence or read.metadata.get("modelspec.license", ""),
        said.credit or read.metadata.get("modelspec.author", ""),
        said.notes,
        said.folder,
        said.tags,
    )
    return (*astuple(shown), json.dumps(asdict(shown)))


def _facts(style: library.Style, read: Style, said: Card) -> dict[str, str]:
    """What there is to know at a glance, label -> value."""
    return {
        "Trigger word": style.trigger,
        "Works with": bases().get(read.family, "an unknown base"),
        "Trained on": Path(style.base).name,
        "Rank": read.ranks,
        "Layers": str(len(read.modules)),
        "Contains": ", ".join(read.kinds),
        "Size": f"{style.path.stat().st_size / 1e6:.1f} MB, {read.dtype}",
        "Created": time.strftime("%Y-%m-%d %H:%M", time.localtime(style.path.stat().st_mtime)),
        "Licence": said.licence or read.metadata.get("modelspec.license", ""),
        "Credit": said.credit or read.metadata.get("modelspec.author", ""),
        "Notes": said.notes,
        "Folder": said.folder,
        "Tags": ", ".join(said.each_tag),
    }
