"""A style file and a base in memory -> what is drawn with."""

from __future__ import annotations

from training.adapter import Worn
from training.families import detect
from training.families.family import Parts
from training.style_file import Style, match
from training.style_names import accepted_names
from training.tokens import of_words


def worn(style: Style, parts: Parts) -> Worn:
    """The style at full strength, checked against the base. Raises StyleFileError when it does not fit."""
    shapes = {part: detect.weight_shapes(parts.networks[part]) for part in (parts.family.denoiser, *parts.family.text_encoders)}
    return Worn(match(style, accepted_names(shapes, parts.family.name)), tokens=of_words(style.words))
