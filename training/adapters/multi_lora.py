"""One frozen base on which several styles are trained at once: rows of a batch go through the
adapters of their own style.

A layer's frozen product serves all rows; the low-rank ones are one batched product over A [rows, r,
in] and B [rows, out, r], ranks padded with zeros. The mathematics of a row are those of a run
alone, so what a style learns does not depend on its neighbours.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.adapters.lora_layers import first_weights
from training.models.family import Parts
from training.runtime.device import sent

Pair = tuple[nn.Parameter, nn.Parameter]  # down, up


class SharedBase:
    """The base and who trains on it. Outside `routed` the networks are the base itself."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._slots = 0
        self.route: tuple[int, ...] | None = None  # the style of every row
        self._layers: dict[nn.Module, _Layer] = {}
        self._orders: dict[tuple[int, ...], Tensor] = {}

    def order(self, chosen: tuple[int, ...], device: torch.device) -> Tensor:
        """The same as a tensor on the device, sent once:

        a device that is waited for at every layer has nothing to do.
        """
        if chosen not in self._orders:
            self._orders[chosen] = sent(torch.tensor(chosen), device)
        return self._orders[chosen]

    def parts(self) -> Parts:
        """The base, for a run that may drop the networks it needs no more."""
        return replace(self._parts, networks=dict(self._parts.networks))

    def new_adapter_index(self) -> int:
        """A place for one more style."""
        self._slots += 1
        return self._slots - 1

    def attach(
        self,
        adapter_index: int,
        network: nn.Module,
        modules: Sequence[str],
        *,
        rank: int,
        alpha: float,
        seed: int,
    ) -> dict[str, Pair]:
        """As training.adapters.lora_layers.attach, for one style among others:

        the same first weights.
        """
        found: dict[str, Pair] = {}
        for name in modules:
            base = network.get_submodule(name)
            layer = self._layers.setdefault(base, _Layer(self, base))
            shape = base.weight.shape
            pair = first_weights(
                base,
                (rank, *shape[1:]),
                (shape[0], rank, *(1 for _ in shape[2:])),
                seed,
                len(found),
            )
            layer.styles[adapter_index] = (pair, alpha / rank)
            found[name] = pair
        return found

    def leave(self, adapter_index: int) -> None:
        """A style is done: its adapters go; a layer that no style adapts is the base's own
        again.
        """
        for base, layer in list(self._layers.items()):
            layer.styles.pop(adapter_index, None)
            if not layer.styles:
                base.forward = layer.frozen
                del self._layers[base]

    @contextmanager
    def routed(self, rows: Sequence[int]) -> Iterator[None]:
        """While inside, row i of every batch is of style rows[i]; a batch may have a multiple of
        len(rows) rows (as guidance makes it).
        """
        before, self.route = self.route, tuple(rows)
        try:
            yield
        finally:
            self.route = before


class _Layer:
    """A frozen linear or convolution with the adapters of every style that changes it."""

    def __init__(self, shared_base: SharedBase, base: nn.Module) -> None:
        self.shared_base, self.base, self.frozen = shared_base, base, base.forward
        self.styles: dict[int, tuple[Pair, float]] = {}  # slot -> masters and alpha / rank
        base.forward = types.MethodType(lambda _, x, *args, **kwargs: self(x), base)

    def __call__(self, x: Tensor) -> Tensor:
        route = self.shared_base.route or ()
        slots = [
            adapter_index for adapter_index in dict.fromkeys(route) if adapter_index in self.styles
        ]
        if not slots:
            return self.frozen(x)
        if len(x) % len(route):
            raise ValueError(f"a batch of {len(x)} rows cannot be of {len(route)} styles' rows")
        down, up = self._stacked(slots, x.dtype)
        place = {adapter_index: i for i, adapter_index in enumerate(slots)}
        chosen = [place.get(adapter_index, len(slots)) for adapter_index in route] * (
            len(x) // len(route)
        )  # a style without this layer: zeros, the last
        if len(slots) in chosen:
            down, up = (torch.cat([matrix, torch.zeros_like(matrix[:1])]) for matrix in (down, up))
        return self._added(self.frozen(x), x, down, up, chosen)

    def _stacked(self, slots: Sequence[int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """down [S, r, in, ...] and up [S, out, r] with alpha / rank in it, in the base's precision;
        gradients reach the masters.
        """
        rank = max(self.styles[adapter_index][0][0].shape[0] for adapter_index in slots)
        downs, ups = [], []
        for adapter_index in slots:
            (down, up), scale = self.styles[adapter_index]
            more = rank - len(down)
            flat = (up * scale).to(dtype).flatten(1)
            downs.append(
                F.pad(down.to(dtype), (*(0,) * (2 * (down.dim() - 1)), 0, more))
                if more
                else down.to(dtype)
            )
            ups.append(F.pad(flat, (0, more)) if more else flat)
        return torch.stack(downs), torch.stack(ups)

    def _added(self, y: Tensor, x: Tensor, down: Tensor, up: Tensor, chosen: list[int]) -> Tensor:
        """y and the change of every row; chosen:

        the matrices of each. The sum is made by the last product, which saves a walk over y.
        """
        base, groups, pick = self.base, len(down), lambda matrix: matrix
        if chosen != [
            i for i in range(groups) for _ in range(len(chosen) // groups)
        ]:  # else a style's rows are one block, and none is copied
            groups, order = len(chosen), self.shared_base.order(tuple(chosen), x.device)
            pick = lambda matrix: matrix.index_select(
                0, order
            )  # the backward of indexing adds up in any order on several threads
        blocks = lambda rows: rows.reshape(groups, -1, rows.shape[-1])
        if isinstance(base, nn.Linear):
            h = torch.bmm(blocks(x), pick(down).transpose(1, 2))
            return torch.baddbmm(blocks(y), h, pick(up).transpose(1, 2)).view(y.shape)
        last = lambda image: image.permute(0, 2, 3, 1)
        if base.kernel_size == (1, 1) and base.stride == (1, 1):  # a linear over the pixels
            h = torch.bmm(blocks(last(x)), pick(down).flatten(2).transpose(1, 2))
        # all styles' downs as one convolution, of which each row takes its own channels: cheaper
        # than one group a row
        else:
            every = F.conv2d(
                x, down.flatten(0, 1), None, base.stride, base.padding, base.dilation
            ).unflatten(1, down.shape[:2])
            h = blocks(
                last(
                    every[
                        torch.arange(len(x), device=x.device),
                        self.shared_base.order(tuple(chosen), x.device),
                    ]
                )
            )
        return (
            torch.baddbmm(blocks(last(y)), h, pick(up).transpose(1, 2))
            .view(last(y).shape)
            .permute(0, 3, 1, 2)
        )
