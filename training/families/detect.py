"""Finding a base on disk, telling its family from its files, loading its parts. Safetensors only, the cache before the network."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from training.device import Place
from training.errors import ModelError, SpaceError
from training.families import sd
from training.families.family import Family, Parts
from training.norm import quicken
from training.workspace import builtin_base, cache_folder

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
PREDICTIONS = ("epsilon", "v_prediction")
LOADERS = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
# A shape that only a latent Stable Diffusion UNet has, by the width of its text states
BY_TEXT_WIDTH = {768: sd.SD1, 1024: sd.SD2}
LDM_UNET = "model.diffusion_model.input_blocks.0.0.weight"  # is in every single-file checkpoint of 1.x and 2.x
AGAIN = "Download it again, or choose another base.model."


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
        found = kind or "folder without a pipeline"
        raise ModelError(f"{model} is a {found}, a Stable Diffusion 1.x or 2.x was expected. Choose another base.model.")
    for part in (*LOADERS, "scheduler", "tokenizer"):
        if not (folder / part).is_dir():
            raise ModelError(f"{model} has no {part}/ folder, so it is not a whole Stable Diffusion. {AGAIN}")
    for part in LOADERS:
        _weights(folder / part, model)
    if not any((folder / "tokenizer" / name).is_file() for name in ("vocab.json", "tokenizer.json")):
        raise ModelError(f"{folder / 'tokenizer'} has no vocab.json or tokenizer.json, so captions cannot be read. {AGAIN}")
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
    nothing = ModelError(
        f"base.model is {_shown(model)}: no such folder or file. Give mini, a diffusers folder, a .safetensors checkpoint or a hub id (owner/name)."
    )
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError:  # a name that is too long, or that may not be looked at
        raise nothing from None
    if path.suffix.lower() in PICKLES:
        raise ModelError(
            f"{model} is a pickle, which can run any code when it is opened; .safetensors or a diffusers folder was expected. Convert it on a "
            "machine you can lose, with diffusers' convert_original_stable_diffusion_to_diffusers.py --to_safetensors, or find a .safetensors of it."
        )
    if is_file:
        if path.suffix.lower() != ".safetensors":
            raise ModelError(f"{model} is a file of an unknown kind: a diffusers folder or a .safetensors checkpoint was expected.")
        return _unpacked(path), path.stem
    if is_folder:
        if not (path / "model_index.json").exists():
            advice = "Give the folder that holds unet/, vae/ and the rest."
            raise ModelError(f"{model} has no model_index.json, so it is not a diffusers folder. {advice}")
        return path, path.resolve().name
    if re.fullmatch(r"[\w.-]+/[\w.-]+", model) and not path.parent.is_dir():
        return _downloaded(model), model
    raise nothing


def _downloaded(model: str) -> Path:
    """The hub's cache first, the network only when it has nothing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.json", "*.txt", "*/*.json", "*/*.txt", "unet/*.safetensors", "vae/*.safetensors", "text_encoder*/*.safetensors"]
    try:
        return Path(snapshot_download(model, local_files_only=True, allow_patterns=wanted))
    except (LocalEntryNotFoundError, ValueError):
        pass  # the network will tell
    try:
        return Path(snapshot_download(model, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:  # ValueError: a name that the hub cannot have
        raise ModelError(f"{model} is not in the local cache and cannot be downloaded ({_reason(error)}). Check the name and the network.") from None


def _unpacked(checkpoint: Path) -> Path:
    """A single-file checkpoint as a diffusers folder in our cache, converted once for each content."""
    _check_single_file(checkpoint)
    target = cache_folder() / "bases" / _file_hash(checkpoint)[:24]
    if (target / "model_index.json").exists():
        return target
    with _quiet():
        from diffusers import StableDiffusionPipeline

        try:
            pipe = StableDiffusionPipeline.from_single_file(str(checkpoint), safety_checker=None, dtype=torch.float16)
        except _unusable() as error:
            raise ModelError(
                f"{checkpoint} cannot be opened as a Stable Diffusion 1.x or 2.x checkpoint ({_reason(error)}). The first time, its tokenizer and "
                "configs come from the hub: without a network, give a diffusers folder instead."
            ) from None
        _keep(pipe, target)
    return target


def _keep(pipe: Any, target: Path) -> None:
    """Write the folder whole or not at all. Raises SpaceError."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=target.parent) as unfinished:
            pipe.save_pretrained(Path(unfinished) / "base", safe_serialization=True)
            if not target.exists():
                (Path(unfinished) / "base").rename(target)
    except (OSError, SafetensorError) as error:
        raise SpaceError(
            f"{target} could not be written ({_reason(error)}). Free space there, or set STYLE_STUDIO_CACHE to a folder on another disk."
        ) from None


def _check_single_file(checkpoint: Path) -> None:
    """Look at the names of the tensors only. Raises ModelError when this is no checkpoint of ours."""
    try:
        with safe_open(checkpoint, framework="pt") as file:
            names = set(file.keys())
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{checkpoint} is damaged or cut off ({_reason(error)}). {AGAIN}") from None
    if any(name.startswith("conditioner.embedders.") for name in names):
        raise ModelError(f"{checkpoint} is a Stable Diffusion XL: this version trains Stable Diffusion 1.x and 2.x only. Choose such a base.")
    if any("lora_" in name for name in names):
        raise ModelError(f"{checkpoint} is a style (LoRA), not a base. Set base.model to the model that it was made for.")
    if LDM_UNET not in names:
        raise ModelError(f"{checkpoint} holds no UNet of a Stable Diffusion 1.x or 2.x. Choose another base.model.")


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(path: Path, model: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{model} has no {path.parent.name}/{path.name}. Download it again, or choose another base.model.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({_reason(error)}). Download the base again.") from None
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
    folder = files.folder / part
    _, variant = _weights(folder, files.title)
    with _quiet():
        import diffusers
        import transformers

        loader = getattr(diffusers, LOADERS[part], None) or getattr(transformers, LOADERS[part])
        wanted = {"dtype": place.dtype, "use_safetensors": True, "local_files_only": True, "variant": variant}
        try:
            network, told = loader.from_pretrained(folder, output_loading_info=True, **wanted)
        except _unusable() as error:
            raise ModelError(f"{folder} cannot be loaded ({_reason(error)}). Download the base again.") from None
    # Both libraries make up what a file does not hold, and go on
    if missing := sorted({name for name, _ in network.named_parameters()} & set(told["missing_keys"])):
        raise ModelError(f"{folder} lacks {len(missing)} of its weights ({missing[0]}). Download the base again.")
    network.eval().requires_grad_(False)
    network = network.to(place.device)
    if part != "text_encoder":
        network = network.to(memory_format=torch.channels_last)
        quicken(network)
    return network


@contextmanager
def _quiet() -> Iterator[None]:
    """While inside, diffusers and transformers draw no bars and give no advice: what is wrong is told by us."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    before = [(log, log.get_verbosity(), log.is_progress_bar_enabled()) for log in (of_diffusers, of_transformers)]
    for log, _, _ in before:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, verbosity, bars in before:
            log.set_verbosity(verbosity)
            if bars:
                log.enable_progress_bar()


def _unusable() -> tuple[type[Exception], ...]:
    """What diffusers and transformers raise for files that do not fit together."""
    from huggingface_hub.errors import StrictDataclassError

    return (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError, StrictDataclassError)


def _reason(error: Exception) -> str:
    """The first line of what a library said."""
    lines = str(error).strip().splitlines()
    return _shown(lines[0]).rstrip(". ") if lines else type(error).__name__


def _shown(text: str) -> str:
    return text if len(text) <= 300 else text[:300] + "..."


def sides(files: BaseFiles) -> tuple[int, int]:
    """The side a base was made for, and what the sides of its pictures are multiples of, in px. Reads its configs only."""
    unet, vae = (_json(files.folder / part / "config.json", files.title) for part in ("unet", "vae"))
    pixel_step = 2 ** (_levels(vae, (64,), files.folder / "vae") - 1)
    own = unet.get("sample_size")
    return own * pixel_step if isinstance(own, int) else 512, pixel_step * 2 ** (_levels(unet, (320, 640, 1280, 1280), files.folder / "unet") - 1)


def _levels(config: dict[str, Any], usual: tuple[int, ...], folder: Path) -> int:
    """How many resolutions a network works at."""
    found = config.get("block_out_channels", usual)
    if not isinstance(found, list | tuple) or not 1 <= len(found) <= 16:
        raise ModelError(f"{folder / 'config.json'} has {_shown(repr(found))} as block_out_channels, a list was expected. Download the base again.")
    return len(found)


def load(files: BaseFiles, place: Place) -> Parts:
    """The whole base, frozen, on a device. Raises ModelError."""
    import diffusers

    size, multiple = sides(files)
    scheduler, tokenizer = _scheduler(files), _tokenizer(files)
    networks = {part: load_part(files, part, place) for part in LOADERS}
    known = networks["text_encoder"].get_input_embeddings().num_embeddings
    if len(tokenizer) > known:
        raise ModelError(f"the tokenizer of {files.title} has {len(tokenizer)} words, its text encoder knows {known}. Download the base again.")
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


def _scheduler(files: BaseFiles) -> Any:
    """The base's own sampler. Its class is named by a file, so nothing but a scheduler of diffusers is accepted."""
    with _quiet():
        import diffusers

        named = _json(files.folder / "model_index.json", files.title).get("scheduler")
        name = named[1] if isinstance(named, list) and len(named) == 2 and isinstance(named[1], str) else ""
        kind = getattr(diffusers, name, None) if name else None
        if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
            raise ModelError(f"{files.folder / 'model_index.json'} names {_shown(repr(named))} as scheduler, which diffusers does not have. {AGAIN}")
        try:
            scheduler = kind.from_pretrained(files.folder / "scheduler", local_files_only=True)
            diffusers.DDPMScheduler.from_config(scheduler.config)
        except _unusable() as error:
            raise ModelError(f"{files.folder / 'scheduler'} cannot be used ({_reason(error)}). Download the base again.") from None
    if scheduler.config.get("prediction_type") not in PREDICTIONS:
        found = scheduler.config.get("prediction_type")
        raise ModelError(f"{files.title} predicts {found!r}, {' or '.join(PREDICTIONS)} was expected. Choose another base.model.")
    return scheduler


def _tokenizer(files: BaseFiles) -> Any:
    with _quiet():
        from transformers import CLIPTokenizer

        try:
            return CLIPTokenizer.from_pretrained(files.folder / "tokenizer", local_files_only=True)
        except _unusable() as error:
            raise ModelError(f"{files.folder / 'tokenizer'} cannot be loaded ({_reason(error)}). Download the base again.") from None


def base_shapes(model: str) -> tuple[str, dict[str, dict[str, tuple[int, ...]]]]:
    """Return the family's name and, for unet and text_encoder, every linear or convolution's weight shape. Loads no weights."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel

    files = find(model)
    configs = {part: _json(files.folder / part / "config.json", model) for part in ("unet", "text_encoder")}
    try:
        with torch.device("meta"), _quiet():
            unet = diffusers.UNet2DConditionModel.from_config(configs["unet"])
            text_encoder = CLIPTextModel(CLIPTextConfig(**configs["text_encoder"]))
    except _unusable() as error:
        raise ModelError(f"the configs of {model} do not describe a Stable Diffusion ({_reason(error)}). {AGAIN}") from None
    return files.family.name, {"unet": weight_shapes(unet), "text_encoder": weight_shapes(text_encoder)}


def weight_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Module name -> weight shape of every linear and 2-D convolution."""
    return {name: tuple(m.weight.shape) for name, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
