"""The recipe's long training: stopped and gone on with, it ends as one that was not."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

RECIPE = Path(__file__).parents[1] / "sample_data" / "mini-sd" / "recipe"


@pytest.fixture(autouse=True)
def recipe_on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(RECIPE))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(RECIPE) in str(
            sys.modules[name].__file__
        ):
            del sys.modules[name]


def training(folder: Path):
    """Return a small network's training and the loss of a step's number."""
    import long_training

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), torch.nn.Flatten(), torch.nn.Linear(16, 1))
    made = long_training.LongTraining(net.parameters(), folder, long_training.Pace(1e-2, 10, 2))

    def loss_of(step: int) -> torch.Tensor:
        x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(step))
        return net(x).square().mean()

    return made, loss_of


def test_stopping_and_going_on_changes_no_bit(tmp_path: Path) -> None:
    whole, loss_of = training(tmp_path / "whole")
    whole.run(loss_of, steps=7)
    first, loss_of = training(tmp_path / "parts")
    assert not first.resume()
    first.run(loss_of, steps=3)
    second, loss_of = training(tmp_path / "parts")
    assert second.resume() and second.step == 3
    second.run(loss_of, steps=7)
    assert torch.equal(whole.flat, second.flat)
    assert torch.equal(whole.averaged, second.averaged)
    assert not torch.equal(whole.flat, whole.averaged)


def test_a_polite_signal_ends_it_with_its_state_on_disk(tmp_path: Path) -> None:
    made, loss_of = training(tmp_path)

    def interrupted(step: int) -> torch.Tensor:
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss_of(step)

    made.run(interrupted, steps=1000)
    again, _ = training(tmp_path)
    assert again.resume() and again.step == made.step < 10
    assert torch.equal(again.flat, made.flat)


def test_a_wider_autoencoder_does_at_first_what_the_old_one_does() -> None:
    import autoencoder16
    from diffusers import AutoencoderKL

    old = AutoencoderKL.from_pretrained(RECIPE.parent / "vae", torch_dtype=torch.float32)
    new = autoencoder16.widened(old)
    x = autoencoder16.kept_out("linocut")[:1].float() / 127.5 - 1
    with torch.no_grad():
        z, wide = (vae.encode(x).latent_dist for vae in (old, new))
        torch.testing.assert_close(wide.mean[:, :8], z.mean)
        back = new.decode(torch.cat([z.mean, torch.zeros_like(wide.mean[:, 8:])], 1)).sample
        torch.testing.assert_close(back, old.decode(z.mean).sample)
    assert new.config["latent_channels"] == 16


def test_a_pool_is_read_by_step_and_only_as_far_as_it_is_drawn(tmp_path: Path) -> None:
    import autoencoder16
    import pool

    rng = np.random.default_rng(0)
    for number in range(2):
        np.save(pool.path_of(tmp_path, number), rng.integers(0, 256, (20, 128, 128, 3), np.uint8))
    assert pool.drawn_so_far(tmp_path) == 2
    one, again, other = (autoencoder16.batch(tmp_path, 2, step) for step in (5, 5, 6))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert one.shape == (autoencoder16.BATCH, 3, autoencoder16.CROP, autoencoder16.CROP)
    assert one.min() >= -1 and one.max() <= 1
