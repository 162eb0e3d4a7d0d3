"""A style file and a base in memory -> what is drawn with."""

from __future__ import annotations

from training.adapters.lora_layers import ActiveStyle
from training.models import loader
from training.models.family import Parts
from training.models.textual_inversion import of_words
from training.style_files.key_names import accepted_names
from training.style_files.matching import match
from training.style_files.reading import Style


def load_style(style: Style, parts: Parts) -> ActiveStyle:
    """The style at full strength, checked against the base.

    Raises StyleFileError when it does not fit.
    """
    shapes = {
        part: loader.weight_shapes(parts.networks[part])
        for part in (parts.family.denoiser, *parts.family.text_encoders)
    }
    return ActiveStyle(
        match(style, accepted_names(shapes, parts.family.name)), tokens=of_words(style.words)
    )
