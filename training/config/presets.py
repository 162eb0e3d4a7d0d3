"""Starting points for a run, with three knobs: what is learnt, how long, how strong. Everything
they choose stays a setting.

What stands in a TOML file or a flag wins over a preset; run.toml holds what came out. Knows nothing
of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from training.config.loading import nearest
from training.errors import ConfigError

LENGTHS = {"short": 0.5, "normal": 1.0, "long": 2.0}  # of the preset's updates
STRENGTHS = {"gentle": 0.6, "normal": 1.0, "strong": 1.6}  # of the preset's learning rates


@dataclass(frozen=True)
class Preset:
    """purpose: what it is for; chosen: settings for Stable Diffusion bases.

    mini: what is different on the built-in one, and why.
    """

    purpose: str
    chosen: Mapping[str, Any]
    mini: Mapping[str, Any]


# On the small built-in base a thing lives in the attention layers: adapters on the convolutions
# change the hand and keep the thing
MINI = {
    "adapter.targets": ["convolutions"],
    "adapter.rank": 16,
    "adapter.alpha": 16.0,
    "optim.unet_lr": 1.5e-3,
    "optim.text_encoder_lr": 3e-4,
    # it knows every thing one way round: learnt from both ways, a thing becomes a mixture of them
    "data.flip": False,
    "preview.guidance": 2.0,  # its colours and lines are cleanest there
}

PRESETS = {
    "style": Preset(
        "how pictures are drawn, whatever they show",
        {
            "data.finer_buckets": True,  # what is cut off is not learnt
            # Convolutions carry strokes and texture; the text encoder needs little, for captions
            # name things and not the hand
            "adapter.targets": ["attention", "feed_forward", "projections", "convolutions"],
            "adapter.rank": 16,
            "adapter.alpha": 16.0,
            "optim.steps": 1200,
            "optim.batch_size": 4,
            "optim.unet_lr": 1e-4,
            "optim.text_encoder_lr": 2e-5,
            "data.caption_dropout": 0.1,  # the style must come without words too
            "save.every": 200,
            "preview.every": 200,
        },
        {
            **MINI,
            "optim.steps": 900,
            "optim.batch_size": 4,
            "save.every": 150,
            "preview.every": 150,
        },
    ),
    "subject": Preset(
        "one thing, animal or person, drawn in any style",
        {
            "data.finer_buckets": True,  # what is cut off is not learnt
            "adapter.targets": ["attention", "feed_forward", "projections"],
            "adapter.rank": 16,
            "adapter.alpha": 16.0,
            "optim.steps": 1000,
            "optim.batch_size": 2,
            "optim.unet_lr": 1e-4,
            # the trigger is a new word and must come to mean something
            "optim.text_encoder_lr": 5e-5,
            "data.flip": False,  # faces and marks have a left and a right
            "data.caption_dropout": 0.0,
            "save.every": 100,
            "preview.every": 100,
        },
        {
            "adapter.rank": 8,
            "adapter.alpha": 8.0,
            "optim.unet_lr": 1e-3,
            "optim.text_encoder_lr": 5e-4,
            "optim.steps": 400,
            "optim.batch_size": 4,
            "preview.guidance": 2.0,
        },
    ),
    "quick look": Preset(
        "a few minutes, to see whether pictures and captions are right before a long run",
        {
            "data.finer_buckets": True,  # what is cut off is not learnt
            "adapter.rank": 4,
            "adapter.alpha": 4.0,
            "optim.steps": 200,
            "optim.batch_size": 1,
            "optim.unet_lr": 3e-4,
            # its states are computed once then, which makes every update faster
            "optim.text_encoder_lr": 0.0,
            "save.every": 100,
            "preview.every": 50,
            "report.minutes": 2.0,
        },
        {
            **MINI,
            "optim.unet_lr": 3e-3,
            "optim.text_encoder_lr": 0.0,
            "optim.batch_size": 4,
            "optim.steps": 150,
        },
    ),
}


def settings_of(
    name: str, *, model: str = "mini", length: str = "normal", strength: str = "normal"
) -> dict[str, Any]:
    """Return the preset's values by dotted key. Raises ConfigError for a name that is none."""
    for what, given, known in (
        ("--preset", name, PRESETS),
        ("--length", length, LENGTHS),
        ("--strength", strength, STRENGTHS),
    ):
        if given not in known:
            raise ConfigError(
                f"{what} is {given!r}: one of {', '.join(known)} was "
                f"expected{nearest(given, list(known)).split(';')[0]}."
            )
    preset = PRESETS[name]
    values = {**preset.chosen, **(preset.mini if model == "mini" else {})}
    values["optim.steps"] = round(values["optim.steps"] * LENGTHS[length])
    for key in ("optim.unet_lr", "optim.text_encoder_lr"):
        values[key] = float(f"{values[key] * STRENGTHS[strength]:.3g}")
    return values
