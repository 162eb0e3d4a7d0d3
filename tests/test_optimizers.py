"""Optimisers by name: each is its package's own over matrices, and goes on to the bit."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.config.loading import from_mapping
from training.errors import ConfigError
from training.trainer import optimizers
from training.trainer.optimizer import Group, Optimiser
from training.trainer.optimizers import METHODS

# As adapters have them: linears, convolutions, learnt words
SHAPES = ((4, 96), (64, 4), (4, 32, 3, 3), (48, 4, 1, 1), (2, 64))


def here(name: str) -> bool:
    module = METHODS[name].module
    return not module or importlib.util.find_spec(module) is not None


each_method = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.skipif(not here(name), reason="the extra optim"))
        for name in METHODS
    ],
)


def parameters(seed: int = 0) -> list[nn.Parameter]:
    g = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=g) * 0.1) for shape in SHAPES]


def made(name: str, own: Sequence[nn.Parameter], *, clip: float = 1.0) -> Optimiser:
    lr = 1.0 if name == "prodigy" else 1e-3
    groups = {"unet": Group(own[:3], lr), "text_encoder": Group(own[3:], lr / 2)}
    return optimizers.made(name, groups, weight_decay=0.01, clip=clip, ema=0.0)


def gradients(own: Sequence[nn.Parameter], step: int) -> list[Tensor]:
    """Of a slope and a little noise, so that a rate can be found."""
    g = torch.Generator().manual_seed(step)
    return [p.detach() + 0.1 * torch.randn(p.shape, generator=g) for p in own]


def updated(optimiser: Optimiser, own: Sequence[nn.Parameter], steps: range) -> None:
    for step in steps:
        for parameter, gradient in zip(own, gradients(own, step), strict=True):
            assert parameter.grad is not None
            parameter.grad += gradient
        optimiser.update(optimiser.norm(), 1 / (1 + step / 10))


@each_method
def test_a_resumed_optimiser_has_the_bits_of_a_straight_one(name: str) -> None:
    own = parameters()
    straight = made(name, own)
    updated(straight, own, range(8))
    first = parameters()
    before = made(name, first)
    updated(before, first, range(4))
    kept = {key: value.detach().clone().contiguous() for key, value in before.tensors().items()}
    other = parameters(seed=5)
    after = made(name, other)
    updated(after, other, range(3))  # what was there must not count
    assert after.fits(kept)
    after.restore(kept)
    updated(after, other, range(4, 8))
    for a, b in zip(own, other, strict=True):
        assert torch.equal(a, b)
    assert straight.tensors().keys() == after.tensors().keys()
    for key, value in straight.tensors().items():
        assert torch.equal(value, after.tensors()[key]), key


@each_method
def test_a_fresh_checkpoint_is_a_beginning(name: str) -> None:
    own, other = parameters(), parameters(seed=5)
    straight, after = made(name, own), made(name, other)
    after.restore({key: value.clone() for key, value in straight.tensors().items()})
    updated(straight, own, range(2))
    updated(after, other, range(2))
    assert all(torch.equal(a, b) for a, b in zip(own, other, strict=True))


@each_method
def test_updates_are_the_packages_own_on_matrices(name: str) -> None:
    own = parameters()
    ours = made(name, own, clip=0.0)
    theirs = [nn.Parameter(p.detach().clone().view(len(p), -1)) for p in parameters()]
    lr = 1.0 if name == "prodigy" else 1e-3
    inner = [
        METHODS[name].make(theirs[:3], lr, 0.01),
        METHODS[name].make(theirs[3:], lr / 2, 0.01),
    ]
    for step in range(3):
        for p, q, gradient in zip(own, theirs, gradients(own, step), strict=True):
            assert p.grad is not None
            p.grad += gradient
            q.grad = gradient.reshape(q.shape)
        ours.update(ours.norm(), 1.0)
        for one in inner:
            one.step()
    for p, q in zip(own, theirs, strict=True):
        assert torch.equal(p.view(q.shape), q)


@each_method
def test_all_groups_learn_and_are_named(name: str) -> None:
    own = parameters()
    optimiser = made(name, own)
    before = [p.detach().clone() for p in own]
    updated(optimiser, own, range(3))
    assert all(not torch.equal(a, b) for a, b in zip(own, before, strict=True))
    assert all(torch.isfinite(p).all() for p in own)
    assert optimiser.version and not any(bool(p.grad.any()) for p in own if p.grad is not None)
    assert not optimiser.fits(made("adamw", parameters()).tensors())
    assert not made("adamw", parameters()).fits(optimiser.tensors())


@pytest.mark.skipif(not here("schedule-free"), reason="the extra optim")
def test_what_schedule_free_saves_is_its_average_and_it_goes_on_to_the_bit() -> None:
    own, other = parameters(), parameters()
    one, two = made("schedule-free", own), made("schedule-free", other)
    updated(one, own, range(4))
    updated(two, other, range(4))
    before = [p.detach().clone() for p in own]
    with one.averaged():
        assert not torch.equal(own[0], before[0])
    assert all(torch.equal(a, b) for a, b in zip(own, before, strict=True))
    updated(one, own, range(4, 7))
    updated(two, other, range(4, 7))
    assert all(torch.equal(a, b) for a, b in zip(own, other, strict=True))


def test_a_package_that_is_missing_is_named_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name, method in METHODS.items():
        if not method.module:
            optimizers.check_package(name)
            continue
        with pytest.raises(ConfigError, match=rf"{name} needs the package {method.package}.*optim"):
            made(name, parameters())


@pytest.mark.parametrize(
    ("optim", "said"),
    [
        ({"method": "prodigy"}, r"optim\.unet_lr is 0\.0001 .*set it to 1"),
        ({"method": "schedule-free"}, r"optim\.schedule is cosine .*constant"),
        ({"method": "schedule-free", "schedule": "constant", "ema": 0.9}, r"optim\.ema is 0\.9"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    optim: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        from_mapping({"optim": optim})
    from_mapping({"optim": {"method": "prodigy", "unet_lr": 1.0, "text_encoder_lr": 0.0}})


PLUGIN = """
import torch


def momentum(matrices, lr, decay):
    return torch.optim.SGD(matrices, lr=lr, momentum=0.9, weight_decay=decay)


def nothing(matrices, lr, decay):
    return None
"""
OFFERED = """[style_studio.optimizers]
momentum = a_plugin_of_tests:momentum
nothing = a_plugin_of_tests:nothing
broken = a_plugin_of_tests:not_there
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that offers optimisers."""
    about = tmp_path / "a_plugin_of_tests-1.5.dist-info"
    about.mkdir()
    (tmp_path / "a_plugin_of_tests.py").write_text(PLUGIN)
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: a-plugin-of-tests\nVersion: 1.5\n"
    )
    (about / "entry_points.txt").write_text(OFFERED)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("plugin")
def test_an_optimiser_of_another_package_is_used_and_goes_on_to_the_bit() -> None:
    def of_plugin(own: Sequence[nn.Parameter]) -> Optimiser:
        groups = {"unet": Group(own, 0.05)}
        how = {"weight_decay": 0.0, "clip": 0.0, "ema": 0.0, "other": "momentum"}
        return optimizers.made("other", groups, **how)

    own, other = parameters(), parameters()
    straight, before = of_plugin(own), of_plugin(other)
    assert straight.version == "a-plugin-of-tests 1.5"
    wanted = torch.optim.SGD(theirs := parameters(), lr=0.05, momentum=0.9)
    for step in range(4):
        for parameter, gradient in zip(theirs, gradients(theirs, step), strict=True):
            parameter.grad = gradient
        wanted.param_groups[0]["lr"] = 0.05 / (1 + step / 10)
        wanted.step()
    updated(straight, own, range(4))
    assert all(torch.equal(a, b) for a, b in zip(own, theirs, strict=True))
    updated(before, other, range(2))
    kept = {key: value.detach().clone() for key, value in before.tensors().items()}
    after = of_plugin(last := parameters(seed=5))
    assert after.fits(kept) and not made("adamw", parameters()).fits(kept)
    after.restore(kept)
    updated(after, last, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(own, last, strict=True))


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("adan", r"optim\.other is 'adan'.*there: broken, momentum, nothing"),
        ("broken", r"cannot be loaded from a-plugin-of-tests"),
        ("nothing", r"made NoneType: a torch\.optim\.Optimizer"),
    ],
)
def test_what_another_package_does_not_offer_rightly_is_said(name: str, said: str) -> None:
    groups = {"unet": Group(parameters(), 0.1)}
    how = {"weight_decay": 0.0, "clip": 0.0, "ema": 0.0, "other": name}
    with pytest.raises(ConfigError, match=said):
        optimizers.made("other", groups, **how)
    with pytest.raises(ConfigError, match=r"optim\.other is empty"):
        from_mapping({"optim": {"method": "other"}})
