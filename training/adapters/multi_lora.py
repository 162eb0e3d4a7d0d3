"""One frozen base on which several styles are trained at once: rows of a batch go through the
adapters of their own style.

A layer's frozen product serves all rows; the low-rank ones are one batched product. The mathematics
of a row are those of a run alone, so what a style learns does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from torch import nn

from training.adapters.lora_layers import (
    Adapter,
    LoraLayer,
    Router,
    adaptable,
)
from training.adapters.low_rank import Adaptable
from training.adapters.masters import first_weights
from training.adapters.other_methods import Factors, Maker
from training.models.family import Parts
from training.modules.stored import shape_of

Pair = tuple[nn.Parameter, nn.Parameter]  # down, up


class SharedBase:
    """The base and who trains on it. Outside `routed` the networks are the base itself."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._indices = 0
        self._router = Router()
        self._layers: dict[nn.Module, LoraLayer] = {}

    def parts(self) -> Parts:
        """Return the base, for a run that may drop the networks it needs no more."""
        return replace(self._parts, networks=self._parts.networks.copy())

    def new_adapter_index(self) -> int:
        """Return the number of one more style."""
        self._indices += 1
        return self._indices - 1

    def attach(
        self,
        adapter_index: int,
        network: nn.Module,
        modules: Sequence[str],
        *,
        rank: int,
        alpha: float,
        seed: int,
        ranks: Mapping[str, int] | None = None,
    ) -> dict[str, Pair]:
        """Put LoRA on the named modules for one style among others, as lora_layers.attach does for
        one alone: the same first weights.
        """
        found: dict[str, Pair] = {}
        for name in modules:
            base = adaptable(network.get_submodule(name))
            shape = shape_of(base)
            own = (ranks or {}).get(name, rank)
            down, up = (own, *shape[1:]), (shape[0], own, *(1 for _ in shape[2:]))
            pair = first_weights(base, down, up, seed, len(found))
            self._layer(base).adapters[adapter_index] = Adapter(*pair, alpha / rank)
            found[name] = pair
        return found

    def attach_other(
        self, adapter_index: int, network: nn.Module, modules: Sequence[str], make: Maker
    ) -> dict[str, Factors]:
        """The same for another method, as lora_layers.attach_other does for one style alone."""
        found: dict[str, Factors] = {}
        for name in modules:
            base = adaptable(network.get_submodule(name))
            found[name], adapter = make(base, name, len(found))
            self._layer(base).others[adapter_index] = [adapter]
        return found

    def _layer(self, base: Adaptable) -> LoraLayer:
        if base not in self._layers:
            self._layers[base] = LoraLayer(base, self._router)
        return self._layers[base]

    def leave(self, adapter_index: int) -> None:
        """Take away the adapters of a style that is done; a layer that no style adapts is the
        base's own again.
        """
        for base, layer in list(self._layers.items()):
            layer.adapters.pop(adapter_index, None)
            layer.others.pop(adapter_index, None)
            if not (layer.adapters or layer.others):
                layer.restore()
                del self._layers[base]

    def routed(self, rows: Sequence[int]) -> AbstractContextManager[None]:
        """While inside, row i of every batch is of style rows[i]; a batch may have a multiple of
        len(rows) rows (as guidance makes it).
        """
        return self._router.routed(rows)
