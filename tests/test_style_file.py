"""A style written here means the same everywhere; a file from anywhere is refused unless it is
sound.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save
from safetensors.torch import save as save_torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from training.errors import StyleFileError
from training.style_files.matching import match
from training.style_files.reading import (
    Lora,
    Style,
    accepted_names,
    canonical_name,
    family_of,
    read_metadata,
    read_style,
)
from training.style_files.writing import converted, write_style

Shapes = dict[str, dict[str, tuple[int, ...]]]
Parts = dict[str, nn.Module]


def tiny_unet(**changed: Any) -> diffusers.UNet2DConditionModel:
    settings: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 12,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    }
    return diffusers.UNet2DConditionModel(**settings | changed).eval()


def tiny_text_encoder(kind: type = CLIPTextModel, width: int = 12) -> nn.Module:
    shape = {
        "hidden_size": width,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "projection_dim": width,
    }
    return kind(
        CLIPTextConfig(
            vocab_size=40,
            max_position_embeddings=16,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
            **shape,
        )
    ).eval()


def sd1_parts() -> Parts:
    torch.manual_seed(0)
    return {"unet": tiny_unet(), "text_encoder": tiny_text_encoder()}


def sd2_parts() -> Parts:
    """Linear projections where 1.x has convolutions, another width of the text."""
    torch.manual_seed(0)
    return {
        "unet": tiny_unet(use_linear_projection=True, cross_attention_dim=16),
        "text_encoder": tiny_text_encoder(width=16),
    }


def sdxl_parts() -> Parts:
    torch.manual_seed(0)
    unet = tiny_unet(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        transformer_layers_per_block=(1, 2, 3),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 12,
        cross_attention_dim=24,
    )
    return {
        "unet": unet,
        "text_encoder": tiny_text_encoder(),
        "text_encoder_2": tiny_text_encoder(CLIPTextModelWithProjection),
    }


def shapes_of(parts: Parts) -> Shapes:
    layers = nn.Linear | nn.Conv2d
    return {
        part: {n: tuple(m.weight.shape) for n, m in model.named_modules() if isinstance(m, layers)}
        for part, model in parts.items()
    }


def random_lora(
    shape: tuple[int, ...], rank: int, alpha: float, generator: np.random.Generator
) -> Lora:
    ones = (1,) * (len(shape) - 2)
    down = generator.standard_normal((rank, *shape[1:]), np.float32)
    return Lora(
        down * 0.2, generator.standard_normal((shape[0], rank, *ones), np.float32) * 0.2, alpha
    )


def random_style(shapes: Shapes, *, for_diffusers: bool = False) -> dict[tuple[str, str], Lora]:
    """Mixed ranks and alphas. for_diffusers: only where its reader of kohya files (0.42.1) does not
    get them wrong.

    It loses the alpha of attention layers in the UNet and takes the most frequent one, and it takes
    one rank and alpha for a text encoder.
    """
    generator = np.random.default_rng(0)
    made = {}
    for part, modules in shapes.items():
        for i, (module, shape) in enumerate(modules.items()):
            rank, alpha = 2 + i % 3, (1.0, 3.0, 5.5)[i % 3]
            if for_diffusers:
                rank, alpha = (
                    rank if part == "unet" else 4,
                    3.0 if part != "unet" or ".attn" in module else alpha,
                )
            made[part, module] = random_lora(shape, rank, alpha, generator)
    return made


def named(style: Mapping[tuple[str, str], Lora], family: str) -> dict[str, Lora]:
    return {canonical_name(part, module, family): lora for (part, module), lora in style.items()}


def merge(parts: Parts, style: Mapping[tuple[str, str], Lora]) -> None:
    with torch.no_grad():
        for (part, module), lora in style.items():
            parts[part].get_submodule(module).weight += torch.from_numpy(lora.delta())


@torch.no_grad()
def outputs(parts: Parts) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    unet, tokens = parts["unet"], torch.randint(2, 40, (2, 6), generator=generator)
    text = torch.randn(2, 5, unet.config.cross_attention_dim, generator=generator)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    more = (
        {"text_embeds": torch.randn(2, 12, generator=generator), "time_ids": torch.ones(2, 6)}
        if "text_encoder_2" in parts
        else None
    )
    encoded = [model(tokens)[0] for part, model in parts.items() if part != "unet"]
    return [unet(latents, 7, text, added_cond_kwargs=more).sample, *encoded]


def distance(a: list[Tensor], b: list[Tensor]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


def sd1_pipeline(parts: Parts) -> diffusers.StableDiffusionPipeline:
    return diffusers.StableDiffusionPipeline(
        vae=None,
        tokenizer=None,
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **parts,
    )


def sdxl_pipeline(parts: Parts) -> diffusers.StableDiffusionXLPipeline:
    nothing = {"vae": None, "tokenizer": None, "tokenizer_2": None, "add_watermarker": False}
    return diffusers.StableDiffusionXLPipeline(
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False), **nothing, **parts
    )


def sample(tmp_path: Path, **metadata: str) -> tuple[Path, dict[str, Lora]]:
    modules = named(random_style(shapes_of(sd1_parts())), "sd1")
    path = tmp_path / "sample.safetensors"
    write_style(path, modules, metadata, dtype="float32")
    return path, modules


# What a written style means to others


@pytest.mark.parametrize(
    ("family", "build", "pipeline"),
    [("sd1", sd1_parts, sd1_pipeline), ("sdxl", sdxl_parts, sdxl_pipeline)],
)
def test_diffusers_loads_a_style_as_the_base_plus_its_deltas(
    tmp_path: Path, family: str, build: Callable[[], Parts], pipeline: Any
) -> None:
    path = tmp_path / "a.safetensors"
    style = random_style(shapes_of(build()), for_diffusers=True)
    write_style(path, named(style, family), {}, dtype="float32")
    by_hand, loaded = build(), build()
    before = outputs(by_hand)
    merge(by_hand, style)
    pipeline(loaded).load_lora_weights(path, use_safetensors=True)
    expected = outputs(by_hand)
    assert all(distance([x], [y]) > 0.05 for x, y in zip(before, expected, strict=True))
    assert distance(outputs(loaded), expected) < 1e-4


def test_diffusers_loads_a_converted_style_of_mixed_ranks_and_alphas(tmp_path: Path) -> None:
    path, _ = sample(tmp_path)
    out = tmp_path / "dotted.safetensors"
    write_style(
        out,
        converted(read_style(path), "diffusers", "sd1"),
        {},
        dtype="float32",
        dialect="diffusers",
    )
    by_hand, loaded = sd1_parts(), sd1_parts()
    merge(by_hand, random_style(shapes_of(by_hand)))
    sd1_pipeline(loaded).load_lora_weights(out, use_safetensors=True)
    assert distance(outputs(loaded), outputs(by_hand)) < 1e-4


def test_the_library_reads_our_header_and_orders_tensors_as_we_do(tmp_path: Path) -> None:
    path, modules = sample(tmp_path, note="n")
    with safe_open(path, "np") as file:
        assert file.metadata()["note"] == "n"
        assert len(file.keys()) == 3 * len(modules)
    content, theirs = path.read_bytes(), save(load_file(path))
    assert (
        content[8 + int.from_bytes(content[:8], "little") :]
        == theirs[8 + int.from_bytes(theirs[:8], "little") :]
    )
    assert int.from_bytes(content[:8], "little") % 8 == 0


def test_names_are_those_of_sd_scripts() -> None:
    expected = {
        ("unet", "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0", "sd1"): (
            "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_out_0"
        ),
        (
            "text_encoder",
            "encoder.layers.3.self_attn.q_proj",
            "sd2",
        ): "lora_te_text_model_encoder_layers_3_self_attn_q_proj",
        (
            "text_encoder",
            "text_model.encoder.layers.3.mlp.fc1",
            "sdxl",
        ): "lora_te1_text_model_encoder_layers_3_mlp_fc1",
        (
            "text_encoder_2",
            "text_model.encoder.layers.31.mlp.fc2",
            "sdxl",
        ): "lora_te2_text_model_encoder_layers_31_mlp_fc2",
        (
            "unet",
            "down_blocks.1.attentions.0.proj_in",
            "sdxl",
        ): "lora_unet_input_blocks_4_1_proj_in",
        ("unet", "down_blocks.0.downsamplers.0.conv", "sdxl"): "lora_unet_input_blocks_3_0_op",
        ("unet", "mid_block.attentions.0.transformer_blocks.9.ff.net.0.proj", "sdxl"): (
            "lora_unet_middle_block_1_transformer_blocks_9_ff_net_0_proj"
        ),
        ("unet", "up_blocks.0.upsamplers.0.conv", "sdxl"): "lora_unet_output_blocks_2_2_conv",
        (
            "unet",
            "up_blocks.2.resnets.1.conv_shortcut",
            "sdxl",
        ): "lora_unet_output_blocks_7_0_skip_connection",
        ("unet", "add_embedding.linear_2", "sdxl"): "lora_unet_label_emb_0_2",
    }
    assert {key: canonical_name(*key) for key in expected} == expected


def test_every_layer_has_its_own_name() -> None:
    for family, build in (("sd1", sd1_parts), ("sdxl", sdxl_parts)):
        shapes = shapes_of(build())
        names = [
            canonical_name(part, module, family)
            for part, modules in shapes.items()
            for module in modules
        ]
        accepted = accepted_names(shapes, family)
        assert len(set(names)) == len(names)
        assert {accepted[name][:2] for name in names} == {
            (part, module) for part, modules in shapes.items() for module in modules
        }


# Reading back


def test_a_written_style_reads_back_exactly(tmp_path: Path) -> None:
    path, modules = sample(
        tmp_path, **{"modelspec.title": "T", "modelspec.trigger_phrase": "inkwash"}
    )
    style = read_style(path)
    assert style.modules.keys() == modules.keys()
    for name, lora in style.modules.items():
        assert (
            np.array_equal(lora.down, modules[name].down)
            and np.array_equal(lora.up, modules[name].up)
            and lora.alpha == modules[name].alpha
        )
    assert (style.title, style.trigger, style.ranks, style.dialect, style.dtype) == (
        "T",
        "inkwash",
        "2 to 4",
        "kohya",
        "float32",
    )
    assert read_metadata(path) == style.metadata
    assert style.metadata["modelspec.hash_sha256"] == "0x" + style.metadata["sshs_model_hash"]
    assert not style.warnings


@pytest.mark.parametrize(("dtype", "bits"), [("float16", 11), ("bfloat16", 8)])
def test_half_precision_rounds_once_and_then_stays(tmp_path: Path, dtype: Any, bits: int) -> None:
    path, modules = sample(tmp_path)
    write_style(path, modules, {}, dtype=dtype)
    style = read_style(path)
    for name, lora in style.modules.items():
        assert np.allclose(lora.down, modules[name].down, rtol=2.0**-bits, atol=1e-6)
        theirs = torch.from_numpy(modules[name].down).to(getattr(torch, dtype)).float().numpy()
        assert np.array_equal(lora.down, theirs)
    before = path.read_bytes()
    write_style(path, style.modules, style.metadata, dtype=style.dtype)
    assert path.read_bytes() == before


def test_equal_input_gives_equal_bytes_in_any_order(tmp_path: Path) -> None:
    path, modules = sample(tmp_path, b="2", a="1")
    other = tmp_path / "other.safetensors"
    write_style(other, dict(reversed(modules.items())), {"a": "1", "b": "2"}, dtype="float32")
    assert other.read_bytes() == path.read_bytes()


def test_match_finds_every_layer_under_every_accepted_name(tmp_path: Path) -> None:
    parts = sdxl_parts()
    own, shapes = random_style(shapes_of(parts)), shapes_of(parts)
    accepted = accepted_names(shapes, "sdxl")
    canonical = set(named(own, "sdxl"))
    for dialect in ("lora_", "unet.", "text_encoder"):
        names = [name for name in accepted if name.startswith(dialect) and name not in canonical]
        style = Style({name: own[accepted[name][:2]] for name in names}, {}, "")
        once = {accepted[name][:2]: name for name in names}
        matched = match(
            Style({name: style.modules[name] for name in once.values()}, {}, ""), accepted
        )
        assert matched == {key: own[key] for key in once}


def test_two_names_of_one_layer_are_refused() -> None:
    shapes = shapes_of(sdxl_parts())
    accepted = accepted_names(shapes, "sdxl")
    module = "mid_block.attentions.0.proj_in"
    lora = random_style(shapes)["unet", module]
    twice = {
        canonical_name("unet", module, "sdxl"): lora,
        "lora_unet_mid_block_attentions_0_proj_in": lora,
    }
    with pytest.raises(StyleFileError, match="twice"):
        match(Style(twice, {}, ""), accepted)


def test_a_linear_layer_fits_a_1x1_convolution_and_back() -> None:
    generator = np.random.default_rng(0)
    flat, square = (
        random_lora((6, 5), 2, 3.0, generator),
        random_lora((6, 5, 1, 1), 2, 3.0, generator),
    )
    place = {"a": ("unet", "a", (6, 5, 1, 1)), "b": ("unet", "b", (6, 5))}
    matched = match(Style({"a": flat, "b": square}, {}, ""), place)
    assert matched["unet", "a"].shape == (6, 5, 1, 1) and matched["unet", "b"].shape == (6, 5)
    assert np.array_equal(matched["unet", "a"].delta().reshape(6, 5), flat.delta())


def test_delta_of_a_convolution_is_what_two_convolutions_do() -> None:
    lora = random_lora((6, 5, 3, 3), 2, 3.0, np.random.default_rng(0))
    x = torch.randn(1, 5, 7, 7, generator=torch.Generator().manual_seed(0))
    two = (
        nn.functional.conv2d(
            nn.functional.conv2d(x, torch.from_numpy(lora.down), padding=1),
            torch.from_numpy(lora.up),
        )
        * 1.5
    )
    assert torch.allclose(
        nn.functional.conv2d(x, torch.from_numpy(lora.delta()), padding=1), two, atol=1e-5
    )


def test_a_peft_file_of_diffusers_reads_with_its_alphas(tmp_path: Path) -> None:
    from diffusers.training_utils import _collate_lora_metadata
    from peft import LoraConfig, get_peft_model_state_dict

    parts = sd1_parts()
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["to_q", "conv1"],
        alpha_pattern={"mid_block.resnets.0.conv1": 2},
        use_rslora=True,
    )
    parts["unet"].add_adapter(config)
    for name, weight in parts["unet"].named_parameters():
        if "lora_" in name:
            nn.init.normal_(weight, std=0.2)
    layers = get_peft_model_state_dict(parts["unet"])
    diffusers.StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=layers,
        weight_name="peft.safetensors",
        **_collate_lora_metadata({"unet": parts["unet"]}),
    )
    style = read_style(tmp_path / "peft.safetensors")
    by_hand = sd1_parts()
    merge(by_hand, match(style, accepted_names(shapes_of(by_hand), "sd1")))
    assert style.dialect == "diffusers"
    assert distance(outputs(by_hand), outputs(parts)) < 1e-4


def test_missing_alphas_are_the_rank_of_each_layer(tmp_path: Path) -> None:
    path, modules = sample(tmp_path)
    (tmp_path / "no.safetensors").write_bytes(
        save({k: v for k, v in load_file(path).items() if not k.endswith(".alpha")})
    )
    read = read_style(tmp_path / "no.safetensors").modules
    assert {name: lora.alpha for name, lora in read.items()} == {
        name: float(lora.rank) for name, lora in modules.items()
    }


def test_converting_there_and_back_keeps_every_delta(tmp_path: Path) -> None:
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    for family, build in (("sd1", sd1_parts), ("sdxl", sdxl_parts)):
        modules = named(random_style(shapes_of(build())), family)
        write_style(
            there,
            converted(Style(modules, {}, ""), "diffusers", family),
            {},
            dtype="float32",
            dialect="diffusers",
        )
        write_style(back, converted(read_style(there), "kohya", family), {}, dtype="float32")
        read = read_style(back).modules
        assert read.keys() == modules.keys()
        assert all(
            np.allclose(read[name].delta(), modules[name].delta(), atol=1e-6) for name in modules
        )


# Which base


def shaped(**shapes: tuple[int, ...]) -> dict[str, Lora]:
    return {
        name: random_lora(shape, 2, 2.0, np.random.default_rng(0)) for name, shape in shapes.items()
    }


@pytest.mark.parametrize(
    ("family", "name", "shape"),
    [
        ("sd1", "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k", (8, 768)),
        ("sd2", "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v", (8, 1024)),
        ("sdxl", "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k", (8, 2048)),
        ("sdxl-refiner", "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k", (8, 1280)),
        ("sdxl", "lora_te2_text_model_encoder_layers_0_mlp_fc1", (8, 1280)),
        ("sdxl", "lora_unet_input_blocks_4_1_proj_in", (8, 8)),
        ("sd1", "lora_te_text_model_encoder_layers_0_self_attn_q_proj", (768, 768)),
        ("", "lora_te1_text_model_encoder_layers_0_self_attn_q_proj", (768, 768)),
        ("sd2", "lora_unet_down_blocks_0_attentions_0_proj_in", (320, 320)),
        ("sd1", "lora_unet_down_blocks_0_attentions_0_proj_in", (320, 320, 1, 1)),
        ("flux", "lora_unet_double_blocks_0_img_attn_qkv", (8, 8)),
        ("sd3", "lora_unet_joint_blocks_0_x_block_attn_qkv", (8, 8)),
        ("", "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k", (8, 12)),
    ],
)
def test_weights_show_the_family(family: str, name: str, shape: tuple[int, ...]) -> None:
    assert family_of(shaped(**{name: shape})) == family


def test_a_style_for_another_base_is_refused_in_words() -> None:
    sd1 = {"unet": {"mid_block.attentions.0.transformer_blocks.0.attn2.to_k": (8, 768)}}
    sdxl = {
        f"lora_unet_middle_block_1_transformer_blocks_{i}_attn2_to_k": (8, 2048) for i in range(7)
    }
    with pytest.raises(StyleFileError) as error:
        match(Style(shaped(**sdxl), {"ss_sd_model_name": "xl"}, ""), accepted_names(sd1, "sd1"))
    words = str(error.value)
    assert (
        "an SDXL style, your base is SD 1.5" in words
        and "'xl'" in words
        and "7 of the style's 7 layers" in words
    )
    assert words.count("lora_unet_") == 5 and "and 2 more" in words


def test_a_wrong_width_is_named_when_the_family_is_the_same() -> None:
    shapes = {"unet": {"mid_block.attentions.0.transformer_blocks.0.attn2.to_k": (8, 12)}}
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    with pytest.raises(
        StyleFileError,
        match=r"an SD 1\.5 style whose cross-attention reads text 768 wide, your base's 12 wide",
    ):
        match(Style(shaped(**{name: (8, 768)}), {}, ""), accepted_names(shapes, "sd1"))


def test_metadata_against_the_weights_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    modules = shaped(lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k=(8, 768))
    write_style(path, modules, {"ss_base_model_version": "sdxl_base_v1-0"})
    style = read_style(path)
    assert style.family == "sd1" and "SDXL" in style.warnings[0]


def test_a_style_of_zeros_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_style(
        path,
        {"lora_unet_a": Lora(np.ones((2, 3), np.float32), np.zeros((4, 2), np.float32), 2.0)},
        {},
    )
    assert "changes nothing" in read_style(path).warnings[0]


def test_a_rank_far_above_need_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for rank, said in ((256, ()), (300, ("rank above 256",))):
        write_style(
            path,
            {
                "lora_unet_a": Lora(
                    np.ones((rank, 400), np.float32), np.ones((400, rank), np.float32), 2.0
                )
            },
            {},
        )
        assert all(
            words in warning for words, warning in zip(said, read_style(path).warnings, strict=True)
        )


# What is not written


def broken(**changed: Any) -> dict[str, Lora]:
    return {
        "lora_unet_a": Lora(
            **{"down": np.ones((2, 3), np.float32), "up": np.ones((4, 2), np.float32), "alpha": 2.0}
            | changed
        )
    }


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        ({}, "no weights"),
        (broken(up=np.full((4, 2), np.nan, np.float32)), "not finite"),
        (broken(up=np.full((4, 2), 7e4, np.float32)), "too large for float16"),
        (broken(up=np.ones((4, 3), np.float32)), "ranks"),
        (broken(alpha=float("nan")), "alpha"),
        (broken(alpha=0.0), "alpha"),
    ],
)
def test_a_bad_style_is_not_written(tmp_path: Path, modules: dict[str, Lora], words: str) -> None:
    with pytest.raises(StyleFileError, match=words):
        write_style(tmp_path / "a.safetensors", modules, {})
    assert not list(tmp_path.iterdir())


def test_what_float16_cannot_hold_the_others_can(tmp_path: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        write_style(
            tmp_path / "a.safetensors",
            broken(up=np.full((4, 2), 65536.0, np.float32)),
            {},
            dtype=dtype,
        )
        assert read_style(tmp_path / "a.safetensors").modules["lora_unet_a"].up.max() == 65536
    with pytest.raises(StyleFileError, match="too large for bfloat16"):
        write_style(
            tmp_path / "a.safetensors",
            broken(up=np.full((4, 2), np.finfo(np.float32).max)),
            {},
            dtype="bfloat16",
        )


# What is not read


def raw(header: bytes | dict[str, Any], data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensors(**found: np.ndarray) -> bytes:
    return save({name.replace("__", "."): np.asarray(array) for name, array in found.items()})


DOWN, UP = np.ones((2, 3), np.float32), np.ones((4, 2), np.float32)
PAIR = {"x__lora_down__weight": DOWN, "x__lora_up__weight": UP}
ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
BAD = {
    "empty": (b"", "empty"),
    "text": (b"hello, this is no style at all", "not a safetensors file"),
    "web page": (b"<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\n", "LFS pointer"),
    "zip": (b"PK\x03\x04" + b"\0" * 60, "pickle or zip"),
    "pickle": (b"\x80\x02}q\0." + b"\0" * 60, "pickle or zip"),
    "huge header": ((2**40).to_bytes(8, "little") + b'{"a":1}', "header of"),
    "header cut off": (raw({"x": ENTRY})[:30], "inside its header"),
    "no JSON": (raw(b"{nonsense}"), "not sound JSON"),
    "not UTF-8": (raw(b'{"\xff":1}'), "not sound JSON"),
    "deep": (raw(b'{"a":' * 100_000), "nested too deeply"),
    "duplicate": (
        raw(
            b'{"x":' + json.dumps(ENTRY).encode() + b',"x":' + json.dumps(ENTRY).encode() + b"}",
            b"\0" * 4,
        ),
        "twice",
    ),
    "metadata no text": (
        raw({"__metadata__": {"a": 1}, "x": ENTRY}, b"\0" * 4),
        "metadata is not text",
    ),
    "half a surrogate": (
        raw(b'{"__metadata__":{"a":"\\ud800"},"x":' + json.dumps(ENTRY).encode() + b"}", b"\0" * 4),
        "metadata is not text",
    ),
    "no tensors": (raw({}), "0 tensors"),
    "too many tensors": (raw({f"x{i}": ENTRY for i in range(9000)}), "9000 tensors"),
    "path as name": (raw({"../../evil": ENTRY}, b"\0" * 4), "no style has"),
    "no offsets": (raw({"x": {"dtype": "F32", "shape": [1]}}), "describe x properly"),
    "negative": (raw({"x": ENTRY | {"shape": [-1]}}), "describe x properly"),
    "truth as number": (raw({"x": ENTRY | {"shape": [True]}}), "describe x properly"),
    "overlap": (raw({"x": ENTRY, "y": ENTRY}, b"\0" * 4), "overlap"),
    "gap": (raw({"x": ENTRY | {"data_offsets": [4, 8]}}, b"\0" * 8), "gap"),
    "wrong size": (raw({"x": ENTRY | {"shape": [2]}}, b"\0" * 4), "fit its shape"),
    "huge shape": (raw({"x": ENTRY | {"shape": [2**62, 2**62]}}, b"\0" * 4), "fit its shape"),
    "trailing bytes": (raw({"x": ENTRY}, b"\0" * 8), "promises"),
    "cut off": (tensors(**PAIR)[:-4], "promises"),
    "integers": (
        tensors(x__lora_down__weight=np.ones((2, 3), np.int32), x__lora_up__weight=UP),
        "as I32",
    ),
    "doubles": (tensors(x__lora_down__weight=DOWN.astype(float), x__lora_up__weight=UP), "as F64"),
    "half a LoHa": (
        tensors(x__hada_w1_a=DOWN, x__hada_w1_b=DOWN, x__alpha=np.float32(1)),
        "no hada_w2_a",
    ),
    "half a LoKr": (tensors(x__lokr_w1=DOWN), "no lokr_w2_a"),
    "DoRA of no axis": (tensors(**PAIR, x__dora_scale=DOWN), "neither its rows nor its inputs"),
    "peft DoRA": (tensors(**PAIR, x__lora_magnitude_vector=DOWN), "lora_magnitude_vector of x"),
    "Tucker": (tensors(**PAIR, x__lora_mid__weight=DOWN), r"mid \(2, 3\)"),
    "two methods": (tensors(**PAIR, x__lokr_w1=UP, x__lokr_w2=UP), "different methods"),
    "too large": (
        tensors(
            x__lokr_w1=np.ones((4000, 4), np.float32), x__lokr_w2=np.ones((4, 9000), np.float32)
        ),
        "larger than any",
    ),
    "words alone": (tensors(bundle_emb__word__string_to_param=DOWN), "holds words"),
    "embedding": (tensors(emb_params=DOWN * np.nan), "not finite"),
    "a whole model": (tensors(model__diffusion_model__out__2__weight=DOWN), "is no style"),
    "stray": (tensors(**PAIR, x__more__weight=DOWN), "no LoRA, LoHa or LoKr has"),
    "two dialects": (
        tensors(**PAIR, unet__a__lora_A__weight=DOWN, unet__a__lora_B__weight=UP),
        "mixes",
    ),
    "two spellings": (
        tensors(
            unet__a__lora_A__weight=DOWN, unet__a__lora_B__weight=UP, unet__a__lora__up__weight=UP
        ),
        "twice",
    ),
    "half a layer": (tensors(x__lora_down__weight=DOWN), "no up weight"),
    "ranks": (tensors(x__lora_down__weight=DOWN, x__lora_up__weight=UP.T.copy()), "ranks"),
    "rank 2000": (
        tensors(
            x__lora_down__weight=np.ones((2000, 1), np.float32),
            x__lora_up__weight=np.ones((1, 2000), np.float32),
        ),
        "ranks",
    ),
    "one dimension": (tensors(x__lora_down__weight=DOWN[0], x__lora_up__weight=UP), "shapes"),
    "no values": (
        tensors(x__lora_down__weight=DOWN[:0], x__lora_up__weight=UP[:, :0]),
        "fit its shape",
    ),
    "alpha 0": (tensors(**PAIR, x__alpha=np.float32(0)), "alpha of 0"),
    "alpha NaN": (tensors(**PAIR, x__alpha=np.float32("nan")), "alpha of nan"),
    "alpha huge": (tensors(**PAIR, x__alpha=np.float32(1e9)), "alpha"),
    "alphas": (tensors(**PAIR, x__alpha=DOWN), "single number"),
    "NaN": (tensors(x__lora_down__weight=DOWN * np.nan, x__lora_up__weight=UP), "not finite"),
    "infinity": (tensors(x__lora_down__weight=DOWN * np.inf, x__lora_up__weight=UP), "not finite"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused_in_words(tmp_path: Path, kind: str) -> None:
    content, words = BAD[kind]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(StyleFileError, match=words) as error:
        read_style(path)
    assert len(str(error.value)) < 1000


def test_other_places_are_refused_in_words(tmp_path: Path) -> None:
    for name in ("a.ckpt", "a.pt", "a.bin"):
        (tmp_path / name).write_bytes(tensors(**PAIR))
        with pytest.raises(StyleFileError, match=r"expected \.safetensors"):
            read_style(tmp_path / name)
    with pytest.raises(StyleFileError, match="is a folder"):
        read_style(tmp_path)
    with pytest.raises(StyleFileError, match="is not there"):
        read_metadata(tmp_path / "none.safetensors")


def test_a_header_as_long_as_a_pickle_or_zip_begins_is_no_disguise(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for length in (0x180, 0x4B50):
        content = tensors(**PAIR)
        header, data = (
            content[8 : 8 + int.from_bytes(content[:8], "little")],
            content[8 + int.from_bytes(content[:8], "little") :],
        )
        path.write_bytes(raw(header.ljust(length), data))
        assert read_style(path).modules


def test_every_cut_of_a_file_is_refused(tmp_path: Path) -> None:
    content, path = tensors(**PAIR), tmp_path / "a.safetensors"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(StyleFileError):
            read_style(path)


def test_any_flipped_byte_of_a_header_is_refused_or_harmless(tmp_path: Path) -> None:
    content, path = tensors(**PAIR), tmp_path / "a.safetensors"
    for place in range(8 + int.from_bytes(content[:8], "little")):
        for flip in (1, 0x20, 0x80):
            path.write_bytes(
                content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :]
            )
            try:
                read_style(path)
            except StyleFileError:
                continue
            with safe_open(path, "np") as file:  # what we accept, the library accepts
                assert file.keys()


def test_bfloat16_of_torch_reads_exactly(tmp_path: Path) -> None:
    found = {
        "x.lora_down.weight": torch.randn(2, 3).bfloat16(),
        "x.lora_up.weight": torch.randn(4, 2).bfloat16(),
        "x.alpha": torch.tensor(2),
    }
    (tmp_path / "a.safetensors").write_bytes(save_torch(found))
    lora = read_style(tmp_path / "a.safetensors").modules["x"]
    assert (
        np.array_equal(lora.down, found["x.lora_down.weight"].float().numpy()) and lora.alpha == 2
    )


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        ({"unet.lora_alpha": 4, "unet.alpha_pattern": {"(a+)+$": 1}}, "expressions"),
        ({"unet.lora_alpha": "4"}, "no number"),
        ({"unet.use_dora": True}, "DoRA"),
        ({"unet.lora_alpha": -1}, "alpha"),
    ],
)
def test_hostile_adapter_metadata_is_refused(
    tmp_path: Path, adapter: dict[str, Any], words: str
) -> None:
    found = {"unet.a.lora_A.weight": DOWN, "unet.a.lora_B.weight": UP}
    (tmp_path / "a.safetensors").write_bytes(
        save(found, {"lora_adapter_metadata": json.dumps(adapter)})
    )
    with pytest.raises(StyleFileError, match=words):
        read_style(tmp_path / "a.safetensors")


def test_hostile_metadata_is_only_text(tmp_path: Path) -> None:
    hostile = {
        "style_studio.recipe": "[" * 60_000,
        "modelspec.title": "\x1b[31m\u202e" + "x" * 10_000,
        "ss_base_model_version": "sd_v1",
    }
    (tmp_path / "a.safetensors").write_bytes(
        save({"x.lora_down.weight": DOWN, "x.lora_up.weight": UP}, hostile)
    )
    style = read_style(tmp_path / "a.safetensors")
    assert (
        style.recipe == {}
        and len(style.title) < 300
        and style.title.isprintable()
        and style.family == "sd1"
    )


def test_adapter_metadata_is_never_written(tmp_path: Path) -> None:
    path, modules = sample(tmp_path)
    write_style(path, modules, {"lora_adapter_metadata": "{}", "sshs_model_hash": "lie"})
    found = read_metadata(path)
    assert "lora_adapter_metadata" not in found and found["sshs_model_hash"] != "lie"
