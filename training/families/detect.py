"""Finding a base on disk, telling its family from its files, loading its parts. Safetensors only, the cache before the network."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.device import Place
from training.errors import ModelError
from training.families import sd
from training.families.family import Family, Parts
from training.norm import quicken
from training.workspace import builtin_base

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
LOADERS = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
# A shape that only a latent Stable Diffusion UNet has, by the width of its text states
BY_TEXT_WIDTH = {768: sd.SD1, 1024: sd.SD2}


@dataclass(frozen=True)
class BaseFiles:
    """A base that was found: its folder, its family and what a person calls it."""

    folder: Path
    family: Family
    title: str


def find(model: str) -> BaseFiles:
    """Find the base that a setting names, and its family. Reads small files only. Raises ModelError."""
    folder, title = _folder(model)
    index = _json(folder / "model_index.json", model)
    kind = index.get("_class_name")
    if kind in ("StableDiffusionXLPipeline", "StableDiffusion3Pipeline", "FluxPipeline"):
        raise ModelError(f"{model} is a {kind}: this version trains Stable Diffusion 1.x and 2.x only. Choose such a base.")
    if kind not in ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"):
        raise ModelError(f"{model} is a {kind or 'folder without a pipeline'}, a Stable Diffusion 1.x or 2.x was expected. Choose another base.model.")
    for part in (*LOADERS, "scheduler", "tokenizer"):
        if not (folder / part).is_dir():
            raise ModelError(f"{model} has no {part}/ folder, so it is not a whole Stable Diffusion. Download it again, or choose another base.model.")
    unet = _json(folder / "unet" / "config.json", model)
    channels = _json(folder / "vae" / "config.json", model).get("latent_channels", 4)
    if unet.get("in_channels", 4) != channels:
        raise ModelError(
            f"{model} takes {unet.get('in_channels')} channels where its VAE gives {channels}: an inpainting or editing model, which cannot be "
            "trained on pictures alone. Choose the text-to-image model it came from."
        )
    width = unet.get("cross_attention_dim")
    return BaseFiles(folder, BY_TEXT_WIDTH.get(width, sd.MINI) if isinstance(width, int) else sd.MINI, title)


def _folder(model: str) -> tuple[Path, str]:
    if model == "mini":
        if not (builtin_base() / "model_index.json").exists():
            raise ModelError(f"the built-in base is missing from {builtin_base()}. Install the project again, or clone it with all its files.")
        return builtin_base(), "mini"
    path = Path(model).expanduser()
    if path.suffix.lower() in PICKLES:
        raise ModelError(
            f"{model} is a pickle, which can run any code when it is opened; .safetensors or a diffusers folder was expected. Convert it on a "
            "machine you can lose, with diffusers' convert_original_stable_diffusion_to_diffusers.py --to_safetensors, or find a .safetensors of it."
        )
    if path.is_file():
        if path.suffix.lower() != ".safetensors":
            raise ModelError(f"{model} is a file of an unknown kind: a diffusers folder or a .safetensors checkpoint was expected.")
        return _unpacked(path), path.stem
    if path.is_dir():
        if not (path / "model_index.json").exists():
            raise ModelError(f"{model} has no model_index.json, so it is not a diffusers folder. Give the folder that holds unet/, vae/ and the rest.")
        return path, path.resolve().name
    if re.fullmatch(r"[\w.-]+/[\w.-]+", model) and not path.parent.is_dir():
        return _downloaded(model), model
    raise ModelError(f"base.model is {model!r}: no such folder or file. Give mini, a diffusers folder, a .safetensors checkpoint or a hub id (owner/name).")


def _downloaded(model: str) -> Path:
    """The hub's cache first, the network only when it has nothing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.json", "*.txt", "*/*.json", "*/*.txt", "unet/*.safetensors", "vae/*.safetensors", "text_encoder*/*.safetensors"]
    try:
        return Path(snapshot_download(model, local_files_only=True, allow_patterns=wanted))
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(snapshot_download(model, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{model} is not in the local cache and cannot be downloaded ({reason}). Check the name and the network.") from None


def _unpacked(checkpoint: Path) -> Path:
    """A single-file checkpoint as a diffusers folder in our cache, converted once for each content."""
    from diffusers import StableDiffusionPipeline

    from training.workspace import cache_folder

    target = cache_folder() / "bases" / _file_hash(checkpoint)[:24]
    if (target / "model_index.json").exists():
        return target
    try:
        pipe = StableDiffusionPipeline.from_single_file(str(checkpoint), safety_checker=None, dtype=torch.float16)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{checkpoint} cannot be opened as a Stable Diffusion 1.x or 2.x checkpoint ({reason}). The first time, its tokenizer and configs come "
            "from the hub: without a network, give a diffusers folder instead."
        ) from None
    pipe.save_pretrained(target, safe_serialization=True)
    return target


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(path: Path, model: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{model} has no {path.parent.name}/{path.name}. Download it again, or choose another base.model.") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}). Download the base again.") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path} is not a config: an object was expected. Download the base again.")
    return found


def _weights(folder: Path, model: str) -> tuple[list[Path], str | None]:
    """The safetensors of one part, whole or in shards, and the variant they are of."""
    for variant in (None, "fp16"):
        ending = f".{variant}.safetensors" if variant else ".safetensors"
        names = sorted(p for p in folder.glob("*.safetensors") if (".fp16." in p.name) == (variant == "fp16") and p.name.endswith(ending))
        if names:
            return names, variant
    pickled = [p.name for p in folder.iterdir() if p.suffix in PICKLES]
    found = f"only {pickled[0]}, a pickle" if pickled else "no weights"
    raise ModelError(f"{folder} holds {found}; .safetensors was expected. Download {model} with its safetensors files.")


def load_part(files: BaseFiles, part: str, place: Place) -> nn.Module:
    """One network, frozen, in eval mode, channels_last where it has convolutions. Raises ModelError."""
    import diffusers
    import transformers
    from safetensors import SafetensorError

    folder = files.folder / part
    _, variant = _weights(folder, files.title)
    loader = getattr(diffusers, LOADERS[part], None) or getattr(transformers, LOADERS[part])
    try:
        network = loader.from_pretrained(folder, dtype=place.dtype, use_safetensors=True, local_files_only=True, variant=variant)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelError(f"{folder} cannot be loaded ({str(error).splitlines()[0]}). Download the base again.") from None
    network.eval().requires_grad_(False)
    network = network.to(place.device)
    if part != "text_encoder":
        network = network.to(memory_format=torch.channels_last)
        quicken(network)
    return network


def sides(files: BaseFiles) -> tuple[int, int]:
    """The side a base was made for, and what the sides of its pictures are multiples of, in px. Reads its configs only."""
    unet, vae = (_json(files.folder / part / "config.json", files.title) for part in ("unet", "vae"))
    pixel_step = 2 ** (len(vae.get("block_out_channels", (64,))) - 1)
    own = unet.get("sample_size")
    return own * pixel_step if isinstance(own, int) else 512, pixel_step * 2 ** (len(unet.get("block_out_channels", (320, 640, 1280, 1280))) - 1)


def load(files: BaseFiles, place: Place) -> Parts:
    """The whole base, frozen, on a device."""
    import diffusers
    from transformers import CLIPTokenizer

    size, multiple = sides(files)
    networks = {part: load_part(files, part, place) for part in LOADERS}
    sampler = _json(files.folder / "model_index.json", files.title)["scheduler"][1]
    scheduler = getattr(diffusers, sampler).from_pretrained(files.folder, subfolder="scheduler")
    tokenizer = CLIPTokenizer.from_pretrained(files.folder / "tokenizer", local_files_only=True)
    vae = networks["vae"].config
    digest = hashlib.sha256()
    for path in _weights(files.folder / "unet", files.title)[0]:
        digest.update(_file_hash(path).encode())
    return Parts(
        family=files.family,
        networks=networks,
        tokenizers={"tokenizer": tokenizer},
        scheduler=scheduler,
        title=files.title,
        hash=digest.hexdigest(),
        size=size,
        latent_scale=vae.scaling_factor,
        latent_shift=vae.shift_factor or 0.0,
        pixel_step=2 ** (len(vae.block_out_channels) - 1),
        multiple=multiple,
        alphas_cumprod=diffusers.DDPMScheduler.from_config(scheduler.config).alphas_cumprod.float(),
    )


def base_shapes(model: str) -> tuple[str, dict[str, dict[str, tuple[int, ...]]]]:
    """Return the family's name and, for unet and text_encoder, every linear or convolution's weight shape. Loads no weights."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel

    files = find(model)
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel.from_config(_json(files.folder / "unet" / "config.json", model))
        text_encoder = CLIPTextModel(CLIPTextConfig(**_json(files.folder / "text_encoder" / "config.json", model)))
    return files.family.name, {"unet": weight_shapes(unet), "text_encoder": weight_shapes(text_encoder)}


def weight_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Module name -> weight shape of every linear and 2-D convolution."""
    return {name: tuple(m.weight.shape) for name, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
