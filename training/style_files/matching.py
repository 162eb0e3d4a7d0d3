"""Whether a style's layers are a base's: matched by name and shape, or why not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from training.errors import StyleFileError
from training.style_files import embeddings
from training.style_files.base_family import bases as bases
from training.style_files.base_family import family_in as family_in
from training.style_files.base_family import family_of_shapes, misfit, text_width
from training.style_files.key_names import Names, Place
from training.style_files.key_names import accepted_names as accepted_names
from training.style_files.key_names import canonical_name as canonical_name
from training.style_files.lora import Change, split_rows
from training.style_files.reading import Style
from training.style_files.safetensors_io import printable as printable

NOWHERE: Place = ("", "", ())


class Unfit(NamedTuple):
    """A layer of a style that a base cannot take, and why."""

    name: str
    reason: str


def match(style: Style, names: Mapping[str, Place]) -> dict[tuple[str, str], Change]:
    """Return (part, live module) -> its change, in the shape of the base's weight. names: from
    accepted_names.

    Strict: one layer that the base does not have, or has in another shape, and StyleFileError says
    what the style was made for.
    """
    if style.magnitudes:
        raise StyleFileError(
            "This style is DoRA, whose effect depends on the base's weights. Rewrite it for "
            "your base first:"
            " style-file convert FILE --to kohya --base MODEL --out FILE."
        )
    widths = {
        part: shape[1]
        for part, module, shape in names.values()
        if part.startswith("text_encoder") and module.endswith("q_proj")
    }
    if said := embeddings.complaint(style.words, widths):
        raise StyleFileError(f"{said} Choose the base it was made for, or another style.")
    matched: dict[tuple[str, str], Change] = {}
    fused = names.fused if isinstance(names, Names) else {}
    for name, lora in style.modules.items():
        part, module, shape = names.get(name, ("", "", ()))
        fitted = lora.shaped(shape)
        if fitted is None:
            continue
        parts = fused.get(module, ((part, module, shape),))
        pieces = split_rows(fitted, [rows for _, _, (rows, *_) in parts])
        for (_, own, _), piece in zip(parts, pieces, strict=True):
            if (part, own) in matched:
                raise StyleFileError(
                    f"The style holds {part}.{own} twice, under two names. Export it again with "
                    "one of them."
                )
            matched[part, own] = piece
    if unfit := unfitting(style, names):
        count = f"{len(unfit)} of the style's {len(style.modules)} layers"
        listed = "\n".join(f"  - {name} ({reason})" for name, reason in unfit[:5])
        more = f"\n  and {len(unfit) - 5} more" if len(unfit) > 5 else ""
        if before := _strange_beginning(style, names):
            raise StyleFileError(
                f"The style's layers are those of your base, but their names begin with "
                f"{before!r}, which is not read. Export it again without that where it was made."
            )
        raise StyleFileError(
            f"{_diagnosis(style, names)} Choose the base it was made for, or another style. "
            f"{count} do not fit:\n{listed}{more}"
        )
    return matched


def unfitting(style: Style, names: Mapping[str, Place]) -> list[Unfit]:
    """Every layer of a style that a base cannot take, and why. names: from accepted_names."""
    found = []
    for name, lora in style.modules.items():
        _, _, shape = names.get(name, ("", "", ()))
        if lora.shaped(shape) is None:
            found.append(
                Unfit(
                    name,
                    f"{_size(lora.shape)} in the style, {_size(shape) if shape else 'not'} in "
                    "the base",
                )
            )
    return found


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _strange_beginning(style: Style, names: Mapping[str, Place]) -> str:
    """What stands before the names of all layers, if without it every one fits; else ""."""
    shapes = {name: change.shaped for name, change in style.modules.items()}
    first, last = min(shapes), max(shapes)
    ends = (place.end() for place in re.finditer(r"[._]", first))
    for end in (end for end in ends if last.startswith(first[:end])):
        places = {name: names.get(name[end:], NOWHERE)[2] for name in shapes}
        if all(shaped(places[name]) is not None for name, shaped in shapes.items()):
            return printable(first[:end], 100)
    return ""


def _diagnosis(style: Style, names: Mapping[str, Place]) -> str:
    shapes = {name: lora.shape for name, lora in style.modules.items()}
    base = {f"{part}.{module}": shape for part, module, shape in names.values()}
    return misfit(
        style.family, family_of_shapes(base), (text_width(shapes), text_width(base)), style.base
    )
