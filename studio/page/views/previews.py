"""Previews as a strip that grows: a row a prompt, a column a look, the first of all before anything
was learnt. Knows no files and no gradio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from studio.page.scripts import script
from studio.page.templates import render

MOST = 40  # columns; the first one always stays

# A click opens a picture large; arrows walk through its row, Escape closes.
LOOK = script("previews_look")


@dataclass(frozen=True)
class Look:
    """One preview: a prompt's picture after so many updates. small, large: addresses of copies."""

    step: int
    prompt: str
    small: str
    large: str


def kept(steps: Sequence[int]) -> list[int]:
    """The columns that are shown: all, or the first and the newest."""
    found = sorted(set(steps))
    return found if len(found) <= MOST else [found[0], *found[-MOST + 1 :]]


def preview_strip(looks: Sequence[Look]) -> str:
    """The strip; "" where nothing was drawn yet."""
    if not looks:
        return ""
    steps = kept([look.step for look in looks])
    prompts = dict.fromkeys(look.prompt for look in looks)
    cells = {(look.prompt, look.step): look for look in looks}
    rows = [(prompt, [cells.get((prompt, step)) for step in steps]) for prompt in prompts]
    return render("previews_strip", steps=steps, rows=rows)
