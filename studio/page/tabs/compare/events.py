"""Which event of the Compare tab calls which handler."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import gradio as gr

from studio.page.handlers import LAST, PICKED, QUIET
from studio.page.scripts import script
from studio.page.tabs.compare.components import Form, Parts
from studio.page.tabs.compare.handlers import Handlers

# A style's base, prompts and guidance, taken in the browser: what was typed stays, also what was
# typed while the answer was under way
TAKE = script("compare_take")


def connect(parts: Parts, handlers: Handlers, page: gr.Blocks, tab: gr.Tab) -> None:
    """Give every event its handler."""
    form, view, chosen = parts.form, parts.view, parts.chosen
    seen = [chosen, parts.search]
    look: dict[str, Any] = {
        "fn": handlers.look,
        "inputs": seen,
        "outputs": [*view.followed.values()],
        **QUIET,
    }
    _fill(parts, form, handlers, page, tab)
    page.load(handlers.newest, None, chosen, **QUIET).then(**look)
    begun = [form.seeds, chosen]
    parts.draw.click(handlers.draw, [parts.lock, *form.inputs], begun, **QUIET).success(**look)
    parts.reseed.click(handlers.draw_with_new_seeds, form.inputs, begun, **QUIET).success(**look)
    view.stop.click(handlers.stop, chosen, None, **QUIET).success(**look)
    view.follower.tick(**look)
    view.past.select(handlers.choose, None, chosen, **PICKED).then(**look)
    view.grid.submit(handlers.reveal, seen, [*view.followed.values()], **QUIET)
    parts.search.change(handlers.find, seen, view.past, **LAST)


def _fill(parts: Parts, form: Form, handlers: Handlers, page: gr.Blocks, tab: gr.Tab) -> None:
    """What fills the form."""
    first = cast(gr.Dropdown, form.pickers[0])
    opened = gr.on(
        [page.load, tab.select],
        handlers.open_tab,
        [parts.offered, *form.pickers],
        [parts.offered, form.base, *handlers.numbers, form.styles[0].strengths, *form.pickers],
        **QUIET,
    )
    for event in (opened.then, first.input):
        event(handlers.suggest, [first, form.base], parts.suggested, **LAST).success(
            None,
            [parts.suggested, form.base, form.prompts, form.guidance, parts.taken],
            [form.base, form.prompts, form.guidance, parts.taken],
            js=TAKE,
            **QUIET,
        )
    first.input(handlers.forget_offered, None, parts.offered, **LAST)
    parts.more.click(handlers.add_row, form.count, [parts.more, *form.shown_rows], **QUIET)
    for number, row in enumerate(form.styles):
        row.remove.click(
            partial(handlers.remove_row, number),
            [form.count, *form.rows],
            [parts.more, *form.rows, *form.shown_rows],
            **QUIET,
        )
    gr.on(
        [cast(gr.Dropdown, picker).change for picker in form.pickers],
        handlers.name_weights,
        form.pickers,
        [row.weight for row in form.styles],
        **LAST,
    )
    parts.checkpoints.click(
        handlers.spread_checkpoints, first, [*form.pickers, *form.shown_rows], **QUIET
    )
    parts.keep_mix.click(handlers.keep_mix, form.mix, form.pickers, **QUIET)
    parts.view.reuse.click(handlers.reuse, parts.chosen, form.outputs, **QUIET)
    parts.drop.upload(handlers.reload, parts.drop, [parts.drop, *form.outputs], **PICKED)
