"""Stable Diffusion 1.x and 2.x, and the built-in mini base:

one CLIP text encoder, one UNet with cross-attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from training.models.family import Family, Parts
from training.models.textual_inversion import Row, spoken
from training.style_files import family_spec


def encode_text(parts: Parts, captions: Sequence[str], tokens: Sequence[Row] = ()) -> Tensor:
    """Return the text encoder's last states [B, tokens, width], layer norm included, as the stock
    pipeline does.
    """
    encoder = parts.text_encoder("text_encoder")
    with spoken(encoder, "text_encoder", parts.tokenizers["tokenizer"], captions, tokens) as ids:
        return encoder(ids)[0]


def predict(parts: Parts, noisy: Tensor, timesteps: Tensor, conditioning: Tensor) -> Tensor:
    return parts.denoiser(noisy, timesteps, conditioning, return_dict=False)[0]


def gather(conditionings: Sequence[Tensor]) -> Tensor:
    return torch.cat([*conditionings])


SD1 = Family(family_spec.SD1, encode_text=encode_text, predict=predict, gather=gather)
SD2 = replace(SD1, spec=family_spec.SD2)
MINI = replace(SD1, spec=family_spec.MINI)
