"""Chroma: FLUX.1's blocks without their modulation, one small network that makes it for all of
them, T5's states of the caption and of one token of padding, flow matching.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from training.models.conditioning import Varied, joined, padded
from training.models.family import Family, Parts
from training.models.latent_space import packed, position_ids, unpacked
from training.models.objective import Flow, Shift
from training.style_files import family_spec

TOKENS = 512  # of T5, at most
OF_DOUBLE_BLOCKS = 5  # what a double block is given where it is computed again, its mask among it


def encode_text(parts: Parts, captions: Sequence[str], tokens: Sequence[object] = ()) -> Varied:
    """Return T5's states of every caption, one by one, with the one token of padding that the
    transformer was trained to hear behind them.
    """
    t5, tokenizer, rows = parts.networks["text_encoder"], parts.tokenizers["tokenizer"], []
    for caption in captions:
        ids = tokenizer([caption], truncation=True, max_length=TOKENS, return_tensors="pt")
        read, more = ids.input_ids, min(1, TOKENS - ids.input_ids.shape[1])
        padding = read.new_full((1, more), tokenizer.pad_token_id)
        heard = torch.cat([torch.ones_like(read), torch.zeros_like(padding)], 1).to(t5.device)
        read = torch.cat([read, padding], 1).to(t5.device)
        rows.append(t5(read, attention_mask=heard)[0][0])
    return Varied(tuple(rows))


def predict(parts: Parts, noisy: Tensor, levels: Tensor, conditioning: Varied) -> Tensor:
    """Return the velocity towards noise, [B, C, h, w]."""
    height, width = noisy.shape[2:]
    states, heard = padded(conditioning.states)
    rows = packed(noisy)
    mask = None
    if len({len(row) for row in conditioning.states}) > 1:
        mask = torch.cat([heard, heard.new_ones(rows.shape[:2])], 1)
    with masked_again(parts.denoiser, mask):
        said = parts.denoiser(
            hidden_states=rows,
            timestep=levels,
            encoder_hidden_states=states,
            txt_ids=levels.new_zeros(states.shape[1], 3),
            img_ids=position_ids(height // 2, width // 2, 3, noisy),
            attention_mask=mask,
            return_dict=False,
        )[0]
    return unpacked(said, height, width)


@contextmanager
def masked_again(network: Any, mask: Tensor | None) -> Iterator[None]:
    """While inside, single blocks that are to be computed again in the backward pass are given the
    mask, too: diffusers 0.42 leaves it out there.
    """
    checkpoint = getattr(network, "_gradient_checkpointing_func", None)
    if mask is None or checkpoint is None:
        yield
        return

    def with_mask(block: Any, *given: Any) -> Any:
        return checkpoint(block, *given, *([mask] if len(given) < OF_DOUBLE_BLOCKS else []))

    network._gradient_checkpointing_func = with_mask
    try:
        yield
    finally:
        network._gradient_checkpointing_func = checkpoint


CHROMA = Family(
    family_spec.SPECS["chroma"],
    encode_text=encode_text,
    predict=predict,
    gather=joined,
    says=Varied,
    flow=Flow(Shift((256, 0.5), (4096, 1.15))),
)
