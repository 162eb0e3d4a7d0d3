"""LoRA on a frozen base: one layer for training one style, for training several and for drawing.

The masters stay in float32; the frozen weights and the products are in the base's precision.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.adapters import frozen_change
from training.adapters.low_rank import Adaptable, for_all_rows, for_each_row
from training.adapters.masters import as_array, first_weights
from training.adapters.other_methods import Factors, Maker, OtherAdapter
from training.models.family import Network
from training.modules.torch_patches import replace_forward
from training.runtime.device import sent
from training.style_files.lora import Lora

TRANSFORMER = "Transformer2DModel"  # diffusers' stack of transformer blocks at one place of a UNet
ROUTER = "lora_router"  # the attribute of a network that `attach` gave adapters
NAME = "style"  # of the adapter in training, among PEFT's


def chosen_modules(
    network: nn.Module, groups: Mapping[str, Sequence[str]], targets: Sequence[str]
) -> list[str]:
    """Names of the linears and convolutions that the named groups stand for, in the network's
    order. A target that the groups have not stands for none.
    """
    endings = [re.escape(end) for target in targets for end in groups.get(target, ())]
    chosen = re.compile(rf"(?:.*\.)?(?:{'|'.join(endings)})".replace(r"\*", r"\d+"))
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and endings and chosen.fullmatch(name)
    ]


def adaptable(module: nn.Module) -> Adaptable:
    """Return a module as one that may have adapters. Raises TypeError for another one."""
    if not isinstance(module, nn.Linear | nn.Conv2d):
        raise TypeError(f"{type(module).__name__} is no linear or convolution")
    return module


@dataclass(frozen=True)
class Adapter:
    """The matrices of one adapter of one layer. down: [r, in, ...]; up: [out, r, ...]; scale:
    alpha / r. Parameters while it is trained, in float32 then.
    """

    down: Tensor
    up: Tensor
    scale: float

    @property
    def rank(self) -> int:
        return len(self.down)


@dataclass(frozen=True)
class PeftAdapter:
    """The same of a layer that PEFT laid out, which owns the matrices."""

    layer: Any

    @property
    def down(self) -> Tensor:
        return self.layer.lora_A[NAME].weight

    @property
    def up(self) -> Tensor:
        return self.layer.lora_B[NAME].weight

    @property
    def scale(self) -> float:
        return self.layer.scaling[NAME]

    @property
    def rank(self) -> int:
        return len(self.down)


class Router:
    """Which adapters the rows of a batch go through, for all layers that were given it.

    route: None, the base alone; a number, that adapter for every row; a tuple, an adapter a row. A
    batch may have a multiple of the tuple's rows (as guidance makes it). A number that a layer does
    not know changes nothing there.
    """

    def __init__(self, route: int | tuple[int, ...] | None = None) -> None:
        self.route = route
        self._orders: dict[tuple[int, ...], Tensor] = {}

    def order(self, chosen: tuple[int, ...], device: torch.device) -> Tensor:
        """Return chosen as a tensor on the device, sent once: a device that is waited for at every
        layer has nothing to do.
        """
        if chosen not in self._orders:
            self._orders[chosen] = sent(torch.tensor(chosen), device)
        return self._orders[chosen]

    @contextmanager
    def routed(self, route: int | Sequence[int] | None) -> Iterator[None]:
        """While inside, the rows go this way."""
        before = self.route
        self.route = tuple(route) if isinstance(route, Sequence) else route
        try:
            yield
        finally:
            self.route = before


class LoraLayer:
    """The forward of a frozen linear or convolution with adapters on it; nothing else of the
    module changes.

    Every use of LoRA is this layer: one style in training (a number as route), several in training
    (an adapter a row), drawing (the styles of a row joined to one adapter).
    """

    def __init__(
        self, module: nn.Module, router: Router, frozen: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """frozen: what the changes are added to, the module's present forward where None."""
        self.module, self.router = module, router
        self.adapters: dict[int, Adapter | PeftAdapter] = {}
        self.others: dict[int, list[OtherAdapter]] = {}  # added to those
        self._stacks: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
        self.base = adaptable(getattr(module, "base_layer", module))  # PEFT wraps its layers
        self.frozen = frozen or module.forward
        self.beside = frozen_change.of(self.base)  # which the product of the weights alone lacks
        # Give the module the forward back that it had before
        self.restore = replace_forward(module, self)

    def __call__(self, x: Tensor) -> Tensor:
        route = self.router.route
        if route is None:
            return self.frozen(x)
        if isinstance(route, int):
            adapter = self.adapters.get(route)
            if adapter is None:
                y = self.frozen(x)
            else:
                y = for_all_rows(self.base, x, adapter.down, adapter.up, adapter.scale)
                y = y if self.beside is None else self.beside(x, y)
        else:
            y = self._each_row(x, route)
        return self._with_others(y, x, route) if self.others else y

    def _with_others(self, y: Tensor, x: Tensor, route: int | tuple[int, ...]) -> Tensor:
        """y with what other methods add to every row."""
        for index, others in self.others.items():
            if isinstance(route, int):
                rows = range(len(x)) if index == route else ()
            else:
                rows = [row for row in range(len(x)) if route[row % len(route)] == index]
            for other in others if rows else ():
                if len(rows) == len(x):
                    y = y + other.change(self.base, x)
                    continue
                order = self.router.order(tuple(rows), x.device)
                own = x.index_select(0, order)
                y = y.index_add(0, order, other.change(self.base, own))
        return y

    def _each_row(self, x: Tensor, route: tuple[int, ...]) -> Tensor:
        known = tuple(index for index in dict.fromkeys(route) if index in self.adapters)
        if len(x) % len(route) and (known or self.others):
            raise ValueError(f"a batch of {len(x)} rows does not fit a route of {len(route)} rows")
        if not known:
            return self.frozen(x)
        down, up = self._stacked(known, x.dtype)
        place = {index: i for i, index in enumerate(known)}
        # One without this layer: zeros, the last
        chosen = [place.get(index, len(known)) for index in route] * (len(x) // len(route))
        if len(known) in chosen:
            down, up = (torch.cat([matrix, torch.zeros_like(matrix[:1])]) for matrix in (down, up))
        blocks = [i for i in range(len(down)) for _ in range(len(chosen) // len(down))]
        order = None if chosen == blocks else self.router.order(tuple(chosen), x.device)
        return for_each_row(self.base, self.frozen(x), x, down, up, order)

    def _stacked(self, known: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return down [A, r, in, ...] and up [A, out, r] with the scales in it, ranks padded with
        zeros; gradients reach the masters. Those that are not trained are kept.
        """
        if known in self._stacks:
            return self._stacks[known]
        rank = max(self.adapters[index].rank for index in known)
        downs, ups = [], []
        for index in known:
            adapter = self.adapters[index]
            more = rank - adapter.rank
            down = adapter.down.to(dtype)
            up = (adapter.up * adapter.scale).to(dtype).flatten(1)
            below = (*(0,) * (2 * (down.dim() - 1)), 0, more)
            downs.append(F.pad(down, below) if more else down)
            ups.append(F.pad(up, (0, more)) if more else up)
        found = torch.stack(downs), torch.stack(ups)
        if not any(self.adapters[index].up.requires_grad for index in known):
            self._stacks[known] = found
        return found


def attach(
    network: nn.Module,
    modules: Sequence[str],
    *,
    rank: int,
    alpha: float,
    seed: int,
    ranks: Mapping[str, int] | None = None,
) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
    """Put LoRA on the named modules; return module name -> (down, up), float32, trainable. A new
    adapter changes nothing: up is 0. ranks: of modules that have another one, at the same scale.

    First weights come from (seed, module's place), not from the global generator. Down: Kaiming
    uniform as in Hu et al. 2021.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners import lora as peft_lora

    # lora_alpha: PEFT computes with any number, whatever its annotation says
    matrices: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "lora_dropout": 0.0}
    others = {name: own for name, own in (ranks or {}).items() if own != rank}
    # PEFT reads names as expressions
    matrices["rank_pattern"] = {f"^{re.escape(name)}": own for name, own in others.items()}
    config = LoraConfig(target_modules=list(modules), bias="none", **matrices)
    inject_adapter_in_model(config, network, adapter_name=NAME)
    router = Router(0)
    vars(network)[ROUTER] = router
    found: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
    for name, module in network.named_modules():
        if not isinstance(module, peft_lora.LoraLayer):
            continue
        layer: Any = module
        layer.scaling[NAME] = alpha / rank
        down, up = layer.lora_A[NAME], layer.lora_B[NAME]
        LoraLayer(layer, router, frozen=layer.base_layer).adapters[0] = PeftAdapter(layer)
        down.weight, up.weight = found[name] = first_weights(
            layer.base_layer, down.weight.shape, up.weight.shape, seed, len(found)
        )
    missing = set(modules) - set(found)
    if missing:
        raise ValueError(f"no adapter could be put on {sorted(missing)[:3]}")
    return found


def attach_other(network: nn.Module, modules: Sequence[str], make: Maker) -> dict[str, Factors]:
    """Put adapters of another method than LoRA on the named modules; return module name -> what is
    trained, float32. A new adapter changes nothing.
    """
    router = Router(0)
    vars(network)[ROUTER] = router
    found: dict[str, Factors] = {}
    for name in modules:
        layer = LoraLayer(network.get_submodule(name), router)
        found[name], adapter = make(layer.base, name, len(found))
        layer.others[0] = [adapter]
    return found


def set_gradient_checkpointing(network: Network, on: bool) -> None:
    """Have a UNet's transformer blocks computed again in the backward pass, or all that they
    compute kept. On a CPU the gradients are the same to the bit.

    The resnets' is kept: they give back a twentieth of the memory for a quarter of the time
    (benchmarks/RESULTS.md).
    """
    first = next(
        (m for m in network.modules() if hasattr(m, "gradient_checkpointing")), None
    )  # asking all of them takes a millisecond
    transformer = next((m for m in network.modules() if type(m).__name__ == TRANSFORMER), first)
    if transformer is None or transformer.gradient_checkpointing == on:
        return
    (network.enable_gradient_checkpointing if on else network.disable_gradient_checkpointing)()
    for module in network.modules():
        if (
            on
            and hasattr(module, "gradient_checkpointing")
            and type(module) is not type(transformer)
        ):
            vars(module)["gradient_checkpointing"] = False


def recomputed(network: nn.Module) -> list[nn.Module]:
    """The modules that `recompute` has computed again."""
    return [
        block
        for m in network.modules()
        if type(m).__name__ == TRANSFORMER
        for block in cast(nn.ModuleList, m.transformer_blocks)
    ] or [network]


@contextmanager
def adapters_disabled(networks: Iterable[nn.Module]) -> Iterator[None]:
    """While inside, the adapters that `attach` put there are left out: the networks are the frozen
    base.
    """
    with ExitStack() as stack:
        for network in networks:
            router = getattr(network, ROUTER, None)
            if router is not None:
                stack.enter_context(router.routed(None))
        yield


def as_lora(down: Tensor, up: Tensor, alpha: float) -> Lora:
    return Lora(as_array(down), as_array(up), alpha)
