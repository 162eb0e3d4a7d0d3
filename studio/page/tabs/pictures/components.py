"""What the Dataset tab is laid out of. Knows no handlers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block, BlockContext
from gradio.components import Component

from studio.datasets import caption_edits, filters
from studio.page.handlers import PLAIN
from studio.page.tabs.asking import Asking, asking
from studio.page.tabs.snackbar import Snackbar, snackbar
from studio.page.views import pictures as views
from studio.server.gradio_patches import CHANGING

ALL_CAPTIONS = "Apply to all captions"
SMALL: dict[str, Any] = {"size": "sm", "min_width": 80}


@dataclass(frozen=True)
class Picture:
    """One picture beside its caption. of: dataset/name, which the browser sends along, so that an
    edit is kept with the picture it belongs to, however quickly another one is chosen; before: the
    caption that was shown or saved last; kept: what the server has of what the browser keeps;
    conflict: asks which caption stays when another window has saved one.
    """

    desk: gr.HTML
    of: gr.Textbox
    before: gr.Textbox
    kept: gr.HTML
    conflict: Asking
    caption: gr.Textbox
    tokens: gr.HTML
    previous: gr.Button
    next: gr.Button
    remove: gr.Button

    @property
    def shown(self) -> list[Component | BlockContext]:
        shown = [self.desk, self.of, self.before, self.caption, self.tokens]
        return [*shown, *self.conflict.shown]


@dataclass(frozen=True)
class Managing:
    """What is done with a dataset as a whole. row, name: shown while it is renamed."""

    rename: gr.Button
    duplicate: gr.Button
    delete: gr.Button
    row: gr.Row
    name: gr.Textbox
    save: gr.Button
    cancel: gr.Button


@dataclass(frozen=True)
class Gallery:
    """The thumbnails and what narrows them. chosen: names of the pictures whose boxes are ticked,
    as JSON; "" for none.
    """

    filter: gr.Dropdown
    words: gr.Textbox
    tags: gr.HTML
    thumbnails: gr.HTML
    chosen: gr.Textbox

    @property
    def narrowing(self) -> list[Component]:
        return [self.filter, self.words]


@dataclass(frozen=True)
class Bulk:
    """All captions at once."""

    kind: gr.Dropdown
    words: gr.Textbox
    other: gr.Textbox
    apply: gr.Button
    example: gr.HTML
    describe: gr.Button
    stop: gr.Button
    described: gr.HTML

    @property
    def edit(self) -> list[Component]:
        return [self.kind, self.words, self.other]


@dataclass(frozen=True)
class Parts:
    """The tab's components. in_view: the dataset that was opened on purpose, "" before one was; the
    Train tab takes it.
    """

    example: gr.Row
    train_example: gr.Button
    dataset: gr.Dropdown
    new: gr.Textbox
    managing: Managing
    drop: gr.File
    report: gr.HTML
    summary: gr.HTML
    gallery: Gallery
    picture: Picture
    undo: gr.Button
    redo: gr.Button
    bulk: Bulk
    base: gr.Dropdown
    check: gr.Button
    findings: gr.HTML
    train: gr.Button
    in_view: gr.Textbox
    snackbar: Snackbar

    @property
    def everything(self) -> list[Block]:
        """What shows a dataset."""
        return [
            self.summary,
            self.gallery.thumbnails,
            self.gallery.tags,
            self.undo,
            self.redo,
            *self.picture.shown,
        ]

    @property
    def changed(self) -> list[Block]:
        """The same after a change that can be undone."""
        return [*self.everything, *self.snackbar.shown]

    @property
    def where(self) -> list[Component]:
        """Dataset, picture and base: what most handlers ask for."""
        return [self.dataset, self.picture.of, self.base]


def components(root: Path | None = None) -> Parts:
    """Lay the tab out: the pictures on the left, the chosen one on the right, the rest below.

    root: of the workspace, by which the browser tells what it keeps for which.
    """
    with gr.Row(visible=False, elem_id="example", equal_height=True) as example:
        gr.HTML(views.example(), **PLAIN)
        train_example = gr.Button(
            "Train the example",
            size="sm",
            min_width=150,
            scale=0,
            elem_id="train-example",
        )
    with gr.Row(equal_height=True):
        dataset, new = _choosing()
    managing = _managing()
    with gr.Row(elem_classes="desk-row"):
        with gr.Column(scale=3, min_width=320, elem_classes="canvas"):
            # of any kind: what is none of ours is refused by name, and the others are taken
            drop = gr.File(
                label="Drop pictures, captions, a folder or a zip",
                file_count="multiple",
                height=150,
                elem_id="upload",
            )
            report = gr.HTML(elem_id="upload-report", **PLAIN)
            summary, undo, redo = _said()
            gallery = _gallery()
        with gr.Column(scale=2, min_width=320, elem_classes=["beside", "inspector"]):
            picture = _picture(root)
    with gr.Accordion("Edit captions", open=False, elem_id="bulk"):
        bulk = _bulk()
    with gr.Accordion("Dataset check", open=True, elem_id="checks"):
        base, check, findings = _checks()
    return Parts(
        example=example,
        train_example=train_example,
        dataset=dataset,
        new=new,
        managing=managing,
        drop=drop,
        report=report,
        summary=summary,
        gallery=gallery,
        picture=picture,
        undo=undo,
        redo=redo,
        bulk=bulk,
        base=base,
        check=check,
        findings=findings,
        train=_next(),
        in_view=gr.Textbox("", visible="hidden", elem_id="dataset-in-view"),
        snackbar=snackbar("pictures"),
    )


def _said() -> tuple[gr.HTML, gr.Button, gr.Button]:
    """How many pictures there are, Undo and Redo."""
    hidden: dict[str, Any] = {"size": "sm", "visible": False, "scale": 0, "elem_classes": "undo"}
    with gr.Row(equal_height=True, elem_classes="said"):
        summary = gr.HTML(elem_id="dataset-summary", **PLAIN)
        undo = gr.Button("Undo", elem_id="undo", **hidden)
        redo = gr.Button("Redo", elem_id="redo", **hidden)
    return summary, undo, redo


def _next() -> gr.Button:
    """The one thing to do next, which stays in sight."""
    words: dict[str, Any] = {"variant": "primary", "scale": 0, "min_width": 200}
    with gr.Row(elem_classes="foot"):
        return gr.Button("Train this dataset", elem_id="train-in-view", **words)


def _choosing() -> tuple[gr.Dropdown, gr.Textbox]:
    """The dataset, and the name of a new one."""
    dataset = gr.Dropdown(
        [],
        label="Dataset",
        info="The pictures of one style",
        elem_id="dataset",
        scale=3,
        interactive=True,
        elem_classes=CHANGING,
    )
    new = gr.Textbox(
        "",
        label="New dataset",
        info="For another style",
        placeholder="Name, such as ink-drawings",
        max_lines=1,
        submit_btn="Create",
        elem_id="new-dataset",
        scale=3,
    )
    return dataset, new


def _managing() -> Managing:
    small: dict[str, Any] = {"size": "sm", "min_width": 90, "scale": 0}
    with gr.Row(elem_classes="manage"):
        rename = gr.Button("Rename", elem_id="rename-dataset", **small)
        duplicate = gr.Button("Duplicate", elem_id="duplicate-dataset", **small)
        delete = gr.Button("Delete", elem_id="delete-dataset", **small)
    with gr.Row(visible=False, equal_height=True, elem_id="renaming") as row:
        name = gr.Textbox("", label="New name", max_lines=1, elem_id="dataset-name")
        save = gr.Button("Save", variant="primary", elem_id="save-name-of-dataset", **small)
        cancel = gr.Button("Cancel", elem_id="keep-name-of-dataset", **small)
    return Managing(rename, duplicate, delete, row, name, save, cancel)


def _picture(root: Path | None) -> Picture:
    desk = gr.HTML(
        views.nothing_chosen(), elem_id="picture", apply_default_css=False, js_on_load=views.MOVE
    )
    of = gr.Textbox("", visible="hidden", elem_id="picture-of")
    before = gr.Textbox("", visible="hidden", elem_id="caption-before")
    caption = gr.Textbox(
        "",
        label="Caption",
        info="Describe what the picture shows, not its style. Saved as you type.",
        lines=3,
        elem_id="caption",
        interactive=False,
    )
    tokens = gr.HTML(elem_id="tokens", **PLAIN)
    conflict = asking("caption", yes="Keep mine", no="Use the other")
    kept = gr.HTML(
        views.kept(root),
        elem_id="kept-captions",
        elem_classes="follower",
        apply_default_css=False,
        js_on_load=views.KEEP,
    )
    with gr.Row():
        earlier = gr.Button("← Previous", elem_id="previous-picture", **SMALL)
        after = gr.Button("Next →", elem_id="next-picture", **SMALL)
        remove = gr.Button("Remove", elem_id="remove-picture", **SMALL)
    return Picture(desk, of, before, kept, conflict, caption, tokens, earlier, after, remove)


def _gallery() -> Gallery:
    with gr.Row(equal_height=True):
        kind = gr.Dropdown(
            list(filters.FILTERS),
            value=filters.ALL,
            label="Show",
            elem_id="picture-filter",
            min_width=170,
        )
        words = gr.Textbox(
            "",
            label="With tags or words",
            placeholder="cat, outdoors, -night",
            max_lines=1,
            elem_id="picture-words",
            min_width=170,
        )
    plain: dict[str, Any] = {"apply_default_css": False}
    tags = gr.HTML(elem_id="picture-tags", js_on_load=views.TAGS, **plain)
    thumbnails = gr.HTML(elem_id="pictures", js_on_load=views.PICK, **plain)
    chosen = gr.Textbox("", visible="hidden", elem_id="chosen-pictures")
    return Gallery(kind, words, tags, thumbnails, chosen)


def _bulk() -> Bulk:
    with gr.Row(equal_height=True):
        kind = gr.Dropdown(
            list(caption_edits.EDITS),
            value=next(iter(caption_edits.EDITS)),
            label="Edit",
            elem_id="bulk-kind",
            min_width=170,
        )
        line: dict[str, Any] = {"max_lines": 1, "min_width": 150}
        words = gr.Textbox("", label="Words", elem_id="bulk-words", **line)
        other = gr.Textbox("", label="Replace with", visible=False, elem_id="bulk-other", **line)
        apply = gr.Button(ALL_CAPTIONS, elem_id="bulk-apply", min_width=200, scale=0)
    example = gr.HTML(elem_id="bulk-example", **PLAIN)
    with gr.Row(equal_height=True):
        describe = gr.Button(
            "Write missing captions",
            size="sm",
            elem_id="describe",
            min_width=290,
            scale=0,
        )
        stop = gr.Button("Stop", visible=False, elem_id="describe-stop", scale=0, **SMALL)
        described = gr.HTML(elem_id="described", **PLAIN)
    return Bulk(kind, words, other, apply, example, describe, stop, described)


def _checks() -> tuple[gr.Dropdown, gr.Button, gr.HTML]:
    """The base to check for, checking again, the findings."""
    with gr.Row(equal_height=True):
        base = gr.Dropdown(
            ["mini"],
            value="mini",
            label="Base model",
            info="Sets the crops and how long a caption may be",
            allow_custom_value=True,
            elem_id="check-base",
        )
        again = gr.Button("Check again", size="sm", elem_id="check", min_width=120, scale=0)
    return base, again, gr.HTML(elem_id="findings", apply_default_css=False, js_on_load=views.FIX)
