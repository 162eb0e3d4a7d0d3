"""What the Create tab is laid out of. Knows no handlers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from studio.drawing.request import SHAPES, SQUARE
from studio.page import words
from studio.page.handlers import PLAIN
from studio.page.views import create as views
from studio.server.gradio_patches import CHANGING
from training.samplers import OWN, SAMPLERS

BARE: dict[str, Any] = {"apply_default_css": False}


@dataclass(frozen=True)
class Form:
    """What an image is drawn from. strength: of the style, which the slider sets; change: of the
    picture to begin with, of the image that is shown; source, mask: ids.
    """

    style: gr.Dropdown
    prompt: gr.Textbox
    shape: gr.Dropdown
    base: gr.Dropdown
    negative: gr.Textbox
    seed: gr.Number
    steps: gr.Number
    guidance: gr.Number
    sampler: gr.Dropdown
    strength: gr.Textbox
    change: gr.Textbox
    source: gr.Textbox
    mask: gr.Textbox

    @property
    def inputs(self) -> list[Component]:
        """In the order of handlers.FIELDS."""
        return [*vars(self).values()]


@dataclass(frozen=True)
class Parts:
    """The tab's components. shown: id of the image that is shown."""

    form: Form
    drop: gr.File
    forget: gr.Button
    own: gr.HTML
    draw: gr.Button
    again: gr.Button
    stop: gr.Button
    image: gr.HTML
    slider: gr.HTML
    series: gr.HTML
    actions: gr.Row
    favourite: gr.Button
    download: gr.DownloadButton
    reuse: gr.Button
    note: gr.Textbox
    only: gr.Checkbox
    history: gr.HTML
    shown: gr.Textbox


def components() -> Parts:
    """Lay the tab out: the form on the left, the image on the right."""
    with gr.Row(elem_classes="desk-row"):
        with gr.Column(scale=2, min_width=320, elem_classes="inspector"):
            form, parts = _form()
            with gr.Row(elem_classes="foot"):
                parts["draw"] = gr.Button("Generate", variant="primary", elem_id="create-draw")
                parts["again"] = gr.Button("New seed", elem_id="create-again")
                parts["stop"] = gr.Button(
                    "Stop", variant="stop", visible=False, elem_id="create-stop"
                )
        with gr.Column(scale=3, min_width=320, elem_classes="canvas"):
            parts |= _canvas()
    return Parts(form=form, **parts)


def _said(name: str) -> dict[str, Any]:
    label, hint = words.CREATE[name]
    return {"label": label, "info": hint or None, "elem_id": f"create-{name}"}


def _form() -> tuple[Form, dict[str, Any]]:
    """The form, and the parts beside it that are no input."""
    changing: dict[str, Any] = {"elem_classes": CHANGING, "interactive": True}
    style = gr.Dropdown([], value=None, **_said("style"), **changing)
    prompt = gr.Textbox("", lines=3, placeholder="a red apple", **_said("prompt"))
    drop = gr.File(
        label=words.CREATE["source"][0],
        file_types=[".png", ".jpg", ".jpeg", ".webp"],
        height=150,
        elem_id="create-drop",
    )
    own = gr.HTML(elem_id="create-own", js_on_load=views.PAINT, **BARE)
    forget = gr.Button("Remove picture", size="sm", visible=False, elem_id="create-forget")
    shape = gr.Dropdown([*SHAPES], value=SQUARE, **_said("shape"), interactive=True)
    with gr.Accordion("Advanced settings", open=False, elem_id="create-more"):
        base = gr.Dropdown(["mini"], value="mini", allow_custom_value=True, **_said("base"))
        negative = gr.Textbox("", max_lines=2, **_said("negative"))
        seed = gr.Number(0, precision=0, **_said("seed"))
        steps = gr.Number(25, precision=0, **_said("steps"))
        guidance = gr.Number(5, **_said("guidance"))
        sampler = gr.Dropdown([OWN, *SAMPLERS], value=OWN, **_said("sampler"))
    hidden: dict[str, Any] = {"visible": "hidden"}
    form = Form(
        style=style,
        prompt=prompt,
        shape=shape,
        base=base,
        negative=negative,
        seed=seed,
        steps=steps,
        guidance=guidance,
        sampler=sampler,
        strength=gr.Textbox("1", elem_id="create-strength-of", **hidden),
        change=gr.Textbox("0.6", elem_id="create-change-of", **hidden),
        source=gr.Textbox("", elem_id="create-source-of", **hidden),
        mask=gr.Textbox("", elem_id="create-mask-of", **hidden),
    )
    return form, {"drop": drop, "own": own, "forget": forget}


def _canvas() -> dict[str, Any]:
    """The image, the slider below it, the other strengths, what can be done, and the history."""
    small: dict[str, Any] = {"size": "sm", "min_width": 120}
    image = gr.HTML(views.nothing_yet(), elem_id="create-image", **PLAIN)
    slider = gr.HTML(elem_id="create-strength", js_on_load=views.SLIDE, **BARE)
    series = gr.HTML(elem_id="create-series", js_on_load=views.PICK, **BARE)
    with gr.Row(visible=False, elem_id="create-actions") as actions:
        favourite = gr.Button("Add to favourites", elem_id="create-favourite", **small)
        download = gr.DownloadButton("Download", elem_id="create-download", **small)
        reuse = gr.Button("Reuse settings", elem_id="create-reuse", **small)
        note = gr.Textbox("", max_lines=1, visible=False, **_said("note"))
    with gr.Accordion("History", open=True, elem_id="create-before"):
        only = gr.Checkbox(False, label="Favourites only", elem_id="create-only")
        history = gr.HTML(elem_id="create-history", js_on_load=views.PICK, **BARE)
    return {
        "image": image,
        "slider": slider,
        "series": series,
        "actions": actions,
        "favourite": favourite,
        "download": download,
        "reuse": reuse,
        "note": note,
        "only": only,
        "history": history,
        "shown": gr.Textbox("", visible="hidden", elem_id="create-shown"),
    }
