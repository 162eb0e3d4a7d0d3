"""The Styles tab: the library of finished styles, one in full, and what is done with it."""

from __future__ import annotations

import gradio as gr

from studio.page.tabs.styles.components import components
from studio.page.tabs.styles.events import connect
from studio.page.tabs.styles.handlers import Handlers
from training.storage.paths import Workspace


def layout(workspace: Workspace, page: gr.Blocks, tab: gr.Tab) -> None:
    """Fill the tab."""
    parts = components()
    connect(parts, Handlers(workspace, parts), tab)
