"""The Compare tab: the base beside styles, from the same noise. studio.compare draws, as a process
of its own; comparisons lie in the workspace, so that whoever opens the page finds them again.
"""

from __future__ import annotations

import gradio as gr

from studio.page.tabs.compare.components import components
from studio.page.tabs.compare.events import connect
from studio.page.tabs.compare.handlers import Handlers
from training.storage.paths import Workspace


def layout(workspace: Workspace, page: gr.Blocks, tab: gr.Tab) -> None:
    """Fill the tab."""
    parts = components()
    connect(parts, Handlers(workspace, parts), page, tab)
