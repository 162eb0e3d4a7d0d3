"""Everything that reaches behind torch's public interface, each with its reason.

Seen with torch 2.13.0; tests/test_torch_patches.py holds each.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def softmax_backward(grad: Tensor, p: Tensor) -> Tensor:
    """The gradient of scores from that of p = softmax(scores) over the last dimension.

    The public way, p * (grad - (grad * p).sum(-1)), walks three times over the scores.
    """
    # The operator of torch.ops does the same and takes longer to be called
    return cast(Any, torch)._softmax_backward_data(grad, p, -1, p.dtype)


def attention_with_sums(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(q k^T) v of [rows, n, d] and [rows, m, d], and the logarithms of the sums of
    exponentials [rows, n], on a CPU.

    scaled_dot_product_attention computes these sums and keeps them to itself.
    """
    found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q[None], k[None], v[None], scale=1.0
    )
    return found[0][0], found[1][0]


def convolution_input_gradient(
    grad: Tensor,
    weight: Tensor,
    shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> Tensor:
    """The gradient of a convolution's input, [B, in, h, w] = shape.

    torch.nn.grad.conv2d_input does the same for contiguous tensors; here the input's memory format
    is channels_last, in which the kernels are several times as quick.
    """
    # Only the shape and the format of the input count
    unread = grad.new_empty(shape).to(memory_format=torch.channels_last)
    constant = (list(stride), list(padding), [1, 1], False, [0, 0], 1)
    return torch.ops.aten.convolution_backward(
        grad, unread, weight, None, *constant, [True, False, False]
    )[0]


def in_memory_format(module: M, memory_format: torch.memory_format) -> M:
    """Put the weights of a module into a memory format, in place; return it.

    Module.to takes a format, which its annotations leave out.
    """
    to: Callable[..., M] = module.to
    return to(memory_format=memory_format)


def change_class(module: nn.Module, kind: type[nn.Module]) -> None:
    """Make a module one of a subclass, in place.

    A new module in its place would lose what others hold on to: names, hooks, parameters.
    """
    if not issubclass(kind, type(module)):
        raise TypeError(f"{kind.__name__} is not a kind of {type(module).__name__}")
    module.__class__ = kind


def replace_forward(module: nn.Module, call: Callable[[Tensor], Tensor]) -> Callable[[], None]:
    """Let a module answer by `call`; return what gives it the forward back that it had before.

    Hooks and the module's place in its network stay, which a wrapper around it would change.
    """
    own = vars(module).get("forward")  # None: its class's
    module.forward = types.MethodType(lambda _, x, *args, **kwargs: call(x), module)

    def restore() -> None:
        if own is None:
            del module.forward
        else:
            module.forward = own

    return restore


def allow_shapes(count: int) -> None:
    """Let torch.compile compile one code for so many shapes before it gives up; there is no other
    way to say so.
    """
    import torch._dynamo

    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, count)


def is_compiled(module: nn.Module) -> bool:
    """Whether a module's own `compile` was called; torch does not tell."""
    return module._compiled_call_impl is not None
