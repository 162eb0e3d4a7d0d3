"""A part of the Train tab:

several styles at once. Layout and short handlers; studio.library.sweeps does the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from studio.datasets import store
from studio.library import library, sweeps
from studio.page import forms, polling
from studio.page.handlers import PRIVATE, QUIET, address, shows_errors
from studio.processes import process
from training.config.schema import RunConfig
from training.config.settings import settings
from training.storage.paths import Workspace

TRIES = 2  # settings that can vary at once
PICTURE = 1024  # px
LOOK = 2.0  # seconds between two looks, while somebody is at the page


def layout(
    workspace: Workspace,
    page: gr.Blocks,
    tab: gr.Tab,
    form: Sequence[Component],
    config_of: Callable[..., RunConfig],
) -> None:
    """Fill an accordion. form:

    the controls of the tab's form; config_of: what they say as settings.
    """
    titles = {s.key: forms.label(s) for s in settings()}
    choices = [(f"{titles[key]} ({key})", key) for key in sweeps.varied()]
    with gr.Accordion("Several at once", open=False, elem_id="several"):
        gr.Markdown(
            "Over one base in one pass, each exactly as it would be trained alone; then all of "
            "them are drawn beside the base."
        )
        sets = gr.Dropdown(
            [],
            multiselect=True,
            label="Train these together",
            info="Datasets, each a style of its own",
            elem_id="together-sets",
        )
        rows = []
        for number in range(1, TRIES + 1):
            with gr.Row():
                key = gr.Dropdown(
                    [("–", ""), *choices],
                    value="",
                    label="Try these settings" if number == 1 else "And these",
                    elem_id=f"try-{number}",
                )
                text = gr.Textbox(
                    "",
                    label="Values",
                    placeholder="1e-4, 3e-4",
                    max_lines=1,
                    elem_id=f"try-values-{number}",
                )
            rows += [key, text]
        start = gr.Button("Train them all", elem_id="start-several")
        status = gr.HTML(elem_id="several-status", padding=False)
    follower, got = polling.follower(elem_id="follows-several"), gr.State(())
    view = [status, follower, got]

    @shows_errors
    def offer(chosen: list[str] | None) -> Any:
        listing = store.names(workspace)
        return gr.Dropdown(
            choices=listing, value=[name for name in chosen or [] if name in listing]
        )

    @shows_errors
    def begin(chosen: list[str] | None, *found: Any) -> None:
        tries = {found[i]: found[i + 1] or "" for i in range(0, 2 * TRIES, 2) if found[i]}
        name, *values = found[2 * TRIES :]
        config = config_of(chosen[0] if chosen else name, *values)
        if len(chosen or []) == 0 and name:
            chosen = [name]
        tables, configs = sweeps.planned(workspace, config, chosen or [], tries)
        sweeps.begin(workspace, tables)
        gr.Info(
            f"{len(configs)} styles are trained together. Each is a run in the list.",
            title="Training has begun",
        )

    def look(got: tuple[str, ...]) -> list[Any]:
        folder = sweeps.newest(workspace)
        going = folder is not None and process.is_alive(folder)
        return polling.news(
            [
                _status(workspace, folder, going) if folder else "",
                polling.following(LOOK) if going else "",
            ],
            got,
        )

    gr.on([page.load, tab.select], offer, sets, sets, **QUIET).then(look, got, view, **QUIET)
    follower.tick(look, got, view, **QUIET)
    start.click(begin, [sets, *rows, *form], None, **PRIVATE).success(look, got, view, **QUIET)


def _status(workspace: Workspace, folder: Path, going: bool) -> str:
    """The sweep's runs, how each stands, what the process said, and the picture of all."""
    names = sweeps.runs_of(folder)
    known = library.runs(workspace)
    state = lambda name: process.state(workspace.runs() / name) if name in known else "–"
    rows = "".join(
        f'<li><span class="of">{escape(name)}</span><span '
        f'class="how">{escape(state(name))}</span></li>'
        for name in names
    )
    picture = workspace.runs() / "together.png"
    drawn = (
        picture.is_file()
        and not going
        and picture.stat().st_mtime >= (folder / "sweep.toml").stat().st_mtime
    )
    shown = (
        f'<img class="whole" src="{escape(address(picture, PICTURE))}" alt="All styles beside '
        'the base">'
        if drawn
        else ""
    )
    said = process.log_tail(folder, 8) if not going else ""
    words = f'<div class="run-terminal"><pre>{escape(said)}</pre></div>' if said else ""
    return f'<ol class="line">{rows}</ol>{words}{shown}'
