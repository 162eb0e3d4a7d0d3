"""Attention for the frozen base: the kernel is chosen by shape, because none is the quickest for
all.

Measured on CPUs with bf16 units: softmax(q k^T) v in slices wins for cross-attention and for maps
up to about 1024 positions, since the fused one's backward is slow for short rows. For larger maps
the fused one wins, but on CPUs with AMX only its forward does: there the backward goes through the
keys in blocks. On a GPU every kernel that is there is timed when a shape is first met.
"""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.modules.torch_patches import attention_with_sums, softmax_backward
from training.runtime.device import finished

Kernel = Callable[
    [Tensor, Tensor, Tensor], Tensor
]  # q: [B, heads, n, d]; k, v: [B, heads, m, d] -> [B, heads, n, d]

OWN = "torch's own choice"
TIMED = 3  # times that each kernel is timed for a shape, after one that does not count
PLAIN_UP_TO = 1024 * 1024  # queries x keys, on a CPU with gradients
SCORES_AT_ONCE = 1024 * 1024  # 2 MiB of bfloat16
SCORES_IN_A_BLOCK = 4 * 1024 * 1024  # of a head's queries with some of its keys, in large maps
AMX = getattr(torch.cpu, "_is_amx_tile_supported", bool)()


class _Attention(torch.autograd.Function):
    """softmax(q k^T) v for [rows, n, d] and [rows, m, d], a few rows at a time, so that the scores
    never leave the processor's cache.

    Keeps q, k, v: the probabilities, the largest thing of a step, are computed again in the
    backward, which costs less than reading them.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        mixed = torch.empty_like(q)
        for some in _slices(q, k):
            torch.bmm(
                torch.bmm(q[some], k[some].transpose(1, 2)).softmax(-1), v[some], out=mixed[some]
            )
        return mixed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        (grad,) = grads
        q, k, v = ctx.saved_tensors
        to_q, to_k, to_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for some in _slices(q, k):
            p = torch.bmm(q[some], k[some].transpose(1, 2)).softmax(-1)
            torch.bmm(p.transpose(1, 2), grad[some], out=to_v[some])
            to_scores = softmax_backward(torch.bmm(grad[some], v[some].transpose(1, 2)), p)
            torch.bmm(to_scores, k[some], out=to_q[some])
            torch.bmm(to_scores.transpose(1, 2), q[some], out=to_k[some])
        return to_q, to_k, to_v


class _LongAttention(torch.autograd.Function):
    """softmax(q k^T) v for [rows, n, d] and [rows, m, d]: forward by torch's fused kernel, backward
    head by head through the keys in blocks.

    With L the logarithm of a query's sum of exponentials and D = sum(grad * mixed), the
    probabilities are exp(q k^T - L) and the gradient of the scores is p (grad v^T - D): Dao 2023,
    FlashAttention-2, algorithm 2. L and D go through the products as two more columns each, the
    second holding what rounding to the inputs' precision takes from the first, so a block is read
    and written twice less.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mixed, logs = attention_with_sums(q, k, v)
        ctx.save_for_backward(q, k, v, mixed, logs)
        return mixed

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, ...]:
        grad = given[0].contiguous()
        q, k, v, mixed, logs = ctx.saved_tensors
        at_once = max(1, SCORES_IN_A_BLOCK // q.shape[1])
        room = [q.new_empty(q.shape[1] * min(at_once, k.shape[1])) for _ in range(2)]
        sums = (grad.to(logs.dtype) * mixed.to(logs.dtype)).sum(-1)
        to_q, to_k, to_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for row in range(len(q)):
            queries, grads = _with(q[row], -logs[row]), _with(grad[row], -sums[row])
            keys, values = (torch.cat([x[row], x.new_ones(len(x[row]), 2)], 1).t() for x in (k, v))
            to_queries = logs.new_zeros(q.shape[1:])
            for i in range(0, k.shape[1], at_once):
                some = slice(i, i + at_once)
                shape = (q.shape[1], len(k[row, some]))
                p, to_scores = (x[: shape[0] * shape[1]].view(shape) for x in room)
                torch.mm(queries, keys[:, some], out=p).exp_()
                torch.mm(p.t(), grad[row], out=to_v[row, some])
                torch.mm(grads, values[:, some], out=to_scores).mul_(p)
                torch.mm(to_scores.t(), q[row], out=to_k[row, some])
                to_queries += to_scores @ k[row, some]
            to_q[row] = to_queries
        return to_q, to_k, to_v


def _with(x: Tensor, beside: Tensor) -> Tensor:
    """x: [n, d] with two more columns, which add up to beside: [n], of a higher precision."""
    rounded = beside.to(x.dtype)
    return torch.cat([x, rounded[:, None], (beside - rounded).to(x.dtype)[:, None]], 1)


def _slices(q: Tensor, k: Tensor) -> Iterator[slice]:
    at_once = max(1, SCORES_AT_ONCE // (q.shape[1] * k.shape[1]))
    return (slice(i, i + at_once) for i in range(0, len(q), at_once))


def kernels() -> dict[str, Kernel]:
    """The kernels that a GPU may have, by name.

    One that cannot do a shape or is not built in raises RuntimeError when it is called.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def of_torch(backend: Any) -> Kernel:
        def kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v)

        return kernel

    found: dict[str, Kernel] = {OWN: F.scaled_dot_product_attention}
    found |= {
        "flash": of_torch(SDPBackend.FLASH_ATTENTION),
        "efficient": of_torch(SDPBackend.EFFICIENT_ATTENTION),
    }
    found["cudnn"] = of_torch(SDPBackend.CUDNN_ATTENTION)
    try:
        # Not installed where types are checked
        attention = importlib.import_module("xformers.ops").memory_efficient_attention
    except (ImportError, OSError):  # not there, or built for another torch
        return found

    def of_xformers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        positions_first = (x.transpose(1, 2) for x in (q, k, v))  # then heads
        return attention(*positions_first).transpose(1, 2)

    found["xformers"] = of_xformers
    return found


class Table:
    """The quickest kernel for every shape, measured when it is first met:

    with the backward pass while something is learnt, else without.
    """

    def __init__(self, kernels: Mapping[str, Kernel]) -> None:
        self.kernels = kernels
        self.seconds: dict[tuple[Any, ...], dict[str, float]] = {}  # shape -> kernel -> seconds

    def best(self, q: Tensor, k: Tensor, v: Tensor) -> Kernel:
        learning = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
        shape = (*q.shape, k.shape[2], q.dtype, q.device, learning)
        if shape not in self.seconds:
            self.seconds[shape] = {
                name: s
                for name, kernel in self.kernels.items()
                if (s := _timed(kernel, q, k, v, learning)) is not None
            }
        timings = self.seconds[shape]
        return self.kernels[min(timings, key=lambda name: timings[name]) if timings else OWN]


def _timed(kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, learning: bool) -> float | None:
    """Median seconds for inputs of that shape; None where it cannot do them."""
    given = [
        torch.randn_like(x, requires_grad=learning) for x in (q.detach(), k.detach(), v.detach())
    ]
    seconds = []
    try:
        for _ in range(1 + TIMED):
            finished(q.device)
            began = time.perf_counter()
            mixed = kernel(*given)
            if learning:
                mixed.backward(torch.ones_like(mixed))
            finished(q.device)
            seconds.append(time.perf_counter() - began)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return None
    return statistics.median(seconds[1:])


def attend(q: Tensor, k: Tensor, v: Tensor, table: Table | None = None) -> Tensor:
    """Vaswani et al. 2017, eq. 1. q: [B, heads, n, d]; k, v: [B, heads, m, d].

    Returns [B, heads, n, d]. table: of the kernels of a GPU.
    """
    if q.device.type == "cpu" and torch.is_grad_enabled():
        small = q.shape[2] * k.shape[2] <= PLAIN_UP_TO
        if small or (AMX and q.dtype == torch.bfloat16):
            scaled = q * q.shape[-1] ** -0.5
            rows = [x.reshape(-1, *x.shape[2:]) for x in (scaled, k, v)]
            attention = _Attention if small else _LongAttention
            return attention.apply(*rows).view(q.shape)
    # What was timed differs from time to time; equal bits need one choice, and so does code that is
    # compiled once
    if (
        table is None
        or torch.compiler.is_compiling()
        or torch.are_deterministic_algorithms_enabled()
    ):
        return F.scaled_dot_product_attention(q, k, v)
    return table.best(q, k, v)(q, k, v)


class Projections(Protocol):
    """What a processor asks of diffusers' Attention."""

    heads: int
    to_q: Callable[[Tensor], Tensor]
    to_k: Callable[[Tensor], Tensor]
    to_v: Callable[[Tensor], Tensor]
    to_out: Sequence[Callable[[Tensor], Tensor]]


class ShapedAttention:
    """A diffusers attention processor for the transformer blocks of UNets.

    table: of a GPU's kernels, shared by all blocks.
    """

    def __init__(self, table: Table | None = None) -> None:
        self.table = table

    def __call__(
        self,
        attn: Projections,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        **_: object,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v))
        mixed = attend(q, k, v, self.table).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](mixed))


def choose_attention(unet: nn.Module) -> None:
    """Give every plain cross- or self-attention of a UNet the kernel that is chosen by shape."""
    from diffusers.models.attention_processor import Attention

    table = Table(kernels()) if next(unet.parameters()).device.type == "cuda" else None
    for part in unet.modules():
        if not isinstance(part, Attention):
            continue
        simple = part.group_norm is None and part.spatial_norm is None and not part.norm_cross
        if (
            simple
            and part.norm_q is None
            and part.norm_k is None
            and part.added_kv_proj_dim is None
            and not part.upcast_softmax
        ):
            part.set_processor(cast(Any, ShapedAttention(table)))
