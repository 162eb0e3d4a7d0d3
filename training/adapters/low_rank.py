"""The product of a low-rank change, forward and backward: y = W x + b + s B A x (Hu et al. 2021,
eq. 3), for one adapter of every row or for an adapter a row.

W: [out, in, ...] frozen, of a linear or a convolution; A (down): [r, in, ...]; B (up): [out, r,
...]; s: alpha / r. The products are in the precision of x, whatever the matrices are kept in.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.modules.stored import source_of

Adaptable = nn.Linear | nn.Conv2d  # layers that may have adapters


class LowRank(torch.autograd.Function):
    """y = x W^T + b + s (x A^T) B^T. x: [..., in]; W: [out, in] frozen; A: [r, in], B: [out, r]
    float32 masters.

    Keeps only x and x A^T; the frozen product and both small ones share one pass forward and one
    back. make: where given, W is make(weight, *more), made again in the backward and never kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scale: float,
        make: Callable[..., Tensor] | None = None,
        *more: Tensor,
    ) -> Tensor:
        a, b = down.to(x.dtype), (up * scale).to(x.dtype)
        rows = x.reshape(-1, x.shape[-1])
        h = rows @ a.t()
        frozen = make(weight, *more) if make else weight
        y = F.linear(rows, frozen, bias).addmm_(h, b.t())
        ctx.save_for_backward(rows, a, b, h, weight, *more)
        ctx.scale, ctx.shape, ctx.make = scale, x.shape, make
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        rows, a, b, h, *kept = ctx.saved_tensors
        weight = ctx.make(*kept) if ctx.make else kept[0]
        g = grad.reshape(-1, grad.shape[-1])
        to_h = g @ b
        to_x = (g @ weight).addmm_(to_h, a).view(ctx.shape) if ctx.needs_input_grad[0] else None
        exact = torch.promote_types(rows.dtype, torch.float32)
        return (
            to_x,
            None,
            None,
            (to_h.t() @ rows).to(exact),
            (g.t() @ h).to(exact) * ctx.scale,
            None,
            None,
            *(None for _ in kept[1:]),
        )


def is_pointwise(base: Adaptable) -> bool:
    """Tell whether a layer is a linear over the last dimension or over the pixels. As a
    convolution the latter is three times slower in bfloat16.
    """
    if isinstance(base, nn.Linear):
        return True
    return base.kernel_size == (1, 1) and base.stride == (1, 1) and base.groups == 1


def for_all_rows(base: Adaptable, x: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """Return what a layer answers when every row goes through the same adapter."""
    if isinstance(base, nn.Conv2d) and not is_pointwise(base):
        small, large = down.to(x.dtype), (up * scale).to(x.dtype)
        h = F.conv2d(x, small, None, base.stride, base.padding, base.dilation)
        return base(x) + F.conv2d(h, large)
    make, (weight, *more) = source_of(base)
    if isinstance(base, nn.Linear):
        return LowRank.apply(x, weight, base.bias, down, up, scale, make, *more)
    rows = x.permute(0, 2, 3, 1)
    matrices = down.flatten(1), up.flatten(1)
    if make is None:
        weight = weight.flatten(1)
    else:
        make = partial(_as_matrix, make)
    y = LowRank.apply(rows, weight, base.bias, *matrices, scale, make, *more)
    return y.permute(0, 3, 1, 2)


def _as_matrix(make: Callable[..., Tensor], *kept: Tensor) -> Tensor:
    """The weight of a convolution over single pixels as [out, in]."""
    return make(*kept).flatten(1)


def for_each_row(
    base: Adaptable, y: Tensor, x: Tensor, down: Tensor, up: Tensor, order: Tensor | None
) -> Tensor:
    """Return the frozen answer y with the change of every row.

    down: [A, r, in, ...]; up: [A, out, r], scale inside; order: which of the A adapters each of
    the rows takes, None where the rows are A equal blocks. The sum is made by the last product,
    which saves a walk over y.
    """
    if order is not None:  # the backward of indexing adds up in any order on several threads
        picked_up = up.index_select(0, order)
        groups = len(order)
    else:
        picked_up, groups = up, len(down)

    def picked_down() -> Tensor:
        return down if order is None else down.index_select(0, order)

    def blocks(rows: Tensor) -> Tensor:
        return rows.reshape(groups, -1, rows.shape[-1])

    def last(image: Tensor) -> Tensor:
        return image.permute(0, 2, 3, 1)

    if isinstance(base, nn.Linear):
        h = torch.bmm(blocks(x), picked_down().transpose(1, 2))
        return torch.baddbmm(blocks(y), h, picked_up.transpose(1, 2)).view(y.shape)
    if is_pointwise(base):
        h = torch.bmm(blocks(last(x)), picked_down().flatten(2).transpose(1, 2))
    else:
        # All adapters' downs as one convolution, of which each row takes its own channels:
        # cheaper than one group a row
        every = F.conv2d(x, down.flatten(0, 1), None, base.stride, base.padding, base.dilation)
        every = every.unflatten(1, down.shape[:2])
        own = torch.arange(len(x), device=x.device)
        each = order if order is not None else own // (len(x) // groups)
        h = blocks(last(every[own, each]))
    summed = torch.baddbmm(blocks(last(y)), h, picked_up.transpose(1, 2))
    return summed.view(last(y).shape).permute(0, 3, 1, 2)
