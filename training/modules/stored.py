"""Frozen weights kept in fewer bytes: rounded to 16 bits, to 8-bit whole numbers or to nf4, and
made anew whenever they are used.

The weight that is made is the same on every path (forward, backward, gradient checkpointing, with
or without adapters, for one style or many): rounding happens once, when the base is loaded. Nobody
keeps what was made; a backward makes it again. Knows nothing of models.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeGuard, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.modules.conv import FrozenConv2d, FrozenConvolution, convolved, is_plain
from training.modules.torch_patches import change_class

GROUP = 128  # inputs that share a scale in int8
BLOCK = 64  # weights that share a scale in nf4
LARGEST = 127  # of the whole numbers, with either sign
SMALLEST_SCALE = 2.0**-24  # float16's smallest number: a group of zeros has a scale, too
# Layers with fewer inputs or outputs stay as they are: those beside the latents, which have hardly
# any weights
FEWEST = 16


# --- how a matrix [out, inputs] is kept ---


class Storage(NamedTuple):
    """keep(matrix) -> what is kept of it; restore(shape, dtype, *kept) -> the matrix, contiguous;
    size(dtype): bytes a weight, of large matrices.
    """

    keep: Callable[[Tensor], tuple[Tensor, ...]]
    restore: Callable[..., Tensor]
    size: Callable[[torch.dtype], float]


def keep_bfloat16(matrix: Tensor) -> tuple[Tensor, ...]:
    return (matrix.to(torch.bfloat16),)


def restore_bfloat16(shape: torch.Size, dtype: torch.dtype, kept: Tensor) -> Tensor:
    return kept.to(dtype)


def keep_int8(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers [out, inputs] and a scale for every group of inputs, [out, groups] in the
    matrix's precision. Symmetric: the largest of a group is 127 scales.
    """
    groups = F.pad(matrix.float(), (0, -matrix.shape[1] % GROUP)).unflatten(1, (-1, GROUP))
    largest = groups.abs().amax(2) / LARGEST
    # Rounded before it divides, so that the whole numbers are nearest with the scale that is kept
    scale = largest.clamp(min=SMALLEST_SCALE).to(matrix.dtype)
    whole = (groups / scale.float()[..., None]).round().clamp(-LARGEST, LARGEST)
    return whole.to(torch.int8).flatten(1)[:, : matrix.shape[1]].contiguous(), scale


def restore_int8(shape: torch.Size, dtype: torch.dtype, whole: Tensor, scale: Tensor) -> Tensor:
    padded = F.pad(whole, (0, -shape[1] % GROUP)) if shape[1] % GROUP else whole
    made = padded.unflatten(1, (-1, GROUP)).to(dtype) * scale[..., None]
    return made.flatten(1)[:, : shape[1]].contiguous()


def keep_nf4(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Four bits a weight in blocks of 64 (Dettmers et al. 2023, QLoRA, section 3), by bitsandbytes,
    and the largest of every block in bfloat16.
    """
    packed, state = _bitsandbytes().quantize_4bit(
        matrix.contiguous(), blocksize=BLOCK, quant_type="nf4"
    )
    return packed, state.absmax.to(torch.bfloat16)


def restore_nf4(shape: torch.Size, dtype: torch.dtype, packed: Tensor, largest: Tensor) -> Tensor:
    library = _bitsandbytes()
    state = library.QuantState(
        largest.float(), shape=shape, dtype=dtype, blocksize=BLOCK, quant_type="nf4"
    )
    return library.dequantize_4bit(packed, state)


def _bitsandbytes() -> Any:
    """The functions of a package that need not be there."""
    return importlib.import_module("bitsandbytes.functional")


STORAGES: Mapping[str, Storage] = {
    "bfloat16": Storage(keep_bfloat16, restore_bfloat16, lambda dtype: 2),
    "int8": Storage(keep_int8, restore_int8, lambda dtype: 1 + dtype.itemsize / GROUP),
    "nf4": Storage(keep_nf4, restore_nf4, lambda dtype: 0.5 + 2 / BLOCK),
}


# --- layers that keep their weights so ---


class Stored(nn.Module):
    """What linears and convolutions of stored weights have in common: `weight` is made whenever it
    is read, of what the buffers hold.
    """

    shape: torch.Size  # of the weight
    made_in: torch.dtype
    storage: Storage

    @property
    def kept(self) -> tuple[Tensor, ...]:
        return tuple(b for n, b in self.named_buffers(recurse=False) if n.startswith("stored_"))

    def make(self, *kept: Tensor) -> Tensor:
        """The weight, of what is kept of it; a convolution's in channels_last."""
        out, inputs, *kernel = self.shape
        columns = inputs * math.prod(kernel)
        matrix = self.storage.restore(torch.Size((out, columns)), self.made_in, *kept)
        return matrix.view(out, *kernel, inputs).movedim(-1, 1) if kernel else matrix

    def __getattr__(self, name: str) -> Any:
        # nn.Module asks this for parameters
        if name == "weight" and is_stored(self):
            return self.make(*self.kept)
        return super().__getattr__(name)


class _Linear(torch.autograd.Function):
    """y = x W^T + b, W made of what is kept. x: [..., in]."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor | None, make: Callable[..., Tensor], *kept: Tensor
    ) -> Tensor:
        ctx.save_for_backward(*kept)
        ctx.make = make
        return F.linear(x, make(*kept), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        kept = ctx.saved_tensors  # once: gradient checkpointing hands them out no more often
        rows = grad.reshape(-1, grad.shape[-1]) @ ctx.make(*kept)
        return (rows.view(*grad.shape[:-1], -1), None, None, *(None for _ in kept))


class StoredLinear(Stored, nn.Linear):
    """A frozen linear whose weight is stored."""

    def forward(self, input: Tensor) -> Tensor:
        return _Linear.apply(input, self.bias, self.make, *self.kept)


class StoredConv2d(Stored, FrozenConv2d):
    """A frozen convolution whose weight is stored."""

    def forward(self, input: Tensor) -> Tensor:
        first, *more = self.kept
        how = self.bias, self.stride, cast(tuple[int, ...], self.padding)
        if not input.requires_grad or not torch.is_grad_enabled():
            return convolved(input, self.make(first, *more), *how)
        return FrozenConvolution.apply(input, first, *how, self.make, *more)


def is_stored(module: nn.Module) -> TypeGuard[Stored]:
    """Whether a layer's weight is stored. Not one of the same class with a weight of its own, as
    PEFT makes them for the adapters of convolutions.
    """
    return isinstance(module, Stored) and "weight" not in vars(module)["_parameters"]


class Source(NamedTuple):
    """Where a frozen weight comes from: make(*kept), or what is kept where make is None."""

    make: Callable[..., Tensor] | None
    kept: tuple[Tensor, ...]


def source_of(module: nn.Linear | nn.Conv2d) -> Source:
    """Where the weight of a layer comes from, stored or not."""
    return Source(module.make, module.kept) if is_stored(module) else Source(None, (module.weight,))


def shape_of(module: nn.Linear | nn.Conv2d) -> torch.Size:
    """The shape of a layer's weight, which is not made for it."""
    return module.shape if is_stored(module) else module.weight.shape


def store_weights(network: nn.Module, storage: str) -> None:
    """Keep the weights of a frozen network's linears and plain convolutions so, in place, layer by
    layer. storage: one of STORAGES. `freeze_convolutions` comes before.
    """
    for module in list(network.modules()):
        if is_storable(module):
            kind = StoredLinear if isinstance(module, nn.Linear) else StoredConv2d
            _store(module, kind, STORAGES[storage])


def is_storable(module: nn.Module) -> TypeGuard[nn.Linear | nn.Conv2d]:
    """Whether `store_weights` would store a module's weight, frozen or not yet."""
    if type(module) is nn.Conv2d or type(module) is FrozenConv2d:
        return is_plain(module) and min(module.weight.shape[:2]) >= FEWEST
    return type(module) is nn.Linear and min(module.weight.shape) >= FEWEST


def frozen_count(network: nn.Module) -> int:
    """Weights of a network that are not trained, stored or not."""
    stored = (m.shape.numel() for m in network.modules() if is_stored(m))
    return sum(stored) + sum(p.numel() for p in network.parameters() if not p.requires_grad)


def _store(module: nn.Linear | nn.Conv2d, kind: type[Stored], storage: Storage) -> None:
    weight = module.weight.detach()
    del module.weight
    change_class(module, kind)
    stored: Any = module
    stored.shape, stored.made_in, stored.storage = weight.shape, weight.dtype, storage
    matrix = weight.movedim(1, -1).flatten(1)  # as a convolution's lies in channels_last
    for place, tensor in enumerate(storage.keep(matrix)):
        stored.register_buffer(f"stored_{place}", tensor, persistent=False)
