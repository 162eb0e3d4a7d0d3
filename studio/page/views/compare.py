"""What the Compare tab shows, as HTML:

the grid with a large view, a blind look and flipping, and the comparisons drawn before. Knows no
gradio.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from html import escape

from studio.page.scripts import script

# Large view: arrows walk, Space (or holding the picture) flips to the row's first column, + and -
# zoom, Escape closes.
# Blind: every row's columns in an order of its own, no names; picks are told to the server at the
# end.
LOOK = script("compare_look")
PICK = script("compare_pick")


def grid(
    name: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, int]],
    cells: Sequence[Sequence[str]],
    picks: Sequence[int | None],
) -> str:
    """name: the comparison's; rows:

    prompt and seed; cells: addresses, [rows][columns]; picks: what a blind look preferred, [] for
    none.
    """
    heads = "".join(f"<th scope=col>{escape(title)}</th>" for title in columns)
    body = "".join(
        f'<tr data-title="{escape(prompt)}, seed {seed}"><th '
        f"scope=row>{escape(prompt)}<small>seed {seed}</small></th>"
        + "".join(
            _cell(address, c, columns[c], prompt, bool(picks) and picks[r] == c)
            for c, address in enumerate(cells[r])
        )
        + "</tr>"
        for r, (prompt, seed) in enumerate(rows)
    )
    blind = (
        '<button type="button" class="mend start" data-act="blind">Look blind</button>'
        '<button type="button" class="mend end" data-act="reveal">Reveal</button>'
        f'<p class="note verdict" role="status">{escape(verdict(columns, picks))}</p>'
    )
    return (
        f'<div class="comparison" data-of="{escape(name)}"><div '
        f'class="mends">{blind if len(columns) > 1 else ""}</div>'
        "<div "
        f'class="scroll"><table><thead><tr><td></td>{heads}</tr></thead><tbody>{body}</tbody></table></div></div>{LARGE}'
    )


LARGE = (
    '<dialog class="large" aria-label="One picture, large"><div class="bar"><b class="what"></b>'
    '<button type="button" data-act="flip" title="Space">Flip to the base</button>'
    '<button type="button" data-act="smaller" aria-label="Smaller">−</button>'
    '<button type="button" data-act="larger" aria-label="Larger">+</button><button '
    'type="button" data-act="close">Close</button></div>'
    '<div class="stage"><img alt=""></div><p class="note">Arrow keys go through the grid, '
    "Space flips to the base, + and − zoom.</p></dialog>"
)


def _cell(address: str, column: int, title: str, prompt: str, picked: bool) -> str:
    """One picture of the grid, with the button of a blind look."""
    return (
        f'<td data-column="{column}" '
        f'data-title="{escape(title)}"{" data-picked" if picked else ""}>'
        f'<button type="button" class="open" title="Open large"><img src="{escape(address)}" '
        f'alt="{escape(title)}: {escape(prompt)}"></button>'
        '<button type="button" class="pick" data-act="pick" '
        f'aria-pressed="{json.dumps(picked)}">Better</button></td>'
    )


def verdict(columns: Sequence[str], picks: Sequence[int | None]) -> str:
    """What a blind look found, in words; "" without one."""
    counted = Counter(pick for pick in picks if pick is not None)
    if not counted:
        return ""
    counts = ", ".join(f"{columns[column]} {count}" for column, count in counted.most_common())
    return f"Looked at blind, preferred: {counts} of {len(picks)} rows."


def drawing(done: int, of: int, words: str) -> str:
    """How far a drawing is. done, of: denoising steps; of is 0 while that is not known."""
    share = 100 * done / of if of else 0
    return (
        '<div class="run-status" role="status"><div class="run-head"><b>Drawing…</b><span '
        f'class="run-state">{escape(words)}</span></div>'
        '<div class="run-bar" role="progressbar" aria-label="Drawn" '
        f'aria-valuenow="{share:.0f}" aria-valuemin="0" aria-valuemax="100">'
        f'<div style="width: {share:.1f}%"></div></div></div>'
    )


def past(items: Sequence[tuple[str, str, str]], chosen: str, searched: str = "") -> str:
    """items: address, name and title of each comparison, the newest first."""
    if not items:
        return (
            f'<p class="note">No comparison is found by “{escape(searched)}”.</p>'
            if searched
            else ""
        )
    cells = "".join(
        '<button type="button" class="thumb" '
        f'data-at="{escape(name)}"{" aria-current=true" if name == chosen else ""} '
        f'title="{escape(title)}">'
        f'<img src="{escape(address)}" alt="" loading="lazy"><span '
        f'class="name">{escape(title)}</span></button>'
        for address, name, title in items
    )
    return f'<div class="past" role="group" aria-label="Drawn before">{cells}</div>'
