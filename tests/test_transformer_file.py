"""Single files of transformers: told by the names in them, put together with what base.rest
supplies, weight by weight those of the folder that they were written from.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.errors import ModelError
from training.models import base_files, loader, transformer_file, weight_file
from training.runtime.device import DeviceSpec
from training.style_files.family_spec import SPECS

FLOAT32 = DeviceSpec(torch.device("cpu"), torch.float32)
Bases = Callable[[str], Path]

# diffusers' names of what is no linear of a block -> the authors'
_BLOCK, _SINGLE = r"^transformer_blocks\.(\d+)\.", r"^single_transformer_blocks\.(\d+)\."
_NORMS = {
    rf"{_BLOCK}attn\.norm_q\.weight": r"double_blocks.\1.img_attn.norm.query_norm.scale",
    rf"{_BLOCK}attn\.norm_k\.weight": r"double_blocks.\1.img_attn.norm.key_norm.scale",
    rf"{_BLOCK}attn\.norm_added_q\.weight": r"double_blocks.\1.txt_attn.norm.query_norm.scale",
    rf"{_BLOCK}attn\.norm_added_k\.weight": r"double_blocks.\1.txt_attn.norm.key_norm.scale",
    rf"{_SINGLE}attn\.norm_q\.weight": r"single_blocks.\1.norm.query_norm.scale",
    rf"{_SINGLE}attn\.norm_k\.weight": r"single_blocks.\1.norm.key_norm.scale",
    r"^norm_out\.linear": "final_layer.adaLN_modulation.1",
}
_STEP, _TEXT = (rf"^time_text_embed\.{part}_embedder\.linear_" for part in ("timestep", "text"))
RENAMED: dict[str, dict[str, str]] = {
    "flux": _NORMS,
    "chroma": _NORMS
    | {
        r"^(distilled_guidance_layer\.layers\.\d+)\.linear_1": r"\1.in_layer",
        r"^(distilled_guidance_layer\.layers\.\d+)\.linear_2": r"\1.out_layer",
        r"^(distilled_guidance_layer\.norms\.\d+)\.weight": r"\1.scale",
    },
    "flux2-klein": _NORMS
    | {
        r"^(\w+_stream_modulation\w*)\.linear": r"\1.lin",
        r"^time_guidance_embed\.timestep_embedder\.linear_1": "time_in.in_layer",
        r"^time_guidance_embed\.timestep_embedder\.linear_2": "time_in.out_layer",
    },
    "z-image": {r"attention\.norm_([qk])\.": r"attention.\1_norm."},
    "sd3": {
        rf"{_BLOCK}(attn2?)\.norm_([qk])\.": r"joint_blocks.\1.x_block.\2.ln_\3.",
        rf"{_BLOCK}attn\.norm_added_([qk])\.": r"joint_blocks.\1.context_block.attn.ln_\2.",
        rf"{_BLOCK}norm1_context\.linear": r"joint_blocks.\1.context_block.adaLN_modulation.1",
        r"^pos_embed\.pos_embed": "pos_embed",
        r"^pos_embed\.proj": "x_embedder.proj",
        f"{_STEP}1": "t_embedder.mlp.0",
        f"{_STEP}2": "t_embedder.mlp.2",
        f"{_TEXT}1": "y_embedder.mlp.0",
        f"{_TEXT}2": "y_embedder.mlp.2",
        r"^norm_out\.linear": "final_layer.adaLN_modulation.1",
        r"^proj_out\.": "final_layer.linear.",
    },
    "qwen-image": {},
    "krea2": {
        r"^img_in\.": "first.",
        r"^time_embed\.linear_1\.": "tmlp.0.",
        r"^time_embed\.linear_2\.": "tmlp.2.",
        r"^time_mod_proj\.": "tproj.1.",
        r"^txt_in\.norm\.weight": "txtmlp.0.scale",
        r"^txt_in\.linear_1\.": "txtmlp.1.",
        r"^txt_in\.linear_2\.": "txtmlp.3.",
        r"^final_layer\.linear\.": "last.linear.",
        r"^final_layer\.norm\.weight": "last.norm.scale",
        r"^final_layer\.scale_shift_table": "last.modulation.lin",
        r"^transformer_blocks\.": "blocks.",
        r"^text_fusion\.": "txtfusion.",
        r"\.attn\.to_([qkv])\.": r".attn.w\1.",
        r"\.attn\.to_out\.0\.": ".attn.wo.",
        r"\.attn\.to_gate\.": ".attn.gate.",
        r"\.attn\.norm_([qk])\.weight": r".attn.qknorm.\1norm.scale",
        r"\.ff\.": ".mlp.",
        r"\.norm1\.weight": ".prenorm.scale",
        r"\.norm2\.weight": ".postnorm.scale",
        r"\.scale_shift_table": ".mod.lin",
    },
}
# Whose halves the authors have the other way round; of two blocks the last
SWAPPED = ("final_layer.adaLN_modulation.1", "joint_blocks.1.context_block.adaLN_modulation.1")


def published(family: str, folder: Path) -> dict[str, Tensor]:
    """The transformer of a diffusers folder under its authors' names."""
    (path,) = (folder / "transformer").glob("*.safetensors")
    found: dict[str, Tensor] = {}
    fused: dict[str, dict[int, Tensor]] = {}
    for name, tensor in load_file(path).items():
        module, _, leaf = name.rpartition(".")
        native = SPECS[family].elsewhere(module) if leaf in ("weight", "bias") else None
        if native and native[0] != module:
            fused.setdefault(f"{native[0]}.{leaf}", {})[native[1]] = tensor
            continue
        for pattern, other in RENAMED[family].items():
            name = re.sub(pattern, other, name)
        if name.startswith(SWAPPED):
            tensor = torch.cat(tensor.chunk(2)[::-1])
        if family == "krea2" and name.startswith("blocks.") and name.endswith(".mod.lin"):
            tensor = tensor.flatten()
        found[name] = tensor.contiguous()
    return found | {
        name: torch.cat([pieces[place] for place in sorted(pieces)])
        for name, pieces in fused.items()
    }


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STYLE_STUDIO_CACHE", str(tmp_path / "cache"))


def without_weights(folder: Path, copy: Path) -> Path:
    """A folder that supplies all but the transformer's weights."""
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("diffusion_pytorch_model*"))
    shutil.copytree(folder / "vae", copy / "vae", dirs_exist_ok=True)
    return copy


# Families whose conversion in diffusers knows no width but this -> that of the tiny ones
WIDE, NARROW = 3072, {"flux": 32, "chroma": 32}


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A family -> diffusers' own code that converts it, with that one number changed in it."""

    def changed(family: str) -> None:
        from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

        record = SINGLE_FILE_LOADABLE_CLASSES[SPECS[family].classes["transformer"]]
        convert: Any = record["checkpoint_mapping_fn"]
        constants = convert.__code__.co_consts
        assert constants.count(WIDE) == 1
        narrower = tuple(NARROW[family] if value == WIDE else value for value in constants)
        code = convert.__code__.replace(co_consts=narrower)
        made = FunctionType(code, convert.__globals__, closure=convert.__closure__)
        monkeypatch.setitem(record, "checkpoint_mapping_fn", made)

    return changed


@pytest.mark.parametrize("family", RENAMED)
def test_a_file_and_its_rest_are_the_base_they_were_made_of(
    family: str, flow_base: Bases, narrow: Callable[[str], None], tmp_path: Path
) -> None:
    if family in NARROW:
        narrow(family)
    rest = without_weights(flow_base(family), tmp_path / "rest")
    prefix = "model.diffusion_model." if family in ("z-image", "qwen-image") else ""
    tensors = published(family, flow_base(family))
    path = tmp_path / "one.safetensors"
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, path)
    files = base_files.find(str(path), str(rest))
    assert (files.family.name, files.title) == (family, "one")
    (own,) = (flow_base(family) / "transformer").glob("*.safetensors")
    wanted, network = load_file(own), loader.load_part(files, "transformer", FLOAT32)
    found = network.state_dict()
    assert wanted.keys() <= found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    # From now on the file is enough, and no encoder was written twice where disks have links
    assert base_files.find(str(path)) == files
    (first, *_) = sorted((files.folder / "text_encoder").glob("*.safetensors"))
    assert first.stat().st_nlink == 2 and loader.load(files, FLOAT32).family.name == family


def small(
    path: Path, names: tuple[str, ...], dtype: torch.dtype = torch.float32, width: int = 64
) -> Path:
    save_file({name: torch.zeros(4, width, dtype=dtype) for name in names}, path)
    return path


FLUX = (
    "double_blocks.0.img_attn.norm.key_norm.scale",
    "double_blocks.1.img_mlp.0.weight",
    "single_blocks.1.linear1.weight",
    "guidance_in.in_layer.weight",
    "img_in.weight",
)


@pytest.mark.parametrize(
    ("names", "family"),
    [
        (FLUX, "flux"),
        ((*FLUX, "single_stream_modulation.lin.weight"), "flux2-klein"),
        ((*FLUX, "distilled_guidance_layer.in_proj.weight"), "chroma"),
        (("txt_in.text_norm.weight", *transformer_file.MARKS["qwen-image"].has), ""),
        (("double_blocks.0.img_attn.proj.lora_down.weight",), ""),
    ],
)
def test_the_names_show_the_family(names: tuple[str, ...], family: str, tmp_path: Path) -> None:
    width = 128 if family == "flux2-klein" else 64
    found = transformer_file.examined(small(tmp_path / "a.safetensors", names, width=width))
    assert (found.spec.name if found else "") == family


FP8 = torch.float8_e4m3fn


def transformer_of(path: Path, rest: Path) -> dict[str, Tensor]:
    """What is loaded of a file."""
    files = base_files.find(str(path), str(rest))
    return loader.load_part(files, "transformer", FLOAT32).state_dict()


def test_fp8_without_scales_is_read(flow_base: Bases, tmp_path: Path) -> None:
    folder = flow_base("z-image")
    tensors = {n: t.to(FP8) for n, t in published("z-image", folder).items()}
    save_file(tensors, tmp_path / "a.safetensors")
    found = transformer_of(tmp_path / "a.safetensors", folder)
    name = "layers.1.feed_forward.w2.weight"  # called so there, too
    assert torch.equal(found[name], tensors[name].to(torch.float32))


@pytest.mark.parametrize("form", ["scale_weight", "weight_scale"])
def test_fp8_with_a_scale_for_each_matrix_is_read(
    form: str, flow_base: Bases, tmp_path: Path
) -> None:
    """In both of ComfyUI's forms; rows may have scales of their own in the newer one."""
    folder, beside = flow_base("z-image"), {}
    tensors = published("z-image", folder)
    for name in [n for n in tensors if n.endswith("weight") and tensors[n].dim() == 2]:
        module, largest = name.removesuffix(".weight"), tensors[name].abs().amax(1, True)
        scale = (largest if form == "weight_scale" else largest.max()) / 448
        tensors[name] = (tensors[name] / scale).to(FP8)
        beside[f"{module}.{form}"] = scale
        if form == "weight_scale":
            mark = json.dumps({"format": "float8_e4m3fn"}).encode()
            beside[f"{module}.comfy_quant"] = torch.tensor([*mark], dtype=torch.uint8)
        else:
            beside[f"{module}.scale_input"] = torch.ones(())
    if form == "scale_weight":
        beside["scaled_fp8"] = torch.zeros(2, dtype=FP8)
    path = tmp_path / "a.safetensors"
    whole = {f"model.diffusion_model.{n}": t for n, t in (tensors | beside).items()}
    save_file(whole, path)
    found, name = transformer_of(path, folder), "layers.1.feed_forward.w2"
    wanted = tensors[f"{name}.weight"].float() * beside[f"{name}.{form}"]
    assert torch.equal(found[f"{name}.weight"], wanted.bfloat16().float())
    before = published("z-image", folder)[f"{name}.weight"]
    torch.testing.assert_close(wanted, before, rtol=2**-4, atol=0.01 * float(before.abs().max()))

    def refused(message: str, changed: dict[str, Tensor]) -> None:
        save_file(whole | changed, path)
        with pytest.raises(ModelError, match=message):
            base_files.find(str(path), str(folder))

    scale = f"model.diffusion_model.{name}.{form}"
    refused(f"w2.{form}. of a kind", {scale: torch.ones(3)})
    refused("is no finite number", {scale: torch.tensor(float("nan"))})
    other = torch.tensor([*b'{"format": "nvfp4"}'], dtype=torch.uint8)
    refused("comfy_quant. of a kind", {f"model.diffusion_model.{name}.comfy_quant": other})


@pytest.mark.parametrize("shape", [(3,), (3, 4, 1)])
def test_only_rows_of_matrices_have_scales_of_their_own(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    """A scale for each number of a vector would make a matrix of it, of any size."""
    tensors = {"a.weight": torch.ones(shape).to(FP8), "a.weight_scale": torch.ones(3)}
    save_file(tensors, tmp_path / "a.safetensors")
    found = weight_file.opened(tmp_path / "a.safetensors")
    assert found is not None and found.unread == "a.weight_scale"


def test_what_cannot_be_put_together_is_refused_in_words(flow_base: Bases, tmp_path: Path) -> None:
    rest, other = flow_base("flux"), flow_base("sd3")
    file = small(tmp_path / "a.safetensors", FLUX)

    def refused(message: str, path: Path = file, beside: Path | str = rest) -> None:
        with pytest.raises(ModelError, match=message):
            base_files.find(str(path), str(beside))

    refused("holds the transformer of a FLUX.1 alone. Set base.rest to a diffusers", beside="")
    refused(
        "base.rest is nowhere/at all: no such folder. Give a diffusers", beside="nowhere/at all"
    )
    refused("is a FLUX.1, base.rest .* a Stable Diffusion 3 and 3.5", beside=other)
    refused("is no single file of a transformer.*Leave base.rest empty", rest, other)
    refused("lacks|cannot be opened")  # of the right kind, with hardly any weights
    few = small(tmp_path / "few.safetensors", (FLUX[0], *FLUX[2:]))
    refused("has 1 double_blocks, the FLUX.1 of base.rest .* has 2", few)
    schnell = small(tmp_path / "schnell.safetensors", (*FLUX[:3], FLUX[4]))
    refused("is a FLUX.1 schnell, base.rest .* a FLUX.1 dev", schnell)
    scaled = (*FLUX, "double_blocks.0.img_mlp.0.scale_weight")
    refused("quantised weights .*scale_weight.* 16 bits", small(tmp_path / "8.safetensors", scaled))
    packed = small(tmp_path / "4.safetensors", FLUX, torch.uint8)
    refused("holds quantised weights .* of a kind", packed)
    fill = small(tmp_path / "fill.safetensors", FLUX, width=384)
    refused("takes 384 channels, 64 were expected: it draws", fill)
    refused("base.rest is .*, a file: a diffusers folder", beside=file)
    index = tmp_path / "spoilt" / "model_index.json"
    shutil.copytree(rest, index.parent)
    shutil.rmtree(index.parent / "text_encoder_2")
    refused("has no text_encoder_2/ folder", beside=index.parent)
    index.write_text(
        json.dumps(json.loads(index.read_text()) | {"_class_name": "FluxFillPipeline"})
    )
    refused("is a FluxFillPipeline", beside=index.parent)
