"""A question that is asked before something is done that cannot be undone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.blocks import Block, BlockContext
from gradio.components import Component

from studio.page.handlers import PLAIN, QUIET
from studio.page.templates import render


@dataclass(frozen=True)
class Asking:
    """row: shown while it asks; yes, no: the answers."""

    row: gr.Column
    words: gr.HTML
    yes: gr.Button
    no: gr.Button

    @property
    def shown(self) -> list[Component | BlockContext]:
        return [self.row, self.words]

    def asks(self, *lines: str) -> dict[Block, Any]:
        """Ask, or ask nothing any more where there are no lines."""
        words = render("lines", lines=lines) if lines else ""
        return {self.row: gr.Column(visible=bool(lines)), self.words: words}


def asking(name: str, *, yes: str, no: str, variant: Any = "secondary") -> Asking:
    """Lay one out, not yet shown. name: begins its elem_ids; yes, no: the answers' labels."""
    with gr.Column(visible=False, elem_id=f"{name}-asking", elem_classes="asking") as row:
        words = gr.HTML(elem_id=f"{name}-asks", elem_classes="asks", **PLAIN)
        with gr.Row():
            small: dict[str, Any] = {"size": "sm", "min_width": 120}
            does = gr.Button(yes, elem_id=f"{name}-yes", variant=variant, **small)
            cancels = gr.Button(no, elem_id=f"{name}-no", **small)
    made = Asking(row, words, does, cancels)
    cancels.click(lambda: made.asks(), None, made.shown, **QUIET)
    return made
