"""Frozen convolutions: the library's numbers and gradients, by whichever way they are computed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from training.modules.conv import ROWS, FrozenConv2d, convolved, freeze_convolutions, input_gradient

CASES = {  # kernel, stride, padding, side: below and above the limit of pixels
    "3x3": (3, 1, 1, 6),
    "3x3 large": (3, 1, 1, 20),
    "1x1": (1, 1, 0, 20),
    "1x1 strided": (1, 2, 0, 7),
    "downsampler": (3, 2, 1, 8),
    "downsampler odd": (3, 2, 1, 7),
    "downsampler unpadded": (3, 2, 0, 9),
}


def given(case: str, dtype: torch.dtype) -> tuple[torch.Tensor, nn.Conv2d]:
    kernel, stride, padding, side = CASES[case]
    torch.manual_seed(0)
    layer = nn.Conv2d(24, 16, kernel, stride, padding).requires_grad_(False)
    x = torch.randn(2, 24, side, side)
    return x.to(dtype, memory_format=torch.channels_last), layer.to(
        dtype=dtype, memory_format=torch.channels_last
    )


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)]
)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_float64(
    case: str, dtype: torch.dtype, bound: float
) -> None:
    x, layer = given(case, dtype)
    x.requires_grad_()
    exact = x.detach().double().requires_grad_()
    wanted = F.conv2d(
        exact, layer.weight.double(), layer.bias.double(), layer.stride, layer.padding
    )
    grad = torch.randn(wanted.shape).to(dtype)
    wanted.backward(grad.double())
    freeze_convolutions(layer)
    assert isinstance(layer, FrozenConv2d)
    found = layer(x)
    found.backward(grad)
    assert found.shape == wanted.shape and found.dtype == x.grad.dtype == dtype
    assert apart(found, wanted) < bound
    assert apart(x.grad, exact.grad) < bound


def test_both_ways_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit decides by pixels of the output; on either side of it the numbers are those of the
    other.
    """
    x, layer = given("3x3", torch.float32)
    args = (layer.stride, layer.padding)
    pixels = x.numel() // x.shape[1]
    found = []
    for limit in (pixels - 1, pixels):
        monkeypatch.setitem(ROWS, torch.float32, limit)
        calls = []
        real = F.conv2d
        monkeypatch.setattr(
            F, "conv2d", lambda *a, calls=calls, real=real: (calls.append(1), real(*a))[1]
        )
        y = convolved(x, layer.weight, layer.bias, *args)
        monkeypatch.setattr(F, "conv2d", real)
        found.append((len(calls), y, input_gradient(y, layer.weight, x.shape, *args)))
    assert [calls for calls, _, _ in found] == [1, 0]
    torch.testing.assert_close(found[0][1], found[1][1])
    torch.testing.assert_close(found[0][2], found[1][2])


def test_nothing_but_the_weight_is_kept() -> None:
    x, layer = given("3x3", torch.float32)
    freeze_convolutions(layer)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        layer(x.requires_grad_())
    assert [t.data_ptr() for t in kept] == [layer.weight.data_ptr()]


def test_what_is_trained_or_of_another_kind_is_left_to_the_library() -> None:
    odd = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding="same"),
    )
    freeze_convolutions(odd)
    assert [type(layer) for layer in odd] == [nn.Conv2d] * 3
    trained = nn.Conv2d(4, 4, 3)
    freeze_convolutions(trained)
    trained(torch.randn(1, 4, 5, 5)).sum().backward()
    assert trained.weight.grad is not None
