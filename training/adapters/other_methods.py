"""Adapters of other methods than LoRA: what they add to a layer, and what they begin as."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from training.adapters.hadamard import hada_change
from training.adapters.kronecker import factor_shapes, kron_change
from training.adapters.low_rank import Adaptable
from training.adapters.masters import as_array, first_weights, master
from training.modules.stored import shape_of
from training.runtime.rng import FIRST_WEIGHTS, seeded_generator
from training.style_files.lora import Hada, Kron


@dataclass(frozen=True)
class KronAdapter:
    """The factors of one adapter of one layer: see training.adapters.kronecker. Any strength is
    inside.
    """

    one: Tensor
    two: Tensor

    def change(self, base: Adaptable, x: Tensor) -> Tensor:
        return kron_change(base, x, self.one, self.two)


@dataclass(frozen=True)
class HadaAdapter:
    """The matrices of one LoHa adapter of one layer: see training.adapters.hadamard."""

    a1: Tensor
    b1: Tensor
    a2: Tensor
    b2: Tensor
    scale: float

    def change(self, base: Adaptable, x: Tensor) -> Tensor:
        return hada_change(base, x, self.a1, self.b1, self.a2, self.b2, self.scale)


class OtherAdapter(Protocol):
    """An adapter of another method than LoRA."""

    def change(self, base: Adaptable, x: Tensor) -> Tensor:
        """What it adds to the layer's answer to x, in the precision of x."""
        ...


Factors = tuple[nn.Parameter, ...]  # what is trained of one layer
# (base layer, the module's place among the adapted ones) -> what is trained, the adapter made of it
Maker = Callable[[Adaptable, str, int], tuple[Factors, OtherAdapter]]


def kron_maker(factor: int, seed: int) -> Maker:
    """LoKr: (one, two), two is 0."""

    def make(base: Adaptable, module: str, place: int) -> tuple[Factors, OtherAdapter]:
        pair = first_weights(base, *factor_shapes(shape_of(base), factor), seed, place)
        return pair, KronAdapter(*pair)

    return make


def hada_maker(ranks: Mapping[str, int], scale: float, seed: int) -> Maker:
    """LoHa: (a1, b1, a2, b2), begun as LyCORIS begins it; a2 is 0. ranks: of the modules."""

    def make(base: Adaptable, module: str, place: int) -> tuple[Factors, OtherAdapter]:
        (out, *others), rank = shape_of(base), ranks[module]
        columns = math.prod(others)
        g = seeded_generator(seed, FIRST_WEIGHTS, place)
        b1 = torch.randn(rank, columns, generator=g)
        a1 = torch.randn(out, rank, generator=g) * 0.1
        b2 = torch.randn(rank, columns, generator=g)
        first = master(base, a1), master(base, b1)
        second = master(base, torch.zeros(out, rank)), master(base, b2)
        return (*first, *second), HadaAdapter(*first, *second, scale)

    return make


def as_kron(one: Tensor, two: Tensor) -> Kron:
    return Kron(as_array(one), as_array(two))


def as_hada(factors: Sequence[Tensor], alpha: float, kernel: tuple[int, ...]) -> Hada:
    a1, b1, a2, b2 = map(as_array, factors)
    return Hada(*_balanced(a1, b1), *_balanced(a2, b2), alpha, kernel)


def _balanced(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same product of matrices about as large as each other, which 16 bits hold best: after
    the first updates a2 is a millionth of b2. By powers of two, so exactly.
    """
    largest = [float(abs(matrix).max()) for matrix in (a, b)]
    if not all(0 < value < math.inf for value in largest):
        return a, b
    half = round((math.log2(largest[1]) - math.log2(largest[0])) / 2)
    return np.ldexp(a, half), np.ldexp(b, -half)
