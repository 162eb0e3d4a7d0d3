"""Multi-resolution noise and debiased weights, against the formulas of sd-scripts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.test_training import broken_off, changed, config, equal, pictures
from training.config.schema import RunConfig
from training.errors import ConfigError
from training.models.objective import Flow, Table, constant_shift
from training.runtime.rng import drawn, pyramid
from training.trainer.loop import train

__all__ = ("config", "pictures")  # fixtures

CHANCE: dict[str, Any] = {
    "shape": (4, 16, 24),
    "flip": True,
    "caption_dropout": 0.5,
    "noise_offset": 0.0,
}


def test_only_the_noise_is_another_and_its_deviation_is_one() -> None:
    plain, coarse = drawn(0, 3, 1, **CHANCE), drawn(0, 3, 1, **CHANCE, multires=0.9)
    assert not torch.equal(plain.noise, coarse.noise)
    assert torch.equal(plain.latent_noise, coarse.latent_noise)
    assert (plain.u, plain.mirrored, plain.wordless, plain.choice, plain.version) == (
        coarse.u,
        coarse.mirrored,
        coarse.wordless,
        coarse.choice,
        coarse.version,
    )
    assert coarse.noise.std().item() == pytest.approx(1, abs=1e-5)
    # Neighbours are alike, as they are not in white noise
    for noise, low, high in ((plain.noise, -0.1, 0.1), (coarse.noise, 0.1, 1.0)):
        alike = (noise[:, :, 1:] * noise[:, :, :-1]).mean().item()
        assert low < alike < high


def test_the_pyramid_is_sd_scripts_for_the_same_numbers() -> None:
    """pyramid_noise_like, of which the random numbers come from the global generator."""
    noise = torch.randn(4, 16, 24, generator=torch.Generator().manual_seed(1))
    g = torch.Generator().manual_seed(2)
    found = pyramid(noise, 0.3, 6, g)
    g, wanted = torch.Generator().manual_seed(2), noise[None].clone()
    enlarged = torch.nn.Upsample(size=(16, 24), mode="bilinear")
    for i in range(6):
        r = torch.rand(1, generator=g, dtype=torch.float64).item() * 2 + 2
        high, wide = max(1, int(16 / (r**i))), max(1, int(24 / (r**i)))
        wanted += enlarged(torch.randn(1, 4, high, wide, generator=g)) * 0.3**i
        if high == 1 or wide == 1:
            break
    torch.testing.assert_close(found, (wanted / wanted.std())[0])


def test_debiased_weights_are_sd_scripts() -> None:
    bars = torch.tensor([1e-6, 0.1, 0.5, 0.9, 0.9999999], dtype=torch.float64)
    snr = torch.minimum(bars / (1 - bars), torch.tensor(1000.0))
    levels = torch.arange(5)
    for prediction, wanted in (("epsilon", 1 / snr.sqrt()), ("v_prediction", 1 / (snr + 1))):
        table = Table(bars, prediction)
        torch.testing.assert_close(table.weights(levels, 5.0, debiased=True), wanted)
        assert not torch.equal(table.weights(levels, 5.0), wanted)
    flow = Flow(constant_shift(1.0))
    assert (flow.weights(torch.tensor([0.1, 0.9]), 5.0, debiased=True) == 1).all()


def test_a_resumed_run_equals_a_straight_one(config: RunConfig) -> None:
    config = changed(
        config, optim__steps=3, save__every=2, optim__multires=0.3, optim__weighting="debiased"
    )
    straight = changed(config, save__name="straight")
    list(train(straight))
    broken_off(config, 3)
    list(train(config))
    assert equal(straight, config)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("optim__multires", 1.0),
        ("optim__multires", -0.1),
        ("optim__multires_levels", 0),
        ("optim__weighting", "none"),
    ],
)
def test_values_out_of_bounds_are_refused(setting: str, value: Any, config: RunConfig) -> None:
    with pytest.raises(ConfigError, match=setting.replace("__", r"\.")):
        changed(config, **{setting: value})
