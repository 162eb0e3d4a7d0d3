"""Networks of a given shape with random weights: time and memory do not depend on what a model has learnt, so nothing is downloaded."""

from __future__ import annotations

import platform
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from training.convolution import freeze_convolutions
from training.device import Place
from training.families import sd
from training.families.family import Parts
from training.norm import quicken

TOKENS = 77

# UNet and VAE of stable-diffusion-v1-5, as its config.json files have them; tiny: to try the benchmark itself.
SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "sd15": {
        "unet": {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64},
        "vae": {
            "block_out_channels": (128, 256, 512, 512),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "layers_per_block": 2,
            "sample_size": 512,
        },
    },
    "tiny": {
        "unet": {
            "block_out_channels": (32, 64),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "cross_attention_dim": 768,
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
    },
}


def filled(network: nn.Module, place: Place) -> nn.Module:
    """A network from the meta device with small random weights, in its dtype from the first byte on, so that no copy adds to the peak."""
    network = nn.Module.to(network, place.dtype).to_empty(device=place.device)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() > 1:
                parameter.uniform_(-1, 1).mul_(parameter[0].numel() ** -0.5)
            else:
                parameter.fill_(float(name.endswith("weight")))
    return network.eval().requires_grad_(False)


def unet_and_vae(shape: str, place: Place) -> tuple[nn.Module, nn.Module]:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.manual_seed(0)
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**SHAPES[shape]["unet"]), AutoencoderKL(**SHAPES[shape]["vae"])
    return filled(unet, place), filled(vae, place)


def words(captions: int, place: Place) -> Tensor:
    """Random text states [captions, 77, 768], as a frozen text encoder would give."""
    states = torch.randn((1, TOKENS, 768), generator=torch.Generator().manual_seed(1))
    return states.expand(captions, -1, -1).to(place.device, place.dtype)


def parts(shape: str, place: Place) -> Parts:
    """A base as families.detect.load gives it, but for the text encoder, whose answer is fixed."""
    from diffusers import DDIMScheduler

    unet, vae = (network.to(memory_format=torch.channels_last) for network in unet_and_vae(shape, place))
    for network in (unet, vae):
        quicken(network)
        freeze_convolutions(network)
    noise: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
    scheduler = DDIMScheduler(**noise, set_alpha_to_one=False, steps_offset=1)
    pixel_step = 2 ** (len(vae.config.block_out_channels) - 1)
    return Parts(
        family=replace(sd.SD1, text_encoders=(), encode_text=lambda _, captions: words(len(captions), place)),
        networks={"unet": unet, "vae": vae},
        tokenizers={},
        scheduler=scheduler,
        title=shape,
        hash="",
        vae_hash="",
        size=unet.config.sample_size * pixel_step,
        latent_scale=vae.config.scaling_factor,
        pixel_step=pixel_step,
        multiple=pixel_step * 2 ** (len(unet.config.block_out_channels) - 1),
        alphas_cumprod=scheduler.alphas_cumprod.float(),
    )


def machine(place: Place) -> dict[str, Any]:
    """What a figure depends on."""
    import diffusers
    import peft

    from training.device import has_bfloat16_units

    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__, "peft": peft.__version__}
    return {"device": place.name, "cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads(), **versions} | {
        "bfloat16_units": has_bfloat16_units()
    }
