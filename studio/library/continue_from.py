"""Settings for a run that goes on from a style on the shelf. Knows no torch and no gradio."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from studio.library import import_export, library
from studio.processes import process
from training.config.loading import from_mapping
from training.config.schema import RunConfig
from training.storage.paths import Workspace
from training.style_files.lora import Hada, Kron
from training.style_files.reading import Style, read_style

# What of a layer's name in a file tells which target it is, in every naming: attn1_to_q, attn1.to_q
TARGETS = {
    "attention": r"to_(q|k|v|out[._]0)$",
    "feed_forward": r"ff[._]net[._](0[._]proj|2)$",
    "projections": r"proj_(in|out)$",
    "convolutions": r"(conv1|conv2|conv_shortcut|samplers[._]0[._]conv)$",
}
TEXT_TARGETS = {"attention": r"(q|k|v|out)_proj$", "feed_forward": r"fc[12]$"}
OF_TEXT = r"lora_te|text_encoder|text_model"


def config_for(workspace: Workspace, style: library.Style) -> RunConfig:
    """The settings of the run that made it, or such as fit its layers; the adapters begin as it is.
    Raises StyleFileError.
    """
    run, read = import_export.run_of(workspace, style), read_style(style.path)
    made_with = process.earlier(run) if run is not None else None
    config = made_with or from_mapping(_fitting(workspace, style, read))
    own = {
        "name": library.free_run_name(
            workspace, f"{config.save.name if made_with else style.name}"
        ),
        "resume": "exact",
    }
    return config.model_copy(
        update={
            "adapter": config.adapter.model_copy(update={"start": str(style.path)}),
            "save": config.save.model_copy(update=own | {"folder": str(workspace.runs())}),
        }
    )


def _fitting(workspace: Workspace, style: library.Style, read: Style) -> dict[str, dict[str, Any]]:
    text = [name for name in read.modules if re.search(OF_TEXT, name)]
    unet = [name for name in read.modules if name not in text]
    adapter: dict[str, Any] = {
        **_method(read),
        "targets": _targets(TARGETS, unet) or ["attention"],
    }
    if text:
        adapter["text_encoder_targets"] = _targets(TEXT_TARGETS, text) or ["attention"]
    optim = {} if text else {"text_encoder_lr": 0.0}
    return {
        "base": {"model": library.bases(workspace)[0]},
        "data": {"trigger": style.trigger[:100]},
        "adapter": adapter,
        "optim": optim,
    }


def _method(read: Style) -> dict[str, Any]:
    """How a run must train to begin as this style."""
    krons = [change for change in read.modules.values() if isinstance(change, Kron)]
    if krons:
        return {"method": "lokr", "factor": max(max(kron.one.shape) for kron in krons)}
    hadas = [change for change in read.modules.values() if isinstance(change, Hada)]
    if hadas:
        rank = max(len(hada.b1) for hada in hadas)
        return {"method": "loha", "rank": rank, "alpha": float(rank)}
    rank = max(change.rank for change in read.modules.values())
    return {"rank": rank, "alpha": float(rank)}


def _targets(endings: Mapping[str, str], names: Sequence[str]) -> list[str]:
    """The targets that some of these layers belong to."""
    return [
        target
        for target, ending in endings.items()
        if any(re.search(ending, name) for name in names)
    ]
