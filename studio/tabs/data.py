"""The Data tab: datasets, their pictures and captions. Layout and short handlers; studio.datasets does the work."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from studio import datasets
from studio.tabs import PRIVATE, QUIET, shown, told
from training.dataset import said_by_name
from training.errors import DataError
from training.workspace import Workspace

FIRST = "my-pictures"  # the dataset that is made for pictures dropped before any dataset was
THUMBNAIL, LARGE = 256, 768  # px of the longer side


def layout(workspace: Workspace, page: gr.Blocks, tab: gr.Tab) -> None:
    """Fill the tab."""
    with gr.Row(equal_height=True):
        chosen = gr.Dropdown([], label="Dataset", info="The pictures of one style", elem_id="dataset", scale=3, interactive=True)
        new = gr.Textbox(
            "",
            label="New dataset",
            info="Another set of pictures",
            placeholder="its name, for instance ink-drawings",
            max_lines=1,
            submit_btn="Make",
            elem_id="new-dataset",
            scale=3,
        )
    with gr.Row():
        with gr.Column(scale=3, min_width=420):
            drop = gr.File(
                label="Add pictures: .png, .jpg or .webp; a .txt of the same name becomes the caption",
                file_count="multiple",
                file_types=[*datasets.SUFFIXES, ".txt"],
                height=150,
                elem_id="upload",
            )
            report = gr.HTML(elem_id="upload-report", padding=False)
            summary = gr.HTML(elem_id="dataset-summary", padding=False)
            gallery = gr.Gallery(
                label="Pictures",
                columns=5,
                height="auto",
                object_fit="contain",
                allow_preview=False,
                interactive=False,
                buttons=[],
                elem_id="pictures",
                elem_classes="pictures",
            )
        with gr.Column(scale=2, min_width=360, elem_classes="beside"):
            picture = gr.Image(label="Picture", interactive=False, height=360, buttons=["fullscreen"], elem_id="picture")
            # Hidden but in the browser: an edit is sent together with the picture it belongs to, however quickly another one is chosen.
            of = gr.Textbox("", visible="hidden", elem_id="picture-of")
            caption = gr.Textbox(
                "", label="Caption", info="What is to be seen, without the style. Saved as you type.", lines=3, elem_id="caption", interactive=False
            )
            with gr.Row():
                before = gr.Button("Previous", size="sm", min_width=80)
                after = gr.Button("Next", size="sm", min_width=80, elem_id="next-picture")
                remove = gr.Button("Remove", size="sm", variant="stop", min_width=80, elem_id="remove-picture")

    one = [picture, of, caption]
    everything = [summary, gallery, *one]

    @told
    def open_page(name: str | None) -> list[Any]:
        found = datasets.names(workspace)
        name = name if name in found else datasets.newest(workspace)
        return [gr.Dropdown(choices=found, value=name), *_dataset(workspace, name)]

    @told
    def open_dataset(name: str | None) -> list[Any]:
        return ["", *_dataset(workspace, name)]

    @told
    def make_dataset(name: str) -> list[Any]:
        made = datasets.make(workspace, name)
        return [gr.Dropdown(choices=datasets.names(workspace), value=made.name), ""]

    @told
    def upload(name: str | None, files: list[str] | None) -> list[Any]:
        name = name or datasets.make(workspace, FIRST).name
        added = datasets.add(datasets.folder(workspace, name), [Path(f) for f in files or []])
        for file in files or []:
            Path(file).unlink(missing_ok=True)  # the upload's own copy
        return [None, _report(added), gr.Dropdown(choices=datasets.names(workspace), value=name), *_dataset(workspace, name)]

    @told
    def choose(name: str | None, event: gr.SelectData) -> list[Any]:
        return _picture(workspace, name, event.value["caption"])

    @told
    def write(where: str, text: str) -> Any:
        name, _, at = (where or "").partition("/")
        if not at:
            return gr.skip()
        folder = datasets.folder(workspace, name)
        if (text or "").strip() != datasets.caption(folder, at):  # choosing another picture changes the text as well
            datasets.write_caption(folder, at, text or "")
        return _summary(folder)

    @told
    def step(by: int, name: str | None, where: str) -> list[Any]:
        listing = datasets.pictures(datasets.folder(workspace, name or ""))
        at = where.partition("/")[2]
        return _picture(workspace, name, listing[(listing.index(at) + by) % len(listing)] if at in listing else "")

    @told
    def leave(where: str) -> list[Any]:
        name, _, at = where.partition("/")
        place = datasets.remove(workspace, datasets.folder(workspace, name), at)
        gr.Info(f"{escape(at)} is out of the dataset. It lies in {escape(str(place))}.")
        return _dataset(workspace, name)

    gr.on([page.load, tab.select], open_page, chosen, [chosen, *everything], **QUIET)
    chosen.input(open_dataset, chosen, [report, *everything], **QUIET)
    new.submit(make_dataset, new, [chosen, new], **PRIVATE).success(open_dataset, chosen, [report, *everything], **QUIET)
    drop.upload(upload, [chosen, drop], [drop, report, chosen, *everything], **PRIVATE)
    gallery.select(choose, chosen, one, **QUIET)
    # change, not input: gradio 6.31 calls only key presses input, not pasting, deleting or an input method.
    # One at a time and none left out, so that the last edit stays.
    gr.on([caption.change, caption.blur], write, [of, caption], summary, trigger_mode="multiple", concurrency_limit=1, **QUIET)
    before.click(lambda name, where: step(-1, name, where), [chosen, of], one, **QUIET)
    after.click(lambda name, where: step(1, name, where), [chosen, of], one, **QUIET)
    remove.click(leave, of, everything, **PRIVATE)


def _dataset(workspace: Workspace, name: str | None) -> list[Any]:
    """Summary, gallery and the first picture of a dataset; empty ones when there is none."""
    if not name:
        return ["", [], *_nothing()]
    folder, items, complaints = datasets.folder(workspace, name), [], []
    for found in datasets.pictures(folder):
        try:
            items.append((shown(folder / found, THUMBNAIL), found))
        except DataError as error:
            complaints.append(str(error).removeprefix(f"{folder}/"))
    return [_summary(folder, complaints), items, *_picture(workspace, name, items[0][1] if items else "")]


def _picture(workspace: Workspace, name: str | None, at: str) -> list[Any]:
    """The chosen picture beside its caption."""
    if not (name and at):
        return _nothing()
    folder = datasets.folder(workspace, name)
    path = datasets.picture(folder, at)
    instead = said_by_name(at)
    hint = f"No caption: the file's name is used, “{instead}”" if instead and not path.with_suffix(".txt").exists() else "No caption yet"
    return [
        gr.Image(shown(path, LARGE), label=at),
        f"{name}/{at}",
        gr.Textbox(datasets.caption(folder, at), placeholder=hint, interactive=True),
    ]


def _nothing() -> list[Any]:
    return [gr.Image(None, label="Picture"), "", gr.Textbox("", placeholder="", interactive=False)]


def _summary(folder: Path, complaints: list[str] | None = None) -> str:
    """How many pictures there are and how many still want a caption."""
    listing = datasets.pictures(folder)
    without = sum(not datasets.caption(folder, name) for name in listing)
    count = f"{len(listing)} picture{'' if len(listing) == 1 else 's'}"
    words = (
        f"<b>{count}</b>, {'each with a caption' if not without else f'{without} without a caption'}"
        if listing
        else "No pictures yet. Add some above."
    )
    bad = "".join(f"<li>{escape(c)}</li>" for c in complaints or [])
    return f"<p>{words}</p>" + (f'<ul class="refused">{bad}</ul>' if bad else "")


def _report(added: datasets.Added) -> str:
    """What became of an upload."""
    kept = f"{len(added.kept)} picture{'' if len(added.kept) == 1 else 's'} added" + (f", {added.captions} with a caption" if added.captions else "")
    bad = "".join(f"<li><b>{escape(name)}</b> {escape(reason)}</li>" for name, reason in added.refused)
    return f"<p>{kept}.</p>" + (f'<p>Not taken:</p><ul class="refused">{bad}</ul>' if bad else "")
