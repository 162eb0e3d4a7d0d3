"""Which event of the Train tab calls which handler."""

from __future__ import annotations

import json
from typing import Any, cast

import gradio as gr

from studio.page.handlers import LAST, PICKED, PRIVATE, QUIET
from studio.page.scripts import script
from studio.page.tabs.train.components import Form, Parts
from studio.page.tabs.train.form import OF_THE_BASE, values_by_base
from studio.page.tabs.train.handlers import Handlers


def connect(parts: Parts, handlers: Handlers, page: gr.Blocks, tab: gr.Tab) -> None:
    """Give every event its handler."""
    form, view = parts.form, parts.view
    look: dict[str, Any] = {
        "fn": handlers.look,
        "inputs": [view.run, view.sent],
        "outputs": [*view.followed.values(), view.sent],
        **QUIET,
    }
    _fill(form, handlers, page, tab)
    gr.on(
        [page.load, tab.select],
        handlers.open_tab,
        [view.run, form.dataset],
        [view.run, form.dataset],
        **QUIET,
    ).then(**look)
    gr.on([view.follower.tick, view.run.input], **look)
    asked = [view.run, parts.wrong, *parts.asking.shown]
    parts.start.click(handlers.start, form.inputs, asked, **QUIET).success(**look)
    parts.asking.yes.click(handlers.start_anyway, form.inputs, asked, **QUIET).success(**look)
    parts.measure.click(handlers.measure, form.inputs, [parts.plan, parts.wrong], **PRIVATE)
    _look_before(parts, handlers, tab)
    view.resume.click(handlers.resume, view.run, view.run, **QUIET).success(**look)
    ends = view.ending.shown
    view.stop.click(handlers.stop, view.run, ends, **QUIET).success(**look)
    view.ending.yes.click(handlers.end_now, view.run, ends, **QUIET).success(**look)
    view.pause.click(handlers.pause, view.run, None, **QUIET).success(**look)
    view.draw.click(handlers.draw_now, view.run, None, **QUIET)
    view.save.click(handlers.save_now, view.run, None, **QUIET)
    view.queue.click(handlers.act_on_job, view.run, view.run, **QUIET).success(**look)
    view.queue.select(handlers.choose_run, None, view.run, **PICKED).success(**look)
    view.use.click(handlers.use_recommended, view.run, None, **QUIET).success(**look)
    view.compare.click(handlers.compare, view.run, None, **QUIET).success(
        None, None, None, js=script("open_compare")
    )
    view.reuse.click(handlers.from_a_run, view.run, form.outputs, **QUIET)
    view.go_on.click(handlers.go_on, view.run, form.outputs, **QUIET)


def _look_before(parts: Parts, handlers: Handlers, tab: gr.Tab) -> None:
    """The list before Start: it follows the form, and what it offers changes the form."""
    form, fields = parts.form, parts.form.fields
    check: dict[str, Any] = {
        "inputs": form.inputs,
        "outputs": parts.preflight,
        **LAST,
    }
    typed = [cast(gr.Textbox, fields[key]) for key in ("save.name", "base.model")]
    numbers = [cast(gr.Number, fields[key]) for key in ("optim.steps", "optim.batch_size")]
    kinds = [cast(gr.Dropdown, fields[key]) for key in ("base.storage", "base.dtype")]
    trigger = cast(gr.Textbox, fields["data.trigger"])
    side = cast(gr.Number, fields["data.resolution"])
    changed = [part.change for part in (form.dataset, trigger, side, *numbers, *kinds)]
    gr.on([tab.select, *changed, *(part.blur for part in typed)], handlers.check, **check).then(
        handlers.check_memory, **check, concurrency_limit=1
    )
    parts.preflight.click(handlers.put_right, form.inputs, [*fields.values()], **QUIET).then(
        handlers.check, **check
    )


def follow(parts: Parts, handlers: Handlers, in_view: gr.Textbox) -> None:
    """Take the dataset that is opened in another tab. in_view: its name."""
    in_view.change(handlers.follow_pictures, in_view, parts.form.dataset, **QUIET)


def _fill(form: Form, handlers: Handlers, page: gr.Blocks, tab: gr.Tab) -> None:
    """What fills the form."""
    model = cast(gr.Textbox, form.fields["base.model"])
    page.load(handlers.first_values, None, form.outputs, **QUIET)
    tab.select(handlers.from_a_style, None, form.outputs, **QUIET)
    gr.on(
        [knob.input for knob in form.knobs],
        handlers.choose_preset,
        [*form.knobs, model],
        [*form.fields.values()],
        **LAST,
    )
    # What a preset chose for one kind of base gives way to what it chooses for the other; what
    # somebody changed stays
    by_base = [form.fields[key] for key in OF_THE_BASE]
    model.change(
        None,
        [*form.knobs, model, *by_base],
        by_base,
        js=f"({script('train_keep_up')})({json.dumps(values_by_base())})",
        **QUIET,
    )
