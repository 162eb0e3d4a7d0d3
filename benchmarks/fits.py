"""How much memory a training takes, without a GPU and without weights: `python -m benchmarks.fits
[sd15 sdxl flux klein4 ...] [--storage bfloat16 int8 nf4] [--px 512 1024] [--rank 16]`.

The networks are built from their true configs on torch's meta device, adapters are put on, and
every tensor is replaced by a fake one, which has a shape and no content. Then one update is made,
forward, backward and optimiser, while the bytes of all storages that are alive are counted. Fake
tensors are of a CPU: a build of torch without CUDA makes no others. Attention is torch's own, which
keeps no matrix of scores, as on a GPU.

What comes of it is in benchmarks/RESULTS.md and in training/models/update_memory.py, by which
base.storage = auto chooses.
"""

from __future__ import annotations

import argparse
import gc
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks import shapes
from benchmarks.flow_shapes import DUAL, FLOWS, FlowShape
from training.adapters import lora_layers
from training.models.files import library
from training.modules.conv import freeze_convolutions
from training.modules.stored import STORAGES, store_weights
from training.modules.torch_patches import in_memory_format
from training.runtime.device import GIB
from training.trainer.optimizer import Group, Optimiser

BLOCK = 512  # bytes, in which CUDA's allocator gives memory
TARGETS = ("attention", "feed_forward", "projections")


class Bytes(TorchDispatchMode):
    """Bytes of all storages that are alive, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: dict[int, weakref.ref[Any]] = {}

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage until it is gone, once."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, -(-storage.nbytes() // BLOCK) * BLOCK
        if key in self._seen:
            return

        def gone(_: object) -> None:
            self.live -= size
            self._seen.pop(key, None)

        self._seen[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return out


@dataclass(frozen=True)
class Memory:
    """Bytes: of the frozen denoiser, of adapters with gradients and moments, of all at worst."""

    frozen: int
    trained: int
    peak: int
    weights: int  # how many are trained
    seconds: float  # that it took to find out

    @property
    def over(self) -> int:
        """What an update takes beside both."""
        return self.peak - self.frozen - self.trained


def denoiser(config: Mapping[str, Any] | FlowShape, dtype: torch.dtype, storage: str) -> nn.Module:
    """A frozen UNet or transformer on the meta device, as the loader leaves one on a GPU."""
    with torch.device("meta"):
        if isinstance(config, FlowShape):
            made = config.denoiser()
        else:
            made = library().UNet2DConditionModel.from_config(dict(config))
            made = in_memory_format(made, torch.channels_last)
    made = nn.Module.to(made, dtype=dtype)  # by torch's own, as diffusers' would warn
    made.eval().requires_grad_(False)
    if not isinstance(config, FlowShape):
        freeze_convolutions(made)
    if storage:
        store_weights(made, storage)
    return made


def made_fake(network: nn.Module, mode: FakeTensorMode) -> None:
    """Replace every tensor of a network on the meta device by a fake one of a CPU."""
    with mode:
        for module in network.modules():
            for name, value in list(module._parameters.items()):
                if value is not None:
                    like = nn.Parameter(_like(value), value.requires_grad)
                    module._parameters[name] = like
            for name, value in list(module._buffers.items()):
                if value is not None:
                    module._buffers[name] = _like(value)
            for name, value in list(vars(module).items()):
                if isinstance(value, Tensor):  # tables of positions that are no buffers
                    setattr(module, name, _like(value))


def _like(value: Tensor) -> Tensor:
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cpu")


def measured(
    config: Mapping[str, Any] | FlowShape,
    groups: Mapping[str, tuple[str, ...]],
    *,
    px: int,
    storage: str = "",
    dtype: torch.dtype = torch.bfloat16,
    rank: int = 16,
    rows: int = 1,
    checkpointing: bool = True,
) -> Memory:
    """The memory of an update of adapters on a UNet of this config or a transformer of this shape,
    of a second one, since the moments are made by the first.
    """
    began = time.monotonic()
    network: Any = denoiser(config, dtype, storage)
    modules = lora_layers.chosen_modules(network, groups, [t for t in TARGETS if t in groups])
    lora_layers.attach(network, modules, rank=rank, alpha=float(rank), seed=0)
    lora_layers.set_gradient_checkpointing(network, checkpointing)
    mode, counted = FakeTensorMode(), Bytes()
    made_fake(network, mode)
    parameters = [p for p in network.parameters() if p.requires_grad]
    frozen = [p for p in network.parameters() if not p.requires_grad]
    with mode, counted:
        for tensor in (*frozen, *network.buffers()):
            counted.add(tensor)
        before = counted.live
        optimiser = Optimiser({"unet": Group(parameters, 1e-4)}, weight_decay=0, clip=1, ema=0)
        gc.collect()
        for _ in range(2):
            if isinstance(config, FlowShape):
                learnt(config.predicted(network, rows, px, dtype), optimiser)
            else:
                one_update(network, optimiser, px, rows, dtype)
            trained = counted.live - before
    weights = sum(p.numel() for p in parameters)
    return Memory(before, trained, counted.peak, weights, time.monotonic() - began)


def extrapolated(shape: FlowShape, **keys: Any) -> Memory:
    """The same of a transformer, found with few blocks: each block of a kind takes as much as any
    other. keys: of `measured`.
    """
    few = {kind: 1 if kind == DUAL else 2 for kind in shape.blocks}
    counts = [few, *({**few, kind: few[kind] + 1} for kind in few)]
    first, *others = (
        measured(shape.with_blocks(count), shape.family.groups, **keys) for count in counts
    )

    def whole(what: str) -> int:
        start = getattr(first, what)
        more = [
            (getattr(found, what) - start) * (shape.blocks[kind] - few[kind])
            for kind, found in zip(few, others, strict=True)
        ]
        return round(start + sum(more))

    figures = (whole(what) for what in ("frozen", "trained", "peak", "weights"))
    return Memory(*figures, sum(found.seconds for found in (first, *others)))


def one_update(network: Any, optimiser: Optimiser, px: int, rows: int, dtype: torch.dtype) -> None:
    """Forward, backward and the optimiser's step."""
    config = network.config
    side = px // 8
    noisy = torch.empty((rows, config.in_channels, side, side), dtype=dtype)
    noisy = noisy.to(memory_format=torch.channels_last)
    words = torch.empty((rows, shapes.TOKENS, config.cross_attention_dim), dtype=dtype)
    more = {}
    if config.addition_embed_type == "text_time":
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        pooled, sizes = torch.empty((rows, width), dtype=dtype), torch.empty((rows, 6))
        more = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}
    said = network(noisy, torch.empty(rows), words, return_dict=False, **more)[0]
    learnt(said, optimiser)


def learnt(said: Tensor, optimiser: Optimiser) -> None:
    """Backward from a prediction, and the optimiser's step."""
    (said.float() - torch.zeros_like(said, dtype=torch.float32)).square().mean().backward()
    del said
    optimiser.update(optimiser.norm(), 1.0)


# --- tables ---


def rows_of(shape: str, storages: Sequence[str], sides: Sequence[int], rank: int) -> Iterator[str]:
    """The lines of a table: a storage each, GiB at every side. Of transformers found with few
    blocks.
    """
    flow = FLOWS.get(shape)
    for storage in storages:
        cells = []
        for px in sides:
            for checkpointing in (True, False):
                keys: dict[str, Any] = {
                    "px": px,
                    "storage": "" if storage == "bfloat16" else storage,
                    "rank": rank,
                    "checkpointing": checkpointing,
                }
                if flow:
                    found = extrapolated(flow, **keys)
                else:
                    groups = shapes.FAMILIES[shape].groups
                    found = measured(shapes.configs(shape)["unet"], groups, **keys)
                cells.append(f"{found.peak / GIB:.2f} (+{found.over / GIB:.2f})")
        first = f"{shape} | {storage} | {found.frozen / GIB:.2f} | {found.weights / 1e6:.1f} M"
        yield f"| {first} | {' | '.join(cells)} |"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("shapes", nargs="*", default=["sd15", "sd21", "sdxl"])
    parser.add_argument("--storage", nargs="+", default=["bfloat16", "int8"], choices=STORAGES)
    parser.add_argument("--px", nargs="+", type=int, default=[512, 1024])
    parser.add_argument("--rank", type=int, default=16)
    given = parser.parse_args(argv)
    ways = [f"{px} px, {how}" for px in given.px for how in ("checkpointing", "without")]
    print("| base | storage | frozen | trained | " + " | ".join(ways) + " |")
    print("|---|---|---|---|" + "---|" * len(ways))
    for shape in given.shapes:
        for row in rows_of(shape, given.storage, given.px, given.rank):
            print(row, flush=True)


if __name__ == "__main__":
    main()
