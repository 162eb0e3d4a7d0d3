"""What the Compare tab is laid out of. Knows no handlers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from studio.page import polling
from studio.page.tabs.compare.form import GUIDANCE, MOST_IN_MIX, MOST_STYLES
from studio.page.templates import note
from studio.page.views import compare as views
from studio.server.gradio_patches import CHANGING

ABOUT_STRENGTHS = (
    "Strength 1 is the style as trained, 0 the base model. Separate several with commas."
)
ABOUT_MIX = "Styles with a weight above 0 are blended in one more column."
SMALL: dict[str, Any] = {"size": "sm", "min_width": 120}


@dataclass(frozen=True)
class StyleRow:
    """A style that can be chosen. columns: what is shown and hidden with it."""

    picker: gr.Dropdown
    strengths: gr.Textbox
    remove: gr.Button
    weight: gr.Slider
    columns: tuple[gr.Column, gr.Column]


@dataclass(frozen=True)
class Form:
    """What a comparison is drawn with. count: how many rows of styles are shown."""

    base: gr.Dropdown
    styles: tuple[StyleRow, ...]
    prompts: gr.Textbox
    seeds: gr.Textbox
    steps: gr.Number
    guidance: gr.Number
    size: gr.Number
    count: gr.State

    @property
    def inputs(self) -> list[Component]:
        """In the order that form.values_from takes."""
        numbers = [self.seeds, self.steps, self.guidance, self.size]
        return [self.base, self.prompts, *numbers, *self.rows]

    @property
    def outputs(self) -> list[Block]:
        return [*self.inputs, *self.shown_rows]

    @property
    def pickers(self) -> list[Component]:
        return [row.picker for row in self.styles]

    @property
    def shown_rows(self) -> list[Block]:
        """What says which rows are shown."""
        parts: list[Block] = [self.count]
        for row in self.styles:
            parts += [*row.columns, row.remove]
        return parts

    @property
    def rows(self) -> list[Component]:
        """Picker, strengths and weight of every row, in turn."""
        parts: list[Component] = []
        for row in self.styles:
            parts += [row.picker, row.strengths, row.weight]
        return parts

    @property
    def mix(self) -> list[Component]:
        """Picker and weight of every row, in turn."""
        parts: list[Component] = []
        for row in self.styles:
            parts += [row.picker, row.weight]
        return parts


@dataclass(frozen=True)
class View:
    """What shows a comparison and those before it."""

    status: gr.HTML
    grid: gr.HTML
    download: gr.DownloadButton
    reuse: gr.Button
    stop: gr.Button
    past: gr.HTML
    follower: gr.HTML

    @property
    def followed(self) -> dict[str, Component]:
        """Its components by name."""
        return dict(vars(self))


@dataclass(frozen=True)
class Parts:
    """The tab's components. chosen: the shown comparison's name; suggested: what goes with the
    first style, as JSON; taken: what of it stands in the form; offered: the style that stands first
    and was chosen by nobody.
    """

    form: Form
    more: gr.Button
    checkpoints: gr.Button
    keep_mix: gr.Button
    lock: gr.Checkbox
    draw: gr.Button
    reseed: gr.Button
    view: View
    search: gr.Textbox
    drop: gr.File
    chosen: gr.Textbox
    suggested: gr.Textbox
    taken: gr.Textbox
    offered: gr.State


def components() -> Parts:
    """Lay the tab out: the form on the left, the comparison on the right."""
    with gr.Row(elem_classes="desk-row"):
        with gr.Column(scale=2, min_width=320, elem_classes="inspector"):
            base = gr.Dropdown(
                ["mini"],
                value="mini",
                label="Base model",
                info="A built-in or downloaded model, a file or a Hub name",
                allow_custom_value=True,
                elem_id="compare-base",
            )
            styles, more, checkpoints, keep_mix = _styles()
            prompts = gr.Textbox(
                "",
                label="Prompts",
                info="One per line. The trigger word is added for you.",
                lines=4,
                placeholder="a red apple",
                elem_id="compare-prompts",
            )
            numbers = _numbers()
            lock = gr.Checkbox(
                True,
                label="Keep seeds",
                info="Off uses new seeds each time",
                elem_id="lock-seeds",
            )
            with gr.Row(elem_classes="foot"):
                draw = gr.Button("Generate", variant="primary", elem_id="draw")
                reseed = gr.Button("New seeds", elem_id="reseed")
                stop = gr.Button("Stop", variant="stop", visible=False, elem_id="stop-drawing")
        with gr.Column(scale=3, min_width=320, elem_classes="canvas"):
            view, search, drop = _view(stop)
    form = Form(base, styles, prompts, *numbers, gr.State(1))
    nothing = json.dumps({"prompts": "", "guidance": GUIDANCE})
    return Parts(
        form=form,
        more=more,
        checkpoints=checkpoints,
        keep_mix=keep_mix,
        lock=lock,
        draw=draw,
        reseed=reseed,
        view=view,
        search=search,
        drop=drop,
        chosen=gr.Textbox("", visible="hidden", elem_id="comparison"),
        suggested=gr.Textbox("", visible="hidden"),
        taken=gr.Textbox(nothing, visible="hidden"),
        offered=gr.State(""),
    )


def _styles() -> tuple[tuple[StyleRow, ...], gr.Button, gr.Button, gr.Button]:
    """The rows of styles with their strengths, below them the weights of a mix; the buttons."""
    rows = [_style(number) for number in range(1, MOST_STYLES + 1)]
    gr.HTML(note(ABOUT_STRENGTHS))
    with gr.Row():
        more = gr.Button("Add style", elem_id="more-styles", **SMALL)
        checkpoints = gr.Button("Compare checkpoints", elem_id="checkpoints", **SMALL)
    with gr.Accordion("Mix styles", open=False, elem_id="mix"):
        gr.HTML(note(ABOUT_MIX))
        weights = [_weight(number) for number in range(1, MOST_STYLES + 1)]
        keep_mix = gr.Button("Save mix as a style", size="sm", elem_id="keep-mix")
    styles = tuple(
        StyleRow(picker, strengths, remove, weight, (column, of_mix))
        for (picker, strengths, remove, column), (weight, of_mix) in zip(rows, weights, strict=True)
    )
    return styles, more, checkpoints, keep_mix


def _style(number: int) -> tuple[gr.Dropdown, gr.Textbox, gr.Button, gr.Column]:
    with gr.Column(visible=number == 1, min_width=320) as column, gr.Row():
        picker = gr.Dropdown(
            [],
            value=None,
            label=f"Style {number}",
            elem_id=f"style-{number}",
            elem_classes=CHANGING,
            interactive=True,
            scale=3,
            min_width=200,
        )
        strengths = gr.Textbox(
            "1",
            label="Strengths",
            max_lines=1,
            placeholder="0.5, 1",
            scale=1,
            min_width=110,
            elem_id=f"strength-{number}",
        )
        remove = gr.Button(
            "Remove",
            visible=False,
            size="sm",
            scale=0,
            min_width=76,
            elem_id=f"remove-style-{number}",
            elem_classes="remove-row",
        )
    return picker, strengths, remove, column


def _weight(number: int) -> tuple[gr.Slider, gr.Column]:
    """The weight of a row's style in the mix."""
    words: dict[str, Any] = {"label": f"Style {number}", "elem_id": f"mix-{number}"}
    with gr.Column(visible=number == 1) as column:
        weight = gr.Slider(0, MOST_IN_MIX, value=0, step=0.05, **words)
    return weight, column


def _numbers() -> tuple[gr.Textbox, gr.Number, gr.Number, gr.Number]:
    """Seeds, steps, guidance, size."""
    with gr.Row():
        seeds = gr.Textbox(
            "0",
            label="Seeds",
            info="Separate with commas",
            max_lines=1,
            min_width=120,
            elem_id="compare-seeds",
        )
        steps = gr.Number(
            25,
            label="Steps",
            info="Sampling steps",
            precision=0,
            min_width=120,
            elem_id="compare-steps",
        )
    with gr.Row():
        guidance = gr.Number(
            GUIDANCE, label="Guidance", info="1 is off", min_width=120, elem_id="compare-guidance"
        )
        size = gr.Number(
            0,
            label="Size (px)",
            info="0 is the model’s own",
            precision=0,
            min_width=120,
            elem_id="compare-size",
        )
    return seeds, steps, guidance, size


def _view(stop: gr.Button) -> tuple[View, gr.Textbox, gr.File]:
    """The comparison, a search among those before, and a grid to draw again."""
    small: dict[str, Any] = {"size": "sm", "visible": False}
    bare: dict[str, Any] = {"apply_default_css": False}
    status = gr.HTML(elem_id="compare-status", padding=False)
    grid = gr.HTML(elem_id="grid", js_on_load=views.LOOK, **bare)
    with gr.Row():
        download = gr.DownloadButton("Download grid", elem_id="download-grid", **small)
        reuse = gr.Button("Reuse settings", elem_id="reuse-comparison", **small)
    with gr.Accordion("History", open=True, elem_id="before"):
        search = gr.Textbox(
            "",
            label="Search",
            placeholder="a prompt or a style",
            max_lines=1,
            elem_id="search-past",
        )
        past = gr.HTML(elem_id="past", js_on_load=views.PICK, **bare)
    drop = gr.File(
        label="Drop a downloaded grid to reuse its settings",
        file_types=[".png"],
        height=140,
        elem_id="reload-grid",
    )
    follower = polling.follower(elem_id="follows-drawing")
    return View(status, grid, download, reuse, stop, past, follower), search, drop
