"""Adapters on a frozen base: PEFT lays them out, one fused function runs them. Also styles that are
drawn with, row by row.

The masters stay in float32; the frozen weights and the products are in the base's precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.textual_inversion import Token
from training.runtime.rng import FIRST_WEIGHTS, seeded_generator
from training.style_files.reading import Lora

TRANSFORMER = "Transformer2DModel"  # diffusers' stack of transformer blocks at one place of a UNet
NAME = "style"  # of the adapter in training, among PEFT's


def chosen_modules(
    network: nn.Module, groups: Mapping[str, Sequence[str]], targets: Sequence[str]
) -> list[str]:
    """Names of the linears and convolutions that the named groups stand for, in the network's
    order.
    """
    endings = tuple(ending for target in targets for ending in groups[target])
    fits = lambda name: any(name == ending or name.endswith("." + ending) for ending in endings)
    return [
        name
        for name, m in network.named_modules()
        if isinstance(m, nn.Linear | nn.Conv2d) and fits(name)
    ]


class _LowRank(torch.autograd.Function):
    """y = x W^T + b + s (x A^T) B^T. x: [..., in]; W: [out, in] frozen; A: [r, in], B: [out, r]
    float32 masters (Hu et al. 2021, eq. 3).

    Keeps only x and x A^T; the frozen product and both small ones share one pass forward and one
    back.
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
    ) -> Tensor:
        a, b = down.to(x.dtype), (up * scale).to(x.dtype)
        rows = x.reshape(-1, x.shape[-1])
        h = rows @ a.t()
        y = F.linear(rows, weight, bias).addmm_(h, b.t())
        ctx.save_for_backward(rows, weight, a, b, h)
        ctx.scale, ctx.shape = scale, x.shape
        return y.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, a, b, h = ctx.saved_tensors
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
        )


def _fast_linear(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The forward of a PEFT LoRA layer around a linear, or around a 1x1 convolution as the linear
    it is.
    """
    base = layer.base_layer
    if layer.is_bare:
        return base(x)
    down, up, scale = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight, layer.scaling[NAME]
    if isinstance(base, nn.Linear):
        return _LowRank.apply(x, base.weight, base.bias, down, up, scale)
    rows = x.permute(0, 2, 3, 1)
    y = _LowRank.apply(
        rows, base.weight.flatten(1), base.bias, down.flatten(1), up.flatten(1), scale
    )
    return y.permute(0, 3, 1, 2)


def _convolution(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    base = layer.base_layer
    if layer.is_bare:
        return base(x)
    down, up = (
        layer.lora_A[NAME].weight.to(x.dtype),
        (layer.lora_B[NAME].weight * layer.scaling[NAME]).to(x.dtype),
    )
    return base(x) + F.conv2d(F.conv2d(x, down, None, base.stride, base.padding, base.dilation), up)


def attach(
    network: nn.Module, modules: Sequence[str], *, rank: int, alpha: float, seed: int
) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
    """Put LoRA on the named modules; return module name -> (down, up), float32, trainable. A new
    adapter changes nothing: up is 0.

    First weights come from (seed, module's place), not from the global generator. Down: Kaiming
    uniform as in Hu et al. 2021.
    """
    import types

    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    config = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=list(modules), lora_dropout=0.0, bias="none"
    )
    inject_adapter_in_model(config, network, adapter_name=NAME)
    found: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
    for name, layer in network.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        base, down, up = layer.base_layer, layer.lora_A[NAME], layer.lora_B[NAME]
        as_linear = isinstance(base, nn.Linear) or (
            base.kernel_size == (1, 1) and base.stride == (1, 1) and base.groups == 1
        )
        layer.is_bare = False
        layer.forward = types.MethodType(_fast_linear if as_linear else _convolution, layer)
        down.weight, up.weight = found[name] = first_weights(
            base, down.weight.shape, up.weight.shape, seed, len(found)
        )
    missing = set(modules) - set(found)
    if missing:
        raise ValueError(f"no adapter could be put on {sorted(missing)[:3]}")
    return found


def first_weights(
    base: nn.Module, down: Sequence[int], up: Sequence[int], seed: int, place: int
) -> tuple[nn.Parameter, nn.Parameter]:
    """Masters of a new adapter, of these shapes, on the base layer's device.

    place: the module's among the adapted ones of its network.
    """
    bound = math.prod(down[1:]) ** -0.5
    first = (
        torch.rand(tuple(down), generator=seeded_generator(seed, FIRST_WEIGHTS, place)) * 2 * bound
        - bound
    )
    exact = torch.promote_types(base.weight.dtype, torch.float32)
    return tuple(
        nn.Parameter(value.to(base.weight.device, exact))
        for value in (first, torch.zeros(tuple(up)))
    )


def set_gradient_checkpointing(network: nn.Module, on: bool) -> None:
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
            module.gradient_checkpointing = False


def recomputed(network: nn.Module) -> list[nn.Module]:
    """The modules that `recompute` has computed again."""
    return [
        block
        for m in network.modules()
        if type(m).__name__ == TRANSFORMER
        for block in m.transformer_blocks
    ] or [network]


@contextmanager
def adapters_disabled(networks: Iterable[nn.Module]) -> Iterator[None]:
    """While inside, the adapters in training are left out: the networks are the frozen base."""
    layers = [
        layer
        for network in networks
        for layer in network.modules()
        if getattr(layer, "is_bare", None) is False
    ]
    for layer in layers:
        layer.is_bare = True
    try:
        yield
    finally:
        for layer in layers:
            layer.is_bare = False


def as_lora(down: Tensor, up: Tensor, alpha: float) -> Lora:
    return Lora(
        down.detach().float().cpu().numpy().copy(), up.detach().float().cpu().numpy().copy(), alpha
    )


@dataclass(frozen=True)
class ActiveStyle:
    """A style put on some rows of a batch: for every part, module -> Lora, and how strongly."""

    modules: Mapping[tuple[str, str], Lora]  # (part, module name) -> matrices
    strength: float = 1.0
    tokens: tuple[Token, ...] = ()  # its own words, which know no strength

    @property
    def words(self) -> tuple[Token, ...]:
        """Those that are said: none of a style that is not worn at all."""
        return self.tokens if self.strength else ()


@contextmanager
def apply_styles(
    networks: Mapping[str, nn.Module], rows: Sequence[Sequence[ActiveStyle]]
) -> Iterator[None]:
    """While inside, row i of every batch goes through the styles rows[i]; an empty list is the base
    itself.

    Nothing in the networks is changed: every touched layer gets a hook that adds its rows' low-rank
    product, and loses it again. A batch must have len(rows) rows or a multiple of it (guidance
    doubles them: uncond rows first, then cond).
    """
    hooks = []
    try:
        for part, network in networks.items():
            touched = {
                module
                for row in rows
                for active in row
                for (p, module) in active.modules
                if p == part
            }
            for name in sorted(touched):
                layer = network.get_submodule(name)
                stacked = _stacked(
                    layer,
                    [
                        [
                            (w.modules[part, name], w.strength)
                            for w in row
                            if (part, name) in w.modules
                        ]
                        for row in rows
                    ],
                )
                hooks.append(layer.register_forward_hook(_added(*stacked)))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _stacked(
    layer: nn.Module, rows: Sequence[Sequence[tuple[Lora, float]]]
) -> tuple[Tensor, Tensor]:
    """A [R, r, in, ...] and B [R, out, r]:

    each row's styles one below the other, ranks padded with zeros, scales inside B.
    """
    weight = layer.weight
    rank = max(sum(lora.rank for lora, _ in row) for row in rows)
    a = torch.zeros((len(rows), rank, *weight.shape[1:]), dtype=weight.dtype)
    b = torch.zeros((len(rows), weight.shape[0], rank), dtype=weight.dtype)
    for i, row in enumerate(rows):
        at = 0
        for lora, strength in row:
            up = np.asarray(lora.up, np.float64).reshape(lora.up.shape[0], lora.rank) * (
                strength * lora.alpha / lora.rank
            )
            a[i, at : at + lora.rank] = (
                torch.from_numpy(np.ascontiguousarray(lora.down))
                .reshape(lora.rank, *weight.shape[1:])
                .to(weight.dtype)
            )
            b[i, :, at : at + lora.rank] = torch.from_numpy(up).to(weight.dtype)
            at += lora.rank
    return a.to(weight.device), b.to(weight.device)


def _product(x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """x: [R, n, in], down: [R, r, in], up: [R, out, r] -> [R, n, out]."""
    return torch.bmm(torch.bmm(x, down.transpose(1, 2)), up.transpose(1, 2))


def _added(a: Tensor, b: Tensor) -> Any:
    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x, rows = inputs[0], len(a)
        if len(x) % rows:
            raise ValueError(f"a batch of {len(x)} rows cannot wear styles for {rows} rows")
        times = len(x) // rows
        down, up = a.repeat(times, *(1 for _ in a.shape[1:])), b.repeat(times, 1, 1)
        if isinstance(layer, nn.Linear):
            return output + _product(
                x.flatten(1, -2) if x.dim() > 2 else x.unsqueeze(1), down, up
            ).view_as(output)
        n, r = down.shape[:2]
        if layer.kernel_size == (1, 1) and layer.stride == (
            1,
            1,
        ):  # a linear over the pixels; as a convolution 3 times slower in bf16
            return output + _product(x.flatten(2).transpose(1, 2), down.flatten(2), up).transpose(
                1, 2
            ).reshape(output.shape)
        # One grouped convolution: every row is a group of its own
        h = F.conv2d(
            x.reshape(1, -1, *x.shape[2:]),
            down.flatten(0, 1),
            None,
            layer.stride,
            layer.padding,
            layer.dilation,
            groups=n,
        )
        return output + torch.bmm(up, h.reshape(n, r, -1)).view_as(output)

    return hook
