"""What is done with many pictures at once: narrowing what is shown, acts on those that are chosen,
edits of their captions, captions by a model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import gradio as gr
from gradio.blocks import Block

from studio.datasets import caption_edits, captioning, store
from studio.page.handlers import shows_errors, shows_errors_while_streaming
from studio.page.tabs.pictures.components import Parts
from studio.page.tabs.pictures.gallery import apply_label, chosen, chosen_in
from studio.page.tabs.pictures.showing import Showing, event_text, name_in
from studio.page.views import pictures as views
from training.storage.paths import Workspace

Answer = dict[Block, Any]


class Several:
    """Handlers of one page. Arguments as those of handlers.Handlers; on: names of the chosen
    pictures as JSON, "" for all.
    """

    def __init__(self, workspace: Workspace, parts: Parts, showing: Showing) -> None:
        self.workspace = workspace
        self.parts = parts
        self.showing = showing

    @shows_errors
    def narrow(
        self,
        dataset: str | None,
        of: str,
        model: str,
        kind: str | None,
        words: str | None,
        request: gr.Request | None = None,
    ) -> Answer:
        """Show the pictures that pass the filter."""
        self.showing.gallery.narrow(kind, words, request)
        return self.showing.dataset(dataset, model, name_in(of), request)

    @shows_errors
    def take_tag(self, event: gr.EventData) -> str:
        return event_text(event, "tag")

    @shows_errors
    def act(
        self,
        dataset: str | None,
        of: str,
        model: str,
        event: gr.EventData,
        request: gr.Request | None = None,
    ) -> Answer:
        """What a button above the pictures does with those that are chosen."""
        done = self.showing.gallery.act(dataset, event_text(event, "act"), chosen_in(event))
        return self.showing.changed(dataset, model, name_in(of), request, done)

    @shows_errors
    def take_chosen(
        self, dataset: str | None, kind: str, words: str, other: str, event: gr.EventData
    ) -> Answer:
        """The caption edit goes to the chosen pictures."""
        names = chosen_in(event)
        text = json.dumps(names) if names else ""
        return {
            self.parts.gallery.chosen: text,
            self.parts.bulk.apply: gr.Button(apply_label(names)),
            self.parts.bulk.example: self.explain_edit(dataset, kind, words, other, text),
        }

    # captions of several

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
    def explain_edit(
        self, dataset: str | None, kind: str, words: str, other: str, on: str = ""
    ) -> str:
        if not dataset or not (words or "").strip():
            return ""
        captions = self._trained(dataset, on)
        changed = caption_edits.edited(captions, kind, words, other or "")
        return views.bulk_example(changed, captions)

    @shows_errors
    def edit_all(
        self,
        dataset: str | None,
        of: str,
        model: str,
        kind: str,
        words: str,
        other: str,
        on: str = "",
        request: gr.Request | None = None,
    ) -> Answer:
        """Edit the captions of all pictures, or of those that are chosen."""
        folder, words, other = store.folder(self.workspace, dataset or ""), words or "", other or ""
        changed = caption_edits.edited(self._trained(folder.name, on), kind, words, other)
        count = store.rewrite(folder, caption_edits.described(kind, words, other), changed)
        done = f"Changed {count} caption{'' if count == 1 else 's'}." if count else ""
        return {
            self.parts.bulk.example: views.edited(count),
            **self.showing.changed(dataset, model, name_in(of), request, done),
        }

    def _trained(self, dataset: str, on: str) -> dict[str, str]:
        """Captions as they are trained. on: names of the chosen pictures as JSON, "" for all."""
        captions, names = store.trained_captions(store.folder(self.workspace, dataset)), chosen(on)
        if names is None:
            return captions
        return {name: text for name, text in captions.items() if name in set(names)}

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
