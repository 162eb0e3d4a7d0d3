"""Stable Diffusion 3 and 3.5: two CLIPs and T5 one behind the other, double blocks, flow matching.

Its transformer hears levels as thousandths.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.conditioning import Said, gathered
from training.models.family import Family, Parts, padded_ids
from training.models.objective import Flow, constant_shift
from training.style_files import family_spec

TOKENS = 256  # of T5, padding as well: the transformer knows no mask


def encode_text(parts: Parts, captions: Sequence[str], tokens: Sequence[object] = ()) -> Said:
    """Return the states of both CLIPs side by side and behind them T5's, [B, 77 + 256, width], and
    both CLIPs' summaries.
    """
    states: list[Tensor] = []
    pooled: list[Tensor] = []
    for part, tokenizer in (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")):
        clip = parts.networks[part]
        ids = padded_ids(parts, tokenizer, captions, 77).to(clip.device)
        found = clip(ids, output_hidden_states=True)
        states.append(found.hidden_states[-2])
        pooled.append(found.text_embeds)
    t5 = parts.networks["text_encoder_3"]
    long = t5(padded_ids(parts, "tokenizer_3", captions, TOKENS).to(t5.device))[0]
    short = torch.cat(states, -1)
    short = F.pad(short, (0, long.shape[-1] - short.shape[-1]))
    return Said(torch.cat([short, long], 1), torch.cat(pooled, -1))


def predict(parts: Parts, noisy: Tensor, levels: Tensor, conditioning: Said) -> Tensor:
    """Return the velocity towards noise, [B, C, h, w]."""
    return parts.denoiser(
        hidden_states=noisy,
        timestep=levels * 1000,
        encoder_hidden_states=conditioning.states,
        pooled_projections=conditioning.pooled,
        return_dict=False,
    )[0]


def idle(denoiser: nn.Module) -> Collection[str]:
    """The last block's words ask nothing."""
    last = len(cast(Any, denoiser).transformer_blocks) - 1
    return [f"transformer_blocks.{last}.attn.add_q_proj"]


SD3 = Family(
    family_spec.SPECS["sd3"],
    encode_text=encode_text,
    predict=predict,
    gather=gathered,
    says=Said,
    flow=Flow(constant_shift(3.0)),
    own_levels=True,
    idle=idle,
)
