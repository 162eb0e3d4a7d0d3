from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from training.adapters import lora_layers, low_rank
from training.models import base_files, loader
from training.models.family import Parts
from training.modules.attention import ShapedAttention, attend, choose_attention
from training.runtime.device import DeviceSpec


@pytest.fixture
def own_parts(base_folder: Path) -> Parts:
    return loader.load(
        base_files.find(str(base_folder)), DeviceSpec(torch.device("cpu"), torch.float64)
    )


def said(parts: Parts) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    noisy = torch.randn(2, 4, 8, 8, generator=g, dtype=torch.double)
    words = parts.family.encode_text(parts, ["a cat", "dog"])
    return parts.family.predict(parts, noisy, torch.tensor([3, 900]), words)


def all_modules(parts: Parts, part: str) -> list[str]:
    family = parts.family
    groups = family.text_groups if part in family.text_encoders else family.groups
    return lora_layers.chosen_modules(parts.networks[part], groups, list(groups))


def test_a_new_adapter_changes_nothing(own_parts: Parts) -> None:
    before = said(own_parts)
    for part in ("unet", "text_encoder"):
        lora_layers.attach(
            own_parts.networks[part], all_modules(own_parts, part), rank=4, alpha=4, seed=0
        )
    torch.testing.assert_close(said(own_parts), before, rtol=1e-12, atol=1e-12)


def test_trained_adapters_equal_merged_weights(own_parts: Parts) -> None:
    torch.manual_seed(0)
    frozen = {
        part: {k: v.clone() for k, v in own_parts.networks[part].state_dict().items()}
        for part in ("unet", "text_encoder")
    }
    found = {
        p: lora_layers.attach(
            own_parts.networks[p], all_modules(own_parts, p), rank=4, alpha=2, seed=0
        )
        for p in frozen
    }
    with torch.no_grad():
        for pairs in found.values():
            for _, up in pairs.values():
                up.normal_(std=0.1)
    with_adapters = said(own_parts)
    own_parts.networks = {
        p: loader.load_part(base_files.find(own_parts_path(own_parts)), p, place64())
        for p in frozen
    }
    for part, pairs in found.items():
        for name, (down, up) in pairs.items():
            weight = own_parts.networks[part].get_submodule(name).weight
            delta = torch.einsum("or,r...->o...", up.double().flatten(1), down.double()) * (2 / 4)
            weight.data += delta.reshape(weight.shape)
    torch.testing.assert_close(with_adapters, said(own_parts), rtol=1e-9, atol=1e-9)


def own_parts_path(parts: Parts) -> str:
    return str(Path(parts.denoiser.config._name_or_path).parent)


def place64() -> DeviceSpec:
    return DeviceSpec(torch.device("cpu"), torch.float64)


def test_fused_function_has_the_right_gradients() -> None:
    g = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.randn(shape, generator=g, dtype=torch.double)

    x, weight, bias = rand(2, 3, 5).requires_grad_(), rand(4, 5), rand(4)
    down, up = rand(2, 5).requires_grad_(), rand(4, 2).requires_grad_()

    def call(x, down, up):
        return low_rank.LowRank.apply(x, weight, bias, down, up, 0.7)

    assert torch.autograd.gradcheck(call, (x, down, up))
    torch.testing.assert_close(
        call(x, down, up), x @ weight.t() + bias + 0.7 * x @ down.t() @ up.t()
    )


def test_fused_bfloat16_stays_within_its_rounding_of_float64() -> None:
    g = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.randn(shape, generator=g)

    x, weight, down, up, grad = (
        rand(64, 32),
        rand(48, 32) / 6,
        rand(8, 32) / 6,
        rand(48, 8) / 10,
        rand(64, 48),
    )

    def gradients(dtype: torch.dtype, masters: torch.dtype) -> list[torch.Tensor]:
        leaves = [
            v.to(kind).detach().requires_grad_()
            for v, kind in ((x, dtype), (down, masters), (up, masters))
        ]
        y = low_rank.LowRank.apply(leaves[0], weight.to(dtype), None, *leaves[1:], 1.5)
        y.backward(grad.to(dtype))
        return [y.detach(), *(leaf.grad for leaf in leaves)]

    for found, exact in zip(
        gradients(torch.bfloat16, torch.float32),
        gradients(torch.float64, torch.float64),
        strict=True,
    ):
        assert (found.double() - exact).norm() / exact.norm() < 1.5e-2


def test_first_weights_come_from_the_seed_alone(base_folder: Path) -> None:
    def first(seed: int) -> torch.Tensor:
        unet = loader.load_part(base_files.find(str(base_folder)), "unet", place64())
        modules = lora_layers.chosen_modules(unet, {"attention": ("to_q", "to_v")}, ["attention"])
        torch.rand(1)
        found = lora_layers.attach(unet, modules, rank=2, alpha=2, seed=seed)
        assert all((up == 0).all() and down.abs().max() > 0 for down, up in found.values())
        return torch.cat([down.detach().flatten() for down, _ in found.values()])

    assert torch.equal(first(1), first(1)) and not torch.equal(first(1), first(2))


def test_masters_stay_in_float32_on_a_bfloat16_base(base_folder: Path) -> None:
    unet = loader.load_part(
        base_files.find(str(base_folder)), "unet", DeviceSpec(torch.device("cpu"), torch.bfloat16)
    )
    found = lora_layers.attach(
        unet,
        lora_layers.chosen_modules(unet, {"attention": ("to_q",)}, ["attention"]),
        rank=2,
        alpha=2,
        seed=0,
    )
    assert {p.dtype for pair in found.values() for p in pair} == {torch.float32}
    assert all(
        p.dtype == torch.bfloat16 for name, p in unet.named_parameters() if "lora_" not in name
    )


@pytest.mark.parametrize("keys", [7, 64])
def test_attention_by_shape_is_softmax_attention(keys: int) -> None:
    g = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, 3, n, 8, generator=g, dtype=torch.double).requires_grad_()
        for n in (64, keys, keys)
    )
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(attend(q, k, v), wanted)
    with torch.no_grad():
        torch.testing.assert_close(attend(q, k, v), wanted)


def test_choosing_attention_changes_no_output(own_parts: Parts) -> None:
    before = said(own_parts)
    choose_attention(own_parts.denoiser)
    processors = own_parts.denoiser.attn_processors.values()
    assert all(isinstance(p, ShapedAttention) for p in processors)
    torch.testing.assert_close(said(own_parts), before, rtol=1e-10, atol=1e-10)


def test_chosen_modules_are_linears_and_convolutions_of_the_groups(parts64: Parts) -> None:
    names = lora_layers.chosen_modules(parts64.denoiser, parts64.family.groups, ["attention"])
    assert names and all(name.endswith(("to_q", "to_k", "to_v", "to_out.0")) for name in names)
    kinds = [
        type(parts64.denoiser.get_submodule(n))
        for n in lora_layers.chosen_modules(
            parts64.denoiser, parts64.family.groups, ["convolutions"]
        )
    ]
    assert kinds and all(issubclass(kind, nn.Conv2d) for kind in kinds)
