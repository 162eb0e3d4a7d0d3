from __future__ import annotations

import pytest
import torch
from torch import nn

from training.modules import group_norm
from training.modules.group_norm import FastGroupNorm, use_fast_group_norm


def results(norm: nn.Module, x: torch.Tensor, grad: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    norm.zero_grad()
    y = norm(x)
    y.backward(grad)
    return [y.detach(), x.grad, *(p.grad.clone() for p in norm.parameters() if p.grad is not None)]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("frozen", [False, True])
def test_quick_backward_is_the_librarys_in_float64(
    layout: torch.memory_format, frozen: bool
) -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(4, 16).double().requires_grad_(not frozen)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    x, grad = (
        torch.randn(3, 16, 5, 6, dtype=torch.double).to(memory_format=layout) for _ in range(2)
    )
    wanted = results(norm, x, grad)
    use_fast_group_norm(norm)
    assert type(norm) is FastGroupNorm
    for found, want in zip(results(norm, x, grad), wanted, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)


def test_bfloat16_gradient_is_within_its_rounding_of_float64() -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(8, 32)
    x, grad = (torch.randn(2, 32, 8, 8).to(memory_format=torch.channels_last) for _ in range(2))
    exact = results(nn.GroupNorm(8, 32).double(), x.double(), grad.double())[1]
    use_fast_group_norm(norm.to(torch.bfloat16))
    found = results(norm, x.bfloat16(), grad.bfloat16())[1].double()
    assert (found - exact).norm() / exact.norm() < 1e-2


def test_sums_in_blocks_cost_bfloat16_no_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(8, 32)
    x, grad = (
        torch.randn(2, 32, 48, 48).add(0.5).bfloat16().to(memory_format=torch.channels_last)
        for _ in range(2)
    )
    exact = results(nn.GroupNorm(8, 32).double(), x.double(), grad.double())
    use_fast_group_norm(norm)

    def errors() -> list[float]:
        found = results(norm, x, grad)
        return [
            ((one.double() - other).norm() / other.norm()).item()
            for one, other in zip(found, exact, strict=True)
        ]

    blocks = errors()
    monkeypatch.setattr(group_norm, "_sum_of_rows", lambda rows, dtype: rows.sum(1, dtype=dtype))
    for mine, whole in zip(blocks, errors(), strict=True):
        assert mine < max(1.05 * whole, 2e-3)


def test_a_single_picture_of_any_stride_is_normalised() -> None:
    """One row of a batch has a stride that means nothing, as after a gather or a slice."""
    x = torch.randn((1, 5, 3, 4), generator=torch.Generator().manual_seed(0)).permute(0, 3, 1, 2)
    odd = x.as_strided(x.shape, (7, 1, 12, 4)).requires_grad_()
    norm = FastGroupNorm(2, 4)
    assert torch.allclose(norm(odd), torch.nn.functional.group_norm(x.contiguous(), 2), atol=1e-6)
    norm(odd).sum().backward()
