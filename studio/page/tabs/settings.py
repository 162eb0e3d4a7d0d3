"""The Settings tab: bases, the doctor, the workspace and what may be cleared, versions. Short
handlers.

studio.system.storage does the work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr

from studio.library import preferences
from studio.page.handlers import PRIVATE, QUIET, shows_errors
from studio.system import doctor, storage
from training.errors import StudioError
from training.storage.paths import Workspace

PLAIN = {"apply_default_css": False, "js_on_load": None}


def layout(workspace: Workspace, page: gr.Blocks, tab: gr.Tab) -> None:
    """Fill the tab."""
    with gr.Row():
        with gr.Column(min_width=340):
            gr.Markdown("### Base models")
            base = gr.Dropdown(
                [],
                label="Offered first",
                info="Where a base is chosen, this one is proposed",
                elem_id="default-base",
            )
            listed = gr.HTML(elem_id="bases", **PLAIN)
            gr.Markdown("### Doctor")
            words = (
                "What works on this machine, what does not, and what to do; without names "
                "of people or folders. Takes some seconds."
            )
            device = gr.HTML(f'<p class="note">{words}</p>', elem_id="device", **PLAIN)
            ask = gr.Button("Examine this machine", size="sm", elem_id="ask-device")
        with gr.Column(min_width=340):
            gr.Markdown("### Workspace")
            used = gr.HTML(elem_id="workspace", **PLAIN)
            with gr.Row():
                trash = gr.Button(
                    "Empty the trash",
                    size="sm",
                    variant="stop",
                    min_width=150,
                    elem_id="empty-trash",
                )
                cache = gr.Button("Clear caches", size="sm", min_width=150, elem_id="clear-cache")
            gr.Markdown("### Versions")
            gr.HTML(_table(storage.versions()), elem_id="versions", **PLAIN)
    everything = [base, listed, used]

    @shows_errors
    def open_page() -> list[Any]:
        return _view(workspace)

    @shows_errors
    def choose(setting: str | None) -> list[Any]:
        if setting not in [found.setting for found in storage.bases(workspace)]:
            raise StudioError(
                "That base is not on this machine any more. Choose another one in the list."
            )
        preferences.choose_base(workspace, setting)
        return _view(workspace)

    @shows_errors
    def look() -> str:
        return _findings(doctor.asked_elsewhere(workspace))

    @shows_errors
    def empty() -> list[Any]:
        storage.clear_trash(workspace)
        return _view(workspace)

    @shows_errors
    def clear() -> list[Any]:
        storage.clear_cache(workspace)
        return _view(workspace)

    gr.on([tab.select], open_page, None, everything, **QUIET)
    base.input(choose, base, everything, **QUIET)
    ask.click(look, None, device, **PRIVATE)
    trash.click(empty, None, everything, **PRIVATE)
    cache.click(clear, None, everything, **PRIVATE)


def _view(workspace: Workspace) -> list[Any]:
    found = storage.bases(workspace)
    settings = [one.setting for one in found]
    chosen = preferences.base(workspace)
    sizes = storage.sizes(workspace)
    parts = {name: _megabytes(size) for name, size in sizes.items()}
    whole = {str(workspace.root): _megabytes(sum(sizes.values()))}
    return [
        gr.Dropdown(choices=settings, value=chosen if chosen in settings else "mini"),
        _table({one.setting: f"{one.kind}, {_megabytes(one.size)}" for one in found})
        + '<p class="note">Put diffusers folders or .safetensors checkpoints into '
        f"{escape(str(workspace.root / preferences.FOLDERS_OF_BASES))}, "
        "and they are found here.</p>",
        _table(
            whole
            | parts
            | {f"{name}, outside": _megabytes(size) for name, size in storage.caches().items()}
        ),
    ]


def _findings(found: Sequence[doctor.Finding]) -> str:
    rows = "".join(
        "<tr><th "
        f"scope=row>{escape(one.about)}</th><td>"
        f"{'' if one.state == 'good' else f'<b>{one.state}</b>: '}{escape(one.told)}"
        f"{f'<br>{escape(one.advice)}' if one.advice else ''}</td></tr>"
        for one in found
    )
    return f'<table class="facts-table">{rows}</table>'


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _table(rows: Mapping[str, str]) -> str:
    rows = "".join(
        f"<tr><th scope=row>{escape(key)}</th><td>{escape(value)}</td></tr>"
        for key, value in rows.items()
    )
    return f'<table class="facts-table">{rows}</table>'
