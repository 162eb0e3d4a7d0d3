"""How a page follows what goes on: when it asks again, and what it is sent of an answer that mostly
repeats itself.

It asks often while somebody is at it, less often while nobody touches it, and not at all while it
lies behind other windows or tabs; only one page of a browser then goes on asking, seldom, so that
its title stays true and a notice can be shown at the end.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import gradio as gr

from studio.page.scripts import script
from studio.page.templates import render

T = TypeVar("T")
MOST_KEPT = 32  # answers that are remembered for other pages

# A lock of the browser makes one of its pages the speaker for what is followed; browsers give locks
# and notices to the same addresses only.
ASK = script("polling_ask")


def follower(**words: Any) -> gr.HTML:
    """A part of the page that is not seen; it ticks while `following` stands in it."""
    return gr.HTML("", elem_classes="follower", apply_default_css=False, js_on_load=ASK, **words)


def following(every: float, *, speak: str = "") -> str:
    """What makes a follower tick.

    every: seconds, while somebody is at the page; speak: what a notice at its end is about, also
    behind other windows.
    """
    return render("follower", every=every, speak=speak)


@dataclass(frozen=True)
class Late:
    """A part of an answer that costs something, made only for a page that has another one. mark:
    what sets it apart from others.
    """

    mark: str
    make: Callable[[], Any]


def unsent(
    found: Mapping[str, Any], sent: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """What of an answer a page does not have yet, by name, and what it has then, which it gives
    back the next time.

    sent: {} for a page that has nothing. Components are given as gr.update(...), which can be
    compared.
    """
    marks = {name: _mark(value) for name, value in found.items() if value != gr.skip()}
    news = {
        name: found[name].make() if isinstance(found[name], Late) else found[name]
        for name, mark in marks.items()
        if mark != sent.get(name)
    }
    return news, {**sent, **marks}


def _mark(value: Any) -> str:
    mark = value.mark if isinstance(value, Late) else repr(value)
    return hashlib.blake2s(mark.encode(), digest_size=12).hexdigest()


class Lately:
    """Answers that many pages ask for at nearly the same time are worked out once; who asks
    meanwhile waits for it.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._kept: dict[Any, tuple[float, Any]] = {}
        self._turn = threading.Lock()

    def of(self, key: Any, make: Callable[[], T]) -> T:
        """What make gives, or gave less than so many seconds ago for the same key."""
        with self._turn:
            at, value = self._kept.pop(key, (0.0, None))
            if not at or time.monotonic() - at >= self.seconds:
                at, value = time.monotonic(), make()
            self._kept[key] = at, value
            while len(self._kept) > MOST_KEPT:
                del self._kept[next(iter(self._kept))]
            return value
