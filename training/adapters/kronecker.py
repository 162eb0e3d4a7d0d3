"""LoKr (Yeh et al. 2024, arXiv 2309.14859, section 3.3): y = W x + b + kron(one, two) x, without
ever making the product of the two.

one: [a, c]; two: [b, d] or [b, d, k, k], for a weight of [a b, c d, ...]. Both are whole matrices,
so the scale is 1, as in LyCORIS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from training.adapters.low_rank import Adaptable


def divided(size: int, factor: int) -> tuple[int, int]:
    """A size as a product, the smaller first: `factor` if that divides it, else the largest divisor
    below it; never above the root. factor 0: as near the root as can be.

    As LyCORIS divides them (KohakuBlueleaf/LyCORIS, functional/general.py: factorization).
    """
    if factor and size % factor == 0:
        return min(factor, size // factor), max(factor, size // factor)
    most = min(factor or size, math.isqrt(size))
    one = next(n for n in range(most, 0, -1) if size % n == 0)
    return one, size // one


def factor_shapes(shape: Sequence[int], factor: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of one and two for a weight of that shape: [out, in, ...]."""
    (a, b), (c, d) = divided(shape[0], factor), divided(shape[1], factor)
    return (a, c), (b, d, *shape[2:])


def kron_change(base: Adaptable, x: Tensor, one: Tensor, two: Tensor) -> Tensor:
    """What the change adds to a layer's answer, in the precision of x. two has the kernel of the
    base.
    """
    first, second = one.to(x.dtype), two.to(x.dtype)
    (a, c), (b, d) = first.shape, second.shape[:2]
    if isinstance(base, nn.Linear):
        h = F.linear(x.unflatten(-1, (c, d)), second)  # [..., c, b]
        return F.linear(h.transpose(-1, -2), first).transpose(-1, -2).flatten(-2)
    size = len(x)
    parts = x.unflatten(1, (c, d)).flatten(0, 1)
    h = F.conv2d(parts, second, None, base.stride, base.padding, base.dilation)
    h = h.unflatten(0, (size, c)).movedim(1, -1)  # [B, b, h, w, c]
    return F.linear(h, first).movedim(-1, 1).reshape(size, a * b, *h.shape[2:4])
