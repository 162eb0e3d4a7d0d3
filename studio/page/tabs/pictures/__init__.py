"""The Dataset tab: datasets, pictures with their captions, bulk edits, findings."""

from __future__ import annotations

import gradio as gr

from studio.page.tabs.pictures.components import Parts, components
from studio.page.tabs.pictures.events import connect
from studio.page.tabs.pictures.handlers import Handlers
from training.storage.paths import Workspace


def layout(workspace: Workspace, page: gr.Blocks, tab: gr.Tab) -> Parts:
    """Fill the tab."""
    parts = components(workspace.root)
    connect(parts, Handlers(workspace, parts), page, tab)
    return parts
