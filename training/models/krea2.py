"""Krea 2: several layers of Qwen3-VL's states, which a small network of its own makes one of, gated
blocks of one stream, Qwen-Image's VAE, flow matching.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from training.models.conditioning import Varied, joined, padded
from training.models.family import Family, Parts
from training.models.instruction import AFTER, BEFORE, TOKENS_AFTER, TOKENS_BEFORE
from training.models.latent_space import packed, position_ids, unpacked
from training.models.objective import Flow, Shift, constant_shift
from training.style_files import family_spec

TOKENS = 512  # of a caption and of what closes the template, at most
LAYERS = (2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 35)  # of Qwen3-VL's states, if none are named
DRAWN_AT = Shift((256, 0.5), (6400, 1.15))


def encode_text(parts: Parts, captions: Sequence[str], tokens: Sequence[object] = ()) -> Varied:
    """Return the states [tokens, layers, width] of every caption, one by one: without padding there
    is nothing to mask.
    """
    qwen, tokenizer = parts.networks["text_encoder"], parts.tokenizers["tokenizer"]
    ending = tokenizer([AFTER], return_tensors="pt").input_ids
    most, rows = TOKENS + TOKENS_BEFORE - TOKENS_AFTER, []
    for caption in captions:
        text = [BEFORE + caption]
        begun = tokenizer(text, truncation=True, max_length=most, return_tensors="pt").input_ids
        ids = torch.cat([begun, ending], 1).to(qwen.device)
        said = qwen(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
        layers = parts.index.get("text_encoder_select_layers") or LAYERS
        found = torch.stack([said.hidden_states[layer] for layer in layers], 2)
        rows.append(found[0, TOKENS_BEFORE:])
    return Varied(tuple(rows))


def predict(parts: Parts, noisy: Tensor, levels: Tensor, conditioning: Varied) -> Tensor:
    """Return the velocity towards noise, [B, C, h, w]."""
    height, width = noisy.shape[2:]
    states, heard = padded(conditioning.states)
    squares = position_ids(height // 2, width // 2, 3, noisy)
    said = parts.denoiser(
        hidden_states=packed(noisy),
        timestep=levels,
        encoder_hidden_states=states,
        encoder_attention_mask=heard,
        position_ids=torch.cat([squares.new_zeros(states.shape[1], 3), squares]),
        return_dict=False,
    )[0]
    return unpacked(said, height, width)


def distilled(transformer: Mapping[str, Any], index: Mapping[str, Any]) -> bool:
    """Turbo is drawn without guidance."""
    return bool(index.get("is_distilled"))


KREA2 = Family(
    family_spec.SPECS["krea2"],
    encode_text=encode_text,
    predict=predict,
    gather=joined,
    says=Varied,
    flow=Flow(constant_shift(2.5)),
    drawn_at=lambda tokens, steps: DRAWN_AT.at(tokens),
    distilled=distilled,
    distilled_mu=1.15,
)
