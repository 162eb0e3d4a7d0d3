"""LoKr: against peft's layers, alone and beside LoRA in one batch, drawn with, written and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from studio.library.continue_from import _method
from tests import tiny_flow, trainers
from tests.test_training import broken_off, changed, config, pictures
from training.adapters import lora_layers, other_methods
from training.adapters.inference import apply_styles, load_style
from training.adapters.kronecker import divided, factor_shapes, kron_change
from training.adapters.multi_lora import SharedBase
from training.cli import style_file
from training.config.schema import RunConfig
from training.errors import ConfigError, StyleFileError
from training.models import base_files, loader
from training.models.family import Parts
from training.runtime.device import DeviceSpec
from training.style_files.key_names import accepted_names
from training.style_files.lora import Kron, Lora, added, split_rows
from training.style_files.matching import match
from training.style_files.reading import Style, read_style, style_from_bytes
from training.style_files.strengths import Weight, weakened
from training.style_files.writing import named, style_bytes
from training.trainer.joint import together
from training.trainer.loop import train
from training.trainer.plan import planned

__all__ = ("config", "pictures")  # fixtures

LOKR: dict[str, Any] = {"adapter__method": "lokr", "adapter__factor": 4, "optim__steps": 4}


def test_sizes_are_divided_as_lycoris_does() -> None:
    """peft has its function as it was before the smaller one came first."""
    from peft.tuners.lokr.layer import factorization

    for size in (1, 7, 8, 12, 36, 97, 320, 640, 1280, 2432, 3072):
        for factor in (0, 2, 3, 4, 8, 16, 100):
            assert divided(size, factor) == tuple(sorted(factorization(size, factor or -1)))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(12, 10),
        nn.Conv2d(12, 10, 3, stride=2, padding=1),
        nn.Conv2d(12, 10, 1),
    ],
    ids=["linear", "convolution", "pointwise"],
)
def test_answers_and_gradients_are_pefts(layer: nn.Module) -> None:
    """In float64; peft makes the whole product, here it is never made."""
    from peft import LoKrConfig, inject_adapter_in_model

    torch.manual_seed(0)
    network = nn.Sequential(layer).double().requires_grad_(False)
    theirs = inject_adapter_in_model(
        LoKrConfig(r=10**4, alpha=10**4, decompose_factor=3, target_modules=["0"]),
        nn.Sequential(layer).double(),
    )
    peft_layer: Any = theirs[0]
    one, two = (
        torch.randn(shape, dtype=torch.double, requires_grad=True)
        for shape in factor_shapes(layer.weight.shape, 3)
    )
    peft_layer.lokr_w1["default"].data = one.detach().clone()
    peft_layer.lokr_w2["default"].data = two.detach().clone()
    x = torch.randn((2, 12, 5, 5) if isinstance(layer, nn.Conv2d) else (2, 5, 12)).double()
    mine, his = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = layer(mine) + kron_change(lora_layers.adaptable(layer), mine, one, two)
    z = theirs(his)
    weight = torch.randn_like(z)
    (y * weight).sum().backward()
    (z * weight).sum().backward()
    pairs = [
        (y, z),
        (mine.grad, his.grad),
        (one.grad, peft_layer.lokr_w1["default"].grad),
        (two.grad, peft_layer.lokr_w2["default"].grad),
    ]
    for own, other in pairs:
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-12)
    delta = Kron(one.detach().numpy(), two.detach().numpy()).delta()
    np.testing.assert_allclose(delta, peft_layer.get_delta_weight("default").detach(), atol=1e-12)
    assert network[0] is layer


def test_a_kron_alone_and_beside_lora_in_one_batch(parts64: Parts) -> None:
    """Rows of a LoKr, a LoRA and no style at once give what each gives alone."""
    network = parts64.denoiser
    names = lora_layers.chosen_modules(network, parts64.family.groups, [*parts64.family.groups])
    shared = SharedBase(parts64)
    g = torch.Generator().manual_seed(0)
    numbers = [shared.new_adapter_index() for _ in range(3)]
    krons = shared.attach_other(numbers[0], network, names, other_methods.kron_maker(4, 1))
    loras = shared.attach(numbers[1], network, names[::2], rank=2, alpha=2.0, seed=2)
    for pair in (*krons.values(), *loras.values()):
        pair[1].data.copy_(torch.randn(pair[1].shape, generator=g) * 0.1)
    noisy = torch.randn(3, 4, 8, 8, generator=g, dtype=torch.double)
    words = torch.randn(3, 77, network.config.cross_attention_dim, generator=g).double()

    def said(rows: slice, route: list[int]) -> torch.Tensor:
        with shared.routed(route), torch.no_grad():
            return network(
                noisy[rows], torch.tensor([3] * len(noisy[rows])), words[rows], return_dict=False
            )[0]

    try:
        together = said(slice(0, 3), [numbers[0], numbers[2], numbers[1]])
        for row, number in ((0, numbers[0]), (1, numbers[2]), (2, numbers[1])):
            alone = said(slice(row, row + 1), [number])
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-10, atol=1e-10)
        assert (
            said(slice(0, 1), [numbers[0]]) - said(slice(0, 1), [numbers[2]])
        ).abs().max() > 1e-3
    finally:
        for number in numbers:
            shared.leave(number)


def test_it_is_trained_resumed_written_drawn_with_and_begun_from(
    config: RunConfig, parts: Parts
) -> None:
    config = changed(config, save__every=2, adapter__targets=["attention", "convolutions"], **LOKR)
    straight = changed(config, save__name="straight")
    list(train(straight))
    broken_off(config, 3)
    list(train(config))
    file = config.run_folder / "s.safetensors"
    tensors = load_file(file)
    other = load_file(straight.run_folder / "straight.safetensors")
    assert tensors.keys() == other.keys()
    assert all(np.array_equal(tensors[name], other[name]) for name in tensors)
    assert {name.rpartition(".")[2] for name in tensors} == {"lokr_w1", "lokr_w2"}
    style = read_style(file)
    assert style.kinds == ("LoKr",) and style.ranks == "" and not style.warnings
    assert style.metadata["ss_network_module"] == "lycoris.kohya"
    assert all(isinstance(change, Kron) for change in style.modules.values())
    assert _method(style) == {"method": "lokr", "factor": 4}
    # It is drawn as strongly as asked, alone and beside another, as if it were in the weights
    _drawn_is_merged(style, parts)
    # A run begins as it is, and does not where the method or the factor is another
    begun = changed(config, adapter__start=str(file), save__name="begun")
    ready = trainers.ready(planned(begun), trial=True)
    for (part, module), (_, two) in ready.adapters.items():
        if part == "unet":
            wanted = style.modules["lora_unet_" + module.replace(".", "_")]
            assert isinstance(wanted, Kron)
            assert np.array_equal(two.detach().numpy(), wanted.two.reshape(two.shape))
    with pytest.raises(StyleFileError, match=r"factors of \(4, 4\).*adapter\.factor to 4"):
        trainers.ready(planned(changed(begun, adapter__factor=2)), trial=True)
    with pytest.raises(StyleFileError, match="rank"):
        trainers.ready(planned(changed(begun, adapter__method="lora")), trial=True)


def _drawn_is_merged(style: Style, parts: Parts) -> None:
    """A style's rows answer as a base does into whose weights it was added."""
    active = load_style(style, parts)
    network = parts.denoiser
    g = torch.Generator().manual_seed(3)
    noisy = torch.randn(2, 4, 8, 8, generator=g)
    words = torch.randn(2, 77, network.config.cross_attention_dim, generator=g)

    def said() -> torch.Tensor:
        with torch.no_grad():
            return network(noisy, torch.tensor([3, 700]), words, return_dict=False)[0]

    half = type(active)(active.modules, 0.5)
    with apply_styles({"unet": network}, [[], [half, active]]):
        drawn = said()
    before = said()
    changes = [(m, c) for (part, m), c in active.modules.items() if part == "unet"]
    kept = {m: network.get_submodule(m).weight.detach().clone() for m, _ in changes}
    for module, change in changes:
        network.get_submodule(module).weight.data += 1.5 * torch.from_numpy(change.delta())
    merged = said()
    for module, weight in kept.items():
        network.get_submodule(module).weight.data.copy_(weight)
    torch.testing.assert_close(drawn[0], before[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(drawn[1], merged[1], rtol=1e-4, atol=1e-4)
    assert (merged - before).abs().max() > 1e-3


def test_a_lokr_and_a_lora_are_trained_in_one_pass(config: RunConfig) -> None:
    """A style learns what it learns alone, up to rounding."""
    settings = {"optim__text_encoder_lr": 0.0, "optim__steps": 3}
    kron = changed(config, **LOKR | settings | {"save__name": "kron"})
    lora = changed(config, **settings | {"save__name": "lora", "optim__seed": 5})
    alone = changed(kron, save__name="alone")
    list(train(alone))
    list(together([kron, lora]))
    found, wanted = (read_style(c.run_folder / f"{c.save.name}.safetensors") for c in (kron, alone))
    assert found.kinds == ("LoKr",)
    scale = max(abs(change.delta()).max() for change in wanted.modules.values())
    for name, change in wanted.modules.items():
        np.testing.assert_allclose(found.modules[name].delta(), change.delta(), atol=0.02 * scale)


def random_kron(one: tuple[int, ...], two: tuple[int, ...], seed: int = 0) -> Kron:
    g = np.random.default_rng(seed)
    return Kron(*(g.standard_normal(shape, np.float32) for shape in (one, two)))


@pytest.mark.parametrize("two", [(5, 2), (5, 2, 3, 3)])
def test_arithmetic_keeps_the_change(two: tuple[int, ...]) -> None:
    kron = random_kron((3, 4), two)
    delta = kron.delta()
    assert delta.shape == kron.shape
    np.testing.assert_allclose(kron.as_lora().delta(), delta, atol=1e-5)
    assert kron.square() == pytest.approx(float((delta.astype(np.float64) ** 2).sum()), rel=1e-5)
    np.testing.assert_allclose(kron.times(-0.5).delta(), -0.5 * delta, rtol=1e-6)
    for counts in ([5, 10], [4, 11]):  # between blocks of the second factor, and within one
        pieces = np.concatenate([piece.delta() for piece in split_rows(kron, counts)])
        np.testing.assert_allclose(pieces, delta, atol=1e-5)
    lora = Lora(np.ones((1, *kron.shape[1:]), np.float32), np.ones((15, 1), np.float32), 1.0)
    lora = lora if len(two) == 2 else Lora(lora.down, lora.up[..., None, None], 1.0)
    np.testing.assert_allclose(added([(kron, 2.0), (lora, 1.0)]).delta(), 2 * delta + 1, atol=1e-4)
    assert isinstance(added([(kron, 2.0)]), Kron)
    flat = kron.shaped((15, delta[0].size)) if len(two) == 2 else kron
    assert (
        flat is kron and kron.shaped((15, 9)) is None and kron.shaped((14, *kron.shape[1:])) is None
    )
    weak = weakened({("unet", "mid_block.x"): kron}, Weight(0.25))
    np.testing.assert_allclose(weak["unet", "mid_block.x"].delta(), delta / 4, rtol=1e-6)


def test_the_commands_keep_it_or_say_what_becomes_of_it(
    base_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = base_files.find(str(base_folder))
    place = DeviceSpec(torch.device("cpu"), torch.float32)
    shapes = loader.weight_shapes(loader.load_part(files, "unet", place))
    name = next(n for n in shapes if n.endswith("attn2.to_q"))
    key = "lora_unet_" + name.replace(".", "_")
    kron = random_kron(*factor_shapes(shapes[name], 4))
    file, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file({f"{key}.lokr_w1": kron.one, f"{key}.lokr_w2": kron.two}, file)

    def run(*command: str) -> None:
        assert style_file.main([*command, "--out", str(out), "--force"]) == 0

    family = ["--family", "sd1"]
    run("convert", str(file), "--to", "kohya", *family)
    assert {n.rpartition(".")[2] for n in load_file(out)} == {"lokr_w1", "lokr_w2"}
    run("merge", f"{file}:0.5", *family)
    np.testing.assert_allclose(read_style(out).modules[key].delta(), kron.delta() / 2, atol=1e-6)
    run("merge", str(file), f"{file}:-0.5", *family)
    np.testing.assert_allclose(read_style(out).modules[key].delta(), kron.delta() / 2, atol=1e-4)
    run("convert", str(file), "--to", "diffusers", *family)
    (change,) = read_style(out).modules.values()
    assert isinstance(change, Lora) and "LoKr were written as LoRA" in capsys.readouterr().out
    np.testing.assert_allclose(change.delta(), kron.delta(), atol=1e-4)
    run("resize", str(file), "--rank", "2", *family)
    assert read_style(out).modules[key].rank == 2
    baked = tmp_path / "baked"
    assert (
        style_file.main(["bake", str(file), "--base", str(base_folder), "--out", str(baked)]) == 0
    )
    before, after = (
        loader.load_part(base_files.find(str(f)), "unet", place).get_submodule(name).weight.detach()
        for f in (base_folder, baked)
    )
    np.testing.assert_allclose(after - before, kron.delta(), atol=1e-2)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("adapter__factor", 600),
        ("adapter__factor", -1),
        ("adapter__ranks", ["ff=2"]),
        ("adapter__scale", "alpha_over_root"),
        ("optim__up_ratio", 4.0),
    ],
)
def test_what_means_nothing_for_lokr_is_refused(
    setting: str, value: Any, config: RunConfig
) -> None:
    with pytest.raises(ConfigError, match=setting.replace("__", r"\.")):
        changed(config, **LOKR | {setting: value})


@pytest.mark.parametrize("family", ["z-image", "flux2-klein"])
def test_diffusers_reads_the_file_of_a_transformer(family: str, tmp_path: Path) -> None:
    """Loaded and fused by the stock pipeline: every weight changes alike."""
    from diffusers import DiffusionPipeline

    folder = tiny_flow.made(family, tmp_path / "base")
    files = base_files.find(str(folder))
    place = DeviceSpec(torch.device("cpu"), torch.float32)
    network = loader.load_part(files, "transformer", place)
    shapes, groups = loader.weight_shapes(network), files.family.groups
    modules = lora_layers.chosen_modules(network, groups, [*groups])
    own = {
        ("transformer", module): random_kron(*factor_shapes(shapes[module], 4), seed=i)
        for i, module in enumerate(modules)
    }
    own = {place: kron.times(0.1) for place, kron in own.items()}
    content = style_bytes(
        "a", named(own, "diffusers", family), {}, dtype="float32", dialect="diffusers"
    )
    back = match(style_from_bytes(content, "a"), accepted_names({"transformer": shapes}, family))
    assert back.keys() == own.keys()
    assert all(np.array_equal(back[key].delta(), own[key].delta()) for key in own)
    (tmp_path / "a.safetensors").write_bytes(content)
    pipe: Any = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    before = {k: v.clone() for k, v in pipe.transformer.state_dict().items()}
    pipe.load_lora_weights(str(tmp_path), weight_name="a.safetensors", use_safetensors=True)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    after = pipe.transformer.state_dict()
    for (_, module), kron in own.items():
        change = (after[f"{module}.weight"] - before[f"{module}.weight"]).numpy()
        assert abs(change - kron.delta()).max() < 1e-5, module
