from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from training.trainer.optimizer import Group, Optimiser, course


def two_groups() -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(5))], [
        nn.Parameter(torch.randn(2, 2, 2))
    ]


def gradients(params: list[nn.Parameter], step: int) -> None:
    g = torch.Generator().manual_seed(step)
    for p in params:
        loss = (p * torch.randn(p.shape, generator=g)).sum()
        loss.backward()


def test_updates_are_torchs_adamw_with_clipping() -> None:
    a, b = two_groups()
    mine = Optimiser(
        {"a": Group(a, 1e-2), "b": Group(b, 3e-2)}, weight_decay=0.1, clip=1.0, ema=0.0
    )
    c, d = two_groups()
    theirs = torch.optim.AdamW(
        [{"params": c, "lr": 1e-2}, {"params": d, "lr": 3e-2}], weight_decay=0.1
    )
    for step in range(5):
        gradients(a + b, step)
        gradients(c + d, step)
        mine.update(mine.norm(), 1.0)
        torch.nn.utils.clip_grad_norm_(c + d, 1.0)
        theirs.step()
        theirs.zero_grad()
    for p, q in zip(a + b, c + d, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_restored_state_goes_on_to_the_bit() -> None:
    def made() -> tuple[list[nn.Parameter], Optimiser]:
        a, b = two_groups()
        return a + b, Optimiser(
            {"a": Group(a, 1e-2), "b": Group(b, 1e-2)}, weight_decay=0.0, clip=1.0, ema=0.9
        )

    params, straight = made()
    for step in range(6):
        if step == 3:
            kept = {k: v.clone() for k, v in straight.tensors().items()}
        gradients(params, step)
        straight.update(straight.norm(), 0.5)
    params, resumed = made()
    resumed.restore(kept)
    for step in range(3, 6):
        gradients(params, step)
        resumed.update(resumed.norm(), 0.5)
    for name, tensor in straight.tensors().items():
        assert torch.equal(tensor, resumed.tensors()[name]), name


def test_average_swaps_in_and_out() -> None:
    a, _ = two_groups()
    optimiser = Optimiser({"a": Group(a, 1e-1)}, weight_decay=0.0, clip=0.0, ema=0.9)
    first = a[0].detach().clone()
    gradients(a, 0)
    optimiser.update(optimiser.norm(), 1.0)
    raw = a[0].detach().clone()
    with pytest.raises(KeyError), optimiser.averaged():
        torch.testing.assert_close(a[0].detach(), 0.9 * first + 0.1 * raw)
        raise KeyError
    assert torch.equal(a[0].detach(), raw)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_course_warms_up_and_ends_where_it_should(schedule: str) -> None:
    shares = [course(schedule, k, 100, 0.1) for k in range(100)]
    assert shares[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert all(x >= y for x, y in pairwise(shares[10:]))
    assert shares[-1] == pytest.approx(1.0 if schedule == "constant" else 0.0, abs=0.02)
    assert course(schedule, 0, 1, 0.0) == 1.0


def test_rex_stays_higher_than_linear() -> None:
    """Chen et al. 2021: (1 - z) / (1/2 + (1 - z) / 2)."""
    for k in range(1, 100):
        assert course("rex", k, 100, 0.0) == pytest.approx((1 - k / 100) / (1 - k / 200))
        assert course("rex", k, 100, 0.0) > course("linear", k, 100, 0.0)
        assert course("rex", k, 100, 0.0) < course("rex", k - 1, 100, 0.0)


def test_restarts_are_cosines_one_after_another() -> None:
    """As diffusers' cosine_with_restarts has them."""
    from diffusers.optimization import get_cosine_with_hard_restarts_schedule_with_warmup

    one = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_with_hard_restarts_schedule_with_warmup(one, 12, 120, num_cycles=3)
    for k in range(12, 120):
        assert course("restarts", k, 120, 0.1, 3) == pytest.approx(theirs.lr_lambdas[0](k))
    assert course("restarts", 47, 120, 0.1, 3) < 0.01 < 0.99 < course("restarts", 48, 120, 0.1, 3)
    assert course("restarts", 60, 120, 0.1, 1) == course("cosine", 60, 120, 0.1)
