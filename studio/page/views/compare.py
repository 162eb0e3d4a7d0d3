"""What the Compare tab shows, as HTML: the grid with a large view, a blind look and flipping, and
the comparisons drawn before. Knows no gradio.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from studio.page.scripts import script
from studio.page.templates import empty, render

# Large view: arrows walk, Space (or holding the picture) flips to the row's first column, + and -
# zoom, Escape closes.
# Blind: every row's columns in an order of its own, no names; picks are sent to the server at the
# end.
LOOK = script("compare_look")
PICK = script("compare_pick")


def grid(
    name: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, int]],
    cells: Sequence[Sequence[str]],
    picks: Sequence[int | None],
    title: str = "",
) -> str:
    """The pictures as a table. name: the comparison's, which begins with its day; rows: prompt and
    seed; cells: addresses, [rows][columns]; picks: what a blind look preferred in each row, [] for
    none; title: what is compared.
    """
    return render(
        "compare_grid",
        name=name,
        columns=columns,
        title=title,
        rows=list(zip(rows, cells, picks or [None] * len(rows), strict=True)),
        verdict=verdict(columns, picks),
    )


def verdict(columns: Sequence[str], picks: Sequence[int | None]) -> str:
    """What a blind look found, in words; "" without one."""
    counted = Counter(pick for pick in picks if pick is not None)
    if not counted:
        return ""
    counts = ", ".join(f"{columns[column]} {count}" for column, count in counted.most_common())
    return f"Blind test, preferred: {counts} of {len(picks)} rows."


def whole(address: str, title: str) -> str:
    """A grid as one picture."""
    return render("compare_whole", address=address, title=title)


def nothing_yet() -> str:
    return empty(
        "Choose a style, write a prompt and generate. Each row shows the base model beside your "
        "styles, with the same seed."
    )


def stopped() -> str:
    return "<p>Stopped.</p>"


def failed() -> str:
    return "<p>These images could not be generated.</p>"


def drawing(done: int, of: int, words: str) -> str:
    """How far a drawing is. done, of: denoising steps; of is 0 while that is not known."""
    return render("compare_drawing", share=100 * done / of if of else 0, words=words)


def past(items: Sequence[tuple[str, str, str]], chosen: str, searched: str = "") -> str:
    """items: address, name and title of each comparison, the newest first."""
    return render("compare_past", items=items, chosen=chosen, searched=searched)
