"""What each window of a browser chose last, while answers to earlier choices are made."""

from __future__ import annotations

from itertools import count

import gradio as gr

MOST_WINDOWS = 1000  # whose last choice is remembered


class Latest:
    """Which dataset or style. An answer that takes seconds may arrive after another one was chosen,
    made or filled. It would put the page back to the earlier one, and what is dropped or typed next
    would go there.
    """

    def __init__(self) -> None:
        self.choices: dict[str | None, tuple[int, str]] = {}
        self.numbers = count()

    def choose(self, name: str, request: gr.Request | None) -> None:
        """Remember what a window has chosen."""
        window = window_of(request)
        self.choices.pop(window, None)
        self.choices[window] = (next(self.numbers), name)
        while len(self.choices) > MOST_WINDOWS:
            del self.choices[next(iter(self.choices))]

    def choice(self, request: gr.Request | None) -> tuple[int, str]:
        """Number and name of a window's last choice; the number grows with every choice."""
        return self.choices.get(window_of(request), (-1, ""))


def window_of(request: gr.Request | None) -> str | None:
    """Which window of which browser asks."""
    return request.session_hash if request else None
