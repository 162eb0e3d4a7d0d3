"""What the rest of the project may know of a model family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from training.style_files.family_spec import CLIP_GROUPS as CLIP_GROUPS
from training.style_files.family_spec import UNET_GROUPS as UNET_GROUPS
from training.style_files.family_spec import FamilySpec

Prediction = Literal["epsilon", "v_prediction"]
Conditioning = Any  # what encode_text returns and predict takes; opaque to the loop


class Network(nn.Module):
    """The type of a base's networks: what those of diffusers and transformers have beside torch's
    own. Nothing is made of it.
    """

    config: Any
    device: torch.device
    dtype: torch.dtype
    enable_gradient_checkpointing: Callable[[], None]
    disable_gradient_checkpointing: Callable[[], None]


class TextEncoder(Network):
    get_input_embeddings: Callable[[], nn.Embedding]


class Autoencoder(Network):
    encoder: Any
    encode: Callable[..., Any]
    decode: Callable[..., Any]


@dataclass(frozen=True)
class Reading:
    """How a caption is read by CLIP encoders.

    clip_skip: the layer whose states count, from the end: 1 the last, 2 the last but one, 0 the
    base's own; pieces: a text of so many times the encoder's length is read whole.
    """

    clip_skip: int = 0
    pieces: int = 1


OWN_WAY = Reading()  # as the base was made


@dataclass
class Parts:
    """A base in memory. networks:

    part name -> module, for instance unet, text_encoder, vae; a part may be dropped when done.
    """

    family: Family
    networks: dict[str, Network]
    tokenizers: dict[str, Any]
    scheduler: (
        Any  # the base's own sampler; its config holds the noise schedule and the prediction type
    )
    title: str  # what a person calls this base
    hash: str  # sha256 of the denoiser's weights, hex
    vae_hash: str  # the same of the VAE's
    size: int  # px, the side it was made for
    folder: Path | None = None  # where it was read from
    latent_scale: float = 1.0
    latent_shift: float = 0.0
    pixel_step: int = 8  # px of a latent's side
    multiple: int = 64  # px; sides of pictures are multiples of this
    alphas_cumprod: Tensor = field(default_factory=lambda: torch.empty(0))  # [timesteps], float32
    readings: tuple[Reading, ...] = (OWN_WAY,)  # of each caption, or one for all of them

    @property
    def denoiser(self) -> Network:
        return self.networks[self.family.denoiser]

    @property
    def vae(self) -> Autoencoder:
        return cast(Autoencoder, self.networks["vae"])

    def text_encoder(self, part: str) -> TextEncoder:
        """part: one of family.text_encoders."""
        return cast(TextEncoder, self.networks[part])

    def readings_of(self, captions: int) -> tuple[Reading, ...]:
        """One for each of so many captions, which may be those of several rounds of the rows."""
        return self.readings * (captions // len(self.readings))

    @property
    def prediction_type(self) -> Prediction:
        return self.scheduler.config.prediction_type


@dataclass(frozen=True)
class Family:
    """encode_text(parts, captions, tokens=()) -> conditioning of len(captions) rows, tokens: the
    learnt words each may use; predict(parts, noisy [B,C,h,w], timesteps [B], conditioning) ->
    [B,C,h,w]; gather(conditionings) -> one conditioning with their rows in order."""

    spec: FamilySpec
    encode_text: Callable[..., Conditioning]
    predict: Callable[[Parts, Tensor, Tensor, Conditioning], Tensor]
    gather: Callable[[Sequence[Conditioning]], Conditioning]

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def title(self) -> str:
        return self.spec.title

    @property
    def pipeline(self) -> str:
        return self.spec.pipeline

    @property
    def denoiser(self) -> str:
        return self.spec.denoiser

    @property
    def text_encoders(self) -> tuple[str, ...]:
        return self.spec.text_encoders

    @property
    def classes(self) -> Mapping[str, str]:
        return self.spec.classes

    @property
    def tokenizers(self) -> tuple[str, ...]:
        return self.spec.tokenizers

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        return self.spec.groups

    @property
    def text_groups(self) -> Mapping[str, tuple[str, ...]]:
        return self.spec.text_groups
