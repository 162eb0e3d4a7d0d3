"""The Train tab: a form made of the settings, and a run as its events show it."""

from __future__ import annotations

import gradio as gr

from studio.page.tabs.train import several
from studio.page.tabs.train.components import components
from studio.page.tabs.train.events import connect
from studio.page.tabs.train.handlers import Handlers
from training.storage.paths import Workspace


def layout(workspace: Workspace, page: gr.Blocks, tab: gr.Tab) -> None:
    """Fill the tab."""
    parts = components()
    handlers = Handlers(workspace, parts)
    connect(parts, handlers, page, tab)
    together = several.Handlers(workspace, parts.several, handlers.config)
    several.connect(parts.several, together, parts.form.inputs, page, tab)
