"""How much memory a training will take, from the configs of its base: nothing is loaded.

It is what one picture at a time takes with gradient checkpointing: a training comes to that by
itself where the memory is short, and learns the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from training.adapters.kronecker import factor_shapes
from training.adapters.lora_layers import chosen_modules
from training.config.layer_patterns import kept, parsed_ranks, ranks_of
from training.config.schema import RunConfig
from training.models import base_files, loader
from training.models.update_memory import update_memory
from training.modules.stored import STORAGES, is_storable
from training.runtime.device import GIB, DeviceSpec, has_own_memory

STATE = 16  # bytes a weight that is trained: itself, its gradient, two moments, all in float32
FRAGMENTS = 0.15  # of what comes and goes, that an allocator holds beside it
LIBRARIES = 0.6  # GiB: a GPU's context, and on a CPU what is imported later


@dataclass(frozen=True)
class Prediction:
    """GiB, of a training: of the frozen weights on its device, and of all at worst."""

    frozen: float
    peak: float


def predicted(
    config: RunConfig,
    files: base_files.BaseFiles,
    place: DeviceSpec,
    outlines: dict[str, nn.Module] | None = None,
) -> Prediction:
    """What a training takes on its device where the weights are kept as place.storage says.

    outlines: parts without weights that are there already; others are put there. Raises ModelError
    where the base's configs do not describe it.
    """
    family, optim = files.family, config.optim
    networks = {} if outlines is None else outlines
    # What waits beside a GPU is not in its memory
    encoders = family.text_encoders if family.text_groups else ()  # others are gone by then
    trained = [family.denoiser, *(encoders if optim.text_encoder_lr else ())]
    used = {*trained, *(encoders if config.adapter.tokens else ())}
    there = used if has_own_memory(place.device) else {family.denoiser, "vae", *encoders}
    for part in there - networks.keys():
        networks[part] = loader.outline(files, part)
    frozen = sum(
        weight_bytes(networks[part], replace_storage(files, part, place)) for part in there
    )
    if config.base.assistant:
        frozen += _file_size(config.base.assistant) * place.dtype.itemsize / 2
    adapters = sum(_trained(config, files, part, networks[part]) for part in trained)
    state = adapters * (STATE + (4 if optim.ema else 0))
    side = config.data.resolution or loader.sides(files)[0]
    own = weight_bytes(networks[family.denoiser], replace(place, storage=""))
    beside = update_memory(family, side, itemsize=place.dtype.itemsize, weights=own)
    made = max(largest_made(networks[part], place) for part in there) if place.storage else 0
    peak = frozen + made + (state + beside) * (1 + FRAGMENTS)
    return Prediction(frozen / GIB, peak / GIB + LIBRARIES)


def _file_size(path: str) -> int:
    """Bytes of a style file, of 16 bits as most are; 0 for one that cannot be read, as its reader
    tells.
    """
    try:
        return Path(path).expanduser().stat().st_size
    except OSError:
        return 0


def replace_storage(files: base_files.BaseFiles, part: str, place: DeviceSpec) -> DeviceSpec:
    """The place as one part of a base has it."""
    return replace(place, storage=loader.storage_of(files, part, place.storage))


def weight_bytes(network: nn.Module, place: DeviceSpec) -> float:
    """Bytes of a network's weights in a precision and, where there is one, a storage."""
    size = STORAGES[place.storage].size(place.dtype) if place.storage else place.dtype.itemsize
    stored = sum(m.weight.numel() for m in network.modules() if is_storable(m))
    rest = sum(p.numel() for p in network.parameters()) - stored
    return stored * size + rest * place.dtype.itemsize


def largest_made(network: nn.Module, place: DeviceSpec) -> int:
    """Bytes that the largest weight takes where it is made: before and after it is scaled."""
    sizes = (m.weight.numel() for m in network.modules() if is_storable(m))
    return 2 * max(sizes, default=0) * place.dtype.itemsize


def _trained(config: RunConfig, files: base_files.BaseFiles, part: str, network: nn.Module) -> int:
    """How many weights the adapters of a part have."""
    family, adapter = files.family, config.adapter
    if part == family.denoiser:
        names = chosen_modules(network, family.groups, adapter.targets)
        names = kept(names, adapter.only, adapter.without)
        ranks = ranks_of(names, parsed_ranks(adapter.ranks), adapter.rank)
    else:
        names = chosen_modules(network, family.text_groups, adapter.text_encoder_targets)
        ranks = dict.fromkeys(names, adapter.rank)
    shapes = loader.weight_shapes(network)
    if adapter.method == "lokr":
        pairs = (factor_shapes(shapes[name], adapter.factor) for name in names)
        return sum(math.prod(one) + math.prod(two) for one, two in pairs)
    each = 2 if adapter.method == "loha" else 1  # products of two matrices
    return each * sum(ranks[n] * (shapes[n][0] + math.prod(shapes[n][1:])) for n in names)
