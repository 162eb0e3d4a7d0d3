"""The table of media: what each is called, what it is drawn on, what of the picture it keeps.

Knows nothing of scenes or captions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import media_drawn as drawn
import media_made as made
from texture import Array, Rng, finished, mixed

Draw = Callable[[Array, Array, Array, Rng], Array]


@dataclass(frozen=True)
class Medium:
    """One medium. words: how captions call it; paper: "any", "light", "dark" or "pale" (for
    translucent inks); coarse: too coarse for many or small things.
    """

    draw: Draw
    words: tuple[str, ...]
    paper: str = "any"
    keeps_colour: bool = True
    coarse: bool = False


def plain(colour: Array, cover: Array, paper: Array, rng: Rng) -> Array:
    """Lay the picture on the paper as it is. rng is not used."""
    return finished(mixed(paper, colour, cover))


MEDIA: dict[str, Medium] = {
    "ink": Medium(drawn.ink, ("ink drawing", "pen and ink"), "light", False),
    "brush": Medium(drawn.brush, ("brush and ink", "ink wash"), "light", False),
    "pencil": Medium(drawn.pencil, ("pencil drawing", "graphite sketch"), "light", False),
    "coloured pencil": Medium(
        drawn.coloured_pencil, ("coloured pencil", "coloured pencil drawing"), "light"
    ),
    "crayon": Medium(drawn.crayon, ("crayon drawing", "wax crayon")),
    "chalk": Medium(drawn.chalk, ("chalk drawing", "chalk on a board"), "dark"),
    "pastel": Medium(drawn.pastel, ("soft pastel", "pastel drawing"), coarse=True),
    "marker": Medium(drawn.marker, ("marker drawing", "felt marker"), "pale"),
    "ballpoint": Medium(drawn.ballpoint, ("ballpoint drawing", "ballpoint pen"), "light", False),
    "oil": Medium(drawn.oil, ("oil painting", "oils"), coarse=True),
    "pointillism": Medium(drawn.pointillism, ("pointillism", "painting in dots"), coarse=True),
    "spray": Medium(drawn.spray, ("spray painting", "graffiti")),
    "scratchboard": Medium(drawn.scratchboard, ("scratchboard", "scraperboard"), "dark", False),
    "halftone": Medium(made.halftone, ("halftone print", "halftone"), "pale"),
    "comic": Medium(made.comic, ("pop art print", "comic print"), "light"),
    "screen print": Medium(made.screen_print, ("screen print", "silkscreen")),
    "woodcut": Medium(made.woodcut, ("woodcut", "woodcut print"), "light", False),
    "engraving": Medium(made.engraving, ("engraving", "copper engraving"), "light", False),
    "stencil": Medium(made.stencil, ("stencil print", "stencil")),
    "paper cut": Medium(made.paper_cut, ("paper cut", "cut paper")),
    "stitched": Medium(made.stitched, ("cross-stitch", "stitched picture"), coarse=True),
    "embroidery": Medium(made.embroidery, ("embroidery", "satin stitch embroidery")),
    "mosaic": Medium(made.mosaic, ("mosaic", "mosaic of stones"), coarse=True),
    "stained glass": Medium(
        made.stained_glass, ("stained glass", "stained glass window"), coarse=True
    ),
    "neon": Medium(made.neon, ("neon sign", "neon light"), "dark"),
    "pixel": Medium(made.pixel, ("pixel art", "pixel picture"), coarse=True),
    "clay": Medium(made.clay, ("clay model", "modelling clay")),
}
# For tests of what the base has never seen; the first four are other programs' or sets' own.
KEPT_OUT = ("linocut", "blueprint", "watercolour", "risograph", "charcoal", "knitted")
KEPT_OUT_DRAWN: dict[str, Medium] = {
    "charcoal": Medium(drawn.charcoal, ("charcoal drawing",), "light", False),
    "knitted": Medium(made.knitted, ("knitted picture",), coarse=True),
}
