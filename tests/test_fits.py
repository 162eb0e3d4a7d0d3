"""Memory that is predicted without weights, by fake tensors, against torch's own tracker and known
sizes.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from benchmarks import fits, shapes
from benchmarks.flow_shapes import FlowShape
from training.models import flux
from training.trainer.optimizer import Group, Optimiser

CONFIG = shapes.configs("tiny")["unet"] | {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
}
GROUPS = shapes.FAMILIES["tiny"].groups


def test_the_bytes_of_known_tensors_are_counted_while_they_live() -> None:
    counted = fits.Bytes()
    with FakeTensorMode(), counted:
        first = torch.empty(1000, dtype=torch.float32)
        view = first[:10]
        assert counted.live == 4096  # whole blocks of 512 bytes, and once
        second = first + 1
        assert (counted.live, counted.peak) == (8192, 8192)
        del first, second
        gc.collect()
        assert counted.live == 4096 and view.shape == (10,)
        del view
        gc.collect()
    assert (counted.live, counted.peak) == (0, 8192)


def measured(
    px: int = 128, rank: int = 16, storage: str = "", checkpointing: bool = True
) -> fits.Memory:
    """What an update of the small UNet takes. Seconds, so each once."""
    return _measured(px, rank, storage, checkpointing)


@functools.cache
def _measured(px: int, rank: int, storage: str, checkpointing: bool) -> fits.Memory:
    return fits.measured(
        CONFIG, GROUPS, px=px, rank=rank, storage=storage, checkpointing=checkpointing
    )


def peak_of_torch(checkpointing: bool, storage: str) -> int:
    """The same update under torch's MemTracker, in bytes."""
    from training.adapters import lora_layers

    network: nn.Module = fits.denoiser(CONFIG, torch.bfloat16, storage)
    modules = lora_layers.chosen_modules(network, GROUPS, fits.TARGETS)
    lora_layers.attach(network, modules, rank=16, alpha=16.0, seed=0)
    lora_layers.set_gradient_checkpointing(network, checkpointing)
    mode, tracker = FakeTensorMode(), MemTracker()
    fits.made_fake(network, mode)
    trained = [p for p in network.parameters() if p.requires_grad]
    with mode:
        tracker.track_external(network)
        for parameter in network.parameters():  # it hooks frozen ones, too, which raises
            if not parameter.requires_grad:
                tracker._param_to_grad_hook_handles[parameter] = (_Nothing(), _Nothing())
        with tracker:
            optimiser = Optimiser({"unet": Group(trained, 1e-4)}, weight_decay=0, clip=1, ema=0)
            for _ in range(2):
                fits.one_update(network, optimiser, 128, 1, torch.bfloat16)
                tracker.reset_mod_stats()  # it takes one update
    return max(found["Total"] for found in tracker.get_tracker_snapshot("peak").values())


class _Nothing:
    remove: Callable[[], None] = staticmethod(lambda: None)


@pytest.mark.parametrize(("checkpointing", "storage"), [(False, ""), (True, "int8")])
def test_our_count_is_that_of_torch(checkpointing: bool, storage: str) -> None:
    ours = measured(storage=storage, checkpointing=checkpointing)
    theirs = peak_of_torch(checkpointing, storage)
    assert ours.peak == pytest.approx(theirs, rel=0.03)


def test_checkpointing_and_storage_and_pictures_show() -> None:
    usual = measured()
    assert measured(checkpointing=False).over > usual.over
    assert measured(px=256).over > 2 * usual.over
    assert 0.45 < measured(storage="int8").frozen / usual.frozen < 0.6
    assert measured(rank=32).weights == 2 * usual.weights
    assert usual.trained == pytest.approx(16 * usual.weights, rel=0.1)


def test_few_blocks_tell_what_many_take() -> None:
    config = {
        "in_channels": 64,
        "attention_head_dim": 16,
        "num_attention_heads": 4,
        "joint_attention_dim": 64,
        "pooled_projection_dim": 32,
        "guidance_embeds": True,
        "axes_dims_rope": (4, 6, 6),
    }
    blocks = {"num_layers": 4, "num_single_layers": 5}
    shape = FlowShape(flux.FLUX, 32, (64,), blocks, 32, config=config)
    whole = fits.measured(shape, shape.family.groups, px=128)
    found = fits.extrapolated(shape, px=128)
    for what in ("frozen", "trained", "peak", "weights"):
        assert getattr(found, what) == pytest.approx(getattr(whole, what), rel=0.01), what
