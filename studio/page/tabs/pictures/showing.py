"""What the Dataset tab's handlers answer: a dataset as a window shows it, one of its pictures."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.blocks import Block

from studio.datasets.collection import choices
from studio.page.tabs.pictures import rendering
from studio.page.tabs.pictures.components import Parts
from studio.page.tabs.pictures.gallery import Gallery
from training.storage.paths import Workspace

CHANGE = "change"  # what the line at the bottom takes back: the last change of a dataset
Answer = dict[Block, Any]


class Showing:
    """Answers of one page, keyed by component."""

    def __init__(self, workspace: Workspace, parts: Parts, gallery: Gallery) -> None:
        self.workspace = workspace
        self.parts = parts
        self.gallery = gallery

    def listed(self, name: str | None, model: str, request: gr.Request | None) -> Answer:
        """Another dataset, with the list of them all."""
        return {
            self.parts.dataset: gr.Dropdown(choices=choices(self.workspace), value=name),
            self.parts.in_view: name or "",
            **self.dataset(name, model, request=request),
        }

    def dataset(
        self,
        name: str | None,
        model: str,
        at: str = "",
        request: gr.Request | None = None,
    ) -> Answer:
        of = self.gallery.filter_of(request)
        found = rendering.dataset(self.workspace, name, model, at, of)
        undo = f"Undo: {found.undo}" if found.undo else "Undo"
        return {
            self.parts.summary: found.summary,
            self.parts.gallery.thumbnails: found.thumbnails,
            self.parts.gallery.tags: found.tags,
            self.parts.undo: gr.Button(undo, visible=found.undo is not None),
            self.parts.redo: gr.Button(
                f"Redo: {found.redo}" if found.redo else "Redo", visible=found.redo is not None
            ),
            **self._shown(found.picture),
        }

    def changed(
        self, name: str | None, model: str, at: str, request: gr.Request | None, done: str
    ) -> Answer:
        """The dataset after a change. done: what was done, which the line at the bottom takes back;
        "" for nothing.
        """
        said = self.parts.snackbar.says(done, CHANGE) if done else {}
        return {**self.dataset(name, model, at, request), **said}

    def picture(self, name: str | None, at: str, model: str) -> Answer:
        return self._shown(rendering.picture(self.workspace, name, at, model))

    def _shown(self, picture: rendering.Picture) -> Answer:
        parts = self.parts.picture
        return {
            parts.desk: picture.desk,
            parts.of: picture.of,
            parts.before: picture.caption,
            **parts.conflict.asks(),
            parts.caption: gr.Textbox(
                picture.caption,
                placeholder=picture.placeholder,
                interactive=bool(picture.of),
            ),
            parts.tokens: picture.tokens,
        }


def event_text(event: gr.EventData, key: str) -> str:
    """What the page says was clicked; it may say anything."""
    return str(event._data.get(key, ""))


def name_in(of: str | None) -> str:
    """The picture's name in dataset/name."""
    return (of or "").partition("/")[2]
