"""A part of the Train tab: several styles at once. studio.library.sweeps does the work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from studio.datasets import collection, store
from studio.library import library, sweeps
from studio.page import forms, polling
from studio.page.handlers import PRIVATE, QUIET, address, shows_errors
from studio.page.templates import render
from studio.page.views import charts
from studio.processes import process
from studio.server.gradio_patches import CHANGING
from training.config.schema import RunConfig
from training.config.settings import settings
from training.storage.paths import Workspace

Answer = dict[Block, Any]

TRIES = 2  # settings that can vary at once
PICTURE = 1024  # px
WAITING = "Waiting"
LOOK = 2.0  # seconds between two looks, while somebody is at the page
EXPLAINED = (
    "Train several styles in one go: one for each dataset, or one for each value of a setting. "
    "They are compared with the base model at the end."
)


@dataclass(frozen=True)
class Parts:
    """The part's components. tries: setting and values, by turns; sent: what the page was sent."""

    datasets: gr.Dropdown
    tries: Sequence[Component]
    start: gr.Button
    status: gr.HTML
    follower: gr.HTML
    sent: gr.State


def components() -> Parts:
    """Lay out an accordion."""
    titles = {s.key: forms.label(s) for s in settings()}
    choices = [("–", ""), *((titles[key], key) for key in sweeps.varied())]
    with gr.Accordion("Batch and sweep", open=False, elem_id="several"):
        gr.Markdown(EXPLAINED)
        datasets = gr.Dropdown(
            [],
            multiselect=True,
            label="Datasets",
            info="Each becomes a style",
            elem_id="together-sets",
            elem_classes=CHANGING,
        )
        tries = [part for number in range(1, TRIES + 1) for part in _try(number, choices)]
        start = gr.Button("Start batch", elem_id="start-several")
        status = gr.HTML(elem_id="several-status", padding=False)
    follower = polling.follower(elem_id="follows-several")
    return Parts(datasets, tries, start, status, follower, gr.State({}))


def _try(number: int, choices: list[tuple[str, str]]) -> tuple[gr.Dropdown, gr.Textbox]:
    """A setting and the values it shall have."""
    with gr.Row():
        key = gr.Dropdown(
            choices,
            value="",
            label="Setting to vary" if number == 1 else "Second setting",
            elem_id=f"try-{number}",
        )
        values = gr.Textbox(
            "",
            label="Values",
            placeholder="1e-4, 3e-4",
            max_lines=1,
            elem_id=f"try-values-{number}",
        )
    return key, values


class Handlers:
    """What the part's events do; answers are keyed by component.

    config_of: the tab's form as settings.
    """

    def __init__(
        self, workspace: Workspace, parts: Parts, config_of: Callable[..., RunConfig]
    ) -> None:
        self.workspace = workspace
        self.parts = parts
        self.config_of = config_of

    @shows_errors
    def offer_datasets(self, chosen: list[str] | None) -> Any:
        listing = store.names(self.workspace)
        return gr.Dropdown(
            choices=collection.choices(self.workspace),
            value=[name for name in chosen or [] if name in listing],
        )

    @shows_errors
    def start(self, chosen: list[str] | None, *found: Any) -> None:
        tries, (dataset, *values) = found[: 2 * TRIES], found[2 * TRIES :]
        varied = {key: text or "" for key, text in zip(tries[::2], tries[1::2], strict=True) if key}
        datasets = chosen or ([dataset] if dataset else [])
        config = self.config_of(chosen[0] if chosen else dataset, *values)
        tables, configs = sweeps.planned(self.workspace, config, datasets, varied)
        sweeps.begin(self.workspace, tables)
        gr.Info(
            f"Training {len(configs)} styles. Each has its own run in the list.",
            title="Training started",
        )

    def look(self, sent: dict[str, str]) -> Answer:
        folder = sweeps.newest(self.workspace)
        going = folder is not None and process.is_alive(folder)
        if folder is not None and not going:
            sweeps.keep_grid(self.workspace, folder)
        found = {
            "status": status_html(self.workspace, folder, going) if folder else "",
            "follower": polling.following(LOOK) if going else "",
        }
        news, marks = polling.unsent(found, sent)
        answer: Answer = {getattr(self.parts, name): value for name, value in news.items()}
        answer[self.parts.sent] = marks
        return answer


def connect(
    parts: Parts, handlers: Handlers, form: list[Component], page: gr.Blocks, tab: gr.Tab
) -> None:
    """Give every event its handler. form: the inputs of the tab's form."""
    look: dict[str, Any] = {
        "fn": handlers.look,
        "inputs": parts.sent,
        "outputs": [parts.status, parts.follower, parts.sent],
        **QUIET,
    }
    gr.on(
        [page.load, tab.select], handlers.offer_datasets, parts.datasets, parts.datasets, **QUIET
    ).then(**look)
    parts.follower.tick(**look)
    asked = [parts.datasets, *parts.tries, *form]
    parts.start.click(handlers.start, asked, None, **PRIVATE).success(**look)


def status_html(workspace: Workspace, folder: Path, going: bool) -> str:
    """The sweep's runs, how each stands, what the process reported, and the picture of all."""
    known = library.runs(workspace)
    states: dict[str, process.State | None] = {
        name: process.state(workspace.runs() / name) if name in known else None
        for name in sweeps.runs_of(folder)
    }
    runs = [(name, charts.WORDS[state] if state else WAITING) for name, state in states.items()]
    done = sum(state == "finished" for state in states.values())
    grid = None if going else sweeps.grid_of(workspace, folder)
    failed = not going and done < len(states)
    return render(
        "several_status",
        runs=runs,
        words=f"{done} of {len(runs)} styles finished.",
        log=_without_folders(process.log_tail(folder, 8), workspace) if failed else "",
        picture=address(grid, PICTURE) if grid else "",
    )


def _without_folders(log: str, workspace: Workspace) -> str:
    """The end of a log without the places of this machine."""
    return log.replace(f"{workspace.root}/", "")
