"""Group normalisation for CPUs: the library's backward in channels_last takes a third of a training
step.

The backward here is three passes over contiguous memory instead of a strided loop. Knows nothing of
models.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from training.modules.torch_patches import change_class

BLOCK = 64  # rows whose sum is rounded to the input's precision before it is added to the others


def _sum_of_rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the sum over dimension 1 of [B, N, C] in dtype.

    The library copies bfloat16 into float32 before it sums into float32. Its sum in bfloat16 copies
    nothing and rounds once, at its end: here once a block.
    """
    b, n, c = x.shape
    if x.dtype is not torch.bfloat16 or n % BLOCK:
        return x.sum(1, dtype=dtype)
    return x.view(b, n // BLOCK, BLOCK, c).sum(2).to(dtype).sum(1)


class _GroupNorm(torch.autograd.Function):
    """x: [B, C, H, W] in channels_last, weight and bias: [C]. Wu and He 2018, arXiv 1803.08494."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
    ) -> Tensor:
        b, c, h, w = x.shape
        x = x.as_strided(
            x.shape, (c * h * w, 1, w * c, c)
        )  # a side of 1 may have any stride, and the library then sees another layout
        y, mean, rstd = torch.native_group_norm(x, weight, bias, b, c, h * w, groups, eps)
        exact = torch.float64 if x.dtype == torch.float64 else torch.float32
        ctx.save_for_backward(x, weight, mean.to(exact), rstd.to(exact))
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, weight, mean, rstd = ctx.saved_tensors
        b, c, h, w = x.shape
        groups, per_group = mean.shape[1], c // mean.shape[1]
        # Rows are pixels: [B, HW, C]. One number a channel is enough to know both group sums.
        rows, dy = (
            x.permute(0, 2, 3, 1).reshape(b, h * w, c),
            grad.permute(0, 2, 3, 1).reshape(b, h * w, c),
        )
        sum_dy = _sum_of_rows(dy, mean.dtype)  # [B, C]
        sum_dy_x = _sum_of_rows(dy * rows, mean.dtype)
        scale, shift = rstd.repeat_interleave(per_group, 1), mean.repeat_interleave(per_group, 1)
        sum_dy_xhat = (sum_dy_x - shift * sum_dy) * scale
        n = per_group * h * w
        mean_dy = ((sum_dy * weight).view(b, groups, per_group).sum(2) / n).repeat_interleave(
            per_group, 1
        )
        mean_dy_xhat = (
            (sum_dy_xhat * weight).view(b, groups, per_group).sum(2) / n
        ).repeat_interleave(per_group, 1)
        # dx = rstd (w dy - mean(w dy) - xhat mean(w dy xhat)), as one multiple of dy, one of x and
        # a constant
        of_dy = (scale * weight).to(x.dtype).unsqueeze(1)
        of_x = -scale * scale * mean_dy_xhat
        constant = -scale * mean_dy - of_x * shift
        dx = torch.addcmul(
            constant.to(x.dtype).unsqueeze(1), rows, of_x.to(x.dtype).unsqueeze(1)
        ).addcmul_(dy, of_dy)
        dx = dx.view(b, h, w, c).permute(0, 3, 1, 2)
        to_weight = sum_dy_xhat.sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        to_bias = sum_dy.sum(0).to(weight.dtype) if ctx.needs_input_grad[2] else None
        return dx, to_weight, to_bias, None, None


class FastGroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` with the quick backward wherever it applies:

    a 4-D channels_last input on a CPU.
    """

    def forward(self, input: Tensor) -> Tensor:
        if (
            input.device.type != "cpu"
            or input.dim() != 4
            or not input.requires_grad
            or not input.is_contiguous(memory_format=torch.channels_last)
        ):
            return super().forward(input)
        dtype = (
            input.dtype
            if input.dtype == self.weight.dtype or input.dtype == torch.bfloat16
            else self.weight.dtype
        )
        return _GroupNorm.apply(
            input.to(dtype), self.weight.to(dtype), self.bias.to(dtype), self.num_groups, self.eps
        )


def use_fast_group_norm(module: nn.Module) -> None:
    """Give every affine group normalisation of a model the quick backward, in place."""
    for part in module.modules():
        if type(part) is nn.GroupNorm and part.affine:
            change_class(part, FastGroupNorm)
