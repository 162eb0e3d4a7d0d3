"""Networks of a given shape with random weights:

time and memory do not depend on what a model has learnt, so nothing is downloaded.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.models import loader, sd, sdxl
from training.models.family import Parts
from training.models.latent_space import space_of
from training.models.loader import table_of
from training.modules.conv import freeze_convolutions
from training.modules.group_norm import use_fast_group_norm
from training.runtime.device import DeviceSpec
from training.storage.paths import builtin_base

TOKENS = 77
FAMILIES = {"sd15": sd.SD1, "sd21": sd.SD2, "sdxl": sdxl.SDXL, "tiny": sd.SD1}
# tiny: to try the benchmarks themselves
TINY: dict[str, dict[str, Any]] = {
    "unet": {
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 4,
        "norm_num_groups": 8,
        "sample_size": 8,
    },
    "vae": {
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "norm_num_groups": 4,
        "sample_size": 32,
    },
    "text_encoder": {"num_hidden_layers": 1},
}


def configs(shape: str) -> dict[str, dict[str, Any]]:
    """The config of every part, as the published model has it."""
    folder = Path(loader.__file__).parent / "configs"
    found = json.loads((folder / f"{FAMILIES[shape].name}.json").read_text(encoding="utf-8"))
    if shape == "sd21":  # the 768 px model
        found["unet"] |= {"sample_size": 96, "upcast_attention": True}
        found["scheduler"] |= {"prediction_type": "v_prediction"}
    return {
        part: config | (TINY.get(part, {}) if shape == "tiny" else {})
        for part, config in found.items()
    }


def network(shape: str, part: str, place: DeviceSpec) -> nn.Module:
    """One part with small random weights, in its dtype from the first byte on, so that no copy adds
    to the peak.
    """
    import diffusers
    import transformers

    config = configs(shape)[part]
    torch.manual_seed(0)
    if part.startswith("text_encoder"):
        kind = getattr(transformers, config["architectures"][0])
        before = torch.get_default_dtype()
        torch.set_default_dtype(
            place.dtype
        )  # on the meta device its tables of positions would be lost
        try:
            made = kind(
                transformers.CLIPTextConfig(
                    **{k: v for k, v in config.items() if k != "architectures"}
                )
            )
        finally:
            torch.set_default_dtype(before)
        return made.to(place.device).eval().requires_grad_(False)
    with torch.device("meta"):
        made = getattr(diffusers, config["_class_name"]).from_config(config)
    return filled(made, place)


def filled(made: nn.Module, place: DeviceSpec) -> nn.Module:
    """A network from the meta device, filled."""
    made = nn.Module.to(made, place.dtype).to_empty(device=place.device)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.dim() > 1:
                parameter.uniform_(-1, 1).mul_(parameter[0].numel() ** -0.5)
            else:
                parameter.fill_(float(name.endswith("weight")))
    return made.eval().requires_grad_(False)


def tokenizer() -> Any:
    """CLIP's with the vocabulary of the built-in base."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(
        builtin_base() / "tokenizer", model_max_length=TOKENS, local_files_only=True
    )


def scheduler(shape: str) -> Any:
    import diffusers

    config = configs(shape)["scheduler"]
    return getattr(diffusers, config["_class_name"]).from_config(config)


def parts(shape: str, place: DeviceSpec) -> Parts:
    """A base as families.detect.load gives it."""
    family = FAMILIES[shape]
    networks = {part: network(shape, part, place) for part in family.classes}
    for part in ("unet", "vae"):
        networks[part] = networks[part].to(memory_format=torch.channels_last)
        use_fast_group_norm(networks[part])
        freeze_convolutions(networks[part])
    noise, unet, vae = scheduler(shape), networks["unet"].config, networks["vae"].config
    pixel_step = 2 ** (len(vae.block_out_channels) - 1)
    return Parts(
        family=family,
        networks=networks,
        tokenizers=dict.fromkeys(family.tokenizers, tokenizer()),
        scheduler=noise,
        title=shape,
        hash="",
        vae_hash="",
        size=unet.sample_size * pixel_step,
        objective=table_of(noise),
        space=space_of(networks["vae"]),
        pixel_step=pixel_step,
        multiple=pixel_step * 2 ** (len(unet.block_out_channels) - 1),
    )


def machine(place: DeviceSpec) -> dict[str, Any]:
    """What a figure depends on."""
    import diffusers
    import peft

    from training.runtime.device import has_bfloat16_units

    versions = {
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "peft": peft.__version__,
    }
    return {
        "device": place.name,
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        **versions,
    } | {"bfloat16_units": has_bfloat16_units()}
