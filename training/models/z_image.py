"""Z-Image: Qwen3's states of the caption's own tokens, and one stream of words and squares.

Its denoiser hears how little noise there is and answers with the way back: both are turned round.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.models.conditioning import Varied, joined
from training.models.family import Family, Parts, chat
from training.models.objective import Flow, constant_shift
from training.style_files import family_spec

TOKENS = 512  # of a caption in its template, at most
LAYER = -2  # of Qwen3's states: the last but one


def encode_text(parts: Parts, captions: Sequence[str], tokens: Sequence[object] = ()) -> Varied:
    """Return the states of every caption, one by one: without padding there is nothing to mask."""
    qwen, tokenizer = parts.networks["text_encoder"], parts.tokenizers["tokenizer"]
    rows = []
    for caption in captions:
        text = chat(tokenizer, caption, thinks=True)
        read = tokenizer([text], truncation=True, max_length=TOKENS, return_tensors="pt")
        ids = read.input_ids.to(qwen.device)
        said = qwen(input_ids=ids, output_hidden_states=True, use_cache=False)
        rows.append(said.hidden_states[LAYER][0])
    return Varied(tuple(rows))


def predict(parts: Parts, noisy: Tensor, levels: Tensor, conditioning: Varied) -> Tensor:
    """Return the velocity towards noise, [B, C, h, w]."""
    pictures, states = list(noisy[:, :, None]), list(conditioning.states)
    said = parts.denoiser(pictures, 1 - levels, states, return_dict=False)[0]
    return -torch.stack(said)[:, :, 0]


Z_IMAGE = Family(
    family_spec.SPECS["z-image"],
    encode_text=encode_text,
    predict=predict,
    gather=joined,
    says=Varied,
    flow=Flow(constant_shift(2.0)),
)
