from __future__ import annotations

import pytest
import torch

from training.models import objective

KINDS = ["epsilon", "v_prediction"]


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(5, 4, 3, 3, generator=g, dtype=torch.double) for _ in range(2))
    return x0, noise, torch.tensor([0.999, 0.7, 0.5, 0.1, 0.004], dtype=torch.double)


@pytest.mark.parametrize("kind", KINDS)
def test_a_true_prediction_gives_back_the_picture(
    kind: str, case: tuple[torch.Tensor, ...]
) -> None:
    x0, noise, a = case
    said = objective.target(kind, x0, noise, a)
    torch.testing.assert_close(
        objective.denoised(kind, objective.noised(x0, noise, a), said, a), x0
    )


def test_epsilon_and_v_agree_on_the_picture(case: tuple[torch.Tensor, ...]) -> None:
    x0, noise, a = case
    noisy = objective.noised(x0, noise, a)
    wrong = (
        noise + 0.1
        # a prediction that is off; the velocity that says the same is v = (eps - sqrt(1 - a) x_t) /
        # sqrt(a)
    )
    wide = a.view(-1, 1, 1, 1)
    as_v = (wrong - (1 - wide).sqrt() * noisy) / wide.sqrt()
    torch.testing.assert_close(
        objective.denoised("epsilon", noisy, wrong, a),
        objective.denoised("v_prediction", noisy, as_v, a),
    )


def test_noise_keeps_the_variance(case: tuple[torch.Tensor, ...]) -> None:
    g = torch.Generator().manual_seed(1)
    x0, noise = (torch.randn(4, 4, 64, 64, generator=g) for _ in range(2))
    assert objective.noised(x0, noise, torch.tensor([0.9, 0.5, 0.2, 0.0])).std(
        (1, 2, 3)
    ) == pytest.approx([1, 1, 1, 1], abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_min_snr_bounds_the_loss_on_the_picture(kind: str) -> None:
    a = torch.linspace(0.0, 0.9999, 50)
    snr = a / (1 - a)
    weights = objective.loss_weights(kind, a, 5.0)
    on_picture = weights * (
        snr if kind == "epsilon" else snr + 1
    )  # what one unit of error on x0 costs
    assert torch.isfinite(weights).all()
    torch.testing.assert_close(on_picture, snr.clamp(max=5.0), rtol=1e-3, atol=1e-6)
    assert (objective.loss_weights(kind, a, 0.0) == 1).all()


def test_diffusers_agrees_on_velocity_and_noise(case: tuple[torch.Tensor, ...]) -> None:
    from diffusers import DDPMScheduler

    x0, noise, _ = case
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    t = torch.tensor([0, 10, 300, 700, 999])
    a = scheduler.alphas_cumprod.double()[t]
    torch.testing.assert_close(
        objective.noised(x0, noise, a), scheduler.add_noise(x0, noise, t), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(
        objective.target("v_prediction", x0, noise, a),
        scheduler.get_velocity(x0, noise, t),
        rtol=1e-6,
        atol=1e-6,
    )


def test_losses_are_their_formulas_and_count_large_errors_less() -> None:
    errors = torch.logspace(-6, 3, 40, dtype=torch.double)
    errors = torch.cat([errors, -errors, torch.zeros(1, dtype=torch.double)])
    for c in (0.01, 0.1, 1.0):
        root = (errors.square() + c * c).sqrt() - c
        huber, smooth = (objective.Loss(name, c).of(errors) for name in ("huber", "smooth_l1"))
        # What the formula loses where e is small: root is a difference of nearly equal numbers
        torch.testing.assert_close(huber, 2 * c * root, rtol=1e-9, atol=4e-16 * c)
        torch.testing.assert_close(smooth, 2 * root, rtol=1e-9, atol=4e-16)
        near, far = errors.abs() < c / 1000, errors.abs() > 1000 * c
        torch.testing.assert_close(huber[near], errors[near].square(), rtol=1e-6, atol=0)
        torch.testing.assert_close(smooth[far], 2 * errors[far].abs(), rtol=2e-3, atol=0)
    assert torch.equal(objective.Loss().of(errors), errors.square())


def test_gradients_of_the_losses_are_finite_at_zero() -> None:
    for name in ("huber", "smooth_l1"):
        error = torch.zeros(1, dtype=torch.double, requires_grad=True)
        objective.Loss(name).of(error).sum().backward()
        assert error.grad is not None and error.grad.item() == 0
        start = torch.randn(6, dtype=torch.double, requires_grad=True)
        assert torch.autograd.gradcheck(objective.Loss(name).of, (start,))


def test_a_rows_loss_is_weighted_whatever_it_is_made_of() -> None:
    said, wanted = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    weights = torch.tensor([1.0, 0.0, 0.5])
    for kind in (objective.MSE, objective.Loss("huber", 0.2)):
        each = kind.of(said - wanted).flatten(1).mean(1)
        found = objective.weighted_loss(said, wanted, weights, rows=3, kind=kind)
        torch.testing.assert_close(found, (each[0] + each[2] / 2) / 3)
