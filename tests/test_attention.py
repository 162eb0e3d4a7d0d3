"""Attention in slices and in blocks:

the formula's numbers and gradients, and nothing kept but what goes in.
"""

from __future__ import annotations

import time

import pytest
import torch

from training.modules import attention
from training.modules.attention import attend


def given(dtype: torch.dtype, keys: int = 9) -> tuple[torch.Tensor, ...]:
    """q [2, 3, 12, 8] and k, v [2, 3, keys, 8], heads split off as in a transformer block."""
    g = torch.Generator().manual_seed(0)
    drawn = [
        torch.randn((2, n, 24), generator=g).unflatten(-1, (3, 8)).transpose(1, 2)
        for n in (12, keys, keys)
    ]
    return tuple(x.to(dtype).requires_grad_() for x in drawn)


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)]
)
@pytest.mark.parametrize(
    "at_once", [1, 250, 10**6]
)  # one row of a head, two rows and a rest, everything
def test_values_and_gradients_are_those_of_float64(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, bound: float, at_once: int
) -> None:
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", at_once)
    as_in_float64(attend, dtype, bound)


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)]
)
@pytest.mark.parametrize("at_once", [1, 60, 10**6])  # one key, five and a rest, all
def test_so_are_those_of_the_backward_in_blocks(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, bound: float, at_once: int
) -> None:
    monkeypatch.setattr(attention, "SCORES_IN_A_BLOCK", at_once)

    def in_blocks(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attention._LongAttention.apply(
            *((x.reshape(-1, *x.shape[2:])) for x in (q * q.shape[-1] ** -0.5, k, v))
        ).view(q.shape)

    as_in_float64(in_blocks, dtype, bound)


def test_large_maps_in_bfloat16_go_there_where_the_processor_has_amx(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention, "PLAIN_UP_TO", 50)
    for amx, dtype, in_blocks in (
        (True, torch.bfloat16, True),
        (True, torch.float32, False),
        (False, torch.bfloat16, False),
    ):
        monkeypatch.setattr(attention, "AMX", amx)
        found = attend(*given(dtype))
        made_by = {found.grad_fn.name(), *(node.name() for node, _ in found.grad_fn.next_functions)}
        assert any("LongAttention" in name for name in made_by) == in_blocks, made_by


def as_in_float64(attend: attention.Kernel, dtype: torch.dtype, bound: float) -> None:
    """Values and gradients differ from those of the formula in float64 by less than a share of the
    largest of them.
    """
    inputs = given(dtype)
    exact = tuple(x.detach().double().requires_grad_() for x in inputs)
    q, k, v = exact
    wanted = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1) @ v
    grad = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    wanted.backward(grad.double())
    found = attend(*inputs)
    found.backward(grad)
    for ours, theirs in (
        (found, wanted),
        *((x.grad, y.grad) for x, y in zip(inputs, exact, strict=True)),
    ):
        assert ours.dtype == dtype
        assert ((ours.double() - theirs).abs().max() / theirs.abs().max()).item() < bound


def test_the_probabilities_are_not_kept() -> None:
    q, k, v = given(torch.float32, keys=200)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        attend(q, k, v)
    assert (
        kept and max(t.numel() for t in kept) <= k.numel()
    )  # the probabilities are 2 x 3 x 12 x 200


def test_every_kernel_that_is_here_gives_the_formulas_numbers() -> None:
    q, k, v = given(torch.float32)
    wanted = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1) @ v
    able = 0
    for kernel in attention.kernels().values():
        try:
            found = kernel(q, k, v)
        except RuntimeError:  # not on this device
            continue
        able += 1
        assert torch.allclose(found, wanted, atol=1e-5)
    assert able > 0


def test_the_quickest_kernel_is_found_once_for_every_shape() -> None:
    calls: list[str] = []

    def kernel(name: str, seconds: float) -> attention.Kernel:
        def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            calls.append(name)
            time.sleep(seconds)
            return torch.nn.functional.scaled_dot_product_attention(q, k, v)

        return run

    def unable(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no kernel for this shape")

    table = attention.Table(
        {attention.OWN: kernel("slow", 0.02), "quick": kernel("quick", 0.0), "unable": unable}
    )
    q, k, v = given(torch.float32)
    with torch.no_grad():
        attend(q, k, v, table)
        timed = len(calls)
        attend(q, k, v, table)
    assert calls[timed - 1 :] == ["quick", "quick"] and len(table.seconds) == 1
    q, k, v = given(torch.float32, keys=12)
    assert table.best(q, k, v) is table.kernels["quick"] and len(table.seconds) == 2
    assert (
        attention.Table({"unable": unable, attention.OWN: unable}).best(q, k, v) is unable
    )  # nothing can: torch's own says why


def test_where_bits_must_repeat_nothing_is_timed() -> None:
    def never(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        raise AssertionError

    table, inputs = attention.Table({attention.OWN: never}), given(torch.float32)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.no_grad():
            attend(*inputs, table)
    finally:
        torch.use_deterministic_algorithms(False)
    assert not table.seconds
