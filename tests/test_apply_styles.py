"""Styles on rows of a batch: what a row gets, and that nothing stays behind."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.adapters.inference import ActiveStyle, apply_styles
from training.models.family import Parts
from training.models.loader import weight_shapes
from training.style_files.matching import match
from training.style_files.merge import merged as merge_styles
from training.style_files.reading import Lora, accepted_names, style_from_bytes
from training.style_files.strengths import Weight, weakened
from training.style_files.writing import named, style_bytes

EXACT = 1e-11  # largest relative difference in float64


def some_lora(shape: tuple[int, ...], *, rank: int, seed: int, alpha: float | None = None) -> Lora:
    """Random matrices that change a weight of this shape by about a tenth."""
    g = np.random.default_rng(seed)
    down = g.standard_normal((rank, *shape[1:])) * np.prod(shape[1:]) ** -0.5
    up = g.standard_normal((shape[0], rank, *(1 for _ in shape[2:]))) * 0.1 * rank**-0.5
    return Lora(
        down.astype(np.float32), up.astype(np.float32), rank / 2 if alpha is None else alpha
    )


def some_style(
    parts: Parts,
    *,
    rank: int,
    seed: int,
    of: Iterable[str] = ("unet", "text_encoder"),
    keep: Callable[[str], bool] = lambda name: True,
) -> dict[tuple[str, str], Lora]:
    """A style on every linear and convolution of the named parts that keep() wants."""
    found = {}
    for part in of:
        for i, (name, shape) in enumerate(weight_shapes(parts.networks[part]).items()):
            if keep(name):
                found[part, name] = some_lora(shape, rank=rank, seed=seed * 1000 + i)
    return found


def merged(parts: Parts, active: Iterable[ActiveStyle]) -> Parts:
    """A copy of the base whose weights hold the styles."""
    made = copy.copy(parts)
    made.networks = {name: copy.deepcopy(network) for name, network in parts.networks.items()}
    for w in active:
        for (part, name), lora in w.modules.items():
            weight = made.networks[part].get_submodule(name).weight
            up, down = (torch.from_numpy(m.astype(np.float64)) for m in (lora.up, lora.down))
            delta = (up.flatten(1) @ down.flatten(1)).view(weight.shape) * (
                w.strength * lora.alpha / lora.rank
            )
            weight.data += delta.to(weight.dtype)
    return made


def apart(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def changed(parts: Parts) -> int:
    """Count the hooks and the forwards that are not their class's own."""
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + ("forward" in vars(m))
        for network in parts.networks.values()
        for m in network.modules()
    )


@pytest.fixture(scope="module")
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    x, words = (
        torch.randn((4, 4, 8, 8), generator=g, dtype=torch.float64),
        torch.randn((4, 77, 32), generator=g, dtype=torch.float64),
    )
    return x.to(memory_format=torch.channels_last), torch.tensor([10, 10, 500, 990]), words


@torch.no_grad()
def said(parts: Parts, inputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    return parts.family.predict(parts, *inputs)


def test_every_row_equals_weights_merged_with_its_styles(
    parts64: Parts, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    everywhere = ActiveStyle(some_style(parts64, rank=4, seed=1))
    attention = ActiveStyle(
        some_style(parts64, rank=7, seed=2, keep=lambda name: ".attn" in name), strength=-0.7
    )
    convolutions = ActiveStyle(
        some_style(parts64, rank=2, seed=3, keep=lambda name: "conv" in name or "proj_in" in name),
        strength=1.5,
    )
    rows = [[], [everywhere], [attention, convolutions], [convolutions]]
    with apply_styles({"unet": parts64.denoiser}, rows):
        together = said(parts64, inputs)
    for i, row in enumerate(rows):
        alone = said(merged(parts64, row), tuple(x[i : i + 1] for x in inputs))
        assert apart(together[i : i + 1], alone) < EXACT, i


def test_a_doubled_batch_has_the_styles_of_its_rows_twice(
    parts64: Parts, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    style = ActiveStyle(some_style(parts64, rank=3, seed=4))
    with apply_styles({"unet": parts64.denoiser}, [[], [style]]):
        together = said(parts64, inputs)
    plain, styled = said(parts64, inputs), said(merged(parts64, [style]), inputs)
    assert apart(together[[0, 2]], plain[[0, 2]]) < EXACT
    assert apart(together[[1, 3]], styled[[1, 3]]) < EXACT


def test_styles_apply_to_the_text_encoder_too(parts64: Parts) -> None:
    style, texts = (
        ActiveStyle(some_style(parts64, rank=3, seed=5, of=["text_encoder"])),
        ["an icon of a cat", "an icon of a cat"],
    )
    with torch.no_grad():
        with apply_styles({"text_encoder": parts64.networks["text_encoder"]}, [[], [style]]):
            together = parts64.family.encode_text(parts64, texts)
        plain = parts64.family.encode_text(parts64, texts[:1])
        alone_parts = merged(parts64, [style])
        alone = alone_parts.family.encode_text(alone_parts, texts[:1])
    assert apart(together[:1], plain) < EXACT
    assert apart(together[1:], alone) < EXACT
    assert apart(alone, plain) > 1e-3


def test_strength_zero_and_zero_weights_are_the_base(
    parts64: Parts, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    style = some_style(parts64, rank=3, seed=6)
    silent = {
        key: Lora(lora.down, np.zeros_like(lora.up), lora.alpha) for key, lora in style.items()
    }
    with apply_styles(
        {"unet": parts64.denoiser},
        [
            [ActiveStyle(style, 0.0)],
            [ActiveStyle(silent)],
            [],
            [ActiveStyle(style, 0.0), ActiveStyle(silent)],
        ],
    ):
        assert torch.equal(said(parts64, inputs), said(parts64, inputs))
        together = said(parts64, inputs)
    assert apart(together, said(parts64, inputs)) < EXACT


def test_nothing_stays_behind(parts64: Parts, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    before, first = changed(parts64), said(parts64, inputs)
    style = ActiveStyle(some_style(parts64, rank=3, seed=7))
    with apply_styles(parts64.networks, [[style]]):
        assert changed(parts64) > before
        said(parts64, inputs)
    assert changed(parts64) == before
    assert torch.equal(said(parts64, inputs), first)


def test_nothing_stays_behind_after_an_exception(
    parts64: Parts, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    before = changed(parts64)
    style = ActiveStyle(some_style(parts64, rank=3, seed=8))
    with pytest.raises(ZeroDivisionError), apply_styles(parts64.networks, [[style]]):
        raise ZeroDivisionError
    unknown = ActiveStyle({("unet", "no.such.module"): next(iter(style.modules.values()))})
    with pytest.raises(AttributeError), apply_styles(parts64.networks, [[style, unknown]]):
        pass
    assert changed(parts64) == before


def test_a_batch_of_other_rows_is_refused(
    parts64: Parts, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    style = ActiveStyle(some_style(parts64, rank=3, seed=9))
    with (
        pytest.raises(ValueError, match="4 rows does not fit a route of 3"),
        apply_styles({"unet": parts64.denoiser}, [[], [style], []]),
    ):
        said(parts64, inputs)


LAYERS = [
    nn.Conv2d(6, 8, 1),
    nn.Conv2d(6, 8, 3, stride=2, padding=1),
    nn.Conv2d(6, 8, 1, stride=2),
    nn.Linear(6, 8),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("channels_last", [True, False])
def test_each_kind_of_layer(layer: nn.Module, channels_last: bool) -> None:
    layer = copy.deepcopy(layer).double()
    x = torch.randn((4, 6, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if channels_last and isinstance(layer, nn.Conv2d):
        x, layer = (
            x.to(memory_format=torch.channels_last),
            layer.to(memory_format=torch.channels_last),
        )
    one, two = (some_lora(tuple(layer.weight.shape), rank=r, seed=r) for r in (2, 3))
    net = nn.Module()
    net.layer = layer
    with (
        apply_styles(
            {"net": net},
            [[ActiveStyle({("net", "layer"): one})], [ActiveStyle({("net", "layer"): two}, 2.0)]],
        ),
        torch.no_grad(),
    ):
        together = layer(x)
    for i in range(4):
        changed = copy.deepcopy(layer)
        lora, strength = ((one, 1.0), (two, 2.0))[i % 2]
        changed.weight.data += torch.from_numpy(lora.delta().astype(np.float64)) * strength
        assert apart(together[i], changed(x[i : i + 1])[0].detach()) < 1e-6  # delta() is float32


def test_a_mix_by_part_and_block_is_the_weighted_sum_applied_or_saved(
    parts64: Parts, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Three styles, weights of their own for the text encoder and for groups of blocks:

    by rows, in merged weights, and from one saved file.
    """
    weights = (
        Weight(0.7, 0.3, (("mid", 1.5), ("up.1", 0.0))),
        Weight(-0.4, 0.0, (("down", 0.9), ("down.0", 0.2))),
        Weight(0.5, 1.2, (("text_encoder", -0.6), ("up", 0.8))),
    )
    styles = [some_style(parts64, rank=2 + i, seed=11 + i) for i in range(3)]
    by_hand = copy.copy(parts64)
    by_hand.networks = {name: copy.deepcopy(network) for name, network in parts64.networks.items()}
    for style, weight in zip(styles, weights, strict=True):
        for (part, name), lora in style.items():
            up, down = (torch.from_numpy(m.astype(np.float64)) for m in (lora.up, lora.down))
            matrix = by_hand.networks[part].get_submodule(name).weight
            matrix.data += (up.flatten(1) @ down.flatten(1)).view(matrix.shape) * (
                factor(weight, part, name) * lora.alpha / lora.rank
            )
    row = [
        ActiveStyle(weakened(style, weight)) for style, weight in zip(styles, weights, strict=True)
    ]
    saved = merge_styles(list(zip(styles, weights, strict=True))).changes
    written = style_bytes("mix.safetensors", named(saved, "kohya", "sd1"), {}, dtype="float32")
    known = {part: weight_shapes(parts64.networks[part]) for part in ("unet", "text_encoder")}
    back = match(style_from_bytes(written, "mix.safetensors"), accepted_names(known, "sd1"))
    captions = ["a cat", "an icon"] * 2
    truth = said(by_hand, inputs), by_hand.family.encode_text(by_hand, captions)
    for active, exact in ((row, EXACT), ([ActiveStyle(back)], 1e-6)):
        with apply_styles(parts64.networks, [active] * 4), torch.no_grad():
            assert apart(said(parts64, inputs), truth[0]) < exact
            assert apart(parts64.family.encode_text(parts64, captions), truth[1].detach()) < exact
    assert apart(said(parts64, inputs), truth[0]) > 0.01  # the mix does something


def factor(weight: Weight, part: str, name: str) -> float:
    """What a weight's narrowest group says of one module, looked up by hand."""
    groups = dict(weight.groups)
    if part == "text_encoder":
        return groups.get("text_encoder", groups.get("text", weight.text))
    side, level = name.split(".")[:2] if "." in name else (name, "")
    short = side.removesuffix("_blocks").removesuffix("_block")
    return groups.get(f"{short}.{level}", groups.get(short, weight.unet))
