"""Adapters on chosen layers, of ranks of their own, scaled by the root, learning at two rates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import trainers
from tests.test_training import broken_off, changed, config, equal, pictures
from training.adapters import lora_layers
from training.adapters.multi_lora import SharedBase
from training.config.schema import RunConfig
from training.errors import ConfigError, StyleFileError
from training.models import base_files, loader
from training.runtime.device import DeviceSpec
from training.style_files.reading import read_style
from training.trainer.engine import update
from training.trainer.loop import train
from training.trainer.plan import planned

__all__ = ("config", "pictures")  # fixtures

CHOSEN: dict[str, Any] = {
    "adapter__only": ["attn2", "ff"],
    "adapter__without": ["to_k"],
    "adapter__ranks": ["ff=2", "to_q=8"],
    "adapter__scale": "alpha_over_root",
    "optim__up_ratio": 4.0,
}


def test_a_layer_of_another_rank_is_pefts_with_its_pattern(base_folder: Path) -> None:
    """PEFT's own layers with rank_pattern and alpha_pattern, in float64."""
    from peft import LoraConfig, inject_adapter_in_model

    place = DeviceSpec(torch.device("cpu"), torch.float64)
    files = base_files.find(str(base_folder))
    ours, theirs = (loader.load_part(files, "unet", place) for _ in range(2))
    names = lora_layers.chosen_modules(ours, files.family.groups, list(files.family.groups))
    ranks = {name: 2 + i % 5 for i, name in enumerate(names)}
    found = lora_layers.attach(ours, names, rank=4, alpha=6.0, seed=0, ranks=ranks)
    assert {name: len(down) for name, (down, _) in found.items()} == ranks
    pattern = {f"^{name}".replace(".", r"\."): rank for name, rank in ranks.items()}
    alphas = {name: 1.5 * rank for name, rank in pattern.items()}
    settings = LoraConfig(
        r=4, lora_alpha=6, target_modules=names, rank_pattern=pattern, alpha_pattern=alphas
    )
    inject_adapter_in_model(settings, theirs, adapter_name="default")
    g = torch.Generator().manual_seed(0)
    for name, (down, up) in found.items():
        up.data.copy_(torch.randn(up.shape, generator=g) * 0.1)
        layer: Any = theirs.get_submodule(name)
        layer.lora_A["default"].weight.data = down.detach().double().clone()
        layer.lora_B["default"].weight.data = up.detach().double().clone()
    noisy = torch.randn(2, 4, 8, 8, generator=g, dtype=torch.double)
    words = torch.randn(2, 77, ours.config.cross_attention_dim, generator=g, dtype=torch.double)
    said = [
        net(noisy, torch.tensor([3, 900]), words, return_dict=False)[0] for net in (ours, theirs)
    ]
    torch.testing.assert_close(*said, rtol=1e-10, atol=1e-10)


def test_a_shared_base_begins_with_the_same_weights(base_folder: Path) -> None:
    place = DeviceSpec(torch.device("cpu"), torch.float32)
    parts = [loader.load(base_files.find(str(base_folder)), place) for _ in range(2)]
    names = lora_layers.chosen_modules(parts[0].denoiser, parts[0].family.groups, ["attention"])
    own = {"rank": 4, "alpha": 2.0, "seed": 3, "ranks": {names[1]: 2}}
    alone = lora_layers.attach(parts[0].denoiser, names, **own)
    together = SharedBase(parts[1]).attach(0, parts[1].denoiser, names, **own)
    assert alone.keys() == together.keys()
    for name, pair in alone.items():
        assert all(torch.equal(a, b) for a, b in zip(pair, together[name], strict=True))


def test_they_are_trained_resumed_written_and_read(config: RunConfig) -> None:
    config = changed(config, optim__steps=4, save__every=2, **CHOSEN)
    straight = changed(config, save__name="straight")
    list(train(straight))
    broken_off(config, 3)
    list(train(config))
    assert equal(straight, config)
    style = read_style(config.run_folder / "s.safetensors")
    unet = {name: lora for name, lora in style.modules.items() if name.startswith("lora_unet")}
    assert unet and not any("attn1" in name or "to_k" in name for name in unet)
    for name, lora in unet.items():
        rank = 2 if "_ff_" in name else 8 if "to_q" in name else 4
        assert lora.rank == rank
        # alpha 4 over the root of rank 4: 2, for every rank
        assert lora.alpha / lora.rank == pytest.approx(2.0)
    text = [lora for name, lora in style.modules.items() if name not in unet]
    assert text and all(lora.rank == 4 for lora in text)
    assert style.metadata["ss_network_alpha"] == "8.0"
    # It is a start for another run of the same layers, and none for one of smaller ranks
    again = changed(config, adapter__start=str(config.run_folder / "s.safetensors"))
    ready = trainers.ready(planned(changed(again, save__name="again")), trial=True)
    for (part, module), (down, up) in ready.adapters.items():
        if part == "unet":
            rank, scale = len(down), config.adapter.multiplier
            first = up.detach().flatten(1) @ down.detach().flatten(1) * scale
            wanted = style.modules["lora_unet_" + module.replace(".", "_")].delta()
            np.testing.assert_allclose(first, wanted.reshape(first.shape), atol=2e-3)
            assert rank == 2 or "ff" not in module
    with pytest.raises(StyleFileError, match=r"rank 2 at unet\..*ff.*this run 1.*adapter\.ranks"):
        trainers.ready(
            planned(changed(again, adapter__ranks=["ff=1", "to_q=8"], save__name="less")),
            trial=True,
        )


def test_up_matrices_learn_so_many_times_as_fast(config: RunConfig) -> None:
    """AdamW's first update is the learning rate, whatever the gradient's size is."""
    config = changed(config, optim__up_ratio=4.0, optim__weight_decay=0.0, optim__unet_lr=1e-3)
    ready = trainers.ready(planned(config), trial=True)
    before = {key: tuple(p.detach().clone() for p in pair) for key, pair in ready.adapters.items()}
    update(ready)
    for key, pair in ready.adapters.items():
        first = [
            (p.detach() - b).abs().max().item() for p, b in zip(pair, before[key], strict=True)
        ]
        if key[0] == "unet":
            assert first[1] == pytest.approx(4e-3, rel=0.02)
            assert first[0] == 0  # up was 0, so nothing reached down
    names = {name.rsplit(".", 1)[0] for name in ready.optimiser.tensors()}
    assert names == {f"{p}.{m}" for p in ("unet", "text_encoder") for m in ("down", "up")}


@pytest.mark.parametrize("setting", ["only", "without"])
def test_patterns_that_fit_no_layer_are_refused_before_anything_is_loaded(
    setting: str, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.models.loader.load", None)
    with pytest.raises(ConfigError, match=rf"adapter\.{setting} holds 'atn2'.*attn2"):
        list(train(changed(config, **{f"adapter__{setting}": ["atn2"]})))
