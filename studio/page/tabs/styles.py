"""The Styles tab: the shelf of finished styles, one in full, and what is done with it. Short
handlers.

studio.library.import_export does the work.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

import gradio as gr

from studio.library import import_export, library, preferences, publishing
from studio.library.cards import Card, card, card_of, merged, write_card
from studio.page.handlers import (
    LIGHTEN,
    PRIVATE,
    QUIET,
    TO_TRAINING,
    address,
    framed,
    made,
    shows_errors,
)
from studio.page.views import styles as views
from studio.server import uploads
from training.errors import DataError, StyleFileError
from training.storage.paths import Workspace
from training.style_files.base_family import bases
from training.style_files.reading import Style, read_style

THUMBNAIL, EXAMPLE = 256, 320  # px of the longer side
PLAIN = {"apply_default_css": False, "js_on_load": None}
HIDDEN = {"visible": False}
CARD = slice(2, 7)  # the card's fields, among what shows a style


def layout(workspace: Workspace, page: gr.Blocks, tab: gr.Tab) -> None:
    """Fill the tab."""
    with gr.Row():
        with gr.Column(scale=3, min_width=360):
            search = gr.Textbox(
                "",
                label="Search",
                placeholder="a name, a trigger word, a base",
                max_lines=1,
                elem_id="search-styles",
            )
            stock = gr.HTML(elem_id="shelf", **PLAIN | {"js_on_load": views.PICK})
            undo = gr.Button(
                "Bring back", size="sm", elem_id="undo-style", elem_classes="undo", **HIDDEN
            )
            drop = gr.File(
                label="Style files (.safetensors) of any program",
                file_count="multiple",
                height=140,
                elem_id="bring-style",
            )
            report = gr.HTML(elem_id="brought", **PLAIN)
        with gr.Column(scale=4, min_width=400):
            detail = gr.HTML(elem_id="style", **PLAIN)
            with gr.Column(visible=False) as doing:
                with gr.Accordion(
                    "Name, licence, credit, notes", open=False, elem_id="style-words"
                ):
                    title = gr.Textbox("", label="Title", max_lines=1, elem_id="style-title")
                    with gr.Row():
                        licence = gr.Textbox(
                            "",
                            label="Licence",
                            placeholder="for instance CC-BY-4.0",
                            max_lines=1,
                            elem_id="style-licence",
                        )
                        credit = gr.Textbox(
                            "",
                            label="Credit",
                            placeholder="who made it",
                            max_lines=1,
                            elem_id="style-credit",
                        )
                    notes = gr.Textbox(
                        "",
                        label="Notes",
                        info="For you; they leave only if you say so below",
                        lines=3,
                        elem_id="style-notes",
                    )
                    save = gr.Button("Save", size="sm", variant="primary", elem_id="save-card")
                with gr.Accordion("Share it", open=False, elem_id="share"):
                    form = gr.Radio(
                        list(publishing.FORMS),
                        value=next(iter(publishing.FORMS)),
                        label="As",
                        elem_id="share-as",
                        elem_classes="choice",
                    )
                    keep = gr.CheckboxGroup(
                        [], label="What it may tell", show_select_all=True, elem_id="share-fields"
                    )
                    telling = gr.HTML(elem_id="published", **PLAIN)
                    with gr.Row():
                        make = gr.Button(
                            "Make the file", size="sm", variant="primary", elem_id="make-file"
                        )
                        download = gr.DownloadButton(
                            "Download", size="sm", elem_id="download-shared", **HIDDEN
                        )
                with gr.Row():
                    go_on = gr.Button(
                        "Train on from it", size="sm", min_width=150, scale=0, elem_id="go-on-from"
                    )
                    remove = gr.Button(
                        "Delete",
                        size="sm",
                        variant="stop",
                        min_width=150,
                        scale=0,
                        elem_id="delete-style",
                    )
            judged = gr.HTML(elem_id="style-report", **PLAIN | {"js_on_load": LIGHTEN})
    # Hidden but in the browser: what is typed goes to the style that was shown while it was typed,
    # and only the fields that were changed there, whatever another page has saved meanwhile.
    chosen = gr.Textbox("", visible="hidden", elem_id="style-of")
    shown_card = gr.Textbox("", visible="hidden", elem_id="style-card")
    words = [title, licence, credit, notes]
    card_fields = [*words, shown_card]
    one = [detail, doing, *card_fields, keep, telling, download, remove, judged]
    everything = [chosen, stock, undo, *one]

    @shows_errors
    def open_page(id: str, searched: str) -> list[Any]:
        return _all(workspace, id, searched, shown=id)

    @shows_errors
    def choose(shown: str, searched: str, event: gr.EventData) -> list[Any]:
        id = library.style(workspace, str(event._data.get("at", ""))).id
        return _all(workspace, id, searched, shown=shown)

    @shows_errors
    def find(id: str, searched: str) -> str:
        return _shelf(workspace, id, searched)

    @shows_errors
    def bring(files: list[str] | None, id: str) -> list[Any]:
        done = import_export.bring(workspace, [Path(f) for f in files or []])
        uploads.used(files or [])
        first = done.kept[0][0] if done.kept else id
        names = {style.id: style.name for style in library.styles(workspace)}
        return [None, views.brought(done, names), "", *_all(workspace, first, "", shown=id)]

    @shows_errors
    def write(id: str, searched: str, *fields: str | None) -> list[Any]:
        *typed, before = (text or "" for text in fields)
        style = library.style(workspace, id)
        write_card(style.path, merged(card(style.path), typed=Card(*typed), shown=card_of(before)))
        gr.Info("Saved.")
        return _all(workspace, id, searched)

    @shows_errors
    def show_published(id: str, kept: list[str]) -> list[Any]:
        style = library.style(workspace, id)
        return [
            views.published(
                publishing.published_fields(read_style(style.path), card(style.path), kept)
            ),
            gr.DownloadButton(**HIDDEN),
        ]

    @shows_errors
    def publish(id: str, form: str, kept: list[str]) -> Any:
        style = library.style(workspace, id)
        picture = next((path for path, _ in import_export.pictures(workspace, style, 1)), None)
        name, content = publishing.made(
            style.path, card(style.path), publishing.FORMS[form], kept, picture
        )
        return gr.DownloadButton(
            f"Download {name} ({len(content) / 1e6:.1f} MB)",
            value=made(name, content),
            visible=True,
        )

    @shows_errors
    def train_on(id: str) -> None:
        preferences.go_on_from(workspace, library.style(workspace, id).id)

    @shows_errors
    def take_away(id: str, searched: str) -> list[Any]:
        import_export.take_away(workspace, id)
        return _all(workspace, "", searched)

    @shows_errors
    def bring_back(id: str, searched: str) -> list[Any]:
        back = import_export.bring_back(workspace)
        found = next((s.id for s in library.styles(workspace) if s.name == back), id)
        return _all(workspace, found, searched, shown=id)

    tab.select(
        open_page, [chosen, search], everything, **QUIET
    )  # not also at page.load: a late answer would undo what is being typed
    stock.select(choose, [chosen, search], everything, **QUIET)
    search.change(find, [chosen, search], stock, trigger_mode="always_last", **QUIET)
    drop.upload(bring, [drop, chosen], [drop, report, search, *everything], **PRIVATE)
    save.click(write, [chosen, search, *card_fields], everything, **PRIVATE)
    gr.on(
        [keep.input, form.input],
        show_published,
        [chosen, keep],
        [telling, download],
        trigger_mode="always_last",
        **QUIET,
    )
    make.click(publish, [chosen, form, keep], download, **PRIVATE)
    go_on.click(train_on, chosen, None, **PRIVATE).success(None, None, None, js=TO_TRAINING)
    remove.click(take_away, [chosen, search], everything, **PRIVATE)
    undo.click(bring_back, [chosen, search], everything, **PRIVATE)


def _all(workspace: Workspace, id: str, searched: str, *, shown: str | None = None) -> list[Any]:
    """The shelf and the chosen style, the first one when that is gone.

    shown: id of the style whose card the page shows; what is being typed about it stays, while
    another style's card replaces it.
    """
    listing = library.styles(workspace)
    style = next((s for s in listing if s.id == id), listing[0] if listing else None)
    taken = import_export.last_taken(workspace)
    undo = gr.Button(f"Bring back “{taken}”" if taken else "Bring back", visible=taken is not None)
    at = style.id if style else ""
    one = _one(workspace, style) if style else _nothing()
    if at and at == shown:
        one[CARD] = [gr.skip()] * len(one[CARD])
    return [at, _shelf(workspace, at, searched), undo, *one]


def _shelf(workspace: Workspace, chosen: str, searched: str) -> str:
    items = []
    for style in library.styles(workspace):
        if all(
            word in f"{style.name} {style.trigger} {style.base}".casefold()
            for word in (searched or "").casefold().split()
        ):
            stat = style.path.stat()
            day = time.strftime("%Y-%m-%d", time.localtime(stat.st_mtime))
            called = [f"“{style.trigger}”"] if style.trigger else []
            kind = " · ".join(
                filter(None, [Path(style.base).name, f"rank {style.rank}" if style.rank else ""])
            )
            items.append(
                views.Item(
                    style.id,
                    style.name,
                    _first_picture(workspace, style),
                    (*called, kind, f"{stat.st_size / 1e6:.1f} MB · {day}"),
                )
            )
    return views.library_html(items, chosen, searched or "")


def _first_picture(workspace: Workspace, style: library.Style) -> str:
    for path, _ in import_export.pictures(workspace, style, 1):
        try:
            return address(path, THUMBNAIL)
        except DataError:
            break  # a picture that somebody damaged
    return ""


def _one(workspace: Workspace, style: library.Style) -> list[Any]:
    """Everything that shows one style, in the order of `one`."""
    try:
        read = read_style(style.path)
    except StyleFileError as error:
        return [views.detail(style.name, {}, [str(error)], [], {}), *_nothing()[1:]]
    said, run = card(style.path), import_export.run_of(workspace, style)
    drawn = []
    for path, prompt in import_export.pictures(workspace, style):
        try:
            drawn.append((address(path, EXAMPLE), prompt))
        except DataError:
            continue
    fields = publishing.private_fields(read, said)
    kept = [f.key for f in fields if f.at_first]
    choices = [
        (
            f"{f.key.rpartition('.')[2].replace('_', ' ')}: "
            f"{f.text[:60]}{'…' if len(f.text) > 60 else ''}",
            f.key,
        )
        for f in fields
    ]
    return [
        views.detail(style.name, _facts(style, read, said), read.warnings, drawn, read.recipe),
        gr.Column(visible=True),
        *_card_fields(style, read, said),
        gr.CheckboxGroup(choices=choices, value=kept),
        views.published(publishing.published_fields(read, said, kept)),
        gr.DownloadButton(**HIDDEN),
        gr.Button("Delete it and its run" if run is not None else "Delete it"),
        framed(run / "report" / "report.html") if run is not None else "",
    ]


def _card_fields(style: library.Style, read: Style, said: Card) -> list[str]:
    """The card as the form shows it, filled up from the file's own metadata, and the same once more
    as JSON.
    """
    shown = Card(
        said.title or style.name,
        said.licence or read.metadata.get("modelspec.license", ""),
        said.credit or read.metadata.get("modelspec.author", ""),
        said.notes,
    )
    return [*astuple(shown), json.dumps(asdict(shown))]


def _facts(style: library.Style, read: Style, said: Card) -> dict[str, str]:
    """What there is to know at a glance, label -> value."""
    return {
        "Call it with": style.trigger,
        "For": bases().get(read.family, "an unknown base"),
        "Trained on": Path(style.base).name,
        "Rank": read.ranks,
        "Layers": str(len(read.modules)),
        "Holds": ", ".join(read.kinds),
        "Size": f"{style.path.stat().st_size / 1e6:.1f} MB, {read.dtype}",
        "Made": time.strftime("%Y-%m-%d %H:%M", time.localtime(style.path.stat().st_mtime)),
        "Licence": said.licence or read.metadata.get("modelspec.license", ""),
        "Credit": said.credit or read.metadata.get("modelspec.author", ""),
        "Notes": said.notes,
    }


def _nothing() -> list[Any]:
    words = (
        '<p class="empty">Styles that you train or bring are shown here, with what they '
        "are for and what they draw.</p>"
    )
    return [
        words,
        gr.Column(visible=False),
        *astuple(Card()),
        "",
        gr.CheckboxGroup(choices=[], value=[]),
        "",
        gr.DownloadButton(**HIDDEN),
        gr.Button("Delete"),
        "",
    ]
