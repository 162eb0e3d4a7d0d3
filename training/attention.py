"""Attention for the frozen base: the kernel is chosen by shape, because the fused one's backward is slow for short rows.

Measured on CPUs with bf16 units: softmax(q k^T) v in slices wins for cross-attention and for maps up to about 1024 positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PLAIN_UP_TO = 1024 * 1024  # queries x keys, on a CPU with gradients
SCORES_AT_ONCE = 1024 * 1024  # 2 MiB of bfloat16


class _Attention(torch.autograd.Function):
    """softmax(q k^T) v for [rows, n, d] and [rows, m, d], a few rows at a time, so that the scores never leave the processor's cache.

    Keeps q, k, v: the probabilities, the largest thing of a step, are computed again in the backward, which costs less than reading them.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        mixed = torch.empty_like(q)
        for some in _slices(q, k):
            torch.bmm(torch.bmm(q[some], k[some].transpose(1, 2)).softmax(-1), v[some], out=mixed[some])
        return mixed

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        q, k, v = ctx.saved_tensors
        to_q, to_k, to_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for some in _slices(q, k):
            p = torch.bmm(q[some], k[some].transpose(1, 2)).softmax(-1)
            torch.bmm(p.transpose(1, 2), grad[some], out=to_v[some])
            to_scores = torch._softmax_backward_data(torch.bmm(grad[some], v[some].transpose(1, 2)), p, -1, p.dtype)
            torch.bmm(to_scores, k[some], out=to_q[some])
            torch.bmm(to_scores.transpose(1, 2), q[some], out=to_k[some])
        return to_q, to_k, to_v


def _slices(q: Tensor, k: Tensor) -> Iterator[slice]:
    at_once = max(1, SCORES_AT_ONCE // (q.shape[1] * k.shape[1]))
    return (slice(i, i + at_once) for i in range(0, len(q), at_once))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q: [B, heads, n, d]; k, v: [B, heads, m, d] -> [B, heads, n, d]. Vaswani et al. 2017, eq. 1."""
    plain = q.device.type == "cpu" and torch.is_grad_enabled() and q.shape[2] * k.shape[2] <= PLAIN_UP_TO
    if not plain:
        return F.scaled_dot_product_attention(q, k, v)
    rows = lambda x: x.reshape(-1, *x.shape[2:])
    return _Attention.apply(rows(q * q.shape[-1] ** -0.5), rows(k), rows(v)).view(q.shape)


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
