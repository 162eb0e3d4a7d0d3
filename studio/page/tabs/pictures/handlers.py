"""What the Dataset tab's events do; answers are keyed by component. studio.datasets does the
work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from studio.datasets import collection, fixes, history, incoming, store
from studio.datasets.collection import choices
from studio.library import library, sample_project
from studio.page.handlers import shows_errors
from studio.page.latest import Latest
from studio.page.tabs.pictures import rendering
from studio.page.tabs.pictures.captions import Captions
from studio.page.tabs.pictures.components import Parts
from studio.page.tabs.pictures.gallery import Gallery, chosen_in
from studio.page.tabs.pictures.several import Several
from studio.page.tabs.pictures.showing import Showing, event_text, name_in
from studio.page.views import pictures as views
from studio.processes.queue import Queue
from studio.server import uploads
from training.storage.paths import Workspace

FIRST = "my-pictures"  # the dataset that is made for pictures dropped before any dataset was
DATASET = "dataset"  # what the line at the bottom takes back, besides a change
Answer = dict[Block, Any]


class Handlers:
    """Handlers of one page. Arguments of many: dataset: its name; of: dataset/name of the shown
    picture; model: the base to check for.
    """

    def __init__(self, workspace: Workspace, parts: Parts) -> None:
        self.workspace = workspace
        self.parts = parts
        self.captions = Captions(workspace, parts)
        self.latest = Latest()
        self.gallery = Gallery(workspace)
        self.showing = Showing(workspace, parts, self.gallery)
        self.several = Several(workspace, parts, self.showing)

    # datasets

    @shows_errors
    def first_base(self) -> Any:
        known = library.bases(self.workspace)
        return gr.Dropdown(choices=known, value=known[0])

    @shows_errors
    def show_dataset(
        self, dataset: str | None, of: str, model: str, request: gr.Request | None = None
    ) -> Answer:
        """The list of datasets and the chosen one, the newest where it is not there any more.

        Thumbnails may take seconds. A dataset that was made or chosen meanwhile must not disappear
        from the list and the field by this answer.
        """
        while True:
            listing, before = store.names(self.workspace), self.latest.choice(request)
            name = dataset if dataset in listing else store.newest(self.workspace)
            shown = self.showing.dataset(name, model, name_in(of), request)
            now = self.latest.choice(request)
            if now != before:
                dataset, of = now[1], ""
            elif store.names(self.workspace) == listing:
                break
        found = gr.Dropdown(choices=choices(self.workspace), value=name)
        return {self.parts.dataset: found, **shown}

    @shows_errors
    def open_dataset(
        self, dataset: str | None, model: str, request: gr.Request | None = None
    ) -> Answer:
        self.latest.choose(dataset or "", request)
        return {
            self.parts.report: "",
            self.parts.in_view: dataset or "",
            **self.showing.dataset(dataset, model, request=request),
        }

    @shows_errors
    def make_dataset(self, name: str, request: gr.Request | None = None) -> Answer:
        made = collection.make(self.workspace, name)
        self.latest.choose(made.name, request)
        return {
            self.parts.dataset: gr.Dropdown(choices=choices(self.workspace), value=made.name),
            self.parts.new: "",
        }

    @shows_errors
    def ask_name(self, dataset: str | None) -> Answer:
        called = collection.title(store.folder(self.workspace, dataset or ""))
        managing = self.parts.managing
        return {managing.row: gr.Row(visible=True), managing.name: called}

    def keep_name(self) -> Any:
        return gr.Row(visible=False)

    @shows_errors
    def rename_dataset(self, dataset: str | None, called: str) -> Answer:
        collection.rename(self.workspace, dataset or "", called)
        return {
            self.parts.dataset: gr.Dropdown(choices=choices(self.workspace), value=dataset),
            self.parts.managing.row: gr.Row(visible=False),
        }

    @shows_errors
    def duplicate_dataset(self, dataset: str | None, request: gr.Request | None = None) -> Any:
        made = collection.duplicate(self.workspace, dataset or "")
        self.latest.choose(made.name, request)
        return gr.Dropdown(choices=choices(self.workspace), value=made.name)

    @shows_errors
    def delete_dataset(
        self, dataset: str | None, model: str, request: gr.Request | None = None
    ) -> Answer:
        called = collection.delete(self.workspace, dataset or "")
        return {
            **self.showing.listed(store.newest(self.workspace), model, request),
            **self.parts.snackbar.says(f"Deleted the dataset “{called}”.", DATASET),
        }

    @shows_errors
    def upload(
        self,
        dataset: str | None,
        files: list[str] | None,
        model: str,
        request: gr.Request | None = None,
    ) -> Answer:
        name = dataset
        # own pictures do not belong to the example
        if not name or sample_project.is_example(self.workspace, name):
            known = store.names(self.workspace)
            name = FIRST if FIRST in known else store.make(self.workspace, FIRST).name
        sent, paths, left = incoming.with_paths([Path(f) for f in files or []])
        added = store.add(store.folder(self.workspace, name), sent, paths, left)
        uploads.used(files or [])
        self.latest.choose(name, request)
        listing = gr.Dropdown(choices=choices(self.workspace), value=name)
        return {
            self.parts.drop: None,
            self.parts.report: views.report(added),
            self.parts.dataset: listing,
            self.parts.in_view: name,
            **self.showing.dataset(
                name, model, next(iter((*added.kept, *added.captioned)), ""), request
            ),
        }

    @shows_errors
    def offer_example(self, dataset: str | None) -> Any:
        return gr.Row(visible=sample_project.is_example(self.workspace, dataset))

    @shows_errors
    def train_example(self) -> None:
        queue = Queue(self.workspace)
        run = queue.job(queue.add(sample_project.config(self.workspace))).run
        gr.Info(f"Training “{run}”. This takes a few minutes.", title="Training started")

    # one picture

    @shows_errors
    def choose(self, dataset: str | None, model: str, event: gr.EventData) -> Answer:
        return self.showing.picture(dataset, event_text(event, "at"), model)

    @shows_errors
    def choose_in_gallery(
        self,
        dataset: str | None,
        of: str,
        model: str,
        event: gr.EventData,
        request: gr.Request | None = None,
    ) -> Answer:
        """The same where it may stand on another page."""
        before, at = name_in(of), event_text(event, "at")
        if self.gallery.are_apart(dataset, before, at, model, request):
            return self.showing.dataset(dataset, model, at, request)
        return self.showing.picture(dataset, at, model)

    @shows_errors
    def previous(
        self, dataset: str | None, of: str, model: str, request: gr.Request | None = None
    ) -> Answer:
        return self._step(-1, dataset, of, model, request)

    @shows_errors
    def next(
        self, dataset: str | None, of: str, model: str, request: gr.Request | None = None
    ) -> Answer:
        return self._step(1, dataset, of, model, request)

    def _step(
        self, by: int, dataset: str | None, of: str, model: str, request: gr.Request | None
    ) -> Answer:
        at, turns = self.gallery.neighbour(dataset, name_in(of), by, model, request)
        if turns:
            return self.showing.dataset(dataset, model, at, request)
        return self.showing.picture(dataset, at, model)

    @shows_errors
    def take_theirs(self, of: str, model: str) -> Answer:
        name, _, at = (of or "").partition("/")
        mark = views.kept(self.workspace.root, of, None)
        return {self.parts.picture.kept: mark, **self.showing.picture(name, at, model)}

    @shows_errors
    def move_crop(self, event: gr.EventData) -> None:
        name, _, at = event_text(event, "of").partition("/")
        place = tuple(event._data.get(key) for key in ("across", "down"))
        if all(type(share) in (int, float) for share in place):
            store.place_crop(store.folder(self.workspace, name), at, place)

    @shows_errors
    def remove(self, of: str, model: str, request: gr.Request | None = None) -> Answer:
        name, _, at = (of or "").partition("/")
        folder = store.folder(self.workspace, name)
        listing = store.pictures(folder)
        store.remove(folder, [at])
        following = next(iter(listing[listing.index(at) + 1 :]), "")
        return self.showing.changed(name, model, following, request, f"Removed {at}.")

    @shows_errors
    def undo(
        self, dataset: str | None, of: str, model: str, request: gr.Request | None = None
    ) -> Answer:
        done = history.undo(store.folder(self.workspace, dataset or ""))
        if done.stayed:
            gr.Info(f"{len(done.stayed)} files have changed since then and were left as they are.")
        return {
            **self.showing.dataset(dataset, model, name_in(of), request),
            **self.parts.snackbar.is_silent(),
        }

    @shows_errors
    def redo(
        self, dataset: str | None, of: str, model: str, request: gr.Request | None = None
    ) -> Answer:
        """Make again what was undone last."""
        what = history.redo(store.folder(self.workspace, dataset or ""))
        done = f"Done again: {what}."
        return self.showing.changed(dataset, model, name_in(of), request, done)

    @shows_errors
    def undo_last(
        self,
        undoes: str,
        dataset: str | None,
        of: str,
        model: str,
        request: gr.Request | None = None,
    ) -> Answer:
        """What the line at the bottom offers to take back."""
        if undoes != DATASET:
            return self.undo(dataset, of, model, request)
        name = collection.bring_back(self.workspace)
        return {**self.showing.listed(name, model, request), **self.parts.snackbar.is_silent()}

    # findings

    @shows_errors
    def check(self, dataset: str | None, model: str) -> str:
        return rendering.findings(self.workspace, dataset, model)

    @shows_errors
    def fix(
        self,
        dataset: str | None,
        of: str,
        model: str,
        event: gr.EventData,
        request: gr.Request | None = None,
    ) -> Answer:
        """Fix one finding, all of a kind, or whatever needs no choice."""
        on, folder = event._data.get("on"), store.folder(self.workspace, dataset or "")
        kind, fix = event_text(event, "kind"), event_text(event, "fix")
        base, _ = rendering.base_for(self.workspace, folder.name, model)
        if fix == "all":
            count = fixes.apply_all(folder, base)
            done = f"Fixed {count} issue{'' if count == 1 else 's'}."
        elif on is None:
            fixes.apply_to_all(folder, kind, fix, base)
            done = f"Done: {history.last(folder)}."
        else:
            fixes.apply_fix(folder, kind, fix, chosen_in(event), base)
            done = f"Done: {history.last(folder)}."
        return self.showing.changed(dataset, model, name_in(of), request, done)
