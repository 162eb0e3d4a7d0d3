"""LoHa: against peft's layers, alone and beside LoRA in one pass, drawn with, written and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from studio.library.continue_from import _method
from tests.test_lokr import _drawn_is_merged
from tests.test_training import broken_off, changed, config, pictures
from tests.trainers import ready
from training.adapters import other_methods
from training.adapters.hadamard import hada_change
from training.cli import style_file
from training.config.schema import RunConfig
from training.errors import ConfigError, StyleFileError
from training.models import base_files, loader
from training.models.family import Parts
from training.runtime.device import DeviceSpec
from training.style_files.lora import Hada, Lora, added, split_rows
from training.style_files.reading import read_style, style_from_bytes
from training.style_files.writing import style_bytes
from training.trainer.joint import together
from training.trainer.loop import train
from training.trainer.plan import planned

__all__ = ("config", "pictures")  # fixtures

LOHA: dict[str, Any] = {"adapter__method": "loha", "adapter__rank": 2, "optim__steps": 4}


@pytest.mark.parametrize(
    "layer",
    [nn.Linear(12, 10), nn.Conv2d(12, 10, 3, stride=2, padding=1), nn.Conv2d(12, 10, 1)],
    ids=["linear", "convolution", "pointwise"],
)
def test_answers_and_gradients_are_pefts(layer: nn.Linear | nn.Conv2d) -> None:
    """In float64."""
    from peft import LoHaConfig, inject_adapter_in_model

    torch.manual_seed(0)
    layer = layer.double().requires_grad_(False)
    theirs = inject_adapter_in_model(
        LoHaConfig(r=3, alpha=6, target_modules=["0"]), nn.Sequential(layer)
    )
    columns = layer.weight[0].numel()
    shapes = ((10, 3), (3, columns), (10, 3), (3, columns))
    factors = [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in shapes]
    his: Any = theirs[0]
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    masters = [getattr(his, name)["default"] for name in names]
    for master, factor in zip(masters, factors, strict=True):
        master.data = factor.detach().clone()
    x = torch.randn((2, 12, 5, 5) if isinstance(layer, nn.Conv2d) else (2, 5, 12)).double()
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = layer(mine) + hada_change(layer, mine, *factors, 2.0)
    z = theirs(other)
    weight = torch.randn_like(z)
    (y * weight).sum().backward()
    (z * weight).sum().backward()
    exact = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(y, z, **exact)
    torch.testing.assert_close(mine.grad, other.grad, **exact)
    for factor, master in zip(factors, masters, strict=True):
        torch.testing.assert_close(factor.grad, master.grad, **exact)
    kernel = tuple(layer.weight.shape[2:])
    delta = other_methods.as_hada([f.detach() for f in factors], 6.0, kernel).delta()
    np.testing.assert_allclose(delta, his.get_delta_weight("default").detach(), atol=1e-4)


def test_it_is_trained_resumed_written_drawn_with_and_begun_from(
    config: RunConfig, parts: Parts
) -> None:
    """Some layers have a rank of their own, and the scale is not 1."""
    own = {"save__every": 2, "adapter__alpha": 3.0, "adapter__ranks": ["attn2=3"]}
    config = changed(config, adapter__targets=["attention", "convolutions"], **LOHA | own)
    straight = changed(config, save__name="straight")
    list(train(straight))
    broken_off(config, 3)
    list(train(config))
    file = config.run_folder / "s.safetensors"
    tensors = load_file(file)
    other = load_file(straight.run_folder / "straight.safetensors")
    assert tensors.keys() == other.keys()
    assert all(np.array_equal(tensors[name], other[name]) for name in tensors)
    leaves = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"}
    assert {name.rpartition(".")[2] for name in tensors} == leaves
    style = read_style(file)
    assert style.kinds == ("LoHa",) and style.ranks == "" and not style.warnings
    assert style.metadata["ss_network_module"] == "lycoris.kohya"
    for name, change in style.modules.items():
        assert isinstance(change, Hada) and change.scale == pytest.approx(1.5)
        assert len(change.b1) == (3 if name.startswith("lora_unet") and "attn2" in name else 2)
    assert _method(style) == {"method": "loha", "rank": 3, "alpha": 3.0}
    _drawn_is_merged(style, parts)
    begun = changed(config, adapter__start=str(file), adapter__alpha=2.0, save__name="begun")
    trainer = ready(planned(begun), trial=True)
    for key, change in trainer.attached.changes(begun).items():
        if key[0] == "unet":
            wanted = style.modules["lora_unet_" + key[1].replace(".", "_")].delta()
            found = change.delta().reshape(wanted.shape)
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)
    with pytest.raises(StyleFileError, match=r"rank 2.*this run 4.*adapter\.rank"):
        ready(planned(changed(begun, adapter__rank=4)), trial=True)
    with pytest.raises(StyleFileError, match="has rank"):
        ready(planned(changed(begun, adapter__method="lora", adapter__ranks=[])), trial=True)


def test_a_loha_and_a_lora_are_trained_in_one_pass(config: RunConfig) -> None:
    """A style learns what it learns alone, up to rounding."""
    settings = {"optim__text_encoder_lr": 0.0, "optim__steps": 3}
    hada = changed(config, **LOHA | settings | {"save__name": "hada"})
    lora = changed(config, **settings | {"save__name": "lora", "optim__seed": 5})
    alone = changed(hada, save__name="alone")
    list(train(alone))
    list(together([hada, lora]))
    found, wanted = (read_style(c.run_folder / f"{c.save.name}.safetensors") for c in (hada, alone))
    assert found.kinds == ("LoHa",)
    scale = max(abs(change.delta()).max() for change in wanted.modules.values())
    for name, change in wanted.modules.items():
        np.testing.assert_allclose(found.modules[name].delta(), change.delta(), atol=0.02 * scale)


def test_a_beginning_is_kept_in_16_bits() -> None:
    """Prodigy's first update, at a rate of a millionth: float16 has no such numbers."""
    g = torch.Generator().manual_seed(0)
    sizes = ((15, 2), (2, 12), (15, 2), (2, 12))
    factors = [torch.randn(size, generator=g) for size in sizes]
    factors[2] *= 1e-6
    trained = other_methods.as_hada(factors, 2.0, ())
    product = (factors[0] @ factors[1]) * (factors[2] @ factors[3])
    np.testing.assert_allclose(trained.delta(), product, rtol=1e-6)
    found = style_from_bytes(style_bytes("a", {"lora_unet_mid_block_x": trained}, {}), "a")
    (back,) = found.modules.values()
    assert abs(back.delta() - trained.delta()).max() < 4e-3 * abs(trained.delta()).max()


def random_hada(kernel: tuple[int, ...], rank: int = 2) -> Hada:
    g = np.random.default_rng(0)
    columns = 4 * int(np.prod(kernel))
    shapes = ((15, rank), (rank, columns), (15, rank), (rank, columns))
    return Hada(*(g.standard_normal(shape, np.float32) for shape in shapes), 3.0, kernel)


@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_arithmetic_keeps_the_change(kernel: tuple[int, ...], rank: int) -> None:
    hada = random_hada(kernel, rank)
    delta = hada.delta()
    assert delta.shape == hada.shape == (15, 4, *kernel)
    np.testing.assert_allclose(hada.as_lora().delta(), delta, atol=1e-4)
    assert hada.as_lora().rank <= min(15, delta[0].size)
    assert hada.square() == pytest.approx(float((delta.astype(np.float64) ** 2).sum()), rel=1e-5)
    np.testing.assert_allclose(hada.times(-0.5).delta(), -0.5 * delta, rtol=1e-6)
    pieces = np.concatenate([piece.delta() for piece in split_rows(hada, [4, 11])])
    np.testing.assert_array_equal(pieces, delta)
    twice = added([(hada, 2.0), (hada, -1.0)])
    np.testing.assert_allclose(twice.delta(), delta, atol=1e-4)
    assert isinstance(added([(hada, 2.0)]), Hada)
    flat = hada.shaped((15, delta[0].size)) if not kernel else hada
    assert flat is hada and hada.shaped((15, 9)) is None and hada.shaped((14, 4, *kernel)) is None


def test_the_commands_keep_it_or_say_what_becomes_of_it(
    base_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = base_files.find(str(base_folder))
    place = DeviceSpec(torch.device("cpu"), torch.float32)
    shapes = loader.weight_shapes(loader.load_part(files, "unet", place))
    name = next(n for n in shapes if n.endswith("attn2.to_q"))
    key, (out, columns) = "lora_unet_" + name.replace(".", "_"), shapes[name]
    g = np.random.default_rng(0)
    sizes = ((out, 2), (2, columns), (out, 2), (2, columns))
    hada = Hada(*(g.standard_normal(size, np.float32) for size in sizes), 2.0)
    leaves = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    file, written = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file({f"{key}.{n}": m for n, m in zip(leaves, hada.matrices, strict=True)}, file)

    def run(*command: str) -> None:
        assert style_file.main([*command, "--out", str(written), "--force"]) == 0

    family = ["--family", "sd1"]
    run("convert", str(file), "--to", "kohya", *family)
    assert {n.rpartition(".")[2] for n in load_file(written)} == {*leaves, "alpha"}
    run("merge", f"{file}:0.5", *family)
    np.testing.assert_allclose(read_style(written).modules[key].delta(), hada.delta() / 2, 1e-6)
    run("convert", str(file), "--to", "diffusers", *family)
    (change,) = read_style(written).modules.values()
    assert isinstance(change, Lora) and "LoHa were written as LoRA" in capsys.readouterr().out
    np.testing.assert_allclose(change.delta(), hada.delta(), atol=1e-3)
    run("resize", str(file), "--rank", "2", *family)
    assert read_style(written).modules[key].rank == 2
    baked = tmp_path / "baked"
    assert (
        style_file.main(["bake", str(file), "--base", str(base_folder), "--out", str(baked)]) == 0
    )
    before, after = (
        loader.load_part(base_files.find(str(f)), "unet", place).get_submodule(name).weight.detach()
        for f in (base_folder, baked)
    )
    np.testing.assert_allclose(after - before, hada.delta(), atol=1e-2)


def test_what_means_nothing_for_loha_is_refused(config: RunConfig) -> None:
    with pytest.raises(ConfigError, match=r"optim\.up_ratio is 4 with adapter\.method = loha"):
        changed(config, **LOHA | {"optim__up_ratio": 4.0})
