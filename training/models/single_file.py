"""Single-file checkpoints of Stability's own layout: opened without a network from the configs
beside this module.

What no checkpoint holds is the tokenizer's vocabulary: it is looked for beside the file, in our
cache and in the hub's.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from training.errors import ModelError, SpaceError
from training.models.files import (
    AGAIN,
    file_hash,
    library,
    quiet,
    read_json,
    reason,
    remedy,
    unusable,
)
from training.storage.disk_errors import advice, reading_aid
from training.storage.paths import cache_folder, open_regular
from training.style_files.checkpoint_keys import FIRST, usual_names
from training.style_files.formats import is_style_layer
from training.system import file_system

CONFIGS = Path(__file__).parent / "configs"
# [channels, in_channels, 3, 3] in every checkpoint of 1.x, 2.x and XL
UNET = FIRST
VAE = "first_stage_model.decoder.conv_in.weight"
# A text encoder's tensor -> whose it is, the one to ask first
ENCODERS = {
    "conditioner.embedders.1.model.token_embedding.weight": "sdxl",
    "cond_stage_model.model.token_embedding.weight": "sd2",
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": "sd1",
}
REFINER = "conditioner.embedders.0.model."
VOCABULARY = ("vocab.json", "merges.txt")
# All of 1.x, 2.x and XL read with CLIP's vocabulary: any of these in the hub's cache will do
VOCABULARIES = {
    "openai/clip-vit-large-patch14": "",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "tokenizer/",
    "runwayml/stable-diffusion-v1-5": "tokenizer/",
    "stabilityai/stable-diffusion-xl-base-1.0": "tokenizer/",
}


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint's header says."""

    family: str
    prediction: str  # epsilon or v_prediction
    zero_snr: bool  # the noise schedule ends in noise alone (Lin et al. 2023)
    # Tensor -> its name in checkpoints of today, of those that are called otherwise
    renamed: Mapping[str, str] = field(default_factory=dict)


def unpacked(checkpoint: Path) -> Path:
    """The checkpoint as a diffusers folder in our cache, converted once for each content.

    Raises ModelError or SpaceError.
    """
    info = examined(checkpoint)
    target = cache_folder() / "bases" / f"{file_hash(checkpoint)[:24]}-{info.prediction[0]}"
    if (target / "model_index.json").exists():
        return target
    vocabulary = _vocabulary(checkpoint)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=target.parent) as scratch:
            configs = _configs(info, vocabulary, Path(scratch) / "configs")
            given = checkpoint
            if info.renamed:
                given = Path(scratch) / checkpoint.name
                _copy_renamed(checkpoint, info.renamed, given)
            pipe = _opened(given, configs, checkpoint)
            with quiet():
                pipe.save_pretrained(Path(scratch) / "base", safe_serialization=True)
            if not target.exists():
                file_system.rename(Path(scratch) / "base", target)
    except (OSError, SafetensorError) as error:
        raise SpaceError(
            f"{target} could not be written ({reason(error)}). "
            f"{advice(_refusal(error), 'set STYLE_STUDIO_CACHE to a folder on another disk')}"
        ) from None
    return target


def _refusal(error: OSError | SafetensorError) -> OSError:
    """The system's error: safetensors passes on only its text and its number."""
    if isinstance(error, OSError):
        return error
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]) if number else 0, str(error))


def examined(checkpoint: Path) -> CheckpointInfo:
    """Look at names and shapes of the tensors only.

    Raises ModelError when this is no checkpoint of ours.
    """
    try:
        with safe_open(checkpoint, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        if aid := reading_aid(error):
            raise ModelError(f"{checkpoint} cannot be read ({reason(error)}). {aid}.") from None
        raise ModelError(f"{checkpoint} is damaged or cut off ({reason(error)}). {AGAIN}") from None
    usual = usual_names(shapes)
    names = set(usual.values())
    first = next((shapes[name] for name, called in usual.items() if called == UNET), ())
    channels = first[1] if len(first) == 4 else 0
    if not channels and any(map(is_style_layer, names)):
        raise ModelError(
            f"{checkpoint} is a style (LoRA), not a base. Set base.model to the model that it "
            "was made for."
        )
    if not channels:
        raise ModelError(
            f"{checkpoint} holds no UNet of a Stable Diffusion 1.x, 2.x or XL. Choose another "
            "base.model."
        )
    if channels != 4:
        what = {9: "an inpainting model", 8: "an editing model"}.get(channels, "a model")
        raise ModelError(
            f"{checkpoint} is {what} of {channels} channels, which cannot be trained on "
            "pictures alone. Choose the model it came from."
        )
    family = next((found for name, found in ENCODERS.items() if name in names), None)
    if family is None and any(name.startswith(REFINER) for name in names):
        raise ModelError(
            f"{checkpoint} is a Stable Diffusion XL refiner: it only finishes pictures that "
            "the base began. Choose that base."
        )
    lacking = [
        words for words, there in (("text encoder", family), ("VAE", VAE in names)) if not there
    ]
    if family is None or lacking:
        raise ModelError(
            f"{checkpoint} holds a UNet but no {' and no '.join(lacking)}. Choose a whole "
            "checkpoint."
        )
    prediction = _prediction(checkpoint, family, names, metadata)
    renamed = {name: called for name, called in usual.items() if name != called}
    return CheckpointInfo(family, prediction, "ztsnr" in names, renamed)


def _copy_renamed(checkpoint: Path, names: Mapping[str, str], copy: Path) -> None:
    """The same checkpoint under other names, its numbers byte for byte. Raises OSError."""
    with open_regular(checkpoint) as source, copy.open("wb") as target:
        header = json.loads(source.read(int.from_bytes(source.read(8), "little")))
        text = json.dumps({names.get(name, name): entry for name, entry in header.items()}).encode()
        text += b" " * (-len(text) % 8)
        target.write(len(text).to_bytes(8, "little") + text)
        shutil.copyfileobj(source, target, 2**20)


def _prediction(checkpoint: Path, family: str, names: set[str], metadata: Mapping[str, str]) -> str:
    """epsilon or v_prediction, as the file or the .yaml beside it says.

    The weights do not tell; for 2.x nothing is usual.
    """
    if "v_pred" in names:
        return "v_prediction"
    said = metadata.get("modelspec.prediction_type", "")
    if said in ("v", "epsilon"):
        return "v_prediction" if said == "v" else "epsilon"
    beside = checkpoint.with_suffix(".yaml")
    if beside.is_file():
        with beside.open(encoding="utf-8", errors="replace") as file:
            return (
                "v_prediction"
                if re.search(r"""parameterization:\s*["']?v\b""", file.read(100_000))
                else "epsilon"
            )
    if family == "sd2":
        raise ModelError(
            f"{checkpoint} is a Stable Diffusion 2.x that does not say what it predicts. Put "
            "the .yaml it was published with beside it, as "
            f'{beside.name}: the 768 px models have `parameterization: "v"` in it, the 512 px '
            "ones do not. Or give a diffusers folder."
        )
    return "epsilon"


def known_vocabulary(*places: Path) -> Path | None:
    """A folder with vocab.json and merges.txt:

    one of the places, our cache or the hub's; None when it is in none of them.
    """
    for place in (*places, _own_vocabulary()):
        if all((place / name).is_file() for name in VOCABULARY):
            return place
    return next(
        (found for repository in VOCABULARIES if (found := _of_hub(repository, offline=True))), None
    )


def _own_vocabulary() -> Path:
    return cache_folder() / "tokenizers" / "clip"


def _of_hub(repository: str, *, offline: bool) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        found = [
            Path(
                hf_hub_download(
                    repository, VOCABULARIES[repository] + name, local_files_only=offline
                )
            )
            for name in VOCABULARY
        ]
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError):
        return None
    return found[0].parent


def _vocabulary(checkpoint: Path) -> Path:
    """A folder with vocab.json and merges.txt.

    Raises ModelError that says where they would be found.
    """
    beside = checkpoint.parent / "tokenizer"
    found = known_vocabulary(beside) or _of_hub(next(iter(VOCABULARIES)), offline=False)
    if found is not None:
        return found
    places = [beside, _own_vocabulary()]
    missing = {
        place: [name for name in VOCABULARY if not (place / name).is_file()] for place in places
    }
    lines = [f"  - {place}: {' and '.join(names)} missing" for place, names in missing.items()]
    raise ModelError(
        "\n".join(
            [
                f"{checkpoint} has everything but the words of its tokenizer, and the hub "
                "cannot be asked for them. Looked for in:",
                *lines,
            ]
        )
        + (
            f"\nPut both files into one of these folders; they are in {next(iter(VOCABULARIES))} "
            "and in the tokenizer/ folder of any Stable Diffusion."
        )
    )


def _configs(info: CheckpointInfo, vocabulary: Path, folder: Path) -> Path:
    """A diffusers folder without weights, made of our configs, what the checkpoint says and the
    vocabulary.
    """
    parts = read_json(CONFIGS / f"{info.family}.json", info.family)
    parts["scheduler"] |= {"prediction_type": info.prediction}
    if info.zero_snr:
        parts["scheduler"] |= {
            "_class_name": "DDIMScheduler",
            "clip_sample": False,
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
        }
        parts["model_index"]["scheduler"] = [
            "diffusers",
            "DDIMScheduler",
        ]  # not all of diffusers' samplers know such a schedule
    if info.family == "sd2" and info.prediction == "v_prediction":
        parts["unet"] |= {"sample_size": 96, "upcast_attention": True}  # the 768 px models
    names = {"model_index": "model_index.json", "scheduler": "scheduler/scheduler_config.json"}
    for part, config in parts.items():
        of_tokenizer = part.startswith("tokenizer")
        path = folder / names.get(
            part, f"{part}/{'tokenizer_config' if of_tokenizer else 'config'}.json"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config), encoding="utf-8")
        if of_tokenizer:
            for name in VOCABULARY:
                shutil.copyfile(vocabulary / name, path.parent / name)
    return folder


def _opened(given: Path, configs: Path, checkpoint: Path) -> Any:
    """The stock pipeline, from a checkpoint and configs alone. checkpoint: as messages name it."""
    with quiet():
        diffusers = library()
        kind = getattr(
            diffusers, read_json(configs / "model_index.json", str(checkpoint))["_class_name"]
        )
        extra = {} if kind is diffusers.StableDiffusionXLPipeline else {"safety_checker": None}
        try:
            pipe = kind.from_single_file(
                str(given),
                config=str(configs),
                local_files_only=True,
                dtype=torch.float16,
                **extra,
            )
        except unusable() as error:
            raise ModelError(
                f"{checkpoint} cannot be opened ({reason(error)}). {remedy(error)}"
            ) from None
    for part in pipe.components.values():
        unread = (
            [name for name, p in part.named_parameters() if p.is_meta]
            if isinstance(part, torch.nn.Module)
            else []
        )
        if unread:
            raise ModelError(
                f"{checkpoint} lacks {len(unread)} weights of its {type(part).__name__} "
                f"({unread[0]}). {AGAIN}"
            )
    return pipe
