"""Which event of the Create tab calls which handler."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.blocks import Block

from studio.page.handlers import LAST, PICKED, QUIET
from studio.page.tabs.create.components import Parts
from studio.page.tabs.create.handlers import Handlers

# A moved slider does not wait for the image before: the server gives that up
AT_ONCE: dict[str, Any] = {**QUIET, "trigger_mode": "multiple", "concurrency_limit": 8}


def connect(parts: Parts, handlers: Handlers, page: gr.Blocks, tab: gr.Tab) -> None:
    """Give every event its handler."""
    form, shown = parts.form, parts.shown
    image: list[Block] = [shown, parts.image, parts.slider, parts.actions, parts.favourite]
    image += [parts.download, parts.note, form.change, form.strength, parts.history]
    drawn = [*image, parts.series, parts.stop]
    gr.on(
        [page.load, tab.select],
        handlers.open_tab,
        [form.style, form.prompt, shown, parts.only],
        [form.style, form.base, form.prompt, form.guidance, parts.history],
        **QUIET,
    )
    form.style.input(
        handlers.choose_style,
        [form.style, form.prompt],
        [form.base, form.guidance, form.prompt],
        **LAST,
    )
    own = [parts.drop, form.source, form.mask, parts.own, parts.forget, form.shape]
    parts.drop.upload(handlers.take, parts.drop, own, **PICKED)
    parts.forget.click(handlers.forget, None, [*own, parts.series], **QUIET)
    parts.own.submit(handlers.paint, None, form.mask, **QUIET)
    parts.draw.click(handlers.draw, form.inputs, drawn, **AT_ONCE)
    parts.again.click(handlers.draw_again, form.inputs, [*drawn, form.seed], **AT_ONCE)
    parts.slider.input(handlers.slide, shown, drawn, **AT_ONCE)
    parts.stop.click(handlers.stop, None, parts.stop, **QUIET)
    for listing in (parts.history, parts.series):
        listing.select(handlers.choose, None, image, **PICKED)
    parts.only.input(handlers.find, [shown, parts.only], parts.history, **LAST)
    parts.favourite.click(handlers.favour, [shown, parts.only], image, **QUIET)
    gr.on(
        # gradio 6.31 passes over the first change of a field that has just appeared
        [parts.note.input, parts.note.blur, parts.note.submit],
        handlers.write_note,
        [shown, parts.note],
        None,
        **LAST,
    )
    filled = [*form.inputs, *own, parts.slider]
    parts.reuse.click(handlers.reuse, shown, list(dict.fromkeys(filled)), **QUIET)
