"""Every name that is written is one that the other programs know; every layer has one of
its own.
"""

from __future__ import annotations

import functools
import json
import re

import pytest
import torch
import transformers
from diffusers import UNet2DConditionModel

from tests import other_programs
from tests.test_style_file import random_lora, sd1_parts, sdxl_parts, shapes_of
from training.models.loader import weight_shapes
from training.models.single_file import CONFIGS
from training.style_files.key_names import canonical_name, dotted_name, kernel_of
from training.style_files.safetensors_io import read_head
from training.style_files.writing import named

ATTENTION = [
    f"transformer_blocks.{b}.{x}"
    for b in (0, 1)
    for x in ("attn1.to_q", "attn2.to_v", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2")
]
RESNET = ["conv1", "conv2", "conv_shortcut", "time_emb_proj"]
CLIP = [f"self_attn.{x}_proj" for x in "qkv"] + ["self_attn.out_proj", "mlp.fc1", "mlp.fc2"]


def unet(with_attention: tuple[int, ...], levels: int) -> set[str]:
    """Module names of a Stable Diffusion UNet of two resnets a level.

    with_attention: levels downwards that have it.
    """
    found = {"conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"}
    for level in range(levels):
        up = levels - 1 - level
        for i in range(3):
            found |= {f"up_blocks.{up}.resnets.{i}.{x}" for x in RESNET}
            found |= {f"down_blocks.{level}.resnets.{i}.{x}" for x in RESNET} if i < 2 else set()
            if level in with_attention:
                inner = ["proj_in", "proj_out", *ATTENTION]
                found |= {f"up_blocks.{up}.attentions.{i}.{x}" for x in inner}
                found |= (
                    {f"down_blocks.{level}.attentions.{i}.{x}" for x in inner} if i < 2 else set()
                )
        if level < levels - 1:
            found |= {
                f"down_blocks.{level}.downsamplers.0.conv",
                f"up_blocks.{level}.upsamplers.0.conv",
            }
    found |= {f"mid_block.attentions.0.{x}" for x in ("proj_in", "proj_out", *ATTENTION)}
    return found | {f"mid_block.resnets.{i}.{x}" for i in (0, 1) for x in RESNET}


def modules(family: str) -> set[tuple[str, str]]:
    """(part, module) of the real model of a family."""
    xl = family == "sdxl"
    own = (
        unet((1, 2), 3) | {"add_embedding.linear_1", "add_embedding.linear_2"}
        if xl
        else unet((0, 1, 2), 4)
    )
    layers = {"text_encoder": 23 if family == "sd2" else 12} | (
        {"text_encoder_2": 32} if xl else {}
    )
    texts = {
        (part, f"text_model.encoder.layers.{i}.{x}")
        for part, count in layers.items()
        for i in range(count)
        for x in CLIP
    }
    return {("unet", module) for module in own} | texts


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_every_layer_is_written_under_a_name_that_others_know(family: str) -> None:
    names = {canonical_name(part, module, family) for part, module in modules(family)}
    assert len(names) == len(modules(family))
    assert [
        n for n in names if not any(re.fullmatch(rule, n) for rule in other_programs.LAYERS[family])
    ] == []
    assert all(
        name.startswith(other_programs.INVOKEAI_BEGINS) and "." not in name for name in names
    )


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_written_file_has_no_other_keys(family: str) -> None:
    import io

    import numpy as np

    from training.style_files.writing import style_bytes

    generator = np.random.default_rng(0)
    shapes = shapes_of(sdxl_parts() if family == "sdxl" else sd1_parts())
    changes = {
        (p, m): random_lora(s, 1, 1.0, generator)
        for p, found in shapes.items()
        for m, s in found.items()
        if m != "text_projection"
    }
    content = style_bytes("a", named(changes, "kohya", family), {})
    for key in read_head("a", io.BytesIO(content), len(content)).tensors:
        layer, _, leaf = key.partition(".")
        assert leaf in other_programs.LEAVES and any(
            re.fullmatch(rule, layer) for rule in other_programs.LAYERS[family]
        ), key


@functools.cache
def real_modules(family: str) -> dict[str, list[str]]:
    """part -> its linears and convolutions, of the family's full-size networks; without memory for
    weights.
    """
    configs = json.loads((CONFIGS / f"{family}.json").read_text(encoding="utf-8"))
    kinds = {
        "text_encoder": transformers.CLIPTextModel,
        "text_encoder_2": transformers.CLIPTextModelWithProjection,
    }
    with torch.device("meta"):
        networks = {
            part: kind(transformers.CLIPTextConfig(**configs[part]))
            for part, kind in kinds.items()
            if part in configs
        }
        networks["unet"] = UNet2DConditionModel.from_config(configs["unet"])
    return {part: list(weight_shapes(network)) for part, network in networks.items()}


@pytest.mark.parametrize("program", other_programs.PROGRAMS)
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_other_programs_find_the_right_layer_under_every_name(family: str, program: str) -> None:
    """Every layer of the real UNet:

    its name leads each program to that layer of the checkpoint and no other.
    """
    layers = other_programs.checkpoint_layers(family)
    for module in real_modules(family)["unet"]:
        name = canonical_name("unet", module, family)
        assert other_programs.PROGRAMS[program](name, family) == layers[module.replace(".", "_")], (
            name
        )


def test_the_rules_know_where_other_names_would_go_astray() -> None:
    """Why XL is written in the checkpoint's names:

    A1111 leads diffusers' name of the first sampler upwards to a layer that is not there.
    """
    name, layers = "up_blocks_0_upsamplers_0_conv", other_programs.checkpoint_layers("sdxl")
    assert other_programs.a1111(f"lora_unet_{name}", "sdxl") != layers[name]
    assert other_programs.invokeai(f"lora_unet_{name}", "sdxl") == ""


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_every_layer_of_the_real_text_encoders_has_a_known_name(family: str) -> None:
    count = {"sd1": 72, "sd2": 138, "sdxl": 72 + 192}[family]
    texts = [
        (part, m)
        for part, modules in real_modules(family).items()
        if part != "unet"
        for m in modules
        if m != "text_projection"
    ]
    names = {canonical_name(part, module, family) for part, module in texts}
    assert len(names) == count == len(texts)
    assert all(
        any(re.fullmatch(rule, name) for rule in other_programs.LAYERS[family]) for name in names
    )


@pytest.mark.parametrize("program", other_programs.TEXTS)
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_other_programs_find_the_right_layer_of_the_text_encoders(
    family: str, program: str
) -> None:
    """Every layer of the real text encoders:

    its name leads each program to that matrix and no other.
    """
    encoders = {"text_encoder": "te1" if family == "sdxl" else "te", "text_encoder_2": "te2"}
    for part, found in real_modules(family).items():
        for module in found if part != "unet" else []:
            if module != "text_projection":
                number, matrix = re.fullmatch(
                    r"(?:text_model\.)?encoder\.layers\.(\d+)\.(.+)", module
                ).groups()
                place = (encoders[part], int(number), matrix.replace(".", "_"))
                assert (
                    other_programs.TEXTS[program](canonical_name(part, module, family), family)
                    == place
                ), module


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_name_tells_the_kernel(family: str) -> None:
    for part, found in shapes_of(sdxl_parts() if family == "sdxl" else sd1_parts()).items():
        for module, shape in found.items():
            kernel = shape[2] if len(shape) == 4 else 1
            assert (
                kernel_of(canonical_name(part, module, family))
                == kernel_of(f"{part}.{module}")
                == kernel
            ), module


def test_names_of_elsewhere_become_dotted_ones() -> None:
    for elsewhere, here in {
        "base_model.model.unet.conv_in": "unet.conv_in",
        "base_model.model.down_blocks.0.resnets.0.conv1": "unet.down_blocks.0.resnets.0.conv1",
        "text_model.encoder.layers.0.mlp.fc1": "text_encoder.text_model.encoder.layers.0.mlp.fc1",
        "clip_g.text_model.encoder.layers.0.mlp.fc1": "text_encoder_2."
        "text_model.encoder.layers.0.mlp.fc1",
        "unet.a.attn1.processor.to_out_lora": "unet.a.attn1.to_out.0",
        "text_encoder.a.self_attn.to_q_lora": "text_encoder.a.self_attn.q_proj",
        "unet.a.attn1.to_q": "unet.a.attn1.to_q",
    }.items():
        assert dotted_name(elsewhere) == here
    assert dotted_name(
        "base_model.model.text_model.encoder.layers.0.mlp.fc1", "text_encoder_2"
    ).startswith("text_encoder_2.text_model.")
