"""A training adapter of a distilled base: active in every update, as if it were part of the
weights, and in nothing that is drawn or written.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import crashes
from tests.test_moved import begun, with_
from training.adapters import frozen_change, lora_layers
from training.adapters.multi_lora import SharedBase
from training.config.loading import from_mapping
from training.config.schema import RunConfig
from training.errors import ConfigError, StudioError, StyleFileError
from training.events import Finished, Started
from training.models import base_files, loader
from training.models.family import Parts
from training.modules.stored import is_stored
from training.runtime.device import DeviceSpec
from training.runtime.distributed import ProcessGroup
from training.style_files.key_names import dialect_of
from training.style_files.lora import Lora
from training.style_files.reading import read_style
from training.style_files.writing import named, style_bytes
from training.trainer import loop, previews, setup
from training.trainer.joint import checked, together
from training.trainer.loop import train
from training.trainer.plan import planned

FLOAT64 = DeviceSpec(torch.device("cpu"), torch.float64)
Bases = Callable[[str], Path]


def changes_of(parts: Parts, seed: int = 0) -> dict[str, Lora]:
    """A change of every layer that may be adapted, as large as what is learnt."""
    rng, shapes = np.random.default_rng(seed), loader.weight_shapes(parts.denoiser)
    groups = parts.family.groups
    return {
        name: Lora(
            rng.normal(size=(2, *shapes[name][1:])).astype(np.float32) / 8,
            rng.normal(size=(shapes[name][0], 2)).astype(np.float32) / 8,
            3.0,
        )
        for name in lora_layers.chosen_modules(parts.denoiser, groups, [*groups])
    }


def written(path: Path, parts: Parts, seed: int = 0) -> Path:
    own = {(parts.family.denoiser, name): one for name, one in changes_of(parts, seed).items()}
    family = parts.family.name
    dialect = dialect_of(family)
    modules = named(own, dialect, family)
    path.write_bytes(style_bytes("a", modules, {}, dtype="float32", dialect=dialect))
    return path


@pytest.fixture
def config(flow_base: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """Four updates on a tiny FLUX.1 with an assistant."""
    monkeypatch.setenv("STYLE_STUDIO_CACHE", str(tmp_path / "cache"))
    crashes.pictures(tmp_path)
    folder = flow_base("flux")
    parts = loader.load(base_files.find(str(folder)), FLOAT64)
    helper = written(tmp_path / "helper.safetensors", parts)
    base = {"model": str(folder), "assistant": str(helper), "dtype": "float32", "device": "cpu"}
    optim = {"steps": 4, "batch_size": 1, "accumulate": 1, "warmup": 0.0, "unet_lr": 1e-2}
    return from_mapping(
        {
            "base": base,
            "data": {"folder": str(tmp_path / "pictures"), "trigger": "sks"},
            "adapter": {"rank": 2, "alpha": 2.0, "targets": ["attention"]},
            "optim": optim,
            "preview": {"every": 0, "steps": 2},
            "report": {"minutes": 0.0},
            "save": {"folder": str(tmp_path / "runs"), "name": "s", "every": 0},
        }
    )


def gradients(parts: Parts, changes: dict[str, Lora], *, shared: bool) -> dict[str, Tensor]:
    """Of adapters that are no longer as they began, after one pass."""
    frozen_change.put_on(parts.denoiser, changes)
    names = lora_layers.chosen_modules(parts.denoiser, parts.family.groups, ["attention"])
    put_on: Any = lora_layers.attach
    if shared:
        base = SharedBase(parts)
        base._router.route = (base.new_adapter_index(),)
        put_on = lambda *given, **kwargs: base.attach(0, *given, **kwargs)  # noqa: E731
    found = put_on(parts.denoiser, names, rank=2, alpha=2.0, seed=1)
    g = torch.Generator().manual_seed(2)
    for _, up in found.values():
        up.data = torch.randn(up.shape, generator=g, dtype=torch.float64) / 8
    side = parts.size // parts.pixel_step
    noisy = torch.randn(1, parts.space.channels, side, side, generator=g, dtype=torch.float64)
    level = torch.full((1,), 0.6, dtype=torch.float64)
    said = parts.encode_text(["a cat"])
    parts.family.predict(parts, noisy, level, said).square().mean().backward()
    return {
        f"{name}.{i}": p.grad.clone()
        for name, pair in found.items()
        for i, p in enumerate(pair)
        if p.grad is not None
    }


@pytest.mark.parametrize("family", ["flux", "z-image"])
@pytest.mark.parametrize("shared", [False, True])
def test_gradients_are_those_on_weights_with_the_change_in_them(
    family: str, shared: bool, flow_base: Bases
) -> None:
    files = base_files.find(str(flow_base(family)))
    beside, inside = loader.load(files, FLOAT64), loader.load(files, FLOAT64)
    changes = changes_of(beside)
    with torch.no_grad():
        for name, lora in changes.items():
            up, down = (torch.from_numpy(m).double() for m in lora.flat())
            inside.denoiser.get_submodule(name).weight += up @ down
    found, wanted = gradients(beside, changes, shared=shared), gradients(inside, {}, shared=shared)
    plain = gradients(loader.load(files, FLOAT64), {}, shared=shared)
    assert found.keys() == wanted.keys() and found
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)
    assert any(not torch.allclose(plain[name], value, rtol=1e-2) for name, value in wanted.items())


def test_a_network_without_its_change_is_the_base_to_the_bit(flow_base: Bases) -> None:
    parts = loader.load(base_files.find(str(flow_base("flux"))), FLOAT64)
    x = torch.randn(3, 32, dtype=torch.float64)
    name, lora = next(iter(changes_of(parts).items()))
    layer = parts.denoiser.get_submodule(name)
    before = layer(x)
    frozen_change.put_on(parts.denoiser, {name: lora})
    assert not torch.equal(layer(x), before)
    with frozen_change.left_out(parts.denoiser):
        assert torch.equal(layer(x), before)
    assert not torch.equal(layer(x), before)


def test_it_decides_what_is_learnt_and_is_not_written(config: RunConfig) -> None:
    list(train(config))
    plain = with_(config, base__assistant="", save__name="plain")
    list(train(plain))
    own, without = (
        read_style(c.run_folder / f"{c.save.name}.safetensors") for c in (config, plain)
    )
    assert own.modules.keys() == without.modules.keys()  # its own layers alone
    assert any(
        not np.array_equal(own.modules[n].delta(), without.modules[n].delta()) for n in own.modules
    )
    assert "assistant" not in own.recipe["base"]
    assert str(config.run_folder.parent.parent) not in str(own.metadata)


def test_previews_are_drawn_without_it(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn before anything is learnt is what the base draws."""
    drawing = with_(config, preview__every=2)
    trainer = setup.without_notes(setup.set_up(planned(drawing)))
    (first, *_) = previews.preview(trainer).paths
    plain = with_(drawing, base__assistant="", save__name="plain")
    (wanted, *_) = previews.preview(setup.without_notes(setup.set_up(planned(plain)))).paths
    found = (drawing.run_folder / first).read_bytes()
    assert found == (plain.run_folder / wanted).read_bytes()
    monkeypatch.setattr(
        previews, "left_out", lambda network: frozen_change.left_out(torch.nn.Module())
    )
    previews.preview(trainer)
    assert (drawing.run_folder / first).read_bytes() != found


def test_a_run_goes_on_with_the_same_one_wherever_it_lies(config: RunConfig) -> None:
    straight = with_(config, save__name="straight")
    list(train(straight))
    begun(config)
    old = Path(config.base.assistant)
    moved = with_(config, base__assistant=str(old.rename(old.with_name("moved.safetensors"))))
    events = list(train(moved))
    assert [e.step for e in events if isinstance(e, Started)] == [2]
    assert crashes.learnt(config.run_folder) == crashes.learnt(straight.run_folder)


def test_another_one_or_none_is_refused(config: RunConfig, flow_base: Bases) -> None:
    begun(config)
    parts = loader.load(base_files.find(str(flow_base("flux"))), FLOAT64)
    kept = shutil.copyfile(config.base.assistant, f"{config.base.assistant}.kept")
    written(Path(config.base.assistant), parts, seed=1)
    with pytest.raises(StudioError, match=r"the content of base\.assistant"):
        list(train(config))
    shutil.copyfile(kept, config.base.assistant)
    with pytest.raises(StudioError, match=r"base\.assistant: .* then, '' now"):
        list(train(with_(config, base__assistant="")))


def test_what_cannot_be_one_is_refused_before_anything_is_loaded(
    config: RunConfig, flow_base: Bases, tmp_path: Path
) -> None:
    other = loader.load(base_files.find(str(flow_base("z-image"))), FLOAT64)
    wrong = written(tmp_path / "z.safetensors", other)
    with pytest.raises(StyleFileError, match=r"base\.assistant .*Z-Image"):
        planned(with_(config, base__assistant=str(wrong)))
    with pytest.raises(StyleFileError, match=r"base\.assistant"):
        planned(with_(config, base__assistant=str(tmp_path / "nowhere.safetensors")))
    with pytest.raises(ConfigError, match=r"base\.assistant does not go with optim\.compile"):
        planned(with_(config, optim__compile="blocks"))
    with pytest.raises(ConfigError, match=r"base\.assistant is"):
        checked([config, with_(config, base__assistant="", save__name="t")])


def test_styles_trained_together_share_it(config: RunConfig) -> None:
    alone = with_(config, save__name="alone")
    list(train(alone))
    both = [config, with_(config, save__name="t", optim__seed=5)]
    list(together(both))
    found, wanted = (
        read_style(c.run_folder / f"{c.save.name}.safetensors") for c in (config, alone)
    )
    for name, change in wanted.modules.items():
        np.testing.assert_allclose(
            found.modules[name].delta(), change.delta(), rtol=1e-3, atol=1e-5
        )


def test_a_base_in_int8_has_one_beside_its_weights(config: RunConfig) -> None:
    """The frozen answer is that of the stored weights, and the change is added to it."""
    stored = with_(config, base__storage="int8")
    trainer = setup.without_notes(setup.set_up(planned(stored)))
    network = trainer.parts.denoiser
    changed = [m for m in network.modules() if frozen_change.of(m)]
    assert any(is_stored(layer) for layer in changed)
    layer: Any = next(layer for layer in changed if is_stored(layer))
    x = torch.randn(3, layer.shape[1])
    with frozen_change.left_out(network):
        before = layer(x)
    change = layer.get_buffer("change_up") @ layer.get_buffer("change_down")
    torch.testing.assert_close(layer(x), before + x @ change.t(), rtol=1e-4, atol=1e-4)
    assert isinstance([*train(stored)][-1], Finished)


def test_a_divided_base_refuses_one(config: RunConfig) -> None:
    world = ProcessGroup(0, 1, shards=True)
    with pytest.raises(ConfigError, match=r"base\.assistant does not go with a base"):
        loop._check_shares(config, world)
