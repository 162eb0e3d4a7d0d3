"""What the Styles tab's events do; answers are keyed by component. studio.library does the
work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from studio.library import import_export, library, preferences, publishing
from studio.library.cards import Card, card, card_of, merged, write_card
from studio.page.handlers import made, shows_errors
from studio.page.latest import Latest
from studio.page.tabs.styles import rendering
from studio.page.tabs.styles.components import HIDDEN, Parts
from studio.page.views import styles as views
from studio.server import uploads
from training.storage.paths import Workspace
from training.style_files.reading import read_style

Answer = dict[Block, Any]


class Handlers:
    """Handlers of one page."""

    def __init__(self, workspace: Workspace, parts: Parts) -> None:
        self.workspace = workspace
        self.parts = parts
        self.latest = Latest()

    @shows_errors
    def open_tab(self, id: str, searched: str, request: gr.Request | None = None) -> Answer:
        return self._all(id, searched, request, shown=id)

    @shows_errors
    def choose(
        self, shown: str, searched: str, event: gr.EventData, request: gr.Request | None = None
    ) -> Answer:
        id = library.style(self.workspace, str(event._data.get("at", ""))).id
        self.latest.choose(id, request)
        return self._all(id, searched, request, shown=shown)

    @shows_errors
    def find(self, id: str, searched: str) -> str:
        return rendering.listing(self.workspace, id, searched)

    @shows_errors
    def find_tag(self, id: str, event: gr.EventData) -> Answer:
        """Search for a tag, or for nothing."""
        tag = str(event._data.get("tag") or "")
        searched = f"#{tag}" if tag else ""
        return {self.parts.search: searched, self.parts.listing: self.find(id, searched)}

    @shows_errors
    def compare(self, id: str, other: str | None) -> str:
        return rendering.differences(self.workspace, id, other)

    @shows_errors
    def bring(self, files: list[str] | None, id: str, request: gr.Request | None = None) -> Answer:
        done = import_export.bring(self.workspace, [Path(f) for f in files or []])
        uploads.used(files or [])
        first = done.kept[0][0] if done.kept else id
        names = {style.id: style.name for style in library.styles(self.workspace)}
        if done.kept:
            self.latest.choose(first, request)
        return {
            self.parts.drop: None,
            self.parts.report: views.brought(done, names),
            self.parts.search: "",
            **self._all(first, "", request, shown=id),
        }

    @shows_errors
    def save_card(
        self, id: str, searched: str, request: gr.Request | None, *fields: str | None
    ) -> Answer:
        """Save what was typed. fields: of the card's form, what it was filled with last."""
        *typed, before = (text or "" for text in fields)
        style = library.style(self.workspace, id)
        saved = merged(card(style.path), typed=Card(*typed), shown=card_of(before))
        write_card(style.path, saved)
        gr.Info("Saved.")
        return self._all(id, searched, request)

    @shows_errors
    def show_published(self, id: str, kept: list[str]) -> Answer:
        style = library.style(self.workspace, id)
        fields = publishing.published_fields(read_style(style.path), card(style.path), kept)
        return {
            self.parts.sharing.published: views.published(fields),
            self.parts.sharing.download: gr.DownloadButton(**HIDDEN),
        }

    @shows_errors
    def publish(self, id: str, form: str, kept: list[str]) -> Any:
        style = library.style(self.workspace, id)
        picture = next((path for path, _ in import_export.pictures(self.workspace, style, 1)), None)
        name, content = publishing.made(
            style.path, card(style.path), publishing.FORMS[form], kept, picture
        )
        label = f"Download {name} ({len(content) / 1e6:.1f} MB)"
        return gr.DownloadButton(label, value=made(name, content), visible=True)

    @shows_errors
    def use(self, id: str) -> None:
        """Let Create be filled with this style."""
        preferences.create_with(self.workspace, library.style(self.workspace, id).id)

    @shows_errors
    def go_on(self, id: str) -> None:
        """Let the training form be filled for going on from this style."""
        preferences.go_on_from(self.workspace, library.style(self.workspace, id).id)

    @shows_errors
    def delete(self, id: str, searched: str, request: gr.Request | None = None) -> Answer:
        """Delete it, and choose no other: the next one would stand under the same button."""
        name = import_export.take_away(self.workspace, id)
        self.latest.choose("", request)
        return {
            **self._all("", searched, request, shown="", chooses=False),
            **self.parts.snackbar.says(f"Deleted “{name}”.", name),
        }

    @shows_errors
    def bring_back(self, id: str, searched: str, request: gr.Request | None = None) -> Answer:
        back = import_export.bring_back(self.workspace)
        found = next((s.id for s in library.styles(self.workspace) if s.name == back), id)
        self.latest.choose(found, request)
        return {
            **self._all(found, searched, request, shown=id),
            **self.parts.snackbar.is_silent(),
        }

    def _all(
        self,
        id: str,
        searched: str,
        request: gr.Request | None,
        *,
        shown: str | None = None,
        chooses: bool = True,
    ) -> Answer:
        """The library and the chosen style, the first one when that is gone, or none. Only the
        library when this window has chosen another style meanwhile, whose own answer shows it.

        shown: id of the style whose card the page shows; what is being typed about it stays, while
        another style's card replaces it.
        """
        if (latest := self.latest.choice(request)[1]) not in ("", id):
            return self._library(latest, searched)
        parts, listing = self.parts, library.styles(self.workspace)
        first = listing[0] if listing and chooses else None
        style = next((s for s in listing if s.id == id), first)
        at = style.id if style else ""
        self.latest.choose(at, request)
        taken = import_export.last_taken(self.workspace)
        answer: Answer = {
            parts.chosen: at,
            parts.listing: rendering.listing(self.workspace, at, searched),
            parts.undo: gr.Button(
                f"Restore “{taken}”" if taken else "Restore", visible=taken is not None
            ),
            **self._one(rendering.one(self.workspace, style, any_there=bool(listing))),
            parts.recipes.other: gr.Dropdown(
                choices=rendering.others(self.workspace, style), value=None
            ),
            parts.recipes.differences: "",
        }
        if (latest := self.latest.choice(request)[1]) != at:
            return self._library(latest, searched)
        if at and at == shown:
            return {part: value for part, value in answer.items() if part not in parts.card.fields}
        return answer

    def _library(self, id: str, searched: str) -> Answer:
        """The library alone."""
        return {self.parts.listing: rendering.listing(self.workspace, id, searched)}

    def _one(self, shown: rendering.Shown) -> Answer:
        """What shows the chosen style."""
        parts, sharing = self.parts, self.parts.sharing
        return {
            parts.detail: shown.detail,
            parts.actions: gr.Column(visible=shown.can_act),
            **dict(zip(parts.card.fields, shown.card, strict=True)),
            sharing.kept: gr.CheckboxGroup(choices=list(shown.choices), value=list(shown.kept)),
            sharing.published: shown.published,
            sharing.download: gr.DownloadButton(**HIDDEN),
            parts.remove: gr.Button(shown.delete),
            parts.style_report: shown.report,
        }
