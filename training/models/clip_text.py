"""States of CLIP text encoders: of which layer, and of captions longer than the encoder.

A long caption is read in pieces of the encoder's length, each encoded alone, their states one after
the other, as A1111 (modules/sd_hijack_clip.py) and ComfyUI (comfy/sd1_clip.py) do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from training.models.family import Parts, TextEncoder
from training.models.textual_inversion import Row, spoken, spoken_in_pieces
from training.style_files.family_spec import FamilySpec


@contextmanager
def said(
    parts: Parts, part: str, tokenizer: Any, captions: Sequence[str], tokens: Sequence[Row]
) -> Iterator[tuple[Tensor, list[int]]]:
    """Yield the ids to give to a text encoder and how many rows of them each caption has."""
    encoder = parts.text_encoder(part)
    most = [reading.pieces for reading in parts.readings_of(len(captions))]
    if max(most, default=1) == 1:
        with spoken(encoder, part, tokenizer, captions, tokens) as ids:
            yield ids, [1] * len(captions)
        return
    with spoken_in_pieces(encoder, part, tokenizer, captions, tokens, most) as (ids, pieces):
        yield ids, pieces


def joined(states: Tensor, pieces: Sequence[int]) -> Tensor:
    """States of pieces [P, tokens, width] as those of captions [B, pieces * tokens, width]."""
    if len(pieces) == len(states):
        return states
    rows = [piece.flatten(0, 1).unsqueeze(0) for piece in states.split(list(pieces))]
    return torch.cat(alike_long(rows))


def alike_long(states: Sequence[Tensor]) -> list[Tensor]:
    """States [B, tokens, width] of different lengths, each repeated to the least common one.

    Attention to a text that is repeated whole is attention to the text: every weight is divided
    by the count of the repetitions, and their sum is the same. So a row gets what it would get
    alone, whatever is beside it (as ComfyUI does it, comfy/conds.py: CONDCrossAttn).
    """
    longest = math.lcm(*(one.shape[1] for one in states))
    return [
        one if one.shape[1] == longest else one.repeat(1, longest // one.shape[1], 1)
        for one in states
    ]


def clip_skips(spec: FamilySpec, layers: int) -> Sequence[int]:
    """Which clip skips a family can have, whose text encoder has so many layers: none without
    CLIP encoders, and for Stable Diffusion XL only the one that every program uses.
    """
    if not all(spec.classes[part].startswith("CLIP") for part in spec.text_encoders):
        return ()
    if len(spec.text_encoders) > 1:
        return (2,)
    gone = 1 if spec.is_v2 else 0  # layers that diffusers has taken away
    return range(1 + gone, layers + gone + 1)


def layers_from_end(
    hidden: Sequence[Tensor], depths: Sequence[int], pieces: Sequence[int]
) -> Tensor:
    """Of every caption's rows the states of the layer that is so many from the end: 1 the last."""
    if len(set(depths)) == 1:
        return hidden[-depths[0]]
    wanted = [depth for depth, count in zip(depths, pieces, strict=True) for _ in range(count)]
    return torch.stack([hidden[-depth][row] for row, depth in enumerate(wanted)])


def last_norm(encoder: TextEncoder) -> nn.LayerNorm:
    """The layer norm after the last layer, which also follows an earlier one that is taken."""
    body: Any = getattr(encoder, "text_model", encoder)
    return body.final_layer_norm
