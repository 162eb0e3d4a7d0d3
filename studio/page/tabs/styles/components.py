"""What the Styles tab is laid out of. Knows no handlers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from studio.library import publishing
from studio.page.handlers import LIGHTEN, PLAIN
from studio.page.tabs.snackbar import Snackbar, snackbar
from studio.page.views import styles as views
from studio.server.gradio_patches import CHANGING

HIDDEN: dict[str, Any] = {"visible": False}


@dataclass(frozen=True)
class CardForm:
    """What its user says of a style. shown: the card as the form was filled, so that only changed
    fields are saved, whatever another page has saved meanwhile.
    """

    title: gr.Textbox
    licence: gr.Textbox
    credit: gr.Textbox
    notes: gr.Textbox
    folder: gr.Textbox
    tags: gr.Textbox
    save: gr.Button
    shown: gr.Textbox

    @property
    def fields(self) -> list[Component]:
        words = [self.title, self.licence, self.credit, self.notes, self.folder, self.tags]
        return [*words, self.shown]


@dataclass(frozen=True)
class Sharing:
    """Making a file for others. kept: the fields it may hold."""

    form: gr.Radio
    kept: gr.CheckboxGroup
    published: gr.HTML
    make: gr.Button
    download: gr.DownloadButton


@dataclass(frozen=True)
class Recipes:
    """The settings of the chosen style beside those of another one."""

    other: gr.Dropdown
    differences: gr.HTML

    @property
    def parts(self) -> list[Component]:
        return [self.other, self.differences]


@dataclass(frozen=True)
class Parts:
    """The tab's components. chosen: the style's id, which the browser sends along, so that what is
    typed goes to the style that was shown while it was typed.
    """

    search: gr.Textbox
    listing: gr.HTML
    undo: gr.Button
    drop: gr.File
    report: gr.HTML
    detail: gr.HTML
    actions: gr.Column
    card: CardForm
    sharing: Sharing
    recipes: Recipes
    use: gr.Button
    go_on: gr.Button
    remove: gr.Button
    style_report: gr.HTML
    chosen: gr.Textbox
    snackbar: Snackbar

    @property
    def one(self) -> list[Component]:
        """What shows the chosen style."""
        shown = [self.detail, self.actions, *self.card.fields, self.sharing.kept]
        return [
            *shown,
            self.sharing.published,
            self.sharing.download,
            self.remove,
            self.style_report,
            *self.recipes.parts,
        ]

    @property
    def everything(self) -> list[Component]:
        return [self.chosen, self.listing, self.undo, *self.one]

    @property
    def changed(self) -> list[Block]:
        """The same after a change that can be undone."""
        return [*self.everything, *self.snackbar.shown]


def components() -> Parts:
    """Lay the tab out: the library on the left, the chosen style on the right."""
    with gr.Row(elem_classes="desk-row"):
        with gr.Column(scale=3, min_width=320, elem_classes="inspector"):
            library = _library()
        with gr.Column(scale=4, min_width=320, elem_classes="canvas"):
            detail = gr.HTML(elem_id="style", apply_default_css=False, js_on_load=views.HERO)
            with gr.Column(visible=False) as actions:
                with gr.Accordion("Edit details", open=False, elem_id="style-words"):
                    card = _card()
                with gr.Accordion("Publish", open=False, elem_id="share"):
                    sharing = _sharing()
                with gr.Accordion("Compare settings", open=False, elem_id="recipes"):
                    recipes = _recipes()
                with gr.Row(elem_classes="foot"):
                    small: dict[str, Any] = {"size": "md", "min_width": 150, "scale": 0}
                    use = gr.Button(
                        "Try in Create", variant="primary", elem_id="try-style", **small
                    )
                    go_on = gr.Button("Continue training", elem_id="go-on-from", **small)
                    remove = gr.Button("Delete", elem_id="delete-style", **small)
            report = gr.HTML(elem_id="style-report", apply_default_css=False, js_on_load=LIGHTEN)
    chosen = gr.Textbox("", visible="hidden", elem_id="style-of")
    return Parts(
        **library,
        detail=detail,
        actions=actions,
        card=card,
        sharing=sharing,
        recipes=recipes,
        use=use,
        go_on=go_on,
        remove=remove,
        style_report=report,
        chosen=chosen,
        snackbar=snackbar("styles"),
    )


def _library() -> dict[str, Any]:
    """Search, the styles, undo, bringing in, and what became of it, by name."""
    search = gr.Textbox(
        "",
        label="Search",
        placeholder="Name, trigger word or #tag",
        max_lines=1,
        elem_id="search-styles",
    )
    undo = gr.Button("Restore", size="sm", elem_id="undo-style", elem_classes="undo", **HIDDEN)
    listing = gr.HTML(elem_id="shelf", apply_default_css=False, js_on_load=views.PICK)
    drop = gr.File(
        label="Drop style files (.safetensors) to import",
        file_count="multiple",
        height=140,
        elem_id="bring-style",
    )
    report = gr.HTML(elem_id="brought", **PLAIN)
    return {"search": search, "listing": listing, "undo": undo, "drop": drop, "report": report}


def _card() -> CardForm:
    title = gr.Textbox("", label="Title", max_lines=1, elem_id="style-title")
    with gr.Row():
        licence = gr.Textbox(
            "",
            label="Licence",
            placeholder="Such as CC-BY-4.0",
            max_lines=1,
            elem_id="style-licence",
        )
        credit = gr.Textbox(
            "", label="Credit", placeholder="Who made it", max_lines=1, elem_id="style-credit"
        )
    notes = gr.Textbox(
        "",
        label="Notes",
        info="Private, unless you include them when you publish",
        lines=3,
        elem_id="style-notes",
    )
    with gr.Row():
        folder = gr.Textbox(
            "",
            label="Folder",
            info="Styles of a folder stand together",
            max_lines=1,
            elem_id="style-folder",
        )
        tags = gr.Textbox(
            "",
            label="Tags",
            info="With commas between them",
            placeholder="ink, portraits",
            max_lines=1,
            elem_id="style-tags",
        )
    save = gr.Button("Save", size="sm", elem_id="save-card")
    shown = gr.Textbox("", visible="hidden", elem_id="style-card")
    return CardForm(title, licence, credit, notes, folder, tags, save, shown)


def _recipes() -> Recipes:
    other = gr.Dropdown([], label="Compare with", elem_id="other-style", elem_classes=CHANGING)
    return Recipes(other, gr.HTML(elem_id="differences", **PLAIN))


def _sharing() -> Sharing:
    form = gr.Radio(
        list(publishing.FORMS),
        value=next(iter(publishing.FORMS)),
        label="Format",
        elem_id="share-as",
        elem_classes="choice",
    )
    kept = gr.CheckboxGroup(
        [],
        label="Include in the file",
        elem_id="share-fields",
        elem_classes=CHANGING,
    )
    published = gr.HTML(elem_id="published", **PLAIN)
    with gr.Row():
        make = gr.Button("Create file", size="sm", elem_id="make-file")
        download = gr.DownloadButton("Download", size="sm", elem_id="download-shared", **HIDDEN)
    return Sharing(form, kept, published, make, download)
