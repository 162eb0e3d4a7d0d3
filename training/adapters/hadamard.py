"""LoHa (Yeh et al. 2024, arXiv 2309.14859, section 3.2): y = W x + b + s ((A1 B1) * (A2 B2)) x, the
second product element by element.

A: [out, r]; B: [r, in * k * k]; s: alpha / r. The change is made in the precision of the masters
and again in the backward, so that none is kept between the two.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from training.adapters.low_rank import Adaptable
from training.modules.stored import shape_of


def hada_change(
    base: Adaptable, x: Tensor, a1: Tensor, b1: Tensor, a2: Tensor, b2: Tensor, scale: float
) -> Tensor:
    """What the change adds to a layer's answer, in the precision of x."""

    def made(x: Tensor, a1: Tensor, b1: Tensor, a2: Tensor, b2: Tensor) -> Tensor:
        weight = ((a1 @ b1) * (a2 @ b2) * scale).to(x.dtype)
        if isinstance(base, nn.Linear):
            return F.linear(x, weight)
        weight = weight.view(shape_of(base))
        return F.conv2d(x, weight, None, base.stride, base.padding, base.dilation)

    if not torch.is_grad_enabled():
        return made(x, a1, b1, a2, b2)
    return checkpoint(made, x, a1, b1, a2, b2, use_reentrant=False, preserve_rng_state=False)
