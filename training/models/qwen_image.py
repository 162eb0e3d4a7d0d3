"""Qwen-Image: Qwen2.5-VL's last states behind a fixed instruction, double blocks, a VAE made for
films, flow matching.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, cast

from torch import Tensor, nn

from training.models.conditioning import Varied, joined, padded
from training.models.family import Family, Parts
from training.models.instruction import AFTER, BEFORE, TOKENS_BEFORE
from training.models.latent_space import packed, unpacked
from training.models.objective import Flow, Shift
from training.style_files import family_spec

TOKENS = 1024  # of a caption and of what closes the template, at most


def encode_text(parts: Parts, captions: Sequence[str], tokens: Sequence[object] = ()) -> Varied:
    """Return the states of every caption, one by one: without padding there is nothing to mask."""
    qwen, tokenizer = parts.networks["text_encoder"], parts.tokenizers["tokenizer"]
    most, rows = TOKENS + TOKENS_BEFORE, []
    for caption in captions:
        text = [BEFORE + caption + AFTER]
        read = tokenizer(text, truncation=True, max_length=most, return_tensors="pt")
        read = read.to(qwen.device)
        said = qwen(
            input_ids=read.input_ids, attention_mask=read.attention_mask, output_hidden_states=True
        )
        rows.append(said.hidden_states[-1][0, TOKENS_BEFORE:])
    return Varied(tuple(rows))


def predict(parts: Parts, noisy: Tensor, levels: Tensor, conditioning: Varied) -> Tensor:
    """Return the velocity towards noise, [B, C, h, w]."""
    height, width = noisy.shape[2:]
    states, heard = padded(conditioning.states)
    # Asked of shapes: a mask's values would have to be waited for
    ragged = len({len(row) for row in conditioning.states}) > 1
    said = parts.denoiser(
        hidden_states=packed(noisy),
        timestep=levels,
        encoder_hidden_states=states,
        encoder_hidden_states_mask=heard if ragged else None,
        img_shapes=[[(1, height // 2, width // 2)]] * len(noisy),
        return_dict=False,
    )[0]
    return unpacked(said, height, width)


def steer(guided: Tensor, with_words: Tensor) -> Tensor:
    """What guidance says, in every square as long as what the words alone say."""
    height, width = guided.shape[2:]
    rows, kept = packed(guided), packed(with_words)
    share = kept.norm(dim=-1, keepdim=True) / rows.norm(dim=-1, keepdim=True)
    return unpacked(rows * share, height, width)


def idle(denoiser: nn.Module) -> Collection[str]:
    """What the last block makes of the words is thrown away."""
    last = f"transformer_blocks.{len(cast(Any, denoiser).transformer_blocks) - 1}"
    inner = ("attn.add_q_proj", "attn.to_add_out", "txt_mlp.net.0.proj", "txt_mlp.net.2")
    return [f"{last}.{module}" for module in inner]


QWEN_IMAGE = Family(
    family_spec.SPECS["qwen-image"],
    encode_text=encode_text,
    predict=predict,
    gather=joined,
    says=Varied,
    flow=Flow(Shift((256, 0.5), (8192, 0.9))),
    steer=steer,
    empty=" ",
    idle=idle,
)
