"""The base of previews, where it is another than the one that is trained: train on Raw, look at
Turbo.
"""

from __future__ import annotations

from training.config.schema import RunConfig
from training.errors import ConfigError
from training.models import base_files, loader


def found(config: RunConfig, files: base_files.BaseFiles) -> base_files.BaseFiles | None:
    """The base that previews are drawn with, None for the one that is trained (files).

    Raises ConfigError where it is of another family or size, ModelError where it is none.
    """
    model = config.preview.model
    if not model:
        return None
    family = files.family
    if family.text_groups:
        raise ConfigError(
            f"preview.model is {model}, and {family.title} trains its text encoders as well, which "
            "belong to the base. Leave preview.model empty."
        )
    other = base_files.find_folder(model, "preview.model")
    if other.family.spec != family.spec:
        raise ConfigError(
            f"preview.model is a {other.family.title}, the base that is trained a {family.title}. "
            "Choose one of the same family, or leave preview.model empty."
        )
    own, others = (loader.weight_shapes(loader.outline(f, family.denoiser)) for f in (files, other))
    # Distilled bases may lack what hears a guidance, or have it alone
    if wrong := sorted(name for name in own.keys() & others.keys() if own[name] != others[name]):
        raise ConfigError(
            f"preview.model ({model}) is of another size than the base that is trained: "
            f"{wrong[0]} is {others[wrong[0]]}, {own[wrong[0]]} was expected."
        )
    return other
