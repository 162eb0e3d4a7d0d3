"""Which pictures the Dataset tab shows, and what is done with several of them at once."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import gradio as gr
from gradio.blocks import Block

from studio.datasets import store, turning
from studio.datasets.filters import ALL, Filter
from studio.page.latest import MOST_WINDOWS, window_of
from studio.page.tabs.pictures import rendering
from studio.page.tabs.pictures.components import ALL_CAPTIONS
from studio.page.views.pictures import PAGE
from training.data.caption_files import caption_from_name
from training.storage.paths import Workspace

Answer = dict[Block, Any]


class Gallery:
    """What each window shows of a dataset."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.filters: dict[str | None, Filter] = {}

    def narrow(self, kind: str | None, words: str | None, request: gr.Request | None) -> None:
        """Remember what a window shows from now on."""
        window = window_of(request)
        self.filters.pop(window, None)
        self.filters[window] = Filter(kind or ALL, words or "")
        while len(self.filters) > MOST_WINDOWS:
            del self.filters[next(iter(self.filters))]

    def filter_of(self, request: gr.Request | None) -> Filter:
        return self.filters.get(window_of(request), rendering.EVERYTHING)

    def neighbour(
        self, dataset: str | None, at: str, by: int, model: str, request: gr.Request | None
    ) -> tuple[str, bool]:
        """The picture before or after one, of those that are shown, and whether it is on another
        page; "" where there is none.
        """
        store.folder(self.workspace, dataset or "")
        of = self.filter_of(request)
        names = rendering.passing(self.workspace, dataset or "", model, of)
        if at not in names:
            return next(iter(names), ""), True
        here = names.index(at)
        there = (here + by) % len(names)
        return names[there], here // PAGE != there // PAGE

    def are_apart(
        self, dataset: str | None, one: str, other: str, model: str, request: gr.Request | None
    ) -> bool:
        """Whether two pictures stand on different pages."""
        store.folder(self.workspace, dataset or "")
        of = self.filter_of(request)
        names = rendering.passing(self.workspace, dataset or "", model, of)
        places = [names.index(name) // PAGE if name in names else 0 for name in (one, other)]
        return places[0] != places[1]

    def act(self, dataset: str | None, act: str, names: list[str]) -> str:
        """Do something with several pictures, undone as one change; say what was done."""
        folder = store.folder(self.workspace, dataset or "")
        there = [name for name in store.pictures(folder) if name in set(names)]
        if not there:
            return ""
        pictures = f"{len(there)} picture{'' if len(there) == 1 else 's'}"
        if act == "remove":
            store.remove(folder, there)
            return f"Removed {pictures}."
        if act in turning.TURNS:
            turning.turn(folder, there, act)
            return f"Rotated {pictures}."
        if act == "name":
            texts = {name: caption_from_name(name) for name in there}
            texts = {name: text for name, text in texts.items() if text}
            count = store.rewrite(folder, "file names as captions", texts, act=uuid4().hex)
            if not count:
                return ""
            return f"Changed {count} caption{'' if count == 1 else 's'}."
        return ""


def chosen_in(event: gr.EventData) -> list[str]:
    """The names that an event says are chosen; it may say anything."""
    on = event._data.get("on")
    return [str(name) for name in on] if isinstance(on, list) else []


def chosen(text: str | None) -> list[str] | None:
    """The names in the tab's chosen, None where there are none."""
    try:
        names = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    return [str(name) for name in names] if isinstance(names, list) and names else None


def apply_label(names: list[str] | None) -> str:
    """What the button says that edits the captions of these pictures, or of all."""
    if not names:
        return ALL_CAPTIONS
    return f"Apply to {len(names)} caption{'' if len(names) == 1 else 's'}"
