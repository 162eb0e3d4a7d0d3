"""Previews as a strip that grows:

a row a prompt, a column a look, the first of all before anything was learnt. Knows no files and no
gradio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from studio.page.scripts import script

MOST = 40  # columns; the first one always stays

# A click opens a picture large; arrows walk through its row, Escape closes.
LOOK = script("previews_look")


@dataclass(frozen=True)
class Look:
    """One preview. small, large:

    addresses of copies of one prompt's picture after so many updates.
    """

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
    steps, prompts = (
        kept([look.step for look in looks]),
        list(dict.fromkeys(look.prompt for look in looks)),
    )
    cells = {(look.prompt, look.step): look for look in looks}
    head = "".join(f"<th scope=col>{'before' if step == 0 else f'{step}'}</th>" for step in steps)
    rows = "".join(
        "<tr><th "
        f"scope=row>{escape(prompt)}</th>"
        f"{''.join(_cell(cells.get((prompt, step))) for step in steps)}</tr>"
        for prompt in prompts
    )
    return (
        '<figure class="strip"><figcaption>Previews by updates, from before the first one to '
        "now; the same noise along a row</figcaption>"
        '<div class="scroll" tabindex="0">'
        f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        '<dialog aria-label="A preview, large"><div class="bar"><span '
        'class="what"></span><button type="button" data-close>Close</button></div>'
        '<img alt=""></dialog></figure>'
    )


def _cell(look: Look | None) -> str:
    if look is None:
        return "<td></td>"
    what = escape(
        f"{look.prompt}, {'before the first update' if look.step == 0 else f'{look.step} updates'}"
    )
    return (
        f'<td><button type="button" data-large="{escape(look.large)}" data-what="{what}"><img '
        f'src="{escape(look.small)}" alt="{what}" loading="lazy">'
        "</button></td>"
    )
