"""FLUX.2 klein: three layers of Qwen3's states side by side, double and single blocks with one
modulation for all, flow matching.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from training.models.conditioning import States, stacked
from training.models.family import Family, Parts, chat
from training.models.latent_space import position_ids
from training.models.objective import Flow, Shift
from training.style_files import family_spec

TOKENS = 512  # padding as well: the transformer knows no mask
LAYERS = (9, 18, 27)  # of Qwen3's states


def encode_text(parts: Parts, captions: Sequence[str], tokens: Sequence[object] = ()) -> States:
    """Return the states of three layers of Qwen3, [B, 512, 3 widths]."""
    qwen, tokenizer = parts.networks["text_encoder"], parts.tokenizers["tokenizer"]
    texts = [chat(tokenizer, caption, thinks=False) for caption in captions]
    cut: dict[str, Any] = {"padding": "max_length", "truncation": True, "max_length": TOKENS}
    read = tokenizer(texts, **cut, return_tensors="pt").to(qwen.device)
    said = qwen(
        input_ids=read.input_ids,
        attention_mask=read.attention_mask,
        output_hidden_states=True,
        use_cache=False,
    )
    return States(torch.cat([said.hidden_states[layer] for layer in LAYERS], -1))


def predict(parts: Parts, noisy: Tensor, levels: Tensor, conditioning: States) -> Tensor:
    """Return the velocity towards noise, [B, C, h, w]."""
    height, width = noisy.shape[2:]
    count = conditioning.states.shape[1]
    words = torch.zeros(count, 4, device=noisy.device)
    words[:, 3] = torch.arange(count, device=noisy.device)
    said = parts.denoiser(
        hidden_states=noisy.flatten(2).transpose(1, 2),
        timestep=levels,
        guidance=None,  # klein hears none; dev, of the same class, would
        encoder_hidden_states=conditioning.states,
        txt_ids=words,
        img_ids=position_ids(height, width, 4, noisy),
        return_dict=False,
    )[0]
    return said.transpose(1, 2).unflatten(2, (height, width))


def drawn_at(tokens: int, steps: int) -> float:
    """mu of drawing as Black Forest Labs fitted it (compute_empirical_mu): two lines over tokens,
    for 10 steps and for 200, and what lies between.
    """
    many = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return many
    few = 8.73809524e-05 * tokens + 1.89833333
    return many + (many - few) / 190 * (steps - 200)


def distilled(transformer: Mapping[str, Any], index: Mapping[str, Any]) -> bool:
    """The klein models without "base" in their names are drawn without guidance."""
    return bool(index.get("is_distilled"))


KLEIN = Family(
    family_spec.SPECS["flux2-klein"],
    encode_text=encode_text,
    predict=predict,
    gather=stacked,
    says=States,
    flow=Flow(Shift((256, 0.5), (4096, 1.15))),
    drawn_at=drawn_at,
    distilled=distilled,
)
