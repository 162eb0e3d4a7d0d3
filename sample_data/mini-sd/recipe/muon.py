"""Muon: momentum whose matrices are made orthogonal. Knows nothing of networks.

Jordan et al. 2024, kellerjordan.github.io/posts/muon; steps scaled to those of AdamW, so that one
rate serves both (Liu et al. 2025, arXiv 2502.16982).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
ROUNDS = 5  # of the Newton-Schulz iteration
LIKE_ADAMW = 0.2  # root mean square of an AdamW step at rate one, about


def orthogonal(matrices: Tensor) -> Tensor:
    """Return [N, rows, columns] with all singular values near one, by Newton-Schulz in bfloat16."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if tall else x).float()


@torch.no_grad()
def move(
    matrices: Sequence[nn.Parameter], momentum: Tensor, *, rate: float, weight_decay: float
) -> None:
    """Make one step with the gradients the parameters hold.

    momentum: flat, the parameters' own at its start in their order, changed in place.
    """
    alike: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
    at = 0
    for p in matrices:
        held = momentum[at : at + p.numel()]
        # The buffers lie channels-last, and so does a convolution's gradient
        grad = p.grad.permute(0, 2, 3, 1).reshape(-1) if p.dim() == 4 else p.grad.reshape(-1)
        held.mul_(MOMENTUM).add_(grad)
        ahead = (grad + MOMENTUM * held).view(len(p), -1)
        alike[ahead.shape].append((p, ahead))
        at += p.numel()
    for (rows, columns), some in alike.items():
        steps = orthogonal(torch.stack([ahead for _, ahead in some]))
        scale = LIKE_ADAMW * max(rows, columns) ** 0.5
        for (p, _), step in zip(some, steps, strict=True):
            if p.dim() == 4:
                out, inside, height, width = p.shape
                step = step.view(out, height, width, inside).permute(0, 3, 1, 2)
            p.mul_(1 - rate * weight_decay).add_(step, alpha=-rate * scale)
