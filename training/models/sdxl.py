"""Stable Diffusion XL: two CLIP text encoders side by side, a pooled state, and a UNet that is
given the picture's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from training.models.clip_text import alike_long, joined, said
from training.models.family import Family, Parts
from training.models.textual_inversion import Row
from training.style_files import family_spec


class Said(NamedTuple):
    """What a caption says to the UNet."""

    states: Tensor  # [B, tokens, widths of both encoders together]
    pooled: Tensor  # [B, width of the second's projection]


def encode_text(parts: Parts, captions: Sequence[str], tokens: Sequence[Row] = ()) -> Said:
    """Return the last states but one of both encoders, without their layer norm, and the second's
    projected summary (Podell et al. 2023, 2.1).

    Of a caption in several pieces the summary is the first one's, as in A1111 and ComfyUI. No
    caption is zeroed: an empty one is encoded as the empty text, in training and in drawing.
    """
    states: list[Tensor] = []
    pooled = torch.empty(0)
    for name, tokenizer in zip(parts.family.text_encoders, parts.tokenizers.values(), strict=True):
        encoder = parts.text_encoder(name)
        with said(parts, name, tokenizer, captions, tokens) as (ids, pieces):
            found = encoder(ids, output_hidden_states=True)
        states.append(joined(found.hidden_states[-2], pieces))
        pooled = getattr(found, "text_embeds", pooled)  # the second one's
        if len(pooled) > len(captions):
            pooled = torch.stack([one[0] for one in pooled.split(pieces)])
    return Said(torch.cat(alike_long(states), -1), pooled)


def predict(parts: Parts, noisy: Tensor, timesteps: Tensor, conditioning: Said) -> Tensor:
    """The UNet hears that the picture was never larger and is not cropped (Podell et al.

    2023, 2.2), in training as in drawing.
    """
    height, width = (side * parts.pixel_step for side in noisy.shape[2:])
    time_ids = noisy.new_zeros(
        6
        # original size, crop, target size; px. Filled on the device, which a copy from the host
        # would wait for
    )
    time_ids[0::4], time_ids[1::4] = height, width
    beside = {"text_embeds": conditioning.pooled, "time_ids": time_ids.expand(len(noisy), -1)}
    return parts.denoiser(
        noisy, timesteps, conditioning.states, added_cond_kwargs=beside, return_dict=False
    )[0]


def gather(conditionings: Sequence[Said]) -> Said:
    states = alike_long([one.states for one in conditionings])
    return Said(torch.cat(states), torch.cat([one.pooled for one in conditionings]))


SDXL = Family(family_spec.SDXL, encode_text=encode_text, predict=predict, gather=gather)
