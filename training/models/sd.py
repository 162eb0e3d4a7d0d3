"""Stable Diffusion 1.x and 2.x, and the built-in mini base:

one CLIP text encoder, one UNet with cross-attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from training.models.clip_text import alike_long, joined, last_norm, layers_from_end, said
from training.models.family import Family, Parts
from training.models.textual_inversion import Row
from training.style_files import family_spec


def encode_text(parts: Parts, captions: Sequence[str], tokens: Sequence[Row] = ()) -> Tensor:
    """Return the text encoder's last states [B, tokens, width], layer norm included, as the stock
    pipeline does; with clip skip those of an earlier layer and the same layer norm, as A1111,
    ComfyUI and diffusers do.
    """
    encoder = parts.text_encoder("text_encoder")
    # Of 2.x diffusers has taken the last layer away: its own is the last but one
    own = 2 if parts.family.spec.is_v2 else 1
    depths = [(r.clip_skip or own) - own + 1 for r in parts.readings_of(len(captions))]
    tokenizer = parts.tokenizers["tokenizer"]
    with said(parts, "text_encoder", tokenizer, captions, tokens) as (ids, pieces):
        if set(depths) == {1}:
            return joined(encoder(ids)[0], pieces)
        hidden = encoder(ids, output_hidden_states=True).hidden_states
        return joined(last_norm(encoder)(layers_from_end(hidden, depths, pieces)), pieces)


def predict(parts: Parts, noisy: Tensor, timesteps: Tensor, conditioning: Tensor) -> Tensor:
    return parts.denoiser(noisy, timesteps, conditioning, return_dict=False)[0]


def gather(conditionings: Sequence[Tensor]) -> Tensor:
    return torch.cat(alike_long(conditionings))


SD1 = Family(family_spec.SD1, encode_text=encode_text, predict=predict, gather=gather)
SD2 = replace(SD1, spec=family_spec.SD2)
MINI = replace(SD1, spec=family_spec.MINI)
