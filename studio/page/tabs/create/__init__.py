"""The Create tab: one image large, in a style whose strength a slider changes, from a prompt or
from one's own sketch or photo. studio.drawing draws, in a process of its own.
"""

from __future__ import annotations

import gradio as gr

from studio.page.tabs.create.components import components
from studio.page.tabs.create.events import connect
from studio.page.tabs.create.handlers import Handlers
from training.storage.paths import Workspace


def layout(workspace: Workspace, page: gr.Blocks, tab: gr.Tab) -> None:
    """Fill the tab."""
    parts = components()
    connect(parts, Handlers(workspace, parts), page, tab)
