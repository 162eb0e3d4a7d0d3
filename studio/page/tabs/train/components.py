"""What the Train tab is laid out of. Knows no handlers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import gradio as gr
from gradio.components import Component

from studio.page import forms, polling, words
from studio.page.handlers import LIGHTEN, PLAIN
from studio.page.scripts import script
from studio.page.tabs.asking import Asking, asking
from studio.page.tabs.train import several
from studio.page.templates import note, render
from studio.page.views import previews as previews_view
from studio.page.views import queue as queue_view
from studio.server.gradio_patches import CHANGING
from training.config.presets import LENGTHS, PRESETS, STRENGTHS
from training.config.settings import settings

# Set by the page: the dataset's folder, the workspace's folder of runs. Set by nobody here: where
# this machine is to send a message, which is for who starts the program to say
OURS = ("data.folder", "save.folder", "save.webhook")
# How a run stands, in the window's title; see page.js
ENTITLE = script("train_title")
MARK = script("train_wrong")
BEFORE = script("train_preflight")
HIDDEN: dict[str, Any] = {"visible": False, "size": "md"}


@dataclass(frozen=True)
class Form:
    """What a training is started with. fields: a control for every setting that is not OURS."""

    knobs: tuple[gr.Radio, gr.Radio, gr.Radio]
    dataset: gr.Dropdown
    fields: dict[str, Component]

    @property
    def inputs(self) -> list[Component]:
        """The dataset, then every field."""
        return [self.dataset, *self.fields.values()]

    @property
    def outputs(self) -> list[Component]:
        """The preset, the dataset, then every field."""
        return [self.knobs[0], *self.inputs]


@dataclass(frozen=True)
class Running:
    """What is there in every place. chip: the run that is going; follower: asks how it stands."""

    chip: gr.HTML
    follower: gr.HTML


def running() -> Running:
    """Lay it out, outside of the tabs."""
    return Running(gr.HTML(elem_id="job", **PLAIN), polling.follower(elem_id="follows-training"))


@dataclass(frozen=True)
class RunView:
    """What shows a run. sent: what the page was sent last, so that nothing is sent twice and no
    open picture is closed by a look.
    """

    queue: gr.HTML
    run: gr.Dropdown
    status: gr.HTML
    draw: gr.Button
    save: gr.Button
    pause: gr.Button
    stop: gr.Button
    resume: gr.Button
    style: gr.DownloadButton
    last: gr.DownloadButton
    use: gr.Button
    compare: gr.Button
    reuse: gr.Button
    go_on: gr.Button
    verdict: gr.HTML
    loss: gr.HTML
    previews: gr.HTML
    messages: gr.HTML
    report: gr.HTML
    rate: gr.HTML
    follower: gr.HTML
    chip: gr.HTML
    sent: gr.State
    ending: Asking

    @property
    def followed(self) -> dict[str, Component]:
        """What a look at the run may change, by name."""
        others = ("run", "sent", "ending")
        return {name: part for name, part in vars(self).items() if name not in others}


@dataclass(frozen=True)
class Parts:
    """The tab's components. preflight: what to look at before Start; wrong: the settings that Start
    refused, whose fields it marks.
    """

    form: Form
    preflight: gr.HTML
    wrong: gr.HTML
    start: gr.Button
    measure: gr.Button
    asking: Asking
    plan: gr.HTML
    several: several.Parts
    view: RunView


def components(seen: Running | None = None) -> Parts:
    """Lay the tab out: the form on the left, the run on the right. seen: in every place."""
    with gr.Row(elem_classes="desk-row"):
        with gr.Column(scale=2, min_width=320, elem_classes="inspector"):
            form = _form()
            plan = gr.HTML(elem_id="plan", padding=False)
            together = several.components()
            preflight = gr.HTML(elem_id="preflight", apply_default_css=False, js_on_load=BEFORE)
            wrong = gr.HTML(elem_id="wrong", apply_default_css=False, js_on_load=MARK)
            with gr.Column(elem_classes="foot"):
                asks_to_start = asking("start", yes="Start anyway", no="Cancel")
                with gr.Row():
                    start = gr.Button("Start training", variant="primary", elem_id="start")
                    measure = gr.Button("Estimate", elem_id="measure", min_width=96)
        with gr.Column(scale=3, min_width=320, elem_classes="canvas"):
            view = _run_view(seen or running())
    return Parts(form, preflight, wrong, start, measure, asks_to_start, plan, together, view)


def _form() -> Form:
    """A preset's knobs, the dataset's picker and the settings, the first screen's above the
    others.
    """
    rows = {s.key: s for s in settings() if s.key not in OURS}
    knobs = _knobs()
    fields = forms.controls([rows["save.name"]])
    dataset = gr.Dropdown(
        [],
        label="Dataset",
        info="The pictures to train on",
        elem_id="train-dataset",
        elem_classes=CHANGING,
        interactive=True,
    )
    fields |= forms.controls([rows["data.trigger"], rows["base.model"]])
    with gr.Row():
        fields |= forms.controls([rows["optim.steps"], rows["optim.batch_size"]])
    fields |= forms.controls(s for s in rows.values() if not s.advanced and s.key not in fields)
    others = [s for s in rows.values() if s.key not in fields]
    with gr.Accordion("Advanced settings", open=False, elem_id="everything"):
        for section, members in groupby(others, key=lambda s: s.section):
            title, about = words.SECTIONS[section]
            with gr.Accordion(title, open=False, elem_id=f"section-{section}"):
                gr.HTML(note(about), **PLAIN)
                with gr.Row():
                    fields |= forms.controls(list(members))
    return Form(knobs, dataset, fields)


def _knobs() -> tuple[gr.Radio, gr.Radio, gr.Radio]:
    """Which preset, how long, how strong."""
    bar = {"elem_classes": "choice", "min_width": 160}
    preset = gr.Radio(
        list(PRESETS),
        label="Preset",
        info="You can change everything below",
        elem_id="preset",
        elem_classes=["choice", "cards"],
        min_width=160,
    )
    with gr.Row():
        length = gr.Radio(
            list(LENGTHS), value="normal", label="Training length", elem_id="preset-length", **bar
        )
        strength = gr.Radio(
            list(STRENGTHS), value="normal", label="Intensity", elem_id="preset-strength", **bar
        )
    return preset, length, strength


def _run_view(seen: Running) -> RunView:
    """The queue, the chosen run and what can be done with it."""
    queue = gr.HTML(elem_id="line", padding=False, js_on_load=queue_view.DO)
    run = gr.Dropdown([], label="Run", elem_id="run", elem_classes=CHANGING, interactive=True)
    status = gr.HTML(elem_id="status", padding=False, js_on_load=ENTITLE)
    gr.HTML(render("tell_me"), padding=False)
    verdict = gr.HTML(elem_id="verdict", **PLAIN)
    with gr.Row():
        buttons = {
            "draw": gr.Button("Generate samples", elem_id="draw-now", min_width=90, **HIDDEN),
            "save": gr.Button("Save checkpoint", elem_id="save-now", min_width=90, **HIDDEN),
            "pause": gr.Button("Pause", elem_id="pause", min_width=80, **HIDDEN),
            "stop": gr.Button("Stop and save", variant="stop", elem_id="stop", **HIDDEN),
            "resume": gr.Button("Resume", variant="primary", elem_id="resume", **HIDDEN),
            "style": gr.DownloadButton(
                "Download style", variant="primary", elem_id="download-style", **HIDDEN
            ),
            "compare": gr.Button("Compare", elem_id="compare-run", min_width=90, **HIDDEN),
            "reuse": gr.Button("Reuse settings", elem_id="reuse", min_width=90, **HIDDEN),
            "go_on": gr.Button("Continue training", elem_id="go-on", min_width=90, **HIDDEN),
        }
    with gr.Row():
        small: dict[str, Any] = {"visible": False, "size": "sm"}
        buttons["use"] = gr.Button("Use recommended", elem_id="use-recommended", **small)
        buttons["last"] = gr.DownloadButton("Download", elem_id="download-last", **small)
    ending = asking("end", yes="Stop without saving", no="Let it save", variant="stop")
    loss = gr.HTML(elem_id="loss", padding=False)
    previews = gr.HTML(elem_id="previews", padding=False, js_on_load=previews_view.LOOK)
    messages = gr.HTML(elem_id="messages", padding=False)
    report = gr.HTML(elem_id="report", padding=False, js_on_load=LIGHTEN)
    with gr.Accordion("Learning rate", open=False):
        rate = gr.HTML(elem_id="rate", padding=False)
    return RunView(
        queue,
        run,
        status,
        **buttons,
        verdict=verdict,
        loss=loss,
        previews=previews,
        messages=messages,
        report=report,
        rate=rate,
        follower=seen.follower,
        chip=seen.chip,
        sent=gr.State({}),
        ending=ending,
    )
