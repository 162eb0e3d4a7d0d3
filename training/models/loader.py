"""Finding a base on disk, telling its family from its files, loading its parts.

Safetensors only, the cache before the network.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import nn

from training.errors import ModelError
from training.models import sd, sdxl, single_file
from training.models.family import Family, Parts
from training.models.files import (
    AGAIN,
    PICKLES,
    file_hash,
    quiet,
    read_json,
    reason,
    shown,
    unusable,
    weights_of,
)
from training.modules.conv import freeze_convolutions
from training.modules.group_norm import use_fast_group_norm
from training.runtime.device import DeviceSpec
from training.storage.paths import builtin_base

PREDICTIONS = ("epsilon", "v_prediction")
# What a pipeline draws does not say what it may be trained for: the UNet's inputs do
PIPELINES = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionInstructPix2PixPipeline",
)
XL_PIPELINES = (
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
)
BY_TEXT_WIDTH = {768: sd.SD1, 1024: sd.SD2}  # width of the text states that the UNet attends to
FAMILIES: dict[str, Family] = {f.name: f for f in (sd.MINI, sd.SD1, sd.SD2, sdxl.SDXL)}
KINDS = "Stable Diffusion 1.x, 2.x and XL"


@dataclass(frozen=True)
class BaseFiles:
    """A base that was found: its folder, its family and what a person calls it."""

    folder: Path
    family: Family
    title: str


def find(model: str) -> BaseFiles:
    """Find the base that a setting names, and its family.

    Reads small files only. Raises ModelError.
    """
    folder, title = _folder(model)
    index = read_json(folder / "model_index.json", model)
    own = {name: family for family in FAMILIES.values() for name in family.spec.pipelines}
    if index.get("_class_name") not in (*PIPELINES, *XL_PIPELINES, *own):
        found = index.get("_class_name") or "folder without a pipeline"
        raise ModelError(f"{model} is a {found}: this version trains {KINDS}. Choose such a base.")
    unet = read_json(folder / "unet" / "config.json", model)
    family = own.get(index["_class_name"]) or _family(index, unet, model)
    for part in (*family.classes, "scheduler", *family.tokenizers):
        if not (folder / part).is_dir():
            raise ModelError(
                f"{model} has no {part}/ folder, so it is not a whole {family.title}. {AGAIN}"
            )
    for part in family.classes:
        weights_of(folder / part, model)
    for part in family.tokenizers:
        if not any((folder / part / name).is_file() for name in ("vocab.json", "tokenizer.json")):
            raise ModelError(
                f"{folder / part} has no vocab.json or tokenizer.json, so captions cannot be "
                f"read. {AGAIN}"
            )
    _check_inputs(unet, read_json(folder / "vae" / "config.json", model), family, model)
    return BaseFiles(folder, family, title)


def _family(index: dict[str, Any], unet: dict[str, Any], model: str) -> Family:
    """Told from what the UNet is given, not from names.

    Raises ModelError for a relative that cannot be trained as any of ours.
    """
    width, hears_size = (
        unet.get("cross_attention_dim"),
        unet.get("addition_embed_type") == "text_time",
    )
    odd = {
        name: unet.get(name)
        for name in (
            "addition_embed_type",
            "class_embed_type",
            "num_class_embeds",
            "encoder_hid_dim_type",
        )
    }
    if given := [
        f"{name} {value!r}" for name, value in odd.items() if value not in (None, "text_time")
    ]:
        raise ModelError(
            f"the UNet of {model} wants more than pictures and words ({', '.join(given)}): "
            f"this version trains {KINDS}. {AGAIN}"
        )
    if hears_size and _there(index, "text_encoder_2") and not _there(index, "text_encoder"):
        raise ModelError(
            f"{model} is a Stable Diffusion XL refiner: it only finishes pictures that the "
            "base began. Choose that base."
        )
    if hears_size:
        return sdxl.SDXL
    if index.get("_class_name") in XL_PIPELINES:
        raise ModelError(
            f"{model} calls itself Stable Diffusion XL, but its UNet does not hear the "
            f"picture's size. {AGAIN}"
        )
    return BY_TEXT_WIDTH.get(width, sd.MINI) if isinstance(width, int) else sd.MINI


def _there(index: dict[str, Any], part: str) -> bool:
    """model_index.json says [library, class], or [null, null] for a part that is left out."""
    named = index.get(part)
    return isinstance(named, list) and len(named) == 2 and named[1] is not None


def _check_inputs(unet: dict[str, Any], vae: dict[str, Any], family: Family, model: str) -> None:
    into, channels = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if into != channels:
        what = {9: "an inpainting model", 8: "an editing model"}.get(
            into, "an inpainting, depth or upscaling model"
        )
        raise ModelError(
            f"{model} takes {into} channels where its VAE gives {channels}: {what}, which "
            "cannot be trained on pictures alone. "
            "Choose the text-to-image model it came from."
        )
    if vae.get("latents_mean") is not None:
        raise ModelError(
            f"the VAE of {model} has a mean for every channel (latents_mean), as no "
            f"{family.title} has. {AGAIN}"
        )


def _folder(model: str) -> tuple[Path, str]:
    if model == "mini":
        if not (builtin_base() / "model_index.json").exists():
            raise ModelError(
                f"the built-in base is missing from {builtin_base()}. Install the project "
                "again, or clone it with all its files."
            )
        return builtin_base(), "mini"
    path = Path(model).expanduser()
    nothing = ModelError(
        f"base.model is {shown(model)}: no such folder or file. Give mini, a diffusers folder, "
        "a .safetensors checkpoint or a hub id (owner/name)."
    )
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError:  # a name that is too long, or that may not be looked at
        raise nothing from None
    if path.suffix.lower() in PICKLES:
        raise ModelError(
            f"{model} is a pickle, which can run any code when it is opened; .safetensors or a "
            "diffusers folder was expected. Convert it on a "
            "machine you can lose, with diffusers' "
            "convert_original_stable_diffusion_to_diffusers.py --to_safetensors, or find a "
            ".safetensors of it."
        )
    if is_file:
        if path.suffix.lower() != ".safetensors":
            raise ModelError(
                f"{model} is a file of an unknown kind: a diffusers folder or a .safetensors "
                "checkpoint was expected."
            )
        return single_file.unpacked(path), path.stem
    if is_folder:
        if not (path / "model_index.json").exists():
            advice = "Give the folder that holds unet/, vae/ and the rest."
            raise ModelError(
                f"{model} has no model_index.json, so it is not a diffusers folder. {advice}"
            )
        return path, path.resolve().name
    if re.fullmatch(r"[\w.-]+/[\w.-]+", model) and not path.parent.is_dir():
        return _downloaded(model), model
    raise nothing


def _downloaded(model: str) -> Path:
    """The hub's cache first, the network only when that has nothing or not all."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = [
        "*.json",
        "*/*.json",
        "*/*.txt",
        *(f"{part}/*model*.safetensors" for part in sdxl.SDXL.classes),
    ]
    chosen = {"allow_patterns": wanted, "ignore_patterns": ["*non_ema*", "*openvino*", "*flax*"]}
    cached = None
    try:
        cached = Path(snapshot_download(model, local_files_only=True, **chosen))
        if _is_whole(cached):
            return cached
    except (LocalEntryNotFoundError, ValueError):
        pass  # the network will tell
    try:
        return Path(snapshot_download(model, **chosen))
    except (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OSError,
        ValueError,
    ) as error:  # ValueError: a name that the hub cannot have
        state = "is only partly in the local cache" if cached else "is not in the local cache"
        raise ModelError(
            f"{model} {state} and cannot be downloaded ({reason(error)}). Check the name and "
            "the network."
        ) from None


def _is_whole(folder: Path) -> bool:
    """Whether a cached snapshot has an index and weights for every network that it names."""
    if not (folder / "model_index.json").is_file():
        return False
    try:
        index = read_json(folder / "model_index.json", folder.name)
        for part in sdxl.SDXL.classes:
            if _there(index, part):
                weights_of(folder / part, folder.name)
    except (ModelError, OSError):
        return False
    return True


def load_part(
    files: BaseFiles, part: str, place: DeviceSpec, *, waiting: bool = False
) -> nn.Module:
    """One network, frozen, in eval mode, channels_last where it has convolutions; read straight
    into its precision. Raises ModelError.

    waiting: it stays in the machine's memory until it is sent to the device.
    """
    folder = files.folder / part
    _, variant = weights_of(folder, files.title)
    dtype = place.dtype
    if (
        part == "vae"
        and dtype == torch.float16
        and read_json(folder / "config.json", files.title).get("force_upcast", False)
    ):
        # the activations of SDXL's, and of some others, leave float16's range
        dtype = torch.float32
    with quiet():
        import diffusers
        import transformers

        name = files.family.classes[part]
        loader = getattr(diffusers, name, None) or getattr(transformers, name)
        wanted = {
            "dtype": dtype,
            "use_safetensors": True,
            "local_files_only": True,
            "variant": variant,
        }
        try:
            network, loading_info = loader.from_pretrained(
                folder, output_loading_info=True, **wanted
            )
        except unusable() as error:
            raise ModelError(
                f"{folder} cannot be loaded ({reason(error)}). Download the base again."
            ) from None
    # Both libraries make up what a file does not hold, and go on
    if missing := sorted(
        {name for name, _ in network.named_parameters()} & set(loading_info["missing_keys"])
    ):
        raise ModelError(
            f"{folder} lacks {len(missing)} of its weights ({missing[0]}). Download the base again."
        )
    network.eval().requires_grad_(False)
    network = network if waiting else network.to(place.device)
    if part not in files.family.text_encoders:
        network = network.to(memory_format=torch.channels_last)
        use_fast_group_norm(network)
        freeze_convolutions(network)
    return network


def sides(files: BaseFiles) -> tuple[int, int]:
    """The side a base was made for, and what the sides of its pictures are multiples of, in px.

    Reads its configs only.
    """
    unet, vae = (
        read_json(files.folder / part / "config.json", files.title) for part in ("unet", "vae")
    )
    pixel_step = 2 ** (_levels(vae, (64,), files.folder / "vae") - 1)
    own = unet.get("sample_size")
    return own * pixel_step if isinstance(own, int) else 512, pixel_step * 2 ** (
        _levels(unet, (320, 640, 1280, 1280), files.folder / "unet") - 1
    )


def _levels(config: dict[str, Any], usual: tuple[int, ...], folder: Path) -> int:
    """How many resolutions a network works at."""
    found = config.get("block_out_channels", usual)
    if not isinstance(found, list | tuple) or not 1 <= len(found) <= 16:
        raise ModelError(
            f"{folder / 'config.json'} has {shown(repr(found))} as block_out_channels, a list "
            "was expected. Download the base again."
        )
    return len(found)


def load(files: BaseFiles, place: DeviceSpec, *, waiting: bool = False) -> Parts:
    """The whole base, frozen, on a device, or waiting beside it. Raises ModelError."""
    import diffusers

    size, multiple = sides(files)
    family = files.family
    scheduler, tokenizers = (
        _scheduler(files),
        {name: _tokenizer(files, name) for name in family.tokenizers},
    )
    networks = {part: load_part(files, part, place, waiting=waiting) for part in family.classes}
    for tokenizer, part in zip(tokenizers.values(), family.text_encoders, strict=True):
        known = networks[part].get_input_embeddings().num_embeddings
        if len(tokenizer) > known:
            raise ModelError(
                f"the tokenizer of {files.title} has {len(tokenizer)} words, its text encoder "
                f"knows {known}. Download the base again."
            )
    vae = networks["vae"].config
    return Parts(
        family=family,
        networks=networks,
        tokenizers=tokenizers,
        scheduler=scheduler,
        title=files.title,
        hash=_weights_hash(files, family.denoiser),
        vae_hash=_weights_hash(files, "vae"),
        size=size,
        latent_scale=vae.scaling_factor,
        latent_shift=vae.shift_factor or 0.0,
        pixel_step=2 ** (len(vae.block_out_channels) - 1),
        multiple=multiple,
        alphas_cumprod=diffusers.DDPMScheduler.from_config(scheduler.config).alphas_cumprod.float(),
    )


def weight_count(files: BaseFiles, parts: Iterable[str]) -> int:
    """Weights of these networks of it, told from the headers of its files; a file that cannot be
    read counts nothing: loading it says why.
    """
    count = 0
    for part in parts:
        for path in weights_of(files.folder / part, files.title)[0]:
            try:
                with safetensors.safe_open(path, "numpy") as found:
                    count += sum(
                        math.prod(found.get_slice(name).get_shape()) for name in found.keys()
                    )
            except unusable():
                continue
    return count


def _weights_hash(files: BaseFiles, part: str) -> str:
    found = hashlib.sha256()
    for path in weights_of(files.folder / part, files.title)[0]:
        found.update(file_hash(path).encode())
    return found.hexdigest()


def _scheduler(files: BaseFiles) -> Any:
    """The base's own sampler.

    Its class is named by a file, so nothing but a scheduler of diffusers is accepted.
    """
    with quiet():
        import diffusers

        named = read_json(files.folder / "model_index.json", files.title).get("scheduler")
        name = (
            named[1]
            if isinstance(named, list) and len(named) == 2 and isinstance(named[1], str)
            else ""
        )
        kind = getattr(diffusers, name, None) if name else None
        if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
            raise ModelError(
                f"{files.folder / 'model_index.json'} names {shown(repr(named))} as scheduler, "
                f"which diffusers does not have. {AGAIN}"
            )
        if "beta_schedule" not in inspect.signature(kind.__init__).parameters:
            raise ModelError(
                f"{files.title} is sampled by {name}, which has no noise schedule of betas: "
                f"this version trains {KINDS}. {AGAIN}"
            )
        try:
            scheduler = kind.from_pretrained(files.folder / "scheduler", local_files_only=True)
            diffusers.DDPMScheduler.from_config(scheduler.config)
        except unusable() as error:
            raise ModelError(
                f"{files.folder / 'scheduler'} cannot be used ({reason(error)}). Download the "
                "base again."
            ) from None
    if scheduler.config.get("prediction_type") not in PREDICTIONS:
        found = scheduler.config.get("prediction_type")
        raise ModelError(
            f"{files.title} predicts {found!r}, {' or '.join(PREDICTIONS)} was expected. "
            "Choose another base.model."
        )
    return scheduler


def _tokenizer(files: BaseFiles, name: str) -> Any:
    with quiet():
        from transformers import CLIPTokenizer

        try:
            return CLIPTokenizer.from_pretrained(files.folder / name, local_files_only=True)
        except unusable() as error:
            raise ModelError(
                f"{files.folder / name} cannot be loaded ({reason(error)}). Download the base "
                "again."
            ) from None


def base_shapes(model: str) -> tuple[str, dict[str, dict[str, tuple[int, ...]]]]:
    """Return the family's name and, for the UNet and every text encoder, each linear or
    convolution's weight shape. Loads no weights.
    """
    files = find(model)
    parts = (files.family.denoiser, *files.family.text_encoders)
    return files.family.name, {part: weight_shapes(_outline(files, part)) for part in parts}


def _outline(files: BaseFiles, part: str) -> nn.Module:
    """One network without weights, from its config."""
    import diffusers
    import transformers

    config, name = (
        read_json(files.folder / part / "config.json", files.title),
        files.family.classes[part],
    )
    try:
        with torch.device("meta"), quiet():
            if hasattr(diffusers, name):
                return getattr(diffusers, name).from_config(config)
            return getattr(transformers, name)(transformers.CLIPTextConfig(**config))
    except unusable() as error:
        raise ModelError(
            f"the configs of {files.title} do not describe a {files.family.title} "
            f"({reason(error)}). {AGAIN}"
        ) from None


def weight_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Module name -> weight shape of every linear and 2-D convolution."""
    return {
        name: tuple(m.weight.shape)
        for name, m in network.named_modules()
        if isinstance(m, nn.Linear | nn.Conv2d)
    }
