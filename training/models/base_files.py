"""Finding a base on disk or in the hub's cache, and telling its family from its files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import ModelError
from training.models import (
    chroma,
    flux,
    flux2,
    hub,
    krea2,
    qwen_image,
    sd,
    sd3,
    sdxl,
    single_file,
    transformer_file,
    z_image,
)
from training.models.family import Family, as_distilled
from training.models.files import (
    AGAIN,
    PICKLES,
    read_json,
    shown,
    weights_of,
)
from training.storage.paths import builtin_base

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


TRANSFORMERS = (
    z_image.Z_IMAGE,
    flux2.KLEIN,
    flux.FLUX,
    sd3.SD3,
    qwen_image.QWEN_IMAGE,
    krea2.KREA2,
    chroma.CHROMA,
)
FAMILIES: dict[str, Family] = {
    f.name: f for f in (sd.MINI, sd.SD1, sd.SD2, sdxl.SDXL, *TRANSFORMERS)
}
EVERY_PART = tuple(dict.fromkeys(part for f in FAMILIES.values() for part in f.classes))


KINDS = f"Stable Diffusion 1.x, 2.x and XL, {', '.join(f.title for f in TRANSFORMERS)}"


@dataclass(frozen=True)
class BaseFiles:
    """A base that was found: its folder, its family and what a person calls it."""

    folder: Path
    family: Family
    title: str


def find(model: str, rest: str = "") -> BaseFiles:
    """Find the base that a setting names, and its family. rest: the folder or hub id that supplies
    what a single file of a transformer lacks; once it did, it need not be named again.

    Reads small files only. Raises ModelError.
    """
    folder, title = _of_transformer(model, rest) or _folder(model)
    return BaseFiles(folder, checked(folder, model), title)


def find_folder(model: str, setting: str) -> BaseFiles:
    """Find a base that another setting than base.model names, a diffusers folder or hub id.

    Raises ModelError.
    """
    if Path(model).expanduser().is_file():
        raise ModelError(
            f"{setting} is {shown(model)}, a file: a diffusers folder or hub id was expected."
        )
    folder, title = _folder(model, setting)
    return BaseFiles(folder, checked(folder, model), title)


def _of_transformer(model: str, rest: str) -> tuple[Path, str] | None:
    """Folder and title of a single file that holds a transformer alone; None for other bases."""
    path = Path(model).expanduser()
    is_one = path.suffix.lower() in (".safetensors", ".gguf") and path.is_file()
    file = transformer_file.examined(path) if is_one else None
    if file is None:
        if rest:
            raise ModelError(
                f"base.rest is {shown(rest)}, but base.model ({shown(model)}) is no single file of "
                "a transformer, which alone lacks something. Leave base.rest empty."
            )
        return None
    if not rest:
        return transformer_file.earlier(file), path.stem
    if Path(rest).expanduser().is_file():
        raise ModelError(
            f"base.rest is {shown(rest)}, a file: a diffusers folder or hub id of "
            f"{file.spec.title} was expected."
        )
    folder, _ = _folder(rest, "base.rest")
    family = checked(folder, rest, without="transformer")
    if family.spec != file.spec:
        raise ModelError(
            f"{model} is a {file.spec.title}, base.rest ({rest}) a {family.title}. Set base.rest "
            f"to a {file.spec.title}."
        )
    return transformer_file.unpacked(file, folder), path.stem


def checked(folder: Path, model: str, without: str = "") -> Family:
    """The family of a diffusers folder that is whole. without: a part whose weights are not asked
    for. Raises ModelError.
    """
    index = read_json(folder / "model_index.json", model)
    own = {name: family for family in FAMILIES.values() for name in family.spec.pipelines}
    if index.get("_class_name") not in (*PIPELINES, *XL_PIPELINES, *own):
        found = index.get("_class_name") or "folder without a pipeline"
        raise ModelError(f"{model} is a {found}: this version trains {KINDS}. Choose such a base.")
    family = own.get(index["_class_name"])
    unet: dict[str, Any] = {}
    if family is None or family.denoiser == "unet":
        unet = read_json(folder / "unet" / "config.json", model)
        family = family or _family(index, unet, model)
    for part in (*family.classes, "scheduler", *family.tokenizers):
        if not (folder / part).is_dir():
            raise ModelError(
                f"{model} has no {part}/ folder, so it is not a whole {family.title}. {AGAIN}"
            )
    for part in family.classes:
        if part != without:
            weights_of(folder / part, model)
    for part in family.tokenizers:
        if not any((folder / part / name).is_file() for name in ("vocab.json", "tokenizer.json")):
            raise ModelError(
                f"{folder / part} has no vocab.json or tokenizer.json, so captions cannot be "
                f"read. {AGAIN}"
            )
    if family.denoiser == "unet":
        _check_inputs(unet, read_json(folder / "vae" / "config.json", model), family, model)
    else:
        config = _checked_transformer(folder, family, model)
        if family.distilled(config, index):
            family = as_distilled(family)
    return family


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


def _checked_transformer(folder: Path, family: Family, model: str) -> dict[str, Any]:
    """Return the transformer's config. Raises ModelError for a relative of a family's text-to-image
    models, and for a tokenizer that cannot put captions as they are to be put.
    """
    config, spec = read_json(folder / "transformer" / "config.json", model), family.spec
    kind, wanted = config.get("_class_name"), spec.classes["transformer"]
    if kind != wanted:
        raise ModelError(
            f"the transformer of {model} is a {shown(str(kind))}, {wanted} was expected. {AGAIN}"
        )
    into = config.get("in_channels", spec.in_channels)
    if into != spec.in_channels:
        raise ModelError(
            f"the transformer of {model} takes {into} channels, {spec.in_channels} were expected: "
            "it draws from more than words (filling, depth, edges or editing), which cannot be "
            "trained on pictures alone. Choose the text-to-image model it came from."
        )
    for name in spec.tokenizers if spec.chats else ():
        words = read_json(folder / name / "tokenizer_config.json", model)
        beside = folder / name / "chat_template.jinja"
        if not words.get("chat_template") and not beside.is_file():
            raise ModelError(
                f"{folder / name} has no chat template (chat_template.jinja), in which "
                f"{family.title} is given its captions. {AGAIN}"
            )
    return config


def _folder(model: str, setting: str = "base.model") -> tuple[Path, str]:
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
        if setting == "base.model"
        else f"{setting} is {shown(model)}: no such folder. Give a diffusers folder or a hub id "
        "(owner/name)."
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
                f"{model} is a file of an unknown kind: a diffusers folder, a .safetensors "
                "checkpoint or a .gguf file was expected."
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
    from huggingface_hub.errors import LocalEntryNotFoundError

    cached = None
    try:
        cached = Path(snapshot_download(model, local_files_only=True))
        if _is_whole(cached):
            return cached
    except (LocalEntryNotFoundError, ValueError):
        pass  # the network will tell
    try:
        return hub.fetch(model, EVERY_PART)
    except ModelError as error:
        state = "is only partly in the local cache" if cached else "is not in the local cache"
        raise ModelError(f"{model} {state}. {error}") from None


def _is_whole(folder: Path) -> bool:
    """Whether a cached snapshot has an index and weights for every network that it names."""
    if not (folder / "model_index.json").is_file():
        return False
    try:
        index = read_json(folder / "model_index.json", folder.name)
        for part in EVERY_PART:
            if _there(index, part):
                weights_of(folder / part, folder.name)
    except (ModelError, OSError):
        return False
    return True
