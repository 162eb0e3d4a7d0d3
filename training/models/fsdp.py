"""A frozen base that is divided among processes: each keeps a part of every weight and asks the
others for the rest, block by block.

FSDP2 does it (arXiv 2304.11277), with the cuts that accelerate's configuration names. Adapters are
whole in every process: they are small.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from training.models import base_files, loader
from training.models.family import OWN_WAY, Parts, Reading
from training.modules.torch_patches import in_memory_format
from training.runtime.device import DeviceSpec

# weights of a block that is divided by itself, where accelerate's configuration does not say
SMALLEST = 1_000_000


def loaded(files: base_files.BaseFiles, place: DeviceSpec, reading: Reading = OWN_WAY) -> Parts:
    """As loader.load, the denoiser divided among all processes of the training.

    Raises ModelError.
    """
    from accelerate import FullyShardedDataParallelPlugin
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    wanted = FullyShardedDataParallelPlugin()
    # No device has room for the whole
    parts = loader.load(files, DeviceSpec(torch.device("cpu"), place.dtype), reading=reading)
    # The only layout FSDP2 divides
    denoiser = in_memory_format(parts.denoiser, torch.contiguous_format)
    divide = partial(
        fully_shard,
        mesh=init_device_mesh(place.device.type, (torch.distributed.get_world_size(),)),
        reshard_after_forward=bool(wanted.reshard_after_forward),
    )
    named = wanted.transformer_cls_names_to_wrap or ()
    blocks = _blocks(denoiser, named, wanted.min_num_params or SMALLEST)
    for block in reversed(blocks):  # inner ones first
        divide(block)
    divide(denoiser)
    for name, network in parts.networks.items():
        parts.networks[name] = network if network is denoiser else network.to(place.device)
    return parts


def _blocks(
    network: nn.Module, named: str | list[str] | tuple[str, ...], smallest: int
) -> list[nn.Module]:
    """Parts of a network to be divided by themselves:

    those of the named classes, else entries of lists with so many weights.
    """
    names = named.split(",") if isinstance(named, str) else named
    if names:
        return [part for part in network.modules() if type(part).__name__ in names]
    entries = [
        part for parent in network.modules() if isinstance(parent, nn.ModuleList) for part in parent
    ]
    return [part for part in entries if sum(p.numel() for p in part.parameters()) >= smallest]
