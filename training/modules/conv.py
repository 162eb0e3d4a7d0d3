"""Convolutions of a frozen base: nothing is kept for their backward, and on a CPU small pictures go
through one matrix product.

oneDNN reorders a convolution's whole weight at every call; where a weight is used for few pixels
only, that is most of the time. In channels_last the weight is a matrix as it lies, so a product
over gathered patches needs no reordering. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.modules.torch_patches import change_class, convolution_input_gradient

ROWS = {
    torch.bfloat16: 256,
    torch.float32: 64,
}  # output pixels of a batch up to which a CPU gathers patches; see benchmarks/RESULTS.md


class FrozenConvolution(torch.autograd.Function):
    """y = x * W + b. x: [B, in, h, w]; W: [out, in, kh, kw], b: [out] or None, both frozen.

    make: where given, W is make(weight, *more), made again in the backward and never kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        make: Callable[..., Tensor] | None = None,
        *more: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(weight, *more)
        ctx.shape, ctx.stride, ctx.padding, ctx.make = x.shape, stride, padding, make
        return convolved(x, make(weight, *more) if make else weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        kept = ctx.saved_tensors
        weight = ctx.make(*kept) if ctx.make else kept[0]
        to_x = input_gradient(grad, weight, ctx.shape, ctx.stride, ctx.padding)
        return (to_x, *(None for _ in range(5 + len(kept))))


def convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
) -> Tensor:
    """What F.conv2d gives, [B, out, h', w']."""
    height, width = (
        (n + 2 * p - k) // s + 1
        for n, p, k, s in zip(x.shape[2:], padding, weight.shape[2:], stride, strict=True)
    )
    if not _by_product(x, weight, len(x) * height * width):
        return F.conv2d(x, weight, bias, stride, padding)
    rows = _patches(x.permute(0, 2, 3, 1), weight.shape[2:], stride, padding, (height, width))
    return (
        F.linear(rows, weight.permute(0, 2, 3, 1).flatten(1), bias)
        .view(len(x), height, width, -1)
        .permute(0, 3, 1, 2)
    )


def input_gradient(
    grad: Tensor,
    weight: Tensor,
    shape: torch.Size,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
) -> Tensor:
    """The gradient [B, in, h, w] = shape of the input, from the output's [B, out, h', w']."""
    b, channels, h, w = shape
    if not _by_product(grad, weight, grad.numel() // grad.shape[1]):
        return convolution_input_gradient(grad, weight, shape, stride, padding)
    to_patches = grad.permute(0, 2, 3, 1).reshape(-1, grad.shape[1]) @ weight.permute(
        0, 2, 3, 1
    ).flatten(1)
    height, width = grad.shape[2:]
    to_patches = to_patches.view(b, height, width, *weight.shape[2:], channels)
    if weight.shape[2:] == (1, 1) and stride == (1, 1) and padding == (0, 0):
        return to_patches.view(b, h, w, channels).permute(0, 3, 1, 2)
    (up, left), exact = padding, torch.promote_types(grad.dtype, torch.float32)
    sums = torch.zeros((b, h + 2 * up, w + 2 * left, channels), dtype=exact, device=grad.device)
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            sums[
                :, i : i + stride[0] * height : stride[0], j : j + stride[1] * width : stride[1]
            ] += to_patches[:, :, :, i, j]
    return sums[:, up : up + h, left : left + w].to(grad.dtype).permute(0, 3, 1, 2)


def _by_product(x: Tensor, weight: Tensor, pixels: int) -> bool:
    if x.device.type != "cpu" or not weight.is_contiguous(memory_format=torch.channels_last):
        return False
    return weight.shape[2:] == (1, 1) or pixels <= ROWS.get(x.dtype, 64)


def _patches(
    x: Tensor,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    out: tuple[int, int],
) -> Tensor:
    """x: [B, h, w, in] -> [B h' w', kh kw in], the order of a channels_last weight."""
    padded = F.pad(x, (0, 0, padding[1], padding[1], padding[0], padding[0])).contiguous()
    b, row, pixel, one = padded.stride()
    strides = (b, row * stride[0], pixel * stride[1], row, pixel, one)
    return padded.as_strided((len(x), *out, *kernel, x.shape[3]), strides).reshape(
        len(x) * out[0] * out[1], -1
    )


class FrozenConv2d(nn.Conv2d):
    """`nn.Conv2d` with frozen weights, without dilation, groups or padding by name."""

    def forward(self, input: Tensor) -> Tensor:
        weight, padding = self.weight, self.padding
        is_usual = input.dtype == weight.dtype and input.dim() == 4
        if weight.requires_grad or not is_usual or isinstance(padding, str):
            return super().forward(input)
        if not input.requires_grad or not torch.is_grad_enabled():
            return convolved(input, weight, self.bias, self.stride, padding)
        return FrozenConvolution.apply(input, weight, self.bias, self.stride, padding)


def freeze_convolutions(module: nn.Module) -> None:
    """Let every plain convolution of a frozen network run as above, in place."""
    for part in module.modules():
        if type(part) is nn.Conv2d and is_plain(part):
            change_class(part, FrozenConv2d)


def is_plain(part: nn.Conv2d) -> bool:
    """Whether a convolution has no dilation, groups or padding by name."""
    usual = part.dilation == (1, 1) and part.groups == 1 and part.padding_mode == "zeros"
    return usual and not isinstance(part.padding, str)
