"""What the rest of the project may know of a model family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

# Target -> endings of module names, in every UNet with cross-attention and in CLIP's text encoders
# as the libraries build them
UNET_GROUPS = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "feed_forward": ("ff.net.0.proj", "ff.net.2"),
    "projections": ("proj_in", "proj_out"),
    "convolutions": ("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv"),
}
CLIP_GROUPS = {
    "attention": ("q_proj", "k_proj", "v_proj", "out_proj"),
    "feed_forward": ("fc1", "fc2"),
}

Conditioning = Any  # what encode_text returns and predict takes; opaque to the loop


@dataclass
class Parts:
    """A base in memory. networks:

    part name -> module, for instance unet, text_encoder, vae; a part may be dropped when done.
    """

    family: Family
    networks: dict[str, nn.Module]
    tokenizers: dict[str, Any]
    scheduler: (
        Any  # the base's own sampler; its config holds the noise schedule and the prediction type
    )
    title: str  # what a person calls this base
    hash: str  # sha256 of the denoiser's weights, hex
    vae_hash: str  # the same of the VAE's
    size: int  # px, the side it was made for
    latent_scale: float = 1.0
    latent_shift: float = 0.0
    pixel_step: int = 8  # px of a latent's side
    multiple: int = 64  # px; sides of pictures are multiples of this
    alphas_cumprod: Tensor = field(default_factory=lambda: torch.empty(0))  # [timesteps], float32

    @property
    def denoiser(self) -> nn.Module:
        return self.networks[self.family.denoiser]

    @property
    def prediction_type(self) -> str:
        return self.scheduler.config.prediction_type


@dataclass(frozen=True)
class Family:
    """encode_text(parts, captions, tokens=()) -> conditioning of len(captions) rows, tokens: the
    learnt words each may use; predict(parts, noisy [B,C,h,w], timesteps [B], conditioning) ->
    [B,C,h,w]; gather(conditionings) -> one conditioning with their rows in order."""

    name: str  # also whose key names its style files use
    title: str
    pipeline: str  # class name in diffusers
    denoiser: str
    text_encoders: tuple[str, ...]
    classes: Mapping[str, str]  # part -> class name in diffusers or transformers, of every network
    tokenizers: tuple[str, ...]  # one a text encoder, in their order
    architecture: str  # of modelspec.architecture, without /lora
    groups: Mapping[str, tuple[str, ...]]  # target -> endings of module names in the denoiser
    text_groups: Mapping[str, tuple[str, ...]]
    encode_text: Callable[..., Conditioning]
    predict: Callable[[Parts, Tensor, Tensor, Conditioning], Tensor]
    gather: Callable[[Sequence[Conditioning]], Conditioning]
