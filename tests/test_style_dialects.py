"""A style in any program's form means the same change of every layer:

files are built from each form's definition and compared.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers as library
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as read_numpy
from safetensors.numpy import save
from safetensors.torch import save as save_torch

from tests.test_style_file import (
    Parts,
    Shapes,
    sd1_parts,
    sd1_pipeline,
    sd2_parts,
    sdxl_parts,
    sdxl_pipeline,
    shapes_of,
)
from training.adapters.inference import ActiveStyle, apply_styles
from training.errors import StyleFileError
from training.style_files.family_spec import SPECS
from training.style_files.formats import check_sizes
from training.style_files.key_names import canonical_name, diffusers_names, kohya_names
from training.style_files.lora import Change as AnyChange
from training.style_files.lora import Hada, Kron
from training.style_files.matching import match
from training.style_files.reading import Lora, Style, accepted_names, read_style, style_from_bytes
from training.style_files.writing import converted, style_bytes

Tensors = dict[str, np.ndarray]
Change = np.ndarray
EXACT = 1e-6  # of the largest value of a layer's change
BUILD = {"mini": sd1_parts, "sd1": sd1_parts, "sd2": sd2_parts, "sdxl": sdxl_parts}
FAMILIES = tuple(BUILD)
# Networks are built for each; other tests here read every family's forms without that
SDXL_AND_MORE = ["sdxl", *(pytest.param(name, marks=pytest.mark.long) for name in ("sd1", "sd2"))]


@pytest.fixture(scope="module")
def shapes() -> dict[str, Shapes]:
    """family -> the shapes of a tiny base of that family."""
    return {family: shapes_of(build()) for family, build in BUILD.items()}


# One layer in each form, from its definition: tensors by leaf, and the change of the weight that
# they mean


def lora(
    shape: tuple[int, ...], r: int, alpha: float | None, draw: Callable[..., np.ndarray]
) -> tuple[Tensors, Change]:
    """dW = alpha / r * up @ down (kohya-ss/sd-scripts, networks/lora.py); without alpha, alpha is
    r.
    """
    ones = (1,) * (len(shape) - 2)
    down, up = draw(r, *shape[1:]), draw(shape[0], r, *ones)
    scale = 1.0 if alpha is None else alpha / r
    change = (
        np.einsum("or,ri->oi", up.reshape(shape[0], r), down.reshape(r, -1)).reshape(shape) * scale
    )
    return {"lora_down.weight": down, "lora_up.weight": up} | _alpha(alpha), change


def tucker(
    shape: tuple[int, ...], r: int, alpha: float | None, draw: Callable[..., np.ndarray]
) -> tuple[Tensors, Change]:
    """A 1x1 down, a k x k core, a 1x1 up, one after the other (LyCORIS, modules/locon.py).

    Linears have no core.
    """
    if len(shape) == 2 or shape[2] == 1:
        return lora(shape, r, alpha, draw)
    down, mid, up = draw(r, shape[1], 1, 1), draw(r, r, *shape[2:]), draw(shape[0], r, 1, 1)
    change = np.einsum("oa,abkl,bi->oikl", up[:, :, 0, 0], mid, down[:, :, 0, 0]) * (
        1.0 if alpha is None else alpha / r
    )
    return {"lora_down.weight": down, "lora_mid.weight": mid, "lora_up.weight": up} | _alpha(
        alpha
    ), change


def loha(
    shape: tuple[int, ...], r: int, alpha: float | None, draw: Callable[..., np.ndarray]
) -> tuple[Tensors, Change]:
    """dW = alpha / r * (w1a @ w1b) * (w2a @ w2b), a convolution as a matrix (LyCORIS,
    modules/loha.py).
    """
    columns = int(np.prod(shape[1:]))
    a1, b1, a2, b2 = draw(shape[0], r), draw(r, columns), draw(shape[0], r), draw(r, columns)
    change = ((a1 @ b1) * (a2 @ b2)).reshape(shape) * (1.0 if alpha is None else alpha / r)
    return {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2} | _alpha(
        alpha
    ), change


def loha_tucker(
    shape: tuple[int, ...], r: int, alpha: float | None, draw: Callable[..., np.ndarray]
) -> tuple[Tensors, Change]:
    """The same with a k x k core in each factor; the factors stand the other way round."""
    if len(shape) == 2 or shape[2] == 1:
        return loha(shape, r, alpha, draw)
    parts = [(draw(r, r, *shape[2:]), draw(r, shape[0]), draw(r, shape[1])) for _ in range(2)]
    one, two = (np.einsum("abkl,ao,bi->oikl", t, a, b) for t, a, b in parts)
    named = {
        f"hada_{leaf}": array
        for n, (t, a, b) in enumerate(parts, 1)
        for leaf, array in ((f"t{n}", t), (f"w{n}_a", a), (f"w{n}_b", b))
    }
    return named | _alpha(alpha), one * two * (1.0 if alpha is None else alpha / r)


def lokr(
    shape: tuple[int, ...], r: int, alpha: float | None, draw: Callable[..., np.ndarray]
) -> tuple[Tensors, Change]:
    """dW = alpha / r * kron(w1, w2a @ w2b), w2 a matrix (out, in * k * k) (LyCORIS,
    modules/lokr.py).
    """
    a, b, c, d = _factors(shape)
    w1, left, right = draw(a, b), draw(c, r), draw(r, d * int(np.prod(shape[2:])))
    change = np.kron(w1, left @ right).reshape(shape) * (1.0 if alpha is None else alpha / r)
    return {"lokr_w1": w1, "lokr_w2_a": left, "lokr_w2_b": right} | _alpha(alpha), change


def lokr_whole(
    shape: tuple[int, ...], r: int, alpha: float | None, draw: Callable[..., np.ndarray]
) -> tuple[Tensors, Change]:
    """dW = kron(w1, w2) of two whole factors; alpha counts for nothing."""
    a, b, c, d = _factors(shape)
    w1, w2 = draw(a, b), draw(c, d, *shape[2:])
    return {"lokr_w1": w1, "lokr_w2": w2} | _alpha(alpha), np.kron(
        w1.reshape(a, b, *(1,) * (len(shape) - 2)), w2
    )


def lokr_tucker(
    shape: tuple[int, ...], r: int, alpha: float | None, draw: Callable[..., np.ndarray]
) -> tuple[Tensors, Change]:
    """The same with both factors split, the second around a k x k core."""
    a, b, c, d = _factors(shape)
    one, two = draw(a, r), draw(r, b)
    scale = 1.0 if alpha is None else alpha / r
    named = {"lokr_w1_a": one, "lokr_w1_b": two} | _alpha(alpha)
    if len(shape) == 2 or shape[2] == 1:
        left, right = draw(c, r), draw(r, d)
        return named | {"lokr_w2_a": left, "lokr_w2_b": right}, np.kron(
            one @ two, left @ right
        ).reshape(shape) * scale
    core, left, right = draw(r, r, *shape[2:]), draw(r, c), draw(r, d)
    w2 = np.einsum("abkl,ao,bi->oikl", core, left, right)
    return named | {"lokr_t2": core, "lokr_w2_a": left, "lokr_w2_b": right}, np.kron(
        (one @ two)[:, :, None, None], w2
    ) * scale


def _alpha(alpha: float | None) -> Tensors:
    return {} if alpha is None else {"alpha": np.array(alpha, np.float32)}


def _factors(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    def small(n):
        return next(f for f in (4, 2, 3, 1) if n % f == 0)

    return (
        small(shape[0]),
        small(shape[1]),
        shape[0] // small(shape[0]),
        shape[1] // small(shape[1]),
    )


FORMS = {f.__name__: f for f in (lora, tucker, loha, loha_tucker, lokr, lokr_whole, lokr_tucker)}


# The names that each program gives a layer


def kohya(part: str, module: str, family: str) -> str:
    return canonical_name(part, module, family) + "."


def other_blocks(part: str, module: str, family: str) -> str:
    """The other program's block names:

    diffusers' for SDXL (ai-toolkit, OneTrainer's old files), sgm's for 1.x and 2.x.
    """
    canonical = canonical_name(part, module, family)
    prefix = SPECS[family].prefixes[part]
    return (
        next(
            (
                n
                for n in kohya_names(part, [module], family)
                if n.startswith(prefix) and n != canonical
            ),
            canonical,
        )
        + "."
    )


def simpletuner(part: str, module: str, family: str) -> str:
    """bghira/SimpleTuner saves LyCORIS as `lycoris_` and diffusers' names."""
    return f"lycoris_{module.replace('.', '_')}." if part == "unet" else kohya(part, module, family)


def onetrainer(part: str, module: str, family: str) -> str:
    """Nerogar/OneTrainer, modules/util/convert/lora: dotted, sgm's blocks, clip_l and clip_g."""
    if part == "unet":
        return list(diffusers_names(part, [module], family))[-1] + "."
    return f"{'clip_g' if part == 'text_encoder_2' else 'clip_l'}.{_in_text_model(module)}."


def comfy(part: str, module: str, family: str) -> str:
    return f"diffusion_model.{module}." if part == "unet" else f"{part}.{module}."


def peft(part: str, module: str, family: str) -> str:
    return f"base_model.model.{part}.{module}."


def diffusers(part: str, module: str, family: str) -> str:
    return f"{part}.{module if part == 'unet' else _in_text_model(module)}."


def _in_text_model(module: str) -> str:
    """transformers 5 leaves `text_model` out of some of its modules' names, no file does."""
    return (
        module if module.startswith(("text_model.", "text_projection")) else f"text_model.{module}"
    )


def processors(part: str, module: str, family: str) -> str:
    """The attention processors of 2023:

    `unet.…attn1.processor.to_q_lora.down.weight`, and `…self_attn.to_q_lora…` in the text encoders.
    """
    before, _, which = module.removesuffix(".0").rpartition(".")
    short = which.removeprefix("to_").removesuffix("_proj")
    return (
        f"unet.{before}.processor.to_{short}_"
        if part == "unet"
        else f"{part}.{_in_text_model(before)}.to_{short}_"
    )


NAMINGS = {
    f.__name__: f for f in (kohya, other_blocks, simpletuner, onetrainer, comfy, peft, diffusers)
}


def drawing(seed: int) -> Callable[..., np.ndarray]:
    generator = np.random.default_rng(seed)
    return lambda *shape: generator.standard_normal(shape, np.float32) * 0.5


def file_of(
    form: Any, naming: Any, shapes: Shapes, family: str, seed: int = 0
) -> tuple[Tensors, dict[tuple[str, str], Change]]:
    """A whole style: mixed ranks, mixed and missing alphas."""
    draw, tensors, changes = drawing(seed), {}, {}
    for part, modules in shapes.items():
        for i, (module, shape) in enumerate(modules.items()):
            found, changes[part, module] = form(shape, 1 + i % 3, (None, 1.0, 5.5)[i % 3], draw)
            tensors |= {naming(part, module, family) + leaf: array for leaf, array in found.items()}
    return tensors, changes


def matrices_of(change: AnyChange) -> tuple[np.ndarray, ...]:
    if isinstance(change, Hada):
        return change.matrices
    return (change.one, change.two) if isinstance(change, Kron) else (change.down, change.up)


def compare(
    modules: dict[tuple[str, str], AnyChange], changes: dict[tuple[str, str], Change]
) -> None:
    assert modules.keys() == changes.keys()
    for place, change in changes.items():
        assert modules[place].shape == change.shape
        assert np.abs(modules[place].delta() - change).max() <= EXACT * max(
            1.0, np.abs(change).max()
        ), place


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("naming", NAMINGS)
def test_every_form_in_every_family_reads_exactly_under_every_programs_names(
    form: str, naming: str, family: str, shapes: dict[str, Shapes]
) -> None:
    tensors, changes = file_of(FORMS[form], NAMINGS[naming], shapes[family], family)
    style = style_from_bytes(save(tensors), "a.safetensors")
    assert not [w for w in style.warnings if "left out" in w]
    compare(match(style, accepted_names(shapes[family], family)), changes)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", FORMS)
def test_what_was_read_is_written_for_others_and_reads_the_same(
    form: str, family: str, shapes: dict[str, Shapes]
) -> None:
    tensors, changes = file_of(FORMS[form], kohya, shapes[family], family)
    style = style_from_bytes(save(tensors), "a.safetensors")
    for dialect in ("kohya", "diffusers"):
        written = style_bytes(
            "b.safetensors", converted(style, dialect, family), {}, dtype="float32", dialect=dialect
        )
        compare(
            match(
                style_from_bytes(written, "b.safetensors"), accepted_names(shapes[family], family)
            ),
            changes,
        )


# What diffusers 0.42 reads right: one alpha or none (it confuses several), no text_projection, all
# four attention layers of a text encoder
def ONE_ALPHA(shape, r, alpha, draw):
    return lora(shape, 2, 5.5, draw)


def NO_ALPHA(shape, r, alpha, draw):
    return lora(shape, r, None, draw)


STOCK: dict[str, Any] = {
    "kohya, one alpha": (ONE_ALPHA, kohya, {}),
    "kohya, no alpha": (NO_ALPHA, kohya, {}),
    "kohya, diffusers' blocks": (
        ONE_ALPHA,
        lambda *place: (other_blocks if place[0] == "unet" else kohya)(*place),
        {},
    ),
    "peft": (NO_ALPHA, diffusers, {"unet": ("lora_A", "lora_B"), "text": ("lora_A", "lora_B")}),
    "diffusers of 2023": (
        NO_ALPHA,
        diffusers,
        {
            "unet": ("lora.down", "lora.up"),
            "text": ("lora_linear_layer.down", "lora_linear_layer.up"),
        },
    ),
    "attention processors of 2023": (
        NO_ALPHA,
        processors,
        {part: ("lora.down", "lora.up") for part in ("unet", "text")},
    ),
}


def known_to_diffusers(kind: str, shapes: Shapes) -> Shapes:
    """The layers that it reads right in that form."""

    def lost(module):
        return module == "text_projection" or (
            "blocks" in kind and module.startswith("add_embedding")
        )

    return {
        part: {
            m: s
            for m, s in modules.items()
            if not lost(m) and ("attn" in m or "processors" not in kind)
        }
        for part, modules in shapes.items()
    }


def as_loaded(parts: Parts) -> dict[tuple[str, str], Change]:
    """(part, module) -> the change that diffusers and peft put there."""
    from peft.tuners.lora import LoraLayer

    layers = {
        (part, name): layer
        for part, network in parts.items()
        for name, layer in network.named_modules()
        if isinstance(layer, LoraLayer)
    }
    return {
        place: layer.get_delta_weight(layer.active_adapters[0]).detach().numpy()
        for place, layer in layers.items()
    }


@pytest.mark.parametrize(
    ("kind", "family"),
    [
        (kind, f)
        for kind in STOCK
        for f in ("sd1", "sd2", "sdxl")
        if f == "sdxl" or "blocks" not in kind
    ],
)
def test_diffusers_and_we_read_the_same_layer_by_layer(
    kind: str, family: str, shapes: dict[str, Shapes]
) -> None:
    form, naming, leaves = STOCK[kind]
    known = known_to_diffusers(kind, shapes[family])
    tensors, changes = file_of(form, naming, known, family)

    def leaf(name):
        return leaves.get("unet" if name.startswith("unet.") else "text", ("lora_down", "lora_up"))

    named = {
        n.replace("lora_down", leaf(n)[0]).replace("lora_up", leaf(n)[1]): array
        for n, array in tensors.items()
    }
    compare(
        match(style_from_bytes(save(named), "a.safetensors"), accepted_names(known, family)),
        changes,
    )
    parts = BUILD[family]()
    _load(parts, named)
    theirs = as_loaded(parts)
    assert theirs.keys() == changes.keys()
    for place, change in changes.items():
        assert np.abs(theirs[place] - change).max() <= EXACT * max(1.0, np.abs(change).max()), place


@pytest.mark.parametrize("family", SDXL_AND_MORE)
@pytest.mark.parametrize("form", FORMS)
def test_diffusers_reads_what_we_write_layer_by_layer(
    form: str, family: str, shapes: dict[str, Shapes]
) -> None:
    """Any program's form, with mixed ranks and alphas, read here and written in diffusers'
    names.
    """
    known = {
        part: {m: s for m, s in modules.items() if m != "text_projection"}
        for part, modules in shapes[family].items()
    }
    tensors, changes = file_of(FORMS[form], kohya, known, family)
    written = converted(style_from_bytes(save(tensors), "a.safetensors"), "diffusers", family)
    parts = BUILD[family]()
    _load(
        parts,
        read_numpy(style_bytes("b.safetensors", written, {}, dtype="float32", dialect="diffusers")),
    )
    theirs = as_loaded(parts)
    assert theirs.keys() == changes.keys()
    for place, change in changes.items():
        assert np.abs(theirs[place] - change).max() <= EXACT * max(1.0, np.abs(change).max()), place


def _load(parts: Parts, tensors: Tensors) -> None:
    pipeline: library.DiffusionPipeline = (
        sdxl_pipeline if "text_encoder_2" in parts else sd1_pipeline
    )(parts)
    pipeline.load_lora_weights(
        {name: torch.from_numpy(np.array(array)) for name, array in tensors.items()}
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "leaves", [("lora.down", "lora.up"), ("lora_linear_layer.down", "lora_linear_layer.up")]
)
def test_old_names_of_diffusers_are_understood(
    leaves: tuple[str, str], family: str, shapes: dict[str, Shapes]
) -> None:
    tensors, changes = file_of(NO_ALPHA, diffusers, shapes[family], family)
    old = {
        n.replace("lora_down", leaves[0]).replace("lora_up", leaves[1]): array
        for n, array in tensors.items()
    }
    compare(
        match(style_from_bytes(save(old), "a.safetensors"), accepted_names(shapes[family], family)),
        changes,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_processors_of_2023_are_understood(
    family: str, shapes: dict[str, Shapes]
) -> None:
    tensors, changes = file_of(
        NO_ALPHA,
        processors,
        known_to_diffusers("attention processors of 2023", shapes[family]),
        family,
    )
    old = {
        n.replace("lora_down", "lora.down").replace("lora_up", "lora.up"): array
        for n, array in tensors.items()
    }
    compare(
        match(style_from_bytes(save(old), "a.safetensors"), accepted_names(shapes[family], family)),
        changes,
    )


def peft_config(method: str, modules: dict[str, tuple[int, ...]]) -> Any:
    """On every layer, with another rank and another alpha for some of them."""
    import peft

    some = list(modules)[::3]
    known: dict[str, Any] = {
        "r": 4,
        "target_modules": list(modules),
        "rank_pattern": dict.fromkeys(some, 3),
        "alpha_pattern": dict.fromkeys(some, 2),
    }
    return {
        "lora": lambda: peft.LoraConfig(lora_alpha=6, **known),
        "rslora": lambda: peft.LoraConfig(lora_alpha=6, use_rslora=True, **known),
        "loha": lambda: peft.LoHaConfig(alpha=6, **known),
        "loha of convolutions with a core": lambda: peft.LoHaConfig(
            alpha=6, use_effective_conv2d=True, **known
        ),
        "lokr": lambda: peft.LoKrConfig(alpha=6, **known),
        "lokr of convolutions with a core": lambda: peft.LoKrConfig(
            alpha=6, use_effective_conv2d=True, **known
        ),
        "lokr of two products": lambda: peft.LoKrConfig(
            alpha=6, decompose_both=True, decompose_factor=2, **known
        ),
    }[method]()


PEFT_METHODS = (
    "lora",
    "rslora",
    "loha",
    "loha of convolutions with a core",
    "lokr",
    "lokr of convolutions with a core",
    "lokr of two products",
)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of peft, about base models without a name
@pytest.mark.parametrize("family", SDXL_AND_MORE)
@pytest.mark.parametrize("method", PEFT_METHODS)
def test_a_folder_that_peft_wrote_means_what_peft_does_layer_by_layer(
    method: str, family: str, tmp_path: Path, shapes: dict[str, Shapes]
) -> None:
    import peft
    from peft.tuners.tuners_utils import BaseTunerLayer

    changes: dict[tuple[str, str], Change] = {}
    for part, network in BUILD[family]().items():
        adapted = peft.get_peft_model(network, peft_config(method, shapes[family][part]))
        torch.manual_seed(1)
        for name, weight in adapted.named_parameters():
            if any(kind in name for kind in ("lora_", "hada_", "lokr_")):
                torch.nn.init.normal_(weight, std=0.3)
        adapted.save_pretrained(tmp_path / part)
        for name, layer in adapted.base_model.model.named_modules():
            if isinstance(layer, BaseTunerLayer):
                shape = shapes[family][part][name]
                changes[part, name] = (
                    layer.get_delta_weight("default").detach().numpy().reshape(shape)
                )
    names = accepted_names(shapes[family], family)
    compare(match(read_style(tmp_path), names), changes)
    for part in shapes[family]:
        compare(
            match(read_style(tmp_path / part), names),
            {place: change for place, change in changes.items() if place[0] == part},
        )


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("rslora", [False, True])
def test_a_file_that_diffusers_saved_means_what_it_does_there_layer_by_layer(
    rslora: bool, family: str, tmp_path: Path, shapes: dict[str, Shapes]
) -> None:
    """`save_lora_weights` with its metadata, by which alone the strengths are known:

    other ranks and alphas for some layers, rsLoRA.
    """
    import peft
    from diffusers.training_utils import _collate_lora_metadata

    parts = BUILD[family]()
    for part, network in parts.items():
        modules = {m: s for m, s in shapes[family][part].items() if m != "text_projection"}
        network.add_adapter(peft_config("rslora" if rslora else "lora", modules))
        for name, weight in network.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.3)
    layers = {
        f"{part}_lora_layers": peft.get_peft_model_state_dict(network)
        for part, network in parts.items()
    }
    pipeline = (
        library.StableDiffusionXLPipeline
        if "text_encoder_2" in parts
        else library.StableDiffusionPipeline
    )
    pipeline.save_lora_weights(
        tmp_path, weight_name="a.safetensors", **layers, **_collate_lora_metadata(parts)
    )
    compare(
        match(read_style(tmp_path / "a.safetensors"), accepted_names(shapes[family], family)),
        as_loaded(parts),
    )


def test_a_hostile_adapter_config_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(
        save({"base_model.model.conv_in.lora_A.weight": np.ones((1, 2), np.float32)})
    )
    for config, words in (
        (
            {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "alpha_pattern": {"(a+)+$": 1}},
            "expressions|no up",
        ),
        ({"peft_type": "OFT"}, "expected LORA"),
        ({}, "expected LORA"),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        with pytest.raises(StyleFileError, match=words):
            read_style(tmp_path)


def test_a_small_file_that_unfolds_to_a_huge_one_is_refused_before_it_is() -> None:
    with pytest.raises(StyleFileError, match="larger than any base"):
        check_sizes("a", {"x": {"lokr_w1": (10**6, 1), "lokr_w2": (1, 10**6)}})
    many = {
        f"x{i}": {
            "hada_w1_a": (8192, 40),
            "hada_w1_b": (40, 8192),
            "hada_w2_a": (8192, 40),
            "hada_w2_b": (40, 8192),
        }
        for i in range(2000)
    }
    with pytest.raises(StyleFileError, match="unfolds"):
        check_sizes("a", many)


def test_words_in_a_style_are_read_and_those_of_unknown_form_named() -> None:
    tensors, _ = lora((4, 3), 2, 1.0, drawing(0))
    found = {f"x.{leaf}": array for leaf, array in tensors.items()} | {
        f"bundle_emb.{word}": np.ones((1, 3), np.float32)
        for word in ("catword.clip_l", "dogword.clip_l_out")
    }
    style = style_from_bytes(save(found), "a.safetensors")
    assert (
        list(style.modules) == ["x"]
        and list(style.words) == ["catword"]
        and "dogword" in style.warnings[0]
    )


@pytest.mark.parametrize(
    ("leaf", "shape", "axis"),
    [
        ("dora_scale", (6, 1), "out"),
        ("dora_scale", (1, 4), "in"),
        ("lora_magnitude_vector", (6,), "out"),
        ("dora_scale", (6,), "out"),
        ("dora_scale", (1, 6), ""),
        ("dora_scale", (5, 1), ""),
        ("lora_magnitude_vector", (4,), ""),
    ],
)
def test_the_axis_of_dora_is_known_or_refused(leaf: str, shape: tuple[int, ...], axis: str) -> None:
    tensors, _ = lora((6, 4), 2, 1.0, drawing(0))
    content = save(
        {
            f"x.{name}": array
            for name, array in (tensors | {leaf: np.ones(shape, np.float32)}).items()
        }
    )
    if not axis:
        with pytest.raises(StyleFileError, match="neither"):
            style_from_bytes(content, "a.safetensors")
        return
    style = style_from_bytes(content, "a.safetensors")
    assert style.magnitudes["x"].axis == axis and "DoRA" in style.kinds
    with pytest.raises(StyleFileError, match="depends on the base"):
        match(style, {"x": ("unet", "x", (6, 4))})


def test_a_square_layer_with_a_bare_dora_scale_is_refused() -> None:
    tensors, _ = lora((4, 4), 2, 1.0, drawing(0))
    with pytest.raises(StyleFileError, match="could be"):
        style_from_bytes(
            save(
                {f"x.{n}": a for n, a in (tensors | {"dora_scale": np.ones(4, np.float32)}).items()}
            ),
            "a.safetensors",
        )


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_file_of_any_program_means_what_its_numbers_say(data: st.DataObject) -> None:
    """Over forms, programs, families, targets, ranks, alphas and precisions:

    numbers as the precision holds them, and the change that they define.
    """
    family = data.draw(st.sampled_from(FAMILIES))
    all_shapes = _all_shapes(family)
    places = data.draw(
        st.lists(st.sampled_from(sorted(all_shapes)), min_size=1, max_size=5, unique=True)
    )
    naming = NAMINGS[data.draw(st.sampled_from(sorted(NAMINGS)))]
    dtype = data.draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
    exact = drawing(data.draw(st.integers(0, 2**32 - 1)))

    def draw(*shape):
        return torch.from_numpy(exact(*shape)).to(dtype).float().numpy()

    tensors, changes = {}, {}
    for part, module in places:
        form = FORMS[data.draw(st.sampled_from(sorted(FORMS)))]
        rank = data.draw(st.integers(1, 6))
        alpha = data.draw(st.none() | st.floats(0.015625, 64.0, width=16))
        found, changes[part, module] = form(all_shapes[part, module], rank, alpha, draw)
        tensors |= {naming(part, module, family) + leaf: array for leaf, array in found.items()}
    kept = {
        name: torch.from_numpy(array)
        if name.endswith("alpha")
        else torch.from_numpy(array).to(dtype)
        for name, array in tensors.items()
    }
    style = style_from_bytes(
        save_torch({name: tensor.contiguous() for name, tensor in kept.items()}), "a.safetensors"
    )
    compare(match(style, accepted_names(_by_part(family), family)), changes)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_style_comes_back_as_it_was_written(data: st.DataObject) -> None:
    """Over families, targets, ranks, alphas, precisions and dialects:

    what is read is what the precision can hold of what was written.
    """
    family = data.draw(st.sampled_from(FAMILIES))
    all_shapes = _all_shapes(family)
    places = data.draw(
        st.lists(st.sampled_from(sorted(all_shapes)), min_size=1, max_size=6, unique=True)
    )
    dtype = data.draw(st.sampled_from(["float32", "float16", "bfloat16"]))
    dialect = data.draw(st.sampled_from(["kohya", "diffusers"]))
    draw = drawing(data.draw(st.integers(0, 2**32 - 1)))
    made = {}
    for place in places:
        shape, rank = all_shapes[place], data.draw(st.integers(1, 20))
        alpha = data.draw(st.floats(0.015625, 64.0 * rank, width=32))
        made[place] = Lora(
            draw(rank, *shape[1:]), draw(shape[0], rank, *(1,) * (len(shape) - 2)), alpha
        )
    names = {canonical_name(part, module, family): found for (part, module), found in made.items()}
    written = style_bytes(
        "a.safetensors",
        converted(Style(names, {}, ""), dialect, family),
        {},
        dtype=dtype,
        dialect=dialect,
    )
    assert written == style_bytes(
        "b.safetensors",
        converted(Style(names, {}, ""), dialect, family),
        {},
        dtype=dtype,
        dialect=dialect,
    )
    back = match(
        style_from_bytes(written, "a.safetensors"), accepted_names(_by_part(family), family)
    )
    assert all(not back[place].delta().any() for place in set(back) - set(made))
    unit = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    for place, found in made.items():
        up, down = found.flat()
        bound = unit * 2 * (np.abs(up) @ np.abs(down)).max() + 1e-6
        assert np.abs(back[place].delta() - found.delta()).max() <= bound
    if dtype == "float32":
        compare(
            {place: back[place] for place in made},
            {place: found.delta() for place, found in made.items()},
        )


@functools.cache
def _by_part(family: str) -> Shapes:
    return shapes_of(BUILD[family]())


def _all_shapes(family: str) -> dict[tuple[str, str], tuple[int, ...]]:
    return {
        (part, module): shape
        for part, modules in _by_part(family).items()
        for module, shape in modules.items()
    }


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_damaged_files_are_refused_or_harmless(count: int, shapes: dict[str, Shapes]) -> None:
    """Bytes of the header changed, cut, doubled, swapped for what hurts parsers: a message of ours
    or a sound style, and never more than a second.

    What is read is put on a live base where it fits; nothing stays behind.
    """
    import random
    import time

    rng = random.Random(0)
    small = {"unet": dict(list(shapes["sd1"]["unet"].items())[:3])}
    seeds = [
        save(file_of(form, naming, small, "sd1")[0], {"ss_x": "1"})
        for form, naming in ((lora, kohya), (loha, kohya), (lokr_tucker, peft))
    ]
    seeds.append(
        save_torch(
            {
                "x.lora_down.weight": torch.ones(2, 3),
                "x.lora_up.weight": torch.ones(4, 2).bfloat16(),
                "x.alpha": torch.tensor(2),
            }
        )
    )
    width = next(
        shape[1]
        for module, shape in shapes["sd1"]["text_encoder"].items()
        if module.endswith("q_proj")
    )
    words = {
        "bundle_emb.ink.string_to_param.*": np.ones((2, width), np.float32),
        "bundle_emb.twice.string_to_param.*": np.ones((1, width), np.float32),
    }
    words |= {
        "bundle_emb.twice.clip_l": np.ones((1, width), np.float32),
        "bundle_emb.second.clip_g": np.ones((1, width), np.float32),
    }
    seeds.append(save(file_of(lora, kohya, small, "sd1")[0] | words))
    nasty = [
        b"\x00",
        b"\xff",
        b'"',
        b"{",
        b"[" * 40,
        b"9" * 400,
        b"-1",
        b"1e999",
        b"NaN",
        b"null",
        b"\\ud800",
        b'"__metadata__":{',
        b"F64",
        b"../",
        b",",
    ]
    parts, names = sd1_parts(), accepted_names(shapes["sd1"], "sd1")
    before = {
        part: {name: value.clone() for name, value in network.state_dict().items()}
        for part, network in parts.items()
    }
    slowest, refused, read, active = 0.0, 0, 0, 0
    for i in range(count):
        content = bytearray(seeds[i % len(seeds)])
        length = 8 + int.from_bytes(content[:8], "little")
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = rng.randrange(min(length, len(content)))
            match rng.randrange(5):
                case 0:
                    content[at] ^= 1 << rng.randrange(8)
                case 1:
                    word = rng.choice(nasty)
                    content[at : at + len(word)] = word
                case 2:
                    word = rng.choice(nasty)
                    content[at:at] = word
                    content[:8] = (int.from_bytes(content[:8], "little") + len(word)).to_bytes(
                        9, "little"
                    )[:8]
                case 3 if len(content) > 1:
                    content = content[: rng.randrange(1, len(content))] + b"\x00" * rng.randrange(3)
                case 4:
                    digits = [
                        j for j in range(8, min(length, len(content))) if 48 <= content[j] <= 57
                    ]
                    if digits:
                        content[rng.choice(digits)] = rng.choice(b"0123456789")
        began = time.process_time()  # other processes are no part of it
        try:
            style = style_from_bytes(bytes(content), "a.safetensors")
            read += 1
            assert all(
                np.isfinite(matrix).all()
                for found in style.modules.values()
                for matrix in matrices_of(found)
            )
            assert all(
                np.isfinite(values).all() and values.ndim == 2
                for vectors in style.words.values()
                for values in vectors.values()
            )
            with apply_styles(parts, [[ActiveStyle(match(style, names))]]):
                active += 1
        except StyleFileError as error:
            refused += 1
            assert len(str(error)) < 2000
        slowest = max(slowest, time.process_time() - began)
    assert refused > count / 2 and read > count / 100 and active > count / 200 and slowest < 1
    for part, network in parts.items():
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
        assert network.state_dict().keys() == before[part].keys()
        assert all(
            torch.equal(value, before[part][name]) for name, value in network.state_dict().items()
        )
