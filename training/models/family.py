"""What the rest of the project may know of a model family."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn

from training.models.conditioning import Kind, Said
from training.models.latent_space import LatentSpace
from training.models.objective import Flow, Objective, Prediction
from training.style_files.family_spec import CLIP_GROUPS as CLIP_GROUPS
from training.style_files.family_spec import UNET_GROUPS as UNET_GROUPS
from training.style_files.family_spec import FamilySpec

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


class TextStates(Protocol):
    """What captions say where text encoders are not trained. most: bytes that may be on disk."""

    most: int

    def of(self, parts: Parts, captions: Sequence[str]) -> Conditioning:
        """The conditioning of captions, a row each."""
        ...

    def prepare(self, parts: Parts, captions: Sequence[str]) -> None:
        """Have what these captions say at hand."""
        ...


@dataclass
class Parts:
    """A base in memory. networks:

    part name -> module, for instance unet, text_encoder, vae; a part may be dropped when done.
    """

    family: Family
    networks: dict[str, Network]
    tokenizers: dict[str, Any]
    scheduler: Any  # the base's own sampler
    objective: Objective  # what its denoiser learns
    title: str  # what a person calls this base
    hash: str  # sha256 of the denoiser's weights, hex
    vae_hash: str  # the same of the VAE's
    size: int  # px, the side it was made for
    folder: Path | None = None  # where it was read from
    index: Mapping[str, Any] = field(default_factory=dict)  # what its model_index.json says
    text_states: TextStates | None = None  # where text encoders are only loaded to be asked
    space: LatentSpace = field(default_factory=LatentSpace)
    pixel_step: int = 8  # px of a latent's side, as the denoiser takes it
    multiple: int = 64  # px; sides of pictures are multiples of this
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

    def encode_text(self, captions: Sequence[str], tokens: Sequence[Any] = ()) -> Conditioning:
        """What captions say, a row each. tokens: the learnt words that each may use."""
        if self.text_states is not None:
            return self.text_states.of(self, captions)
        return self.family.encode_text(self, captions, tokens)

    @property
    def prediction_type(self) -> Prediction:
        return self.objective.prediction

    @property
    def memory_format(self) -> torch.memory_format:
        """Of latents that the denoiser is given: UNets are quickest in channels_last."""
        is_unet = self.family.denoiser == "unet"
        return torch.channels_last if is_unet else torch.contiguous_format

    def tokens(self, height: int, width: int) -> int:
        """Tokens of a transformer for latents of that size: one a square of `multiple` px."""
        return height * width * self.pixel_step**2 // self.multiple**2


@dataclass(frozen=True)
class Family:
    """encode_text(parts, captions, tokens=()) -> conditioning of len(captions) rows, tokens: the
    learnt words each may use; predict(parts, noisy [B,C,h,w], levels [B], conditioning) ->
    [B,C,h,w], where guided is "number" with the guidance as a fifth argument; gather(conditionings)
    -> one conditioning with their rows in order.

    Of flows: says: the kind of the conditioning, as it is kept on disk; flow: the objective, None
    where the base's sampler has a table of betas; drawn_at: (tokens, steps) -> mu of drawing, None
    where it is that of training or the sampler's own; guided: by a second row with the negative
    prompt, by a number that the denoiser hears, or not; steer: (guided, with words) -> the
    prediction that is followed; own_levels: whether the sampler spaces the levels as it does by
    itself, else evenly; distilled: (the denoiser's config, model_index.json) -> whether a base is
    drawn without guidance of any kind, and distilled_mu the shift it is drawn with, None for the
    others' own; empty: what is said where there is no negative prompt; idle: modules of `groups`
    that no picture depends on.
    """

    spec: FamilySpec
    encode_text: Callable[..., Conditioning]
    predict: Callable[..., Tensor]
    gather: Callable[[Sequence[Conditioning]], Conditioning]
    says: Kind = Said
    flow: Flow | None = None
    drawn_at: Callable[[int, int], float] | None = None
    guided: Literal["two rows", "number", "not"] = "two rows"
    steer: Callable[[Tensor, Tensor], Tensor] | None = None
    own_levels: bool = False
    distilled: Callable[[Mapping[str, Any], Mapping[str, Any]], bool] = lambda *given: False
    distilled_mu: float | None = None
    empty: str = ""
    idle: Callable[[nn.Module], Collection[str]] = lambda denoiser: ()

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
    def adapted(self) -> tuple[str, ...]:
        return self.spec.adapted

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        return self.spec.groups

    @property
    def text_groups(self) -> Mapping[str, tuple[str, ...]]:
        return self.spec.text_groups


def as_distilled(family: Family) -> Family:
    """The family as its distilled bases are drawn: without guidance, at one shift where they have
    one.
    """
    mu = family.distilled_mu
    drawn_at = family.drawn_at if mu is None else lambda tokens, steps: mu
    return replace(family, guided="not", drawn_at=drawn_at)


def chat(tokenizer: Any, caption: str, *, thinks: bool) -> str:
    """A caption as a user's message in the chat template of a language model. thinks: whether the
    template leaves room for the model's thoughts.
    """
    asked = [{"role": "user", "content": caption}]
    return tokenizer.apply_chat_template(
        asked, tokenize=False, add_generation_prompt=True, enable_thinking=thinks
    )


def padded_ids(parts: Parts, name: str, captions: Sequence[str], length: int = 0) -> Tensor:
    """Token ids [B, length] of captions, cut and padded. name: of the tokenizer; length: its own
    where 0.
    """
    tokenizer = parts.tokenizers[name]
    return tokenizer(
        list(captions),
        padding="max_length",
        truncation=True,
        max_length=length or tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids
