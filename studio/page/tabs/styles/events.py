"""Which event of the Styles tab calls which handler."""

from __future__ import annotations

import gradio as gr

from studio.page.handlers import BROUGHT, LAST, PICKED, PRIVATE, QUIET, TO_TRAINING
from studio.page.scripts import script
from studio.page.tabs.styles.components import Parts
from studio.page.tabs.styles.handlers import Handlers


def connect(parts: Parts, handlers: Handlers, tab: gr.Tab) -> None:
    """Give every event its handler."""
    chosen, search, everything = parts.chosen, parts.search, parts.everything
    sharing = parts.sharing
    # not also at page.load: a late answer would undo what is being typed
    tab.select(handlers.open_tab, [chosen, search], everything, **QUIET)
    parts.listing.select(handlers.choose, [chosen, search], everything, **PICKED)
    parts.listing.click(handlers.find_tag, chosen, [search, parts.listing], **QUIET)
    recipes = parts.recipes
    recipes.other.input(handlers.compare, [chosen, recipes.other], recipes.differences, **LAST)
    search.change(handlers.find, [chosen, search], parts.listing, **LAST)
    parts.drop.upload(
        handlers.bring,
        [parts.drop, chosen],
        [parts.drop, parts.report, search, *everything],
        **BROUGHT,
    )
    parts.card.save.click(
        handlers.save_card, [chosen, search, *parts.card.fields], everything, **PRIVATE
    )
    gr.on(
        [sharing.kept.input, sharing.form.input],
        handlers.show_published,
        [chosen, sharing.kept],
        [sharing.published, sharing.download],
        **LAST,
    )
    sharing.make.click(
        handlers.publish, [chosen, sharing.form, sharing.kept], sharing.download, **PRIVATE
    )
    parts.use.click(handlers.use, chosen, None, **PRIVATE).success(
        None, None, None, js=script("open_create")
    )
    parts.go_on.click(handlers.go_on, chosen, None, **PRIVATE).success(
        None, None, None, js=TO_TRAINING
    )
    parts.remove.click(handlers.delete, [chosen, search], parts.changed, **PRIVATE)
    for undo in (parts.undo, parts.snackbar.undo):
        undo.click(handlers.bring_back, [chosen, search], parts.changed, **PRIVATE)
