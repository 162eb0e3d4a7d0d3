"""Attention for the frozen base: the kernel is chosen by shape, because the fused one's backward is slow for short rows.

Measured on CPUs with bf16 units: plain softmax(q k^T) v wins for cross-attention and for maps up to about 1024 positions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PLAIN_UP_TO = 1024 * 1024  # queries x keys, on a CPU with gradients


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q: [B, heads, n, d]; k, v: [B, heads, m, d] -> [B, heads, n, d]. Vaswani et al. 2017, eq. 1."""
    plain = q.device.type == "cpu" and torch.is_grad_enabled() and q.shape[2] * k.shape[2] <= PLAIN_UP_TO
    if not plain:
        return F.scaled_dot_product_attention(q, k, v)
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
    return torch.matmul(scores.softmax(-1), v)


class ShapedAttention:
    """A diffusers attention processor for the transformer blocks of UNets."""

    def __call__(self, attn: nn.Module, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: object) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        split = lambda x: x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        mixed = attend(split(q), split(k), split(v)).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](mixed))


def choose_attention(unet: nn.Module) -> None:
    """Give every plain cross- or self-attention of a UNet the kernel that is chosen by shape."""
    from diffusers.models.attention_processor import Attention

    for part in unet.modules():
        simple = isinstance(part, Attention) and part.group_norm is None and part.spatial_norm is None and not part.norm_cross
        if simple and part.norm_q is None and part.norm_k is None and part.added_kv_proj_dim is None and not part.upcast_softmax:
            part.set_processor(ShapedAttention())
