"""The Train tab: a form made of the settings, and a run as its events show it."""

from __future__ import annotations

import gradio as gr

from studio.page.tabs.train import several
from studio.page.tabs.train.components import Running, components
from studio.page.tabs.train.events import connect, follow
from studio.page.tabs.train.handlers import Handlers
from training.storage.paths import Workspace


def layout(
    workspace: Workspace,
    page: gr.Blocks,
    tab: gr.Tab,
    in_view: gr.Textbox | None = None,
    seen: Running | None = None,
) -> None:
    """Fill the tab. in_view: name of the dataset that was opened in the Dataset tab; seen: what
    stands outside of the tab, made by `running`.
    """
    parts = components(seen)
    handlers = Handlers(workspace, parts)
    connect(parts, handlers, page, tab)
    if in_view is not None:
        follow(parts, handlers, in_view)
    together = several.Handlers(workspace, parts.several, handlers.config)
    several.connect(parts.several, together, parts.form.inputs, page, tab)
