"""Which event of the Dataset tab calls which handler."""

from __future__ import annotations

from typing import Any

import gradio as gr

from studio.page.handlers import BROUGHT, LAST, PICKED, PRIVATE, QUIET, TO_TRAINING
from studio.page.tabs.pictures.components import Bulk, Parts
from studio.page.tabs.pictures.handlers import Handlers


def connect(parts: Parts, handlers: Handlers, page: gr.Blocks, tab: gr.Tab) -> None:
    """Give every event its handler."""
    check: dict[str, Any] = {
        "fn": handlers.check,
        "inputs": [parts.dataset, parts.base],
        "outputs": parts.findings,
        "trigger_mode": "always_last",
        **QUIET,
    }
    show: dict[str, Any] = {
        "fn": handlers.show_dataset,
        "inputs": parts.where,
        "outputs": [parts.dataset, *parts.everything],
        **QUIET,
    }
    page.load(handlers.first_base, None, parts.base, **QUIET).then(**show).then(**check)
    tab.select(**show).then(**check)
    parts.base.change(**show).then(**check)
    parts.check.click(**check | PRIVATE)
    _datasets(parts, handlers, check)
    _picture(parts, handlers, check)
    _gallery(parts, handlers, check)
    _bulk(parts, parts.bulk, handlers, show, check)
    parts.findings.click(handlers.fix, parts.where, parts.changed, **PRIVATE).then(**check)
    parts.train.click(lambda dataset: dataset or "", parts.dataset, parts.in_view, **QUIET).success(
        None, None, None, js=TO_TRAINING
    )
    parts.undo.click(handlers.undo, parts.where, parts.changed, **PRIVATE).then(**check)
    parts.redo.click(handlers.redo, parts.where, parts.changed, **PRIVATE).then(**check)
    parts.snackbar.undo.click(
        handlers.undo_last,
        [parts.snackbar.undoes, *parts.where],
        [parts.dataset, parts.in_view, *parts.changed],
        **PRIVATE,
    ).then(**check)


def _datasets(parts: Parts, handlers: Handlers, check: dict[str, Any]) -> None:
    """The example, choosing, making and filling a dataset."""
    open_dataset: dict[str, Any] = {
        "fn": handlers.open_dataset,
        "inputs": [parts.dataset, parts.base],
        "outputs": [parts.report, parts.in_view, *parts.everything],
        "trigger_mode": "always_last",  # who goes through the list sees the last one
        **QUIET,
    }
    parts.dataset.change(handlers.offer_example, parts.dataset, parts.example, **QUIET)
    _managing(parts, handlers, open_dataset, check)
    parts.train_example.click(handlers.train_example, None, None, **PRIVATE).success(
        None, None, None, js=TO_TRAINING
    )
    parts.dataset.input(**open_dataset).then(**check)
    parts.new.submit(
        handlers.make_dataset, parts.new, [parts.dataset, parts.new], **PRIVATE
    ).success(**open_dataset).then(**check)
    parts.drop.upload(
        handlers.upload,
        [parts.dataset, parts.drop, parts.base],
        [parts.drop, parts.report, parts.dataset, parts.in_view, *parts.everything],
        **BROUGHT,
    ).then(**check)


def _managing(
    parts: Parts, handlers: Handlers, open_dataset: dict[str, Any], check: dict[str, Any]
) -> None:
    """Renaming, copying and deleting a dataset."""
    managing = parts.managing
    asked = [managing.row, managing.name]
    managing.rename.click(handlers.ask_name, parts.dataset, asked, **QUIET)
    managing.cancel.click(handlers.keep_name, None, managing.row, **QUIET)
    gr.on(
        [managing.save.click, managing.name.submit],
        handlers.rename_dataset,
        [parts.dataset, managing.name],
        [parts.dataset, managing.row],
        **PRIVATE,
    )
    managing.duplicate.click(
        handlers.duplicate_dataset, parts.dataset, parts.dataset, **PRIVATE
    ).success(**open_dataset).then(**check)
    managing.delete.click(
        handlers.delete_dataset,
        [parts.dataset, parts.base],
        [parts.dataset, parts.in_view, *parts.changed],
        **PRIVATE,
    ).then(**check)


def _picture(parts: Parts, handlers: Handlers, check: dict[str, Any]) -> None:
    """Going through the pictures, captions and crops."""
    picture = parts.picture
    parts.findings.select(handlers.choose, [parts.dataset, parts.base], picture.shown, **PICKED)
    parts.gallery.thumbnails.select(
        handlers.choose_in_gallery, parts.where, parts.everything, **PICKED
    )
    # change, not input: gradio 6.31 calls only key presses input, not pasting, deleting or an input
    # method. One at a time and none left out, so that the last edit stays.
    saved = [parts.summary, picture.tokens, picture.before, picture.kept, *picture.conflict.shown]
    saving: dict[str, Any] = {
        "fn": handlers.captions.save,
        "inputs": [picture.of, picture.caption, parts.base, picture.before],
        "outputs": saved,
        "trigger_mode": "multiple",
        "concurrency_limit": 1,
        **QUIET,
    }
    picture.caption.change(**saving)
    picture.caption.blur(**saving).then(**check)
    picture.conflict.yes.click(
        handlers.captions.save_mine, [picture.of, picture.caption, parts.base], saved, **QUIET
    ).then(**check)
    picture.conflict.no.click(
        handlers.take_theirs, [picture.of, parts.base], [picture.kept, *picture.shown], **QUIET
    )
    picture.kept.submit(
        handlers.captions.save_kept,
        picture.of,
        [picture.kept, picture.caption, picture.before],
        concurrency_limit=1,
        trigger_mode="multiple",
        **QUIET,
    )
    picture.previous.click(handlers.previous, parts.where, parts.everything, **QUIET)
    picture.next.click(handlers.next, parts.where, parts.everything, **QUIET)
    picture.desk.input(handlers.move_crop, None, None, **PICKED)
    picture.remove.click(handlers.remove, [picture.of, parts.base], parts.changed, **PRIVATE).then(
        **check
    )


def _gallery(parts: Parts, handlers: Handlers, check: dict[str, Any]) -> None:
    """Narrowing what is shown, and acts on several pictures."""
    gallery, bulk = parts.gallery, parts.bulk
    narrow: dict[str, Any] = {
        "fn": handlers.several.narrow,
        "inputs": [*parts.where, *gallery.narrowing],
        "outputs": parts.everything,
        **LAST,
    }
    gallery.filter.input(**narrow)
    # change, not input: as with captions; also what a tag was clicked for
    gallery.words.change(**narrow)
    gallery.tags.select(handlers.several.take_tag, None, gallery.words, **PICKED)
    gallery.thumbnails.click(handlers.several.act, parts.where, parts.changed, **PICKED).then(
        **check
    )
    gallery.thumbnails.input(
        handlers.several.take_chosen,
        [parts.dataset, *bulk.edit],
        [gallery.chosen, bulk.apply, bulk.example],
        **PICKED,
    )


def _bulk(
    parts: Parts, bulk: Bulk, handlers: Handlers, show: dict[str, Any], check: dict[str, Any]
) -> None:
    """Changing and describing all captions."""
    # apart from what is typed: an answer that touches a field may undo its last letter
    bulk.kind.input(handlers.several.name_fields, bulk.kind, [bulk.words, bulk.other], **LAST)
    gr.on(
        [bulk.kind.input, bulk.words.change, bulk.other.change],
        handlers.several.explain_edit,
        [parts.dataset, *bulk.edit, parts.gallery.chosen],
        bulk.example,
        **LAST,
    )
    bulk.apply.click(
        handlers.several.edit_all,
        [*parts.where, *bulk.edit, parts.gallery.chosen],
        [bulk.example, *parts.changed],
        **PRIVATE,
    ).then(**check)
    describing = bulk.describe.click(
        handlers.several.describe_all,
        parts.where,
        [bulk.described, bulk.stop],
        concurrency_limit=1,
        **QUIET,
    )
    describing.then(**show).then(**check)
    bulk.stop.click(
        handlers.several.stop_describing, None, bulk.stop, cancels=[describing], **QUIET
    ).then(**show)
