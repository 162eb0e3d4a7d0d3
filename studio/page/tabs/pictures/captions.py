"""Captions as they are typed in the Dataset tab: none overwrites what another window wrote, and
none is lost with the server.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.blocks import Block

from studio.datasets import store
from studio.page.handlers import in_html, shows_errors
from studio.page.latest import window_of
from studio.page.tabs.pictures import rendering
from studio.page.tabs.pictures.components import Parts
from studio.page.views import pictures as views
from training.storage.paths import Workspace

MOST_WRITERS = 1000  # captions whose last window is remembered
Answer = dict[Block, Any]


class Captions:
    """Handlers of one page. of: dataset/name of a picture; model: the base to count tokens for."""

    def __init__(self, workspace: Workspace, parts: Parts) -> None:
        self.workspace = workspace
        self.parts = parts
        # of: the window that wrote its caption last, and what it wrote
        self.writers: dict[str, tuple[str | None, str]] = {}

    @shows_errors
    def save(
        self,
        of: str,
        text: str,
        model: str,
        before: str = "",
        request: gr.Request | None = None,
    ) -> Answer:
        """Save what was typed, unless another window has saved something else meanwhile.

        before: the caption that this window was shown, or saved, last.
        """
        name, _, at = (of or "").partition("/")
        if not at:
            return gr.skip()
        folder, text = store.folder(self.workspace, name), text or ""
        theirs, window = store.caption(folder, at), window_of(request)
        if self._may_replace(of, theirs, before, text, window):
            return self._saved(of, text, model, window)
        shown = f"“{theirs}”" if theirs else "nothing"
        return self.parts.picture.conflict.asks(
            f"This caption was changed in another window to {shown}. Which one do you want to keep?"
        )

    @shows_errors
    def save_mine(
        self, of: str, text: str, model: str, request: gr.Request | None = None
    ) -> Answer:
        """Save this window's caption over another one's."""
        if not (of or "").partition("/")[2]:
            return gr.skip()
        return self._saved(of, text or "", model, window_of(request))

    @shows_errors
    def save_kept(
        self, shown: str, event: gr.EventData, request: gr.Request | None = None
    ) -> Answer:
        """Save what the browser kept while the server was gone; what somebody else wrote meanwhile
        stays. shown: the picture whose caption the page shows.
        """
        of, text, before = (str(event._data.get(key, "")) for key in ("of", "text", "before"))
        name, _, at = of.partition("/")
        parts = self.parts.picture
        answer: Answer = {parts.kept: views.kept(self.workspace.root, of, None)}
        folder = self.workspace.datasets() / name
        if name not in store.names(self.workspace) or at not in store.pictures(folder):
            return answer
        theirs, window = store.caption(folder, at), window_of(request)
        typed = event._data.get("mine")  # on the way to this text
        is_ours = isinstance(typed, list) and theirs in [str(one).strip() for one in typed]
        if not is_ours and not self._may_replace(of, theirs, before, text, window):
            words = f"The caption of {at} was changed in another window. You typed: “{text}”"
            gr.Warning(in_html(words), duration=None, title="Not saved")
            return answer
        now = self._write(of, text, window)
        if of == shown:
            answer |= {parts.caption: text, parts.before: now}
        return answer

    def _may_replace(
        self, of: str, theirs: str, before: str, text: str, window: str | None
    ) -> bool:
        """Whether nobody else has written a caption since this window was shown it."""
        return theirs in (before, text.strip()) or self.writers.get(of) == (window, theirs)

    def _write(self, of: str, text: str, window: str | None) -> str:
        """Write a caption, remember whose it is, and return what is on disk now."""
        name, _, at = of.partition("/")
        folder = store.folder(self.workspace, name)
        # choosing another picture changes the text as well
        if text.strip() != store.caption(folder, at):
            store.write_caption(folder, at, text)
        now = store.caption(folder, at)
        self.writers.pop(of, None)
        self.writers[of] = (window, now)
        while len(self.writers) > MOST_WRITERS:
            del self.writers[next(iter(self.writers))]
        return now

    def _saved(self, of: str, text: str, model: str, window: str | None) -> Answer:
        """Save a caption, and say so to the browser, which need not keep it any more."""
        now, parts = self._write(of, text, window), self.parts.picture
        name = of.partition("/")[0]
        folder = store.folder(self.workspace, name)
        return {
            self.parts.summary: rendering.summary(folder),
            parts.tokens: rendering.meter(rendering.base_for(self.workspace, name, model)[0], text),
            parts.before: now,
            parts.kept: views.kept(self.workspace.root, of, text),
            **parts.conflict.asks(),
        }
