"""The Settings tab: bases, the doctor, the workspace and what may be cleared, versions.

studio.system.storage and studio.system.doctor do the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.blocks import Block

from studio.library import fetches, preferences
from studio.library.known_bases import KNOWN
from studio.page import polling
from studio.page.handlers import LAST, PLAIN, PRIVATE, QUIET, shows_errors
from studio.page.tabs.asking import Asking, asking
from studio.page.templates import note
from studio.page.views import bases as bases_view
from studio.page.views import settings as views
from studio.server.gradio_patches import CHANGING
from studio.system import doctor, storage
from training.errors import StudioError
from training.storage.paths import Workspace

MOST_NAMED = 6  # things in the trash that are named
LOOK = 1.0  # seconds between two looks while a base is fetched
LONG_LOOK = 5.0  # seconds for which the list of what is in the hub's cache is kept
DOCTOR = "Checks what works on this machine and how to fix what does not. Takes a few seconds."


@dataclass(frozen=True)
class Parts:
    """The tab's components."""

    base: gr.Dropdown
    bases: gr.HTML
    fetchable: gr.HTML
    other: gr.Textbox
    fetch: gr.Button
    follower: gr.HTML
    device: gr.HTML
    examine: gr.Button
    workspace: gr.HTML
    empty_trash: gr.Button
    asking: Asking
    clear_caches: gr.Button


def layout(workspace: Workspace, page: gr.Blocks, tab: gr.Tab) -> None:
    """Fill the tab."""
    parts = components()
    connect(parts, Handlers(workspace, parts), tab)


def components() -> Parts:
    """Lay the tab out."""
    with gr.Row():
        with gr.Column(min_width=340):
            gr.Markdown("## Base models")
            base = gr.Dropdown(
                [],
                label="Default base model",
                info="Used for new trainings and images",
                elem_id="default-base",
                elem_classes=CHANGING,
            )
            bases = gr.HTML(elem_id="bases", **PLAIN)
            gr.Markdown("## Download a base model")
            fetchable = gr.HTML(
                elem_id="fetchable", apply_default_css=False, js_on_load=bases_view.ACT
            )
            with gr.Row(elem_id="other-row"):
                other = gr.Textbox(
                    label="Another one from the Hugging Face hub",
                    placeholder="owner/name",
                    max_length=200,
                    elem_id="other-base",
                )
                fetch = gr.Button(
                    "Download", size="sm", scale=0, min_width=120, elem_id="fetch-base"
                )
            follower = polling.follower(elem_id="follows-fetches")
        with gr.Column(min_width=340):
            gr.Markdown("## Workspace")
            used = gr.HTML(elem_id="workspace", **PLAIN)
            small = {"size": "sm", "min_width": 150}
            with gr.Row():
                trash = gr.Button("Empty the trash", variant="stop", elem_id="empty-trash", **small)
                caches = gr.Button("Clear caches", elem_id="clear-cache", **small)
            asks = asking("trash", yes="Delete permanently", no="Cancel", variant="stop")
            gr.Markdown("## System check")
            device = gr.HTML(note(DOCTOR), elem_id="device", **PLAIN)
            examine = gr.Button("Check this machine", size="sm", elem_id="ask-device")
            gr.Markdown("## Versions")
            gr.HTML(views.table(storage.versions()), elem_id="versions", **PLAIN)
    return Parts(
        base, bases, fetchable, other, fetch, follower, device, examine, used, trash, asks, caches
    )


class Handlers:
    """What the tab's events do; answers are keyed by component."""

    def __init__(self, workspace: Workspace, parts: Parts) -> None:
        self.workspace = workspace
        self.parts = parts
        self.lately = polling.Lately(LONG_LOOK)

    @shows_errors
    def show(self) -> dict[Block, Any]:
        """The bases of this machine and what the workspace takes."""
        found = storage.bases(self.workspace)
        listing = [one.setting for one in found]
        chosen = preferences.base(self.workspace)
        folder = self.workspace.root / preferences.FOLDERS_OF_BASES
        where = f"To add a base model, put its folder or .safetensors file into {folder}."
        bases = {one.setting: f"{one.kind}, {views.size(one.size)}" for one in found}
        return {
            self.parts.base: gr.Dropdown(
                choices=listing, value=chosen if chosen in listing else "mini"
            ),
            self.parts.bases: views.table(bases, where),
            self.parts.workspace: views.table(self._sizes()),
            **self.look(),
        }

    @shows_errors
    def look(self) -> dict[Block, Any]:
        """What can be fetched, and how far what is being fetched is."""
        here = self.lately.of("bases", lambda: set(storage.names_of_hub()))
        found = fetches.every(self.workspace)
        going = any(fetch.state == "fetching" for fetch in found)
        return {
            self.parts.fetchable: bases_view.bases_html(KNOWN, found, here),
            self.parts.follower: polling.following(LOOK) if going else "",
        }

    @shows_errors
    def fetch_other(self, model: str | None) -> dict[Block, Any]:
        """Fetch the base whose hub id was typed."""
        fetches.begin(self.workspace, (model or "").strip())
        return {self.parts.other: "", **self.look()}

    @shows_errors
    def act_on_base(self, event: gr.EventData) -> dict[Block, Any]:
        """Do with a base what its button says."""
        act, model = str(event._data.get("act")), str(event._data.get("model"))
        if act == "use":
            return self.choose_base(model)
        acts = {"fetch": fetches.begin, "pause": fetches.pause, "forget": fetches.forget}
        if act in acts:
            acts[act](self.workspace, model)
        return self.show()

    @shows_errors
    def choose_base(self, setting: str | None) -> dict[Block, Any]:
        if setting not in [found.setting for found in storage.bases(self.workspace)]:
            raise StudioError(
                "That base model is not on this machine any more. Choose another one."
            )
        preferences.choose_base(self.workspace, setting)
        return self.show()

    @shows_errors
    def examine(self) -> str:
        return views.findings(doctor.asked_elsewhere(self.workspace))

    @shows_errors
    def ask_to_empty(self) -> dict[Block, Any]:
        """Ask before what cannot be undone."""
        names = storage.trashed(self.workspace)
        if not names:
            gr.Info("The trash is empty.")
            return self.parts.asking.asks()
        size = views.size(storage.sizes(self.workspace)["trash"])
        things = "1 item" if len(names) == 1 else f"{len(names)} items"
        shown = ", ".join(names[:MOST_NAMED]) + (" …" if len(names) > MOST_NAMED else "")
        return self.parts.asking.asks(
            f"Delete {things} ({size}) permanently? This cannot be undone.", shown
        )

    @shows_errors
    def empty_trash(self) -> dict[Block, Any]:
        storage.clear_trash(self.workspace)
        return {**self.show(), **self.parts.asking.asks()}

    @shows_errors
    def clear_caches(self) -> dict[Block, Any]:
        storage.clear_cache(self.workspace)
        return self.show()

    def _sizes(self) -> dict[str, str]:
        """What the workspace takes, whole and by part, and the caches outside of it."""
        sizes = storage.sizes(self.workspace)
        whole = {str(self.workspace.root): views.size(sum(sizes.values()))}
        parts = {name: views.size(size) for name, size in sizes.items()}
        outside = {f"{name} (shared)": views.size(size) for name, size in storage.caches().items()}
        return whole | parts | outside


def connect(parts: Parts, handlers: Handlers, tab: gr.Tab) -> None:
    """Which event calls which handler."""
    followed = [parts.fetchable, parts.follower]
    shown = [parts.base, parts.bases, parts.workspace, *followed]
    tab.select(handlers.show, None, shown, **QUIET)
    parts.base.input(handlers.choose_base, parts.base, shown, **LAST)
    parts.follower.tick(handlers.look, None, followed, **QUIET)
    parts.fetchable.click(handlers.act_on_base, None, shown, **QUIET)
    gr.on(
        [parts.fetch.click, parts.other.submit],
        handlers.fetch_other,
        parts.other,
        [parts.other, *followed],
        **QUIET,
    )
    parts.examine.click(handlers.examine, None, parts.device, **PRIVATE)
    parts.empty_trash.click(handlers.ask_to_empty, None, parts.asking.shown, **QUIET)
    parts.asking.yes.click(handlers.empty_trash, None, [*shown, *parts.asking.shown], **PRIVATE)
    parts.clear_caches.click(handlers.clear_caches, None, shown, **PRIVATE)
