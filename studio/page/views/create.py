"""What the Create tab shows, as HTML: the image, the slider, the strengths beside the original, the
history. Knows no gradio.
"""

from __future__ import annotations

from collections.abc import Sequence

from studio.page.scripts import script
from studio.page.templates import empty, render

SLIDE = script("create_slide")
PICK = script("create_pick")
# Where one's own picture is drawn anew, painted with a brush
PAINT = script("create_paint")


def nothing_yet() -> str:
    return empty("Choose a style, write what the image should show, and generate.")


def image(address: str, words: str, *, busy: str = "", share: float = 0.0) -> str:
    """The large image. address: "" while there is none; words: what it shows; busy: what goes on;
    share: of it, in per cent.
    """
    return render("create_image", address=address, words=words, busy=busy, share=share)


def slider(strength: float, most: float) -> str:
    """The slider of a style's strength."""
    return render("create_slider", strength=strength, most=most)


def series(original: str, items: Sequence[tuple[float, str, str]], chosen: str) -> str:
    """The original and what was made of it. items: how much was changed, id and address of each,
    both "" for one that is not drawn yet; chosen: id of the one that is large.
    """
    return render("create_series", original=original, items=items, chosen=chosen)


def own(address: str, width: int, height: int, painted: bool) -> str:
    """One's own picture, on which a mask can be painted. painted: whether there is one."""
    return render("create_own", address=address, width=width, height=height, painted=painted)


def history(items: Sequence[tuple[str, str, str, bool]], chosen: str, *, favourites: bool) -> str:
    """items: address, id, words of each image and whether it is a favourite, the newest first."""
    return render("create_history", items=items, chosen=chosen, favourites=favourites)
