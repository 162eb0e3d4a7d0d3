"""The assistant of a training on a distilled base: an adapter by which the base is one that was not
distilled, active in every update and in nothing that is drawn or written. Without it the few steps
of the base are what a style unlearns first (ostris' training adapters).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from training.adapters import frozen_change
from training.config.schema import RunConfig
from training.errors import ConfigError, StyleFileError
from training.models import base_files, loader
from training.style_files.key_names import Place, accepted_names
from training.style_files.matching import match
from training.style_files.reading import Style, read_style

SETTING = "base.assistant"


def found(config: RunConfig, files: base_files.BaseFiles) -> Style | None:
    """The style file that base.assistant names, None where it is empty.

    Raises ConfigError where it cannot be active in this training, StyleFileError where it is none
    or of another base.
    """
    path = config.base.assistant
    if not path:
        return None
    if config.optim.compile != "off":
        raise ConfigError(
            f"{SETTING} does not go with optim.compile = {config.optim.compile}. Set that to off."
        )
    try:
        style = read_style(Path(path).expanduser())
        shapes = {
            part: loader.weight_shapes(loader.outline(files, part)) for part in files.family.adapted
        }
        changed = {part for part, _ in match(style, accepted_names(shapes, files.family.name))}
    except StyleFileError as error:
        where = f"{SETTING} ({path}):"
        raise StyleFileError(f"{where} {error}") from error
    if style.words or changed != {files.family.denoiser}:
        raise ConfigError(
            f"{SETTING} ({path}) changes more than the {files.family.denoiser} of "
            f"{files.title} (text encoders or words), an adapter of the {files.family.denoiser} "
            "alone was expected. Choose another file."
        )
    return style


def put_on(style: Style, denoiser: nn.Module, names: Mapping[str, Place]) -> None:
    """Have the denoiser answer with the assistant, before any adapters go on."""
    changes = {module: change.as_lora() for (_, module), change in match(style, names).items()}
    frozen_change.put_on(denoiser, changes)
