"""The trained matrices of an adapter: their first weights, and what they are outside torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from training.adapters.low_rank import Adaptable
from training.runtime.rng import FIRST_WEIGHTS, seeded_generator


def first_weights(
    base: Adaptable, down: Sequence[int], up: Sequence[int], seed: int, place: int
) -> tuple[nn.Parameter, nn.Parameter]:
    """Masters of a new adapter, of these shapes, on the base layer's device.

    place: the module's among the adapted ones of its network.
    """
    bound = math.prod(down[1:]) ** -0.5
    first = (
        torch.rand(tuple(down), generator=seeded_generator(seed, FIRST_WEIGHTS, place)) * 2 * bound
        - bound
    )
    return master(base, first), master(base, torch.zeros(tuple(up)))


def master(base: Adaptable, value: Tensor) -> nn.Parameter:
    """A trained matrix on the base layer's device, in float32 or wider."""
    weight = base.weight  # which a stored one makes anew
    exact = torch.promote_types(weight.dtype, torch.float32)
    return nn.Parameter(value.to(weight.device, exact))


def as_array(matrix: Tensor) -> np.ndarray:
    return matrix.detach().float().cpu().numpy().copy()
