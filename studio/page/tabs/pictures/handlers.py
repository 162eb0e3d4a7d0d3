"""What the Dataset tab's events do; answers are keyed by component. studio.datasets does the
work.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import gradio as gr
from gradio.blocks import Block

from studio.datasets import caption_edits, captioning, collection, fixes, history, incoming, store
from studio.datasets.collection import choices
from studio.library import library, sample_project
from studio.page.handlers import shows_errors, shows_errors_while_streaming
from studio.page.latest import Latest
from studio.page.tabs.pictures import rendering
from studio.page.tabs.pictures.captions import Captions
from studio.page.tabs.pictures.components import Parts
from studio.page.views import pictures as views
from studio.processes.queue import Queue
from studio.server import uploads
from training.storage.paths import Workspace

FIRST = "my-pictures"  # the dataset that is made for pictures dropped before any dataset was
DATASET, CHANGE = "dataset", "change"  # what the line at the bottom takes back
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
            shown = self._dataset(name, model, _name_in(of))
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
            **self._dataset(dataset, model),
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
    def delete_dataset(self, dataset: str | None, model: str) -> Answer:
        called = collection.delete(self.workspace, dataset or "")
        return {
            **self._listed(store.newest(self.workspace), model),
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
            **self._dataset(name, model, next(iter((*added.kept, *added.captioned)), "")),
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
        return self._picture(dataset, _event_text(event, "at"), model)

    @shows_errors
    def previous(self, dataset: str | None, of: str, model: str) -> Answer:
        return self._step(-1, dataset, of, model)

    @shows_errors
    def next(self, dataset: str | None, of: str, model: str) -> Answer:
        return self._step(1, dataset, of, model)

    def _step(self, by: int, dataset: str | None, of: str, model: str) -> Answer:
        listing = store.pictures(store.folder(self.workspace, dataset or ""))
        at = _name_in(of)
        found = listing[(listing.index(at) + by) % len(listing)] if at in listing else ""
        return self._picture(dataset, found, model)

    @shows_errors
    def take_theirs(self, of: str, model: str) -> Answer:
        name, _, at = (of or "").partition("/")
        mark = views.kept(self.workspace.root, of, None)
        return {self.parts.picture.kept: mark, **self._picture(name, at, model)}

    @shows_errors
    def move_crop(self, event: gr.EventData) -> None:
        name, _, at = _event_text(event, "of").partition("/")
        place = tuple(event._data.get(key) for key in ("across", "down"))
        if all(type(share) in (int, float) for share in place):
            store.place_crop(store.folder(self.workspace, name), at, place)

    @shows_errors
    def remove(self, of: str, model: str) -> Answer:
        name, _, at = (of or "").partition("/")
        folder = store.folder(self.workspace, name)
        listing = store.pictures(folder)
        store.remove(folder, [at])
        following = listing[listing.index(at) + 1 :]
        return {
            **self._dataset(name, model, next(iter(following), "")),
            **self.parts.snackbar.says(f"Removed {at}.", CHANGE),
        }

    @shows_errors
    def undo(self, dataset: str | None, of: str, model: str) -> Answer:
        done = history.undo(store.folder(self.workspace, dataset or ""))
        if done.stayed:
            gr.Info(f"{len(done.stayed)} files have changed since then and were left as they are.")
        return {
            **self._dataset(dataset, model, _name_in(of)),
            **self.parts.snackbar.is_silent(),
        }

    @shows_errors
    def undo_last(self, undoes: str, dataset: str | None, of: str, model: str) -> Answer:
        """What the line at the bottom offers to take back."""
        if undoes != DATASET:
            return self.undo(dataset, of, model)
        name = collection.bring_back(self.workspace)
        return {**self._listed(name, model), **self.parts.snackbar.is_silent()}

    # all captions

    @shows_errors
    def name_fields(self, kind: str | None) -> Answer:
        edits = caption_edits.EDITS
        chosen = kind if isinstance(kind, str) and kind in edits else next(iter(edits))
        _, first, second = edits[chosen]
        return {
            self.parts.bulk.words: gr.Textbox(label=first),
            self.parts.bulk.other: gr.Textbox(label=second or "Replace with", visible=bool(second)),
        }

    @shows_errors
    def explain_edit(self, dataset: str | None, kind: str, words: str, other: str) -> str:
        if not dataset or not (words or "").strip():
            return ""
        captions = store.trained_captions(store.folder(self.workspace, dataset))
        changed = caption_edits.edited(captions, kind, words, other or "")
        return views.bulk_example(changed, captions)

    @shows_errors
    def edit_all(
        self, dataset: str | None, of: str, model: str, kind: str, words: str, other: str
    ) -> Answer:
        folder, words, other = store.folder(self.workspace, dataset or ""), words or "", other or ""
        changed = caption_edits.edited(store.trained_captions(folder), kind, words, other)
        count = store.rewrite(folder, caption_edits.described(kind, words, other), changed)
        done = f"Changed {count} caption{'' if count == 1 else 's'}."
        return {
            self.parts.bulk.example: views.edited(count),
            **self._dataset(dataset, model, _name_in(of)),
            **(self.parts.snackbar.says(done, CHANGE) if count else {}),
        }

    @shows_errors_while_streaming
    def describe_all(self, dataset: str | None, of: str | None, model: str) -> Iterator[Answer]:
        """Captions by a model, kept as they come, so that they outlive stop and page; undone as one
        change.
        """
        folder, act = store.folder(self.workspace, dataset or ""), uuid4().hex
        bare = [at for at, text in store.captions(folder).items() if not text]
        count = 0
        pictures = [store.picture(folder, at) for at in bare]
        try:
            for path, text in captioning.described(pictures) if bare else ():
                if store.captions(folder).get(path.name) == "":  # what was typed meanwhile stays
                    store.rewrite(folder, "captions by a model", {path.name: text}, act=act)
                count += 1
                yield self._described(count, len(bare))
        except captioning.NoModelError:
            yield {
                self.parts.bulk.described: views.no_captioning_model(captioning.MODELS),
                self.parts.bulk.stop: gr.Button(visible=False),
            }
            return
        yield self._described(count, len(bare), done=True)

    def _described(self, count: int, of: int, *, done: bool = False) -> Answer:
        return {
            self.parts.bulk.described: views.described(count, of, done=done),
            self.parts.bulk.stop: gr.Button(visible=not done),
        }

    @shows_errors
    def stop_describing(self) -> Any:
        return gr.Button(visible=False)

    # findings

    @shows_errors
    def check(self, dataset: str | None, model: str) -> str:
        return rendering.findings(self.workspace, dataset, model)

    @shows_errors
    def fix(self, dataset: str | None, of: str, model: str, event: gr.EventData) -> Answer:
        """Fix one finding, or all of a kind."""
        on, folder = event._data.get("on"), store.folder(self.workspace, dataset or "")
        kind, fix = _event_text(event, "kind"), _event_text(event, "fix")
        base, _ = rendering.base_for(self.workspace, folder.name, model)
        if on is None:
            fixes.apply_to_all(folder, kind, fix, base)
        else:
            names = [str(name) for name in on] if isinstance(on, list) else []
            fixes.apply_fix(folder, kind, fix, names, base)
        return {
            **self._dataset(dataset, model, _name_in(of)),
            **self.parts.snackbar.says(f"Done: {history.last(folder)}.", CHANGE),
        }

    # what is shown

    def _listed(self, name: str | None, model: str) -> Answer:
        """Another dataset, with the list of them all."""
        return {
            self.parts.dataset: gr.Dropdown(choices=choices(self.workspace), value=name),
            self.parts.in_view: name or "",
            **self._dataset(name, model),
        }

    def _dataset(self, name: str | None, model: str, at: str = "") -> Answer:
        found = rendering.dataset(self.workspace, name, model, at)
        undo = f"Undo: {found.undo}" if found.undo else "Undo"
        return {
            self.parts.summary: found.summary,
            self.parts.thumbnails: found.thumbnails,
            self.parts.undo: gr.Button(undo, visible=found.undo is not None),
            **self._shown(found.picture),
        }

    def _picture(self, name: str | None, at: str, model: str) -> Answer:
        return self._shown(rendering.picture(self.workspace, name, at, model))

    def _shown(self, picture: rendering.Picture) -> Answer:
        parts = self.parts.picture
        return {
            parts.desk: picture.desk,
            parts.of: picture.of,
            parts.before: picture.caption,
            **parts.conflict.asks(),
            parts.caption: gr.Textbox(
                picture.caption,
                placeholder=picture.placeholder,
                interactive=bool(picture.of),
            ),
            parts.tokens: picture.tokens,
        }


def _event_text(event: gr.EventData, key: str) -> str:
    """What the page says was clicked; it may say anything."""
    return str(event._data.get(key, ""))


def _name_in(of: str | None) -> str:
    """The picture's name in dataset/name."""
    return (of or "").partition("/")[2]
