"""The Pictures tab: datasets, a desk for pictures and captions, bulk edits, findings.

Layout and short handlers; the work is done elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import gradio as gr

from studio.datasets import base_info, caption_edits, captioning, checks, fixes, history, store
from studio.library import library, sample_project
from studio.page.handlers import (
    PRIVATE,
    QUIET,
    TO_TRAINING,
    address,
    shows_errors,
    shows_errors_while_streaming,
)
from studio.page.views import pictures as views
from studio.processes.queue import Queue
from studio.server import uploads
from training.data.dataset import caption_from_name
from training.errors import DataError, ModelError
from training.storage.paths import Workspace

FIRST = "my-pictures"  # the dataset that is made for pictures dropped before any dataset was
THUMBNAIL, LARGE = 256, 768  # px of the longer side
PLAIN = {"apply_default_css": False, "js_on_load": None}  # of HTML that page.css dresses


def layout(workspace: Workspace, page: gr.Blocks, tab: gr.Tab) -> None:
    """Fill the tab."""
    with gr.Row(visible=False, elem_id="example", equal_height=True) as offer:
        gr.HTML(views.EXAMPLE, **PLAIN)
        train_it = gr.Button(
            "Train the example",
            variant="primary",
            size="sm",
            min_width=150,
            scale=0,
            elem_id="train-example",
        )
    with gr.Row(equal_height=True):
        chosen = gr.Dropdown(
            [],
            label="Dataset",
            info="The pictures of one style",
            elem_id="dataset",
            scale=3,
            interactive=True,
        )
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
        with gr.Column(scale=3, min_width=360):
            drop = gr.File(
                label="Pictures, a folder or a zip of them, with .txt or metadata.jsonl captions",
                # of any kind: what is none of ours is told by name, and the others are taken
                file_count="multiple",
                height=150,
                elem_id="upload",
            )
            report = gr.HTML(elem_id="upload-report", **PLAIN)
            summary = gr.HTML(elem_id="dataset-summary", **PLAIN)
            thumbs = gr.HTML(elem_id="pictures", **PLAIN | {"js_on_load": views.PICK})
        with gr.Column(scale=2, min_width=340, elem_classes="beside"):
            picture = gr.HTML(
                views.nothing_chosen(), elem_id="picture", **PLAIN | {"js_on_load": views.MOVE}
            )
            # Hidden but in the browser: an edit is sent together with the picture it belongs to,
            # however quickly another one is chosen.
            of = gr.Textbox("", visible="hidden", elem_id="picture-of")
            caption = gr.Textbox(
                "",
                label="Caption",
                info="What is to be seen, not how it is drawn. Saved as you type; Page Up and "
                "Page Down go through the pictures.",
                lines=3,
                elem_id="caption",
                interactive=False,
            )
            meter = gr.HTML(elem_id="tokens", **PLAIN)
            with gr.Row():
                before = gr.Button(
                    "← Previous", size="sm", min_width=80, elem_id="previous-picture"
                )
                after = gr.Button("Next →", size="sm", min_width=80, elem_id="next-picture")
                remove = gr.Button("Take out", size="sm", min_width=80, elem_id="remove-picture")
    undo = gr.Button("Undo", size="sm", visible=False, elem_id="undo", elem_classes="undo")
    with gr.Accordion("Change all captions at once", open=False, elem_id="bulk"):
        with gr.Row(equal_height=True):
            kind = gr.Dropdown(
                list(caption_edits.EDITS),
                value=next(iter(caption_edits.EDITS)),
                label="What to do",
                elem_id="bulk-kind",
                min_width=170,
            )
            words = gr.Textbox("", label="Words", max_lines=1, elem_id="bulk-words", min_width=150)
            other = gr.Textbox(
                "",
                label="Replace with",
                max_lines=1,
                visible=False,
                elem_id="bulk-other",
                min_width=150,
            )
            apply = gr.Button(
                "Change them", variant="primary", elem_id="bulk-apply", min_width=160, scale=0
            )
        example = gr.HTML(elem_id="bulk-example", **PLAIN)
        with gr.Row(equal_height=True):
            describe = gr.Button(
                "Describe pictures without a caption",
                size="sm",
                elem_id="describe",
                min_width=290,
                scale=0,
            )
            enough = gr.Button(
                "Stop", size="sm", visible=False, elem_id="describe-stop", min_width=80, scale=0
            )
            told_of = gr.HTML(elem_id="described", **PLAIN)
    with gr.Accordion("Before training: what to look at", open=True, elem_id="checks"):
        with gr.Row(equal_height=True):
            base = gr.Dropdown(
                ["mini"],
                value="mini",
                label="For which base",
                info="Its size decides shapes and crops, its tokenizer what of a caption is read",
                allow_custom_value=True,
                elem_id="check-base",
            )
            again = gr.Button("Look again", size="sm", elem_id="check", min_width=120, scale=0)
        found = gr.HTML(elem_id="findings", **PLAIN | {"js_on_load": views.MEND})

    one = [picture, of, caption, meter]
    everything = [summary, thumbs, undo, *one]

    @shows_errors
    def open_page(name: str | None, where: str, model: str) -> list[Any]:
        listing = store.names(workspace)
        name = name if name in listing else store.newest(workspace)
        return [
            gr.Dropdown(choices=listing, value=name),
            *_dataset(workspace, name, model, (where or "").partition("/")[2]),
        ]

    @shows_errors
    def first_base() -> Any:
        known = library.bases(workspace)
        return gr.Dropdown(choices=known, value=known[0])

    @shows_errors
    def open_dataset(name: str | None, model: str) -> list[Any]:
        return ["", *_dataset(workspace, name, model)]

    @shows_errors
    def make_dataset(name: str) -> list[Any]:
        made = store.make(workspace, name)
        return [gr.Dropdown(choices=store.names(workspace), value=made.name), ""]

    @shows_errors
    def upload(name: str | None, files: list[str] | None, model: str) -> list[Any]:
        if not name or sample_project.is_example(
            workspace, name
        ):  # own pictures do not belong to the example
            name = FIRST if FIRST in store.names(workspace) else store.make(workspace, FIRST).name
        added = store.add(store.folder(workspace, name), [Path(f) for f in files or []])
        uploads.used(files or [])
        listing = gr.Dropdown(choices=store.names(workspace), value=name)
        return [
            None,
            views.report(added),
            listing,
            *_dataset(workspace, name, model, added.kept[0] if added.kept else ""),
        ]

    @shows_errors
    def choose(name: str | None, model: str, event: gr.EventData) -> list[Any]:
        return _picture(workspace, name, _event_text(event, "at"), model)

    @shows_errors
    def write(where: str, text: str, model: str) -> list[Any]:
        name, _, at = (where or "").partition("/")
        if not at:
            return [gr.skip(), gr.skip()]
        folder = store.folder(workspace, name)
        if (text or "").strip() != store.caption(
            folder, at
        ):  # choosing another picture changes the text as well
            store.write_caption(folder, at, text or "")
        return [_summary(folder), views.meter(_base(model)[0].tokens(text or ""))]

    @shows_errors
    def step(by: int, name: str | None, where: str, model: str) -> list[Any]:
        listing = store.pictures(store.folder(workspace, name or ""))
        at = (where or "").partition("/")[2]
        return _picture(
            workspace,
            name,
            listing[(listing.index(at) + by) % len(listing)] if at in listing else "",
            model,
        )

    @shows_errors
    def move(event: gr.EventData) -> None:
        name, _, at = _event_text(event, "of").partition("/")
        place = tuple(event._data.get(key) for key in ("across", "down"))
        if all(type(share) in (int, float) for share in place):
            store.place_crop(store.folder(workspace, name), at, place)

    @shows_errors
    def leave(where: str, model: str) -> list[Any]:
        name, _, at = (where or "").partition("/")
        folder = store.folder(workspace, name)
        listing = store.pictures(folder)
        store.remove(folder, [at])
        return _dataset(workspace, name, model, next(iter(listing[listing.index(at) + 1 :]), ""))

    @shows_errors
    def take_back(name: str | None, where: str, model: str) -> list[Any]:
        done = history.undo(store.folder(workspace, name or ""))
        if done.stayed:
            gr.Info(f"{len(done.stayed)} files were changed again since and stay as they are.")
        return _dataset(workspace, name, model, (where or "").partition("/")[2])

    @shows_errors
    def name_fields(kind: str | None) -> list[Any]:
        _, first, second = caption_edits.EDITS.get(
            kind if isinstance(kind, str) else "", next(iter(caption_edits.EDITS.values()))
        )
        return [
            gr.Textbox(label=first),
            gr.Textbox(label=second or "Replace with", visible=bool(second)),
        ]

    @shows_errors
    def explain(name: str | None, kind: str, words: str, other: str) -> str:
        if not name or not (words or "").strip():
            return ""
        captions = store.captions(store.folder(workspace, name))
        return views.bulk_example(
            caption_edits.edited(captions, kind, words, other or ""), captions
        )

    @shows_errors
    def change_all(
        name: str | None, where: str, model: str, kind: str, words: str, other: str
    ) -> list[Any]:
        folder = store.folder(workspace, name or "")
        changed = caption_edits.edited(store.captions(folder), kind, words or "", other or "")
        count = store.rewrite(folder, caption_edits.described(kind, words, other or ""), changed)
        note = f'<p class="note"><b>{count} caption{"" if count == 1 else "s"} changed.</b></p>'
        return [note, *_dataset(workspace, name, model, (where or "").partition("/")[2])]

    @shows_errors_while_streaming
    def describe_all(name: str | None, where: str | None, model: str) -> Iterator[list[Any]]:
        """What a model says, kept as it is said, so that it outlives stop and page; undone as one
        change.
        """
        folder, act = store.folder(workspace, name or ""), uuid4().hex
        bare, count = [at for at, text in store.captions(folder).items() if not text], 0
        for path, text in (
            captioning.described([store.picture(folder, at) for at in bare]) if bare else ()
        ):
            if store.captions(folder).get(path.name) == "":  # what was typed meanwhile stays
                store.rewrite(folder, "captions by a model", {path.name: text}, act=act)
            count += 1
            yield [views.described(count, len(bare)), gr.Button(visible=True)]
        yield [views.described(count, len(bare), done=True), gr.Button(visible=False)]

    @shows_errors
    def fix(name: str | None, where: str, model: str, event: gr.EventData) -> list[Any]:
        on = event._data.get("on")
        names = [str(n) for n in on] if isinstance(on, list) else []
        fixes.apply_fix(
            store.folder(workspace, name or ""),
            _event_text(event, "kind"),
            _event_text(event, "mend"),
            names,
            _base(model)[0],
        )
        return _dataset(workspace, name, model, (where or "").partition("/")[2])

    @shows_errors
    def offered_example(name: str | None) -> Any:
        return gr.Row(visible=sample_project.is_example(workspace, name))

    @shows_errors
    def begin_example() -> None:
        queue = Queue(workspace)
        run = queue.job(queue.add(sample_project.config(workspace))).run
        gr.Info(
            f"“{run}” is being trained: a few minutes on two CPU cores.", title="Training has begun"
        )

    def look(name: str | None, model: str) -> str:
        return _findings(workspace, name, model)

    chosen.change(offered_example, chosen, offer, **QUIET)
    train_it.click(begin_example, None, None, **PRIVATE).success(None, None, None, js=TO_TRAINING)
    looking = {
        "fn": look,
        "inputs": [chosen, base],
        "outputs": found,
        "trigger_mode": "always_last",
        **QUIET,
    }
    page.load(first_base, None, base, **QUIET).then(
        open_page, [chosen, of, base], [chosen, *everything], **QUIET
    ).then(**looking)
    tab.select(open_page, [chosen, of, base], [chosen, *everything], **QUIET).then(**looking)
    chosen.input(open_dataset, [chosen, base], [report, *everything], **QUIET).then(**looking)
    new.submit(make_dataset, new, [chosen, new], **PRIVATE).success(
        open_dataset, [chosen, base], [report, *everything], **QUIET
    ).then(**looking)
    drop.upload(upload, [chosen, drop, base], [drop, report, chosen, *everything], **PRIVATE).then(
        **looking
    )
    gr.on([thumbs.select, found.select], choose, [chosen, base], one, **QUIET)
    # change, not input: gradio 6.31 calls only key presses input, not pasting, deleting or an input
    # method.
    # One at a time and none left out, so that the last edit stays.
    saving = {
        "fn": write,
        "inputs": [of, caption, base],
        "outputs": [summary, meter],
        "trigger_mode": "multiple",
        "concurrency_limit": 1,
        **QUIET,
    }
    caption.change(**saving)
    caption.blur(**saving).then(**looking)
    before.click(lambda *at: step(-1, *at), [chosen, of, base], one, **QUIET)
    after.click(lambda *at: step(1, *at), [chosen, of, base], one, **QUIET)
    picture.input(move, None, None, **QUIET)
    remove.click(leave, [of, base], everything, **PRIVATE).then(**looking)
    undo.click(take_back, [chosen, of, base], everything, **PRIVATE).then(**looking)
    kind.input(
        name_fields, kind, [words, other], **QUIET
    )  # apart from what is typed: an answer that touches a field may undo its last letter
    explaining = [kind.input, words.change, other.change]
    gr.on(
        explaining,
        explain,
        [chosen, kind, words, other],
        example,
        trigger_mode="always_last",
        **QUIET,
    )
    apply.click(
        change_all, [chosen, of, base, kind, words, other], [example, *everything], **PRIVATE
    ).then(**looking)
    describing_now = describe.click(
        describe_all, [chosen, of, base], [told_of, enough], concurrency_limit=1, **QUIET
    )
    describing_now.then(open_page, [chosen, of, base], [chosen, *everything], **QUIET).then(
        **looking
    )
    enough.click(
        lambda: gr.Button(visible=False), None, enough, cancels=[describing_now], **QUIET
    ).then(open_page, [chosen, of, base], [chosen, *everything], **QUIET)
    found.click(fix, [chosen, of, base], everything, **PRIVATE).then(**looking)
    base.change(open_page, [chosen, of, base], [chosen, *everything], **QUIET).then(**looking)
    again.click(**looking | PRIVATE)


def _event_text(event: gr.EventData, key: str) -> str:
    """What the page says was clicked; it may say anything."""
    return str(event._data.get(key, ""))


def _base(model: str | None) -> tuple[base_info.Base, str]:
    """What is known of a base, and a word when nothing is."""
    try:
        known = base_info.known(model or "mini")
    except ModelError as error:
        return base_info.Base(), str(error)
    return (
        known,
        ""
        if known.tokenizer
        else (
            f"{model} is not on this machine as a folder yet: 512 px is assumed, tokens are "
            "not counted."
        ),
    )


def _dataset(workspace: Workspace, name: str | None, model: str, at: str = "") -> list[Any]:
    """Summary, thumbnails, undo and one picture of a dataset; empty ones when there is none."""
    if not name:
        return [views.summary(0, 0), "", gr.Button(visible=False), *_nothing()]
    folder, items, complaints = store.folder(workspace, name), [], []
    captions = store.captions(folder)
    for found, text in captions.items():
        try:
            items.append((address(folder / found, THUMBNAIL), found, bool(text)))
        except DataError as error:
            complaints.append(str(error).removeprefix(f"{folder}/"))
    good = [item[1] for item in items]
    last = history.last(folder)
    undo = gr.Button(f"Undo: {last}" if last else "Undo", visible=last is not None)
    shown = at if at in good else next(iter(good), "")
    return [
        _summary(folder, complaints),
        views.thumbnails(items),
        undo,
        *_picture(workspace, name, shown, model),
    ]


def _picture(workspace: Workspace, name: str | None, at: str, model: str) -> list[Any]:
    """The chosen picture beside its caption."""
    if not (name and at):
        return _nothing()
    folder = store.folder(workspace, name)
    path, listing, (base, _) = store.picture(folder, at), store.pictures(folder), _base(model)
    seen, text = checks.look(path), store.caption(folder, at)
    instead = caption_from_name(at)
    hint = (
        f"No caption: the file's name is used, “{instead}”"
        if instead and not store.sidecar(path).exists()
        else "No caption yet"
    )
    return [
        views.desk(
            address(path, LARGE),
            at,
            f"{name}/{at}",
            (seen.width, seen.height),
            checks.bucket_of(seen, base),
            store.place_of(folder, at),
            (listing.index(at) + 1, len(listing)),
        ),
        f"{name}/{at}",
        gr.Textbox(text, placeholder=hint, interactive=True),
        views.meter(base.tokens(text)),
    ]


def _nothing() -> list[Any]:
    return [views.nothing_chosen(), "", gr.Textbox("", placeholder="", interactive=False), ""]


def _summary(folder: Path, complaints: list[str] | None = None) -> str:
    captions = store.captions(folder)
    return views.summary(
        len(captions), sum(not text for text in captions.values()), complaints or []
    )


def _findings(workspace: Workspace, name: str | None, model: str) -> str:
    if name not in store.names(workspace) or not store.pictures(workspace.datasets() / name):
        return ""
    folder, (base, note) = store.folder(workspace, name), _base(model)
    found = checks.findings(folder, base)
    addresses = {}
    for at in {
        at for f in found[: views.MOST_FINDINGS] for at in f.pictures[: views.MOST_SIDE_BY_SIDE]
    }:
        try:
            addresses[at] = address(folder / at, THUMBNAIL)
        except DataError:
            continue  # that is what the finding says
    return views.findings(found, addresses, note)
