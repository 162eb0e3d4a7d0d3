"""Weights kept in fewer bytes: how far they are rounded, and that every path has the same ones."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.tiny import tiny_xl
from training.adapters import lora_layers
from training.adapters.lora_layers import set_gradient_checkpointing
from training.adapters.low_rank import is_pointwise
from training.adapters.multi_lora import SharedBase
from training.models import base_files, loader
from training.models.family import Parts
from training.modules.attention import choose_attention
from training.modules.conv import FrozenConv2d, freeze_convolutions
from training.modules.stored import (
    GROUP,
    STORAGES,
    Stored,
    StoredConv2d,
    StoredLinear,
    shape_of,
    source_of,
    store_weights,
)
from training.modules.torch_patches import change_class
from training.runtime.device import DeviceSpec

CPU = torch.device("cpu")
NF4 = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="the extra nf4 is not installed"
)
each_storage = pytest.mark.parametrize(
    "storage", ["bfloat16", "int8", pytest.param("nf4", marks=NF4)]
)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def put_back(network: nn.Module) -> int:
    """Give stored layers the weights that they make, as plain parameters; how many there were."""
    stored = [m for m in network.modules() if isinstance(m, Stored)]
    for module in stored:
        weight = module.weight
        for name, _ in list(module.named_buffers(recurse=False)):
            delattr(module, name)
        module.__class__ = nn.Linear if isinstance(module, StoredLinear) else FrozenConv2d
        module.weight = nn.Parameter(weight, requires_grad=False)
    return len(stored)


# --- one matrix ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("columns", [1, 96, GROUP, 320])
def test_int8_is_the_nearest_of_255_in_every_group(dtype: torch.dtype, columns: int) -> None:
    matrix = random(7, columns, dtype=dtype) * torch.logspace(-4, 2, 7)[:, None].to(dtype)
    matrix[3] = 0
    storage = STORAGES["int8"]
    whole, scale = storage.keep(matrix)
    assert (whole.dtype, scale.dtype) == (torch.int8, dtype)
    assert scale.shape == (7, -(-columns // GROUP))
    made = storage.restore(matrix.shape, dtype, whole, scale)
    assert made.dtype == dtype and made.is_contiguous() and (made[3] == 0).all()
    each = scale.float().repeat_interleave(GROUP, 1)[:, :columns]
    exact = whole.float() * each
    # Half a step, and for the largest 127 times what the scale lost by being rounded itself, which
    # below float16's normal numbers is half of its smallest one
    lost = 127 * (each * torch.finfo(dtype).eps / 2).clamp(min=2**-25 * (dtype == torch.float16))
    assert ((exact - matrix.float()).abs() <= each / 2 * 1.0001 + lost).all()
    assert ((made.float() - exact).abs() <= exact.abs() * torch.finfo(dtype).eps).all()
    assert torch.equal(storage.restore(matrix.shape, dtype, *storage.keep(made))[3], made[3])


def test_int8_takes_half_of_16_bits() -> None:
    kept = STORAGES["int8"].keep(random(256, 1280, dtype=torch.bfloat16))
    assert sum(k.nbytes for k in kept) == 256 * 1280 * (1 + 2 / GROUP)


@pytest.mark.parametrize(("storage", "bound"), [("bfloat16", 0.002), ("int8", 0.007)])
def test_rounding_error_of_gaussian_weights(storage: str, bound: float) -> None:
    """int8: 0.0065, as measured for groups of 128 and scales that are not rounded."""
    matrix = random(512, 1024)
    made = STORAGES[storage].restore(matrix.shape, matrix.dtype, *STORAGES[storage].keep(matrix))
    error = ((made - matrix).norm() / matrix.norm()).item()
    assert bound / 2 < error < bound


@NF4
def test_nf4_is_that_of_bitsandbytes_but_for_the_rounded_scales() -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    matrix = random(96, 320, dtype=torch.bfloat16)
    kept = STORAGES["nf4"].keep(matrix)
    made = STORAGES["nf4"].restore(matrix.shape, matrix.dtype, *kept)
    theirs = dequantize_4bit(*quantize_4bit(matrix, blocksize=64, quant_type="nf4"))
    torch.testing.assert_close(made, theirs, rtol=2**-7, atol=0)
    assert 0.08 < ((made - matrix).norm() / matrix.norm()).item() < 0.1
    assert sum(k.nbytes for k in kept) == 96 * 320 * (0.5 + 2 / 64)


# --- one layer ---


def layers(dtype: torch.dtype) -> list[tuple[nn.Module, Tensor]]:
    """Frozen layers of every kind, and an input for each."""
    torch.manual_seed(0)
    made: list[tuple[nn.Module, Tensor]] = [
        (nn.Linear(96, 48), random(2, 5, 96)),
        (nn.Linear(256, 32, bias=False), random(2, 256)),
        (nn.Conv2d(32, 48, 3, padding=1), random(2, 32, 6, 6)),
        (nn.Conv2d(64, 32, 3, stride=2, padding=1), random(2, 64, 20, 20)),
        (nn.Conv2d(48, 96, 1), random(2, 48, 4, 4)),
    ]
    for module, _ in made:
        module.to(dtype=dtype, memory_format=torch.channels_last).requires_grad_(False)
        freeze_convolutions(module)
    return [(module, x.to(dtype)) for module, x in made]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_storage
def test_a_stored_layer_is_the_layer_of_the_weight_that_it_makes(
    storage: str, dtype: torch.dtype
) -> None:
    for stored, (plain, x) in zip(layers(dtype), layers(dtype), strict=True):
        network, same = nn.Sequential(stored[0]), nn.Sequential(plain)
        store_weights(network, storage)
        layer = network[0]
        assert isinstance(layer, Stored) and not list(layer.parameters())[1:]
        same[0].weight.data.copy_(layer.weight)
        assert layer.weight.stride() == same[0].weight.stride()
        answers = []
        for each in (network, same):
            leaf = x.clone().requires_grad_()
            y = each(leaf)
            y.backward(random(*y.shape, seed=1, dtype=dtype))
            with torch.no_grad():
                answers.append((y, leaf.grad, each(x)))
        for ours, theirs in zip(*answers, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_storage
def test_adapters_on_a_stored_layer_see_the_same_weight_in_training_alone_and_together(
    storage: str, dtype: torch.dtype
) -> None:
    for place in range(5):
        answers = []
        for put in (False, True):
            module, x = layers(dtype)[place]
            network = nn.Sequential(module)
            store_weights(network, storage)
            if put:
                assert put_back(network) == 1
            layer = lora_layers.LoraLayer(network[0], router := lora_layers.Router(0))
            shape = shape_of(layer.base)
            for index in range(2):
                down = random(4, *shape[1:], seed=index).requires_grad_()
                up = random(shape[0], 4, *(1 for _ in shape[2:]), seed=9 + index).requires_grad_()
                layer.adapters[index] = lora_layers.Adapter(down, up, 0.5)
            found = []
            # A layer that PEFT did not wrap takes a number only where all is one product
            for route in (0, (1, 0))[not is_pointwise(layer.base) :]:
                with router.routed(route):
                    leaf = x.clone().requires_grad_()
                    y = network(leaf)
                    y.backward(random(*y.shape, seed=1, dtype=dtype))
                    found += [y, leaf.grad]
            masters = [m for a in layer.adapters.values() for m in (a.down.grad, a.up.grad)]
            answers.append([*found, *masters])
        for ours, theirs in zip(*answers, strict=True):
            assert torch.equal(ours, theirs)


def test_nothing_of_a_weight_that_was_made_is_kept_for_the_backward() -> None:
    kept: list[int] = []
    for module, x in layers(torch.float32):
        network = nn.Sequential(module)
        store_weights(network, "int8")
        layer = lora_layers.LoraLayer(network[0], router := lora_layers.Router(0))
        shape = shape_of(layer.base)
        down = random(4, *shape[1:]).requires_grad_()
        up = random(shape[0], 4, *(1 for _ in shape[2:])).requires_grad_()
        layer.adapters[0] = lora_layers.Adapter(down, up, 1.0)
        for route in (0, None, (0, 0)):
            if route == 0 and not is_pointwise(layer.base):
                continue
            with router.routed(route):

                def keep(tensor: Tensor) -> Tensor:
                    kept.append(tensor.numel() if tensor.dtype != torch.int8 else 0)
                    return tensor

                with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
                    network(x.clone().requires_grad_())
                # Less than the weight, as whatever is the size of it would be
                assert shape.numel() not in kept


def test_small_layers_and_odd_ones_stay_as_they_are() -> None:
    network = nn.Sequential(
        nn.Conv2d(4, 64, 3), nn.Linear(64, 8), nn.Conv2d(64, 64, 3, groups=2), nn.LayerNorm(64)
    )
    freeze_convolutions(network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    store_weights(network, "int8")
    assert not any(isinstance(m, Stored) for m in network.modules())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_stored_layer_moves_and_has_no_weight_to_train() -> None:
    network = nn.Sequential(nn.Linear(64, 64))
    store_weights(network, "int8")
    assert source_of(network[0]).make is not None
    moved = network.to("meta")
    assert moved[0].weight.device.type == "meta" and moved[0].weight.shape == (64, 64)
    with pytest.raises(AttributeError, match="nothing"):
        _ = network[0].nothing


# --- a whole base ---


def base(folder: Path, storage: str, dtype: torch.dtype = torch.float32) -> Parts:
    return loader.load(base_files.find(str(folder)), DeviceSpec(CPU, dtype, storage))


@pytest.fixture(params=["sd1", "sdxl"])
def folder(request: pytest.FixtureRequest, base_folder: Path, tmp_path: Path) -> Path:
    return base_folder if request.param == "sd1" else tiny_xl(tmp_path / "xl")


def modules_of(parts: Parts, part: str) -> list[str]:
    family = parts.family
    groups = family.text_groups if part in family.text_encoders else family.groups
    return lora_layers.chosen_modules(parts.networks[part], groups, list(groups))


def gradients(parts: Parts, checkpointing: bool, *, shared: bool = False) -> list[Tensor]:
    """The answer and every gradient, adapters on denoiser and text encoders."""
    choose_attention(parts.denoiser)
    together = SharedBase(parts)
    put_on = lora_layers.attach
    pairs = []
    for part in (parts.family.denoiser, *parts.family.text_encoders):
        network, modules = parts.networks[part], modules_of(parts, part)
        for style in range(2) if shared else range(1):
            own = {"rank": 4, "alpha": 2.0, "seed": style}
            if shared:
                found = together.attach(style, network, modules, **own)
            else:
                found = put_on(network, modules, **own)
            pairs += list(found.values())
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, up in pairs:
            up.copy_(torch.randn(up.shape, generator=g) * 0.1)
    set_gradient_checkpointing(parts.denoiser, checkpointing)
    noisy = torch.randn(2, 4, 16, 16, generator=g).to(parts.denoiser.dtype)
    with together.routed((0, 1)):
        words = parts.family.encode_text(parts, ["a cat", "dog"])
        said = parts.family.predict(parts, noisy, torch.tensor([3, 900]), words)
        said.float().square().mean().backward()
    return [said, *(p.grad for pair in pairs for p in pair if p.grad is not None)]


@pytest.mark.parametrize(
    ("storage", "dtype"),
    [
        ("int8", torch.float32),
        ("int8", torch.bfloat16),
        pytest.param("nf4", torch.bfloat16, marks=NF4),
    ],
)
def test_a_stored_base_has_the_bits_of_the_base_of_its_rounded_weights(
    folder: Path, storage: str, dtype: torch.dtype
) -> None:
    for shared in (False, True):
        answers = []
        for put in (False, True):
            parts = base(folder, storage, dtype)
            if put:
                counts = {part: put_back(network) for part, network in parts.networks.items()}
                assert counts.pop("vae") == 0 and all(counts.values())
            answers.append(gradients(parts, False, shared=shared))
        assert len(answers[0]) > 20
        for ours, theirs in zip(*answers, strict=True):
            assert torch.equal(ours, theirs)


def test_checkpointing_gives_a_stored_base_the_same_bits(folder: Path) -> None:
    with_it, without = (gradients(base(folder, "int8"), on) for on in (True, False))
    for ours, theirs in zip(with_it, without, strict=True):
        assert torch.equal(ours, theirs)


def test_the_same_layers_are_adapted(folder: Path) -> None:
    plain, stored = base(folder, ""), base(folder, "int8")
    for part in (plain.family.denoiser, *plain.family.text_encoders):
        assert modules_of(plain, part) == modules_of(stored, part)
        networks = (plain.networks[part], stored.networks[part])
        assert loader.weight_shapes(networks[0]) == loader.weight_shapes(networks[1])


def test_a_stored_convolution_replaces_only_frozen_ones() -> None:
    with pytest.raises(TypeError, match="not a kind"):
        change_class(nn.Conv2d(16, 16, 3), StoredLinear)
    assert issubclass(StoredConv2d, FrozenConv2d)
