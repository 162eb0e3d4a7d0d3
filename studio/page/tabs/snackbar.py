"""A line at the bottom of the window that says what was just done, with a button that undoes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.blocks import Block

from studio.page.handlers import PLAIN, QUIET
from studio.page.templates import note


@dataclass(frozen=True)
class Snackbar:
    """row: shown while there is something to say; undoes: what its button takes back, for the tab's
    handler.
    """

    row: gr.Row
    words: gr.HTML
    undo: gr.Button
    close: gr.Button
    undoes: gr.State

    @property
    def shown(self) -> list[Block]:
        return [self.row, self.words, self.undoes]

    def says(self, words: str, undoes: str) -> dict[Block, Any]:
        """Show what was done."""
        return {self.row: gr.Row(visible=True), self.words: note(words), self.undoes: undoes}

    def is_silent(self) -> dict[Block, Any]:
        """Say nothing any more."""
        return {self.row: gr.Row(visible=False), self.words: "", self.undoes: ""}


def snackbar(name: str) -> Snackbar:
    """Lay one out. name: of the tab, which begins its elem_ids."""
    with gr.Row(
        visible=False, elem_id=f"{name}-snackbar", elem_classes="snackbar", equal_height=True
    ) as row:
        words = gr.HTML(elem_id=f"{name}-done", **PLAIN)
        small: dict[str, Any] = {"size": "sm", "min_width": 70, "scale": 0}
        undo = gr.Button("Undo", elem_id=f"{name}-undo", **small)
        close = gr.Button("Close", elem_id=f"{name}-close", **small)
    bar = Snackbar(row, words, undo, close, gr.State(""))
    close.click(bar.is_silent, None, bar.shown, **QUIET)
    return bar
