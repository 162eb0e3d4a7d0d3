"""Finding a base on disk, telling its family from its files, loading its parts.

Safetensors only, the cache before the network.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, cast

import safetensors
import torch
from torch import nn

from training.errors import ConfigError, ModelError
from training.models.base_files import KINDS, BaseFiles, find
from training.models.clip_text import clip_skips
from training.models.family import OWN_WAY, Network, Parts, Reading, TextEncoder
from training.models.files import (
    AGAIN,
    check_config,
    file_hash,
    library,
    quiet,
    read_json,
    reason,
    remedy,
    shown,
    unusable,
    weights_of,
)
from training.models.latent_space import space_of
from training.models.lazy_networks import LazyNetworks
from training.models.objective import Table
from training.models.text_states import StoredStates
from training.modules.conv import freeze_convolutions
from training.modules.group_norm import use_fast_group_norm
from training.modules.stored import shape_of, store_weights
from training.runtime.device import DeviceSpec, device_record

PREDICTIONS = ("epsilon", "v_prediction")
# Samplers for which diffusers needs scipy, which is not installed with us (a second to import), and
# what solves the same equation at the same noise levels
WITHOUT_SCIPY = {"LMSDiscreteScheduler": "EulerDiscreteScheduler"}


def load_part(files: BaseFiles, part: str, place: DeviceSpec, *, waiting: bool = False) -> Network:
    """One network, frozen, in eval mode, channels_last where it has convolutions; read straight
    into its precision. Raises ModelError.

    waiting: it stays in the machine's memory until it is sent to the device.
    """
    folder = files.folder / part
    _, variant = weights_of(folder, files.title)
    config = read_json(folder / "config.json", files.title)
    check_config(config, folder / "config.json")
    dtype = place.dtype
    if part == "vae" and dtype == torch.float16 and config.get("force_upcast", False):
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
                f"{folder} cannot be loaded ({reason(error)}). {remedy(error)}"
            ) from None
    # Both libraries make up what a file does not hold, and go on
    if missing := sorted(
        {name for name, _ in network.named_parameters()} & set(loading_info["missing_keys"])
    ):
        raise ModelError(
            f"{folder} lacks {len(missing)} of its weights ({missing[0]}). Download the base again."
        )
    network.eval().requires_grad_(False)
    if part == "unet" or (part == "vae" and all(p.dim() < 5 for p in network.parameters())):
        network = network.to(memory_format=torch.channels_last)
        use_fast_group_norm(network)
        freeze_convolutions(network)
    if storage := storage_of(files, part, place.storage):
        store_weights(network, storage)
    return network if waiting else network.to(place.device)


def storage_of(files: BaseFiles, part: str, storage: str) -> str:
    """How a part's weights are kept where the denoiser's are kept like this.

    The VAE's as they are: it is small, and what it draws is what is seen. Text encoders in no less
    than 8 bits: what they say is computed once, and every picture is drawn by it.
    """
    if part in files.family.text_encoders:
        return "int8" if storage == "nf4" else storage
    return storage if part == files.family.denoiser else ""


def sides(files: BaseFiles) -> tuple[int, int]:
    """The side a base was made for, and what the sides of its pictures are multiples of, in px.

    Reads its configs only.
    """
    spec = files.family.spec
    if spec.denoiser == "transformer":
        own = read_json(files.folder / "vae" / "config.json", files.title).get("sample_size")
        return own if isinstance(own, int) and own > 0 else spec.side, spec.grid
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


def load(
    files: BaseFiles, place: DeviceSpec, *, waiting: bool = False, reading: Reading = OWN_WAY
) -> Parts:
    """The whole base, frozen, on a device, or waiting beside it; reading: how it reads captions.

    Raises ModelError.
    """
    size, multiple = sides(files)
    family = files.family
    scheduler, tokenizers = (
        _scheduler(files),
        {name: _tokenizer(files, name) for name in family.tokenizers},
    )
    lazy = not family.text_groups  # its text encoders and its denoiser come in turns
    at_once = ("vae",) if lazy else tuple(family.classes)
    networks: dict[str, Network] = {
        part: load_part(files, part, place, waiting=waiting) for part in at_once
    }
    if lazy:
        load_one = partial(load_part, files, place=place, waiting=waiting)
        networks = LazyNetworks(networks, (family.denoiser,), load_one)
    asked = () if lazy else family.text_encoders
    for tokenizer, part in zip(tokenizers.values() if asked else (), asked, strict=True):
        known = cast(TextEncoder, networks[part]).get_input_embeddings().num_embeddings
        if len(tokenizer) > known:
            raise ModelError(
                f"the tokenizer of {files.title} has {len(tokenizer)} words, its text encoder "
                f"knows {known}. Download the base again."
            )
    vae = networks["vae"]
    space = space_of(vae)
    return Parts(
        family=family,
        networks=networks,
        tokenizers=tokenizers,
        scheduler=scheduler,
        title=files.title,
        hash=part_hash(files, family.denoiser),
        vae_hash=part_hash(files, "vae"),
        size=size,
        folder=files.folder,
        index=read_json(files.folder / "model_index.json", files.title),
        objective=family.flow or table_of(scheduler),
        text_states=_text_states(files, place) if lazy else None,
        space=space,
        pixel_step=pixel_step(vae.config) * space.patch,
        multiple=multiple,
        readings=(reading,),
    )


def check_reading(files: BaseFiles, clip_skip: int) -> None:
    """Refuse a base.clip_skip that a base's text encoder cannot have, from its configs.

    Raises ConfigError.
    """
    if clip_skip == 0:
        return
    spec = files.family.spec
    path = files.folder / spec.text_encoders[0] / "config.json"
    layers = read_json(path, files.title).get("num_hidden_layers", 12)
    allowed = clip_skips(spec, layers if isinstance(layers, int) else 12)
    if clip_skip not in allowed:
        few = f" or {allowed[0]}" if allowed else ""
        few += f" to {allowed[-1]}" if len(allowed) > 1 else ""
        raise ConfigError(
            f"base.clip_skip is {clip_skip}: 0 (the base's own){few} was expected for "
            f"{files.title}."
        )


def pixel_step(vae: Any) -> int:
    """px of a side of a VAE's latents. vae: its config."""
    return 2 ** (len(vae.get("block_out_channels") or vae.get("dim_mult")) - 1)


def _text_states(files: BaseFiles, place: DeviceSpec) -> StoredStates:
    """What captions say, for a base whose text encoders are not trained."""
    family = files.family

    def made_by() -> dict[str, Any]:
        hashes = {part: part_hash(files, part) for part in family.text_encoders}
        for name in family.tokenizers:
            small = sorted(p for p in (files.folder / name).iterdir() if p.is_file())
            hashes[name] = " ".join(file_hash(path) for path in small)
        index = read_json(files.folder / "model_index.json", files.title)
        return {"family": family.name, "index": index, **hashes, **device_record(place)}

    return StoredStates(partial(load_part, files, place=place), made_by, place.device)


def table_of(scheduler: Any) -> Table:
    """The objective of a base whose sampler has a noise schedule of betas."""
    ddpm: Any = library().DDPMScheduler
    alphas_cumprod = ddpm.from_config(scheduler.config).alphas_cumprod.float()
    return Table(alphas_cumprod, scheduler.config.prediction_type)


def weight_count(files: BaseFiles, parts: Iterable[str]) -> int:
    """Weights of these networks of it, counted from the headers of its files; a file that cannot be
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


def part_hash(files: BaseFiles, part: str) -> str:
    """Of the weights of one network, hex."""
    found = hashlib.sha256()
    for path in weights_of(files.folder / part, files.title)[0]:
        stat = path.stat()
        found.update(_hash_of_state(path, stat.st_size, stat.st_mtime_ns).encode())
    return found.hexdigest()


@functools.lru_cache(maxsize=64)
def _hash_of_state(path: Path, size: int, changed: int) -> str:
    """The hash of a file as it is: once a process, since large ones take seconds."""
    return file_hash(path)


def _is_scheduler(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, library().SchedulerMixin)


def _scheduler(files: BaseFiles) -> Any:
    """The base's own sampler.

    Its class is named by a file, so nothing but a scheduler of diffusers is accepted.
    """
    with quiet():
        diffusers = library()
        named = read_json(files.folder / "model_index.json", files.title).get("scheduler")
        name = (
            named[1]
            if isinstance(named, list) and len(named) == 2 and isinstance(named[1], str)
            else ""
        )
        kind = cast(Any, getattr(diffusers, name, None) if name else None)
        if name in WITHOUT_SCIPY and not _is_scheduler(kind):
            kind = getattr(diffusers, WITHOUT_SCIPY[name])
        if not _is_scheduler(kind):
            raise ModelError(
                f"{files.folder / 'model_index.json'} names {shown(repr(named))} as scheduler, "
                f"which diffusers does not have. {AGAIN}"
            )
        if files.family.flow is not None:
            return _flow_scheduler(files, kind)
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
                f"{files.folder / 'scheduler'} cannot be used ({reason(error)}). {remedy(error)}"
            ) from None
    if scheduler.config.get("prediction_type") not in PREDICTIONS:
        found = scheduler.config.get("prediction_type")
        raise ModelError(
            f"{files.title} predicts {found!r}, {' or '.join(PREDICTIONS)} was expected. "
            "Choose another base.model."
        )
    return scheduler


def _flow_scheduler(files: BaseFiles, kind: type[Any]) -> Any:
    """The sampler of a flow. kind: the class that the base names."""
    if kind.__name__ != "FlowMatchEulerDiscreteScheduler":
        raise ModelError(
            f"{files.title} is sampled by {kind.__name__}, FlowMatchEulerDiscreteScheduler was "
            f"expected. {AGAIN}"
        )
    try:
        return kind.from_pretrained(files.folder / "scheduler", local_files_only=True)
    except unusable() as error:
        raise ModelError(
            f"{files.folder / 'scheduler'} cannot be used ({reason(error)}). {remedy(error)}"
        ) from None


def _tokenizer(files: BaseFiles, name: str) -> Any:
    with quiet():
        import transformers

        kind = getattr(transformers, files.family.spec.tokenizer_classes.get(name, "CLIPTokenizer"))
        try:
            return kind.from_pretrained(files.folder / name, local_files_only=True)
        except unusable() as error:
            raise ModelError(
                f"{files.folder / name} cannot be loaded ({reason(error)}). {remedy(error)}"
            ) from None


def base_shapes(model: str) -> tuple[str, dict[str, dict[str, tuple[int, ...]]]]:
    """Return the family's name and, for every part that may have adapters, each linear or
    convolution's weight shape. Loads no weights.
    """
    files = find(model)
    found = {part: weight_shapes(outline(files, part)) for part in files.family.adapted}
    return files.family.name, found


def adaptable_shapes(files: BaseFiles, parts: Parts) -> dict[str, dict[str, tuple[int, ...]]]:
    """The same of a base that is loaded, but for parts that come later. Of a network with adapters
    the layers are named otherwise: ask before they go on.
    """
    return {
        part: weight_shapes(parts.networks.get(part) or outline(files, part))
        for part in parts.family.adapted
    }


def outline(files: BaseFiles, part: str) -> nn.Module:
    """One network without weights, from its config."""
    import diffusers
    import transformers

    config, name = (
        read_json(files.folder / part / "config.json", files.title),
        files.family.classes[part],
    )
    check_config(config, files.folder / part / "config.json")
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
        name: tuple(shape_of(m))
        for name, m in network.named_modules()
        if isinstance(m, nn.Linear | nn.Conv2d)
    }
