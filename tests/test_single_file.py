"""Single-file checkpoints:

opened from our own configs, with no network, to the very weights that went in.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from tests.tiny import tiny_base, tiny_xl
from training.cli.style_file import main as style_file
from training.errors import ModelError, StyleFileError
from training.models import base_files, loader, single_file
from training.models.files import read_json
from training.runtime.device import DeviceSpec
from training.style_files.base_weights import BaseWeights, write_single
from training.style_files.checkpoint_keys import pieces
from training.style_files.lora import Lora
from training.style_files.writing import named, write_style

PARTS = {
    "sd1": ("unet", "vae", "text_encoder"),
    "sd2": ("unet", "vae", "text_encoder"),
    "sdxl": ("unet", "vae", "text_encoder", "text_encoder_2"),
}
# Parameters of the published models
PUBLISHED = {
    "sd1": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sd2": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "sdxl": {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
}


# --- from diffusers' names to Stability's own layout, written anew here, for networks of two levels
# ---


def original_unet(weights: dict[str, Tensor], resnets: int) -> Iterator[tuple[str, Tensor]]:
    inner = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "time_emb_proj": "emb_layers.1",
    }
    inner["conv_shortcut"] = "skip_connection"
    attends = {name.split(".attentions")[0] for name in weights if ".attentions." in name}
    whole = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
    whole |= {f"time_embedding.linear_{n}": f"time_embed.{2 * n - 2}" for n in (1, 2)} | {
        f"add_embedding.linear_{n}": f"label_emb.0.{2 * n - 2}" for n in (1, 2)
    }
    for name, tensor in weights.items():
        stem, kind = name.rsplit(".", 1)
        block, level, of, index, *rest = [*stem.split("."), *[""] * 4]
        tail = ".".join(x for x in rest if x)
        if stem in whole:
            place = whole[stem]
        elif block == "mid_block":  # mid_block.resnets.0.norm1
            place = (
                f"middle_block.{2 * int(of)}.{inner['.'.join(x for x in (index, *rest) if x)]}"
                if level == "resnets"
                else ""
            )
            place = place or f"middle_block.1.{'.'.join(x for x in (index, *rest) if x)}"
        elif block == "down_blocks":
            at = int(level) * (resnets + 1) + 1 + (int(index) if of != "downsamplers" else resnets)
            place = (
                f"input_blocks.{at}."
                + {
                    "resnets": f"0.{inner.get(tail)}",
                    "attentions": f"1.{tail}",
                    "downsamplers": "0.op",
                }[of]
            )
        else:
            at = int(level) * (resnets + 1) + (int(index) if of != "upsamplers" else resnets)
            column = 2 if f"up_blocks.{level}" in attends else 1
            place = (
                f"output_blocks.{at}."
                + {
                    "resnets": f"0.{inner.get(tail)}",
                    "attentions": f"1.{tail}",
                    "upsamplers": f"{column}.conv",
                }[of]
            )
        yield f"model.diffusion_model.{place}.{kind}", tensor


def original_vae(weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in weights.items():
        new = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        new = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", new)
        new = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(
            r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{2 - int(m[1])}.block.{m[2]}", new
        )
        new = re.sub(
            r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{2 - int(m[1])}.upsample", new
        )
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        yield f"first_stage_model.{new}", tensor


def original_open_clip(weights: dict[str, Tensor], prefix: str) -> Iterator[tuple[str, Tensor]]:
    plain = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
    }
    plain |= {f"final_layer_norm.{kind}": f"ln_final.{kind}" for kind in ("weight", "bias")}
    inner = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
    }
    weights = {name.removeprefix("text_model."): tensor for name, tensor in weights.items()}
    for name, tensor in weights.items():
        if name == "text_projection.weight":
            yield prefix + "text_projection", tensor.t().contiguous()
        elif name in plain:
            yield prefix + plain[name], tensor
        else:
            _, _, layer, rest = name.split(".", 3)
            stem, kind = rest.rsplit(".", 1)
            start = f"{prefix}transformer.resblocks.{layer}."
            if stem in inner:
                yield f"{start}{inner[stem]}.{kind}", tensor
            elif stem == "self_attn.q_proj":
                three = [weights[name.replace("q_proj", f"{x}_proj")] for x in "qkv"]
                yield f"{start}attn.in_proj_{kind}", torch.cat(three)


def original(folder: Path, family: str) -> dict[str, Tensor]:
    """A diffusers folder's weights as one checkpoint."""
    read = {
        part: safetensors.torch.load_file(next((folder / part).glob("*.safetensors")))
        for part in PARTS[family]
    }
    found = dict(original_unet(read["unet"], 2 if family == "sdxl" else 1)) | dict(
        original_vae(read["vae"])
    )

    def clip(prefix):
        return {
            f"{prefix}text_model.{name.removeprefix('text_model.')}": t
            for name, t in read["text_encoder"].items()
        }

    if family == "sd1":
        return found | clip("cond_stage_model.transformer.")
    if family == "sd2":
        return found | dict(original_open_clip(read["text_encoder"], "cond_stage_model.model."))
    found |= clip("conditioner.embedders.0.transformer.")
    return found | dict(
        original_open_clip(read["text_encoder_2"], "conditioner.embedders.1.model.")
    )


MAKERS = {
    "sd1": lambda folder: tiny_base(folder, width=768),
    "sd2": lambda folder: tiny_base(folder, width=1024, linear_projection=True),
    "sdxl": tiny_xl,
}


@pytest.fixture(params=MAKERS)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(family: str, tmp_path: Path) -> Path:
    return MAKERS[family](tmp_path / "diffusers")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An own cache, no hub."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def nothing(*args: object, **keys: object) -> str:
        raise LocalEntryNotFoundError("no network in tests")

    monkeypatch.setenv("STYLE_STUDIO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", nothing)


@pytest.fixture
def checkpoint(folder: Path, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny checkpoint, with the tokenizer beside it, and configs of its size where ours of the
    real size would be.
    """
    path = tmp_path / "given" / "model.safetensors"
    path.parent.mkdir()
    safetensors.torch.save_file(
        original(folder, family), path, metadata={"modelspec.prediction_type": "epsilon"}
    )
    with_vocabulary(path.parent / "tokenizer", folder)
    own = read_json(single_file.CONFIGS / f"{family}.json", family)
    for part in PARTS[family]:
        own[part] = json.loads((folder / part / "config.json").read_text())
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / f"{family}.json").write_text(json.dumps(own))
    monkeypatch.setattr(single_file, "CONFIGS", tmp_path / "configs")
    return path


def with_vocabulary(to: Path, folder: Path) -> None:
    to.mkdir(parents=True)
    words = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())["model"]
    (to / "vocab.json").write_text(json.dumps(words["vocab"]))
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in words["merges"]]
    (to / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))


def test_a_checkpoint_is_the_folder_it_was_made_from(
    checkpoint: Path, folder: Path, family: str
) -> None:
    files = base_files.find(str(checkpoint))
    assert files.family.name == family and files.title == "model"
    place = DeviceSpec(torch.device("cpu"), torch.float32)
    ours, theirs = loader.load(files, place), loader.load(base_files.find(str(folder)), place)
    for part in PARTS[family]:
        a, b = ours.networks[part].state_dict(), theirs.networks[part].state_dict()
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(
                a[name].float(), b[name].float(), rtol=1e-3, atol=1e-3
            )  # kept in float16
    texts = ["an icon of a cat", ""]
    for name, tokenizer in ours.tokenizers.items():
        assert tokenizer(texts).input_ids == theirs.tokenizers[name](texts).input_ids
    assert torch.equal(ours.objective.alphas_cumprod, theirs.objective.alphas_cumprod)


def test_it_is_converted_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = base_files.find(str(checkpoint)).folder
    monkeypatch.setattr(single_file, "_opened", lambda *a: pytest.fail("opened again"))
    assert base_files.find(str(checkpoint)).folder == first


def test_a_missing_vocabulary_is_named_with_its_places(
    checkpoint: Path, folder: Path, tmp_path: Path
) -> None:
    (checkpoint.parent / "tokenizer" / "merges.txt").unlink()
    with pytest.raises(ModelError) as caught:
        base_files.find(str(checkpoint))
    own = tmp_path / "cache" / "tokenizers" / "clip"
    assert f"{checkpoint.parent / 'tokenizer'}: merges.txt missing" in str(caught.value)
    assert f"{own}: vocab.json and merges.txt missing" in str(caught.value)
    with_vocabulary(own, folder)
    assert base_files.find(str(checkpoint)).folder.is_dir()


def renamed(path: Path, change: Callable[[str], str]) -> Path:
    weights = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    safetensors.torch.save_file({change(name): t for name, t in weights.items()}, path, metadata)
    return path


def without_text_model(name: str) -> str:
    """As NovelAI named SD 1.x, and with it Anything, Counterfeit and most anime merges."""
    return name.replace(".transformer.text_model.", ".transformer.")


def as_sgm_names_sd2(name: str) -> str:
    return name.replace("cond_stage_model.model.", "conditioner.embedders.0.model.")


@pytest.mark.parametrize(
    "change",
    [
        without_text_model,
        as_sgm_names_sd2,
        lambda name: f"module.{name}",
        lambda name: f"state_dict.{without_text_model(name)}",
    ],
    ids=["novelai", "sgm", "module", "state_dict"],
)
def test_old_and_odd_names_open_the_same_base(
    change: Callable[[str], str], checkpoint: Path, family: str, tmp_path: Path
) -> None:
    usual = base_files.find(str(checkpoint))
    other = tmp_path / "given" / "other.safetensors"
    shutil.copyfile(checkpoint, other)
    found = base_files.find(str(renamed(other, change)))
    assert found.family.name == usual.family.name and found.title == "other"
    for part in PARTS[family]:
        (a,), (b,) = ((f.folder / part).glob("*.safetensors") for f in (usual, found))
        first, second = (safetensors.torch.load_file(file) for file in (a, b))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_stray_name_makes_no_style_of_a_checkpoint(checkpoint: Path) -> None:
    """Trainers leave such tensors behind, and merges carry them on."""
    stray = {"lora_unet_mid.alpha": torch.ones(1), "cond_stage_model.lora_scale": torch.ones(1)}
    stray |= {"lora_unet_mid.lora_up.weight": torch.ones(2, 2)}
    metadata = {"modelspec.prediction_type": "epsilon"}
    assert base_files.find(str(rewritten(checkpoint, add=stray, metadata=metadata))).folder.is_dir()


@pytest.mark.parametrize(
    "leaf", ["lora_down.weight", "lora_A.weight", "hada_w1_a", "lokr_w1", "lora.up.weight"]
)
def test_a_style_is_named_as_one_in_every_dialect(leaf: str, tmp_path: Path) -> None:
    path = tmp_path / "style.safetensors"
    safetensors.torch.save_file({f"unet.mid_block.{leaf}": torch.ones(2, 2)}, path)
    with pytest.raises(ModelError, match="is a style"):
        base_files.find(str(path))


def test_a_refiner_is_no_sd2(checkpoint: Path) -> None:
    """Its second kind of text encoder stands where Stability's later code puts that of 2.x."""
    weights = {
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3),
        "conditioner.embedders.0.model.token_embedding.weight": torch.zeros(4, 1280),
        "first_stage_model.decoder.conv_in.weight": torch.zeros(1),
    }
    safetensors.torch.save_file(weights, checkpoint)
    with pytest.raises(ModelError, match="refiner"):
        base_files.find(str(checkpoint))


def rewritten(
    path: Path,
    *,
    drop: str = "",
    add: dict[str, Tensor] | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    weights = {
        name: t
        for name, t in safetensors.torch.load_file(path).items()
        if not drop or not name.startswith(drop)
    }
    safetensors.torch.save_file(weights | (add or {}), path, metadata=metadata)
    return path


def prediction(path: Path) -> tuple[str, bool]:
    config = json.loads(
        (base_files.find(str(path)).folder / "scheduler" / "scheduler_config.json").read_text()
    )
    return config["prediction_type"], config.get("rescale_betas_zero_snr", False)


def test_what_is_predicted_is_said_by_the_file_or_beside_it(checkpoint: Path, family: str) -> None:
    rewritten(checkpoint, add={"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)})
    assert prediction(checkpoint) == ("v_prediction", True)
    schedule = loader.load(
        base_files.find(str(checkpoint)), DeviceSpec(torch.device("cpu"), torch.float32)
    ).objective.alphas_cumprod
    assert schedule[-1] < 1e-6
    rewritten(checkpoint, drop="ztsnr")
    rewritten(checkpoint, drop="v_pred")
    if family == "sd2":
        with pytest.raises(ModelError, match="does not say what it predicts"):
            base_files.find(str(checkpoint))
    else:
        assert prediction(checkpoint) == ("epsilon", False)
    checkpoint.with_suffix(".yaml").write_text('model:\n  params:\n    parameterization: "v"\n')
    assert prediction(checkpoint)[0] == "v_prediction"
    checkpoint.with_suffix(".yaml").write_text("model:\n  params:\n    linear_start: 0.00085\n")
    assert prediction(checkpoint)[0] == "epsilon"


@pytest.mark.parametrize("gone", ["first_stage_model.", "cond_stage_model.", "conditioner."])
def test_half_a_checkpoint_is_refused(checkpoint: Path, family: str, gone: str) -> None:
    if not any(name.startswith(gone) for name in safetensors.torch.load_file(checkpoint)):
        return
    with pytest.raises(
        ModelError, match="no VAE" if gone.startswith("first") else "no text encoder"
    ):
        base_files.find(str(rewritten(checkpoint, drop=gone)))


def test_lacking_weights_are_named(checkpoint: Path, family: str) -> None:
    name = next(
        n
        for n in safetensors.torch.load_file(checkpoint)
        if n.endswith("ln_final.weight") or n.endswith("final_layer_norm.weight")
    )
    with pytest.raises(ModelError, match=r"lacks 1 weights of its CLIPTextModel"):
        base_files.find(
            str(rewritten(checkpoint, drop=name, metadata={"modelspec.prediction_type": "epsilon"}))
        )


@pytest.mark.parametrize("family", PUBLISHED)
def test_the_carried_configs_are_of_the_published_sizes(family: str) -> None:
    import diffusers
    import transformers

    configs = read_json(single_file.CONFIGS / f"{family}.json", family)
    for part, wanted in PUBLISHED[family].items():
        name = configs["model_index"][part][1]
        with torch.device("meta"):
            if part in ("unet", "vae"):
                network = getattr(diffusers, name).from_config(configs[part])
            else:
                network = getattr(transformers, name)(transformers.CLIPTextConfig(**configs[part]))
        assert sum(p.numel() for p in network.parameters()) == wanted, part
    assert configs["scheduler"]["beta_end"] == 0.012


# --- written ---


def test_a_base_written_as_one_file_is_the_checkpoint_it_should_be(
    folder: Path, family: str, tmp_path: Path
) -> None:
    out = tmp_path / "one" / "model.safetensors"
    write_single(BaseWeights(folder), family, {}, out)
    ours, theirs = safetensors.torch.load_file(out), original(folder, family)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [p.name for p in out.parent.iterdir()] == ["model.safetensors"]
    with pytest.raises(StyleFileError, match="new file only"):
        write_single(BaseWeights(folder), family, {}, out)


def test_a_base_with_a_style_is_the_same_in_one_file_and_in_a_folder(
    checkpoint: Path, folder: Path, family: str, tmp_path: Path
) -> None:
    """The whole way: `style-file bake` into both, and the file opened again by the stock pipeline's
    reader.
    """
    base = BaseWeights(folder)
    rng = np.random.default_rng(0)
    changes = {}
    for part, shapes in base.shapes.items():
        for module, (out, into, *kernel) in shapes.items():
            if module.endswith(
                ("to_q", "q_proj", "v_proj", "fc1", "conv1", "proj_in", "text_projection")
            ):
                down = rng.standard_normal((2, into, *kernel)).astype(np.float32)
                changes[part, module] = Lora(
                    down,
                    rng.standard_normal((out, 2, *(1 for _ in kernel))).astype(np.float32) * 0.1,
                    2.0,
                )
    style = tmp_path / "style.safetensors"
    write_style(style, named(changes, "kohya", family), {}, dtype="float32")
    out, active = tmp_path / "given" / "baked.safetensors", tmp_path / "worn"
    for to in (out, active):
        assert style_file(["bake", str(style), "--base", str(folder), "--out", str(to)]) == 0
    place = DeviceSpec(torch.device("cpu"), torch.float32)
    ours, theirs = (
        loader.load(base_files.find(str(out)), place),
        loader.load(base_files.find(str(active)), place),
    )
    plain = loader.load(base_files.find(str(checkpoint)), place)
    for part in PARTS[family]:
        a, b, c = (parts.networks[part].state_dict() for parts in (ours, theirs, plain))
        assert all(
            torch.allclose(a[name].float(), b[name].float(), rtol=1e-3, atol=2e-3) for name in b
        )
        assert (part == "vae") == all(
            torch.allclose(a[name].float(), c[name].float(), atol=1e-2) for name in c
        )


@pytest.mark.parametrize("family", PARTS)
def test_the_names_of_real_models_are_those_that_diffusers_reads(family: str) -> None:
    """Every tensor of the full-size networks, VAE attention and all:

    diffusers' own reader turns the names back.
    """
    import transformers
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders import single_file_utils as theirs

    configs = read_json(single_file.CONFIGS / f"{family}.json", family)
    with torch.device("meta"):
        networks = {
            "unet": UNet2DConditionModel.from_config(configs["unet"]),
            "vae": AutoencoderKL.from_config(configs["vae"]),
        }
        for part, kind in (
            ("text_encoder", "CLIPTextModel"),
            ("text_encoder_2", "CLIPTextModelWithProjection"),
        ):
            if part in configs:
                networks[part] = getattr(transformers, kind)(
                    transformers.CLIPTextConfig(**configs[part])
                )
    parts = {
        part: {name: tuple(t.shape) for name, t in network.state_dict().items()}
        for part, network in networks.items()
    }
    found = {piece.name: torch.empty(piece.shape, device="meta") for piece in pieces(family, parts)}
    assert len(found) == len(pieces(family, parts))
    back = theirs.convert_ldm_unet_checkpoint(dict(found), networks["unet"].config)
    assert {name: tuple(t.shape) for name, t in back.items()} == parts["unet"]
    back = theirs.convert_ldm_vae_checkpoint(dict(found), networks["vae"].config)
    squeezed = {
        name: tuple(t.shape[:2])
        if t.shape[2:] == (1, 1) and len(parts["vae"][name]) == 2
        else tuple(t.shape)
        for name, t in back.items()
    }
    assert squeezed == parts["vae"]
    for part, begins in (
        ("text_encoder", "cond_stage_model.model."),
        ("text_encoder_2", "conditioner.embedders.1.model."),
    ):
        if f"{begins}token_embedding.weight" in found:
            back = theirs.convert_open_clip_checkpoint(networks[part], dict(found), begins)

            def bare(names):
                return {name.removeprefix("text_model."): tuple(shape) for name, shape in names}

            assert bare((name, t.shape) for name, t in back.items()) == bare(parts[part].items())


def test_a_file_says_what_its_base_predicts(tmp_path: Path) -> None:
    folder = tiny_base(tmp_path / "v", width=768, prediction_type="v_prediction")
    write_single(BaseWeights(folder), "sd1", {}, tmp_path / "v.safetensors")
    found = single_file.examined(tmp_path / "v.safetensors")
    assert found == single_file.CheckpointInfo("sd1", "v_prediction", True)
    with pytest.raises(StyleFileError, match="No other program"):
        write_single(BaseWeights(folder), "mini", {}, tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()
