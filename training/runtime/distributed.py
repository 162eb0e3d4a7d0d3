"""The processes of one training: who divides what, what all agree on, and the one sum an update
needs.

`torchrun` and `accelerate launch` start the same command several times and tell each its rank.
Every process then tells the same story: each takes its rows of every batch, the first one writes.
Alone, all of this costs nothing and changes nothing.
"""

from __future__ import annotations

import datetime
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from training.errors import ConfigError, OthersEndedError, StudioError

T = TypeVar("T")
PATIENCE = datetime.timedelta(
    days=2
)  # the others may wait for a full disk, or for class pictures; one that ends is noticed at once


class ProcessGroup:
    """This process among `size`; rank 0 writes.

    shards: the frozen base is divided among them, so all must call it together.
    """

    def __init__(self, rank: int = 0, size: int = 1, *, shards: bool = False) -> None:
        self.rank, self.size, self.shards = rank, size, shards
        self.writes = rank == 0
        self._asked: Callable[[], bool] = lambda: False
        self._stopped = False

    def agreed_stop(self, asked: Callable[[], bool]) -> Callable[[], bool]:
        """Turn this process's stop into one that all give at the same place:

        what any was asked is heard by all at the next meeting.
        """
        if self.size == 1:
            return asked
        self._asked = asked
        return lambda: self._stopped

    def share(self, count: int) -> range:
        """Which of `count` rows or pictures are this process's:

        as many as anyone's, or one fewer, in order.
        """
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def summed(self, gradients: Sequence[Tensor], loss: Tensor, full: bool) -> tuple[Tensor, bool]:
        """Replace the gradients by their sums over all processes; return the sum of the losses and
        whether any had its memory full.

        One all-reduce, of a flat buffer.
        """
        if self.size == 1:
            return loss, full
        flat = torch.cat(
            [
                *(g.flatten() for g in gradients),
                torch.stack([loss.to(gradients[0]), *_figures(gradients[0], full, self._asked())]),
            ]
        )
        _together(lambda: dist.all_reduce(flat))
        at = 0
        for gradient in gradients:
            gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
            at += gradient.numel()
        self._stopped = self._stopped or bool(flat[-1] > 0)
        return flat[-3], bool(flat[-2] > 0)

    def meet(self) -> None:
        """Wait for all, and hear whether any was asked to stop."""
        if self.size > 1:
            self._stopped = any(self.gathered(self._asked())) or self._stopped

    def gathered(self, value: T) -> list[T]:
        """Everyone's value, in the order of their ranks; small ones, on the CPU."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        _together(lambda: dist.all_gather_object(found, value))
        return found

    def first(self, make: Callable[[], T]) -> T:
        """What the first process makes, for all."""
        if self.size == 1:
            return make()
        box: list[Any] = [make() if self.rank == 0 else None]
        _together(lambda: dist.broadcast_object_list(box, src=0))
        return box[0]

    def each(self, make: Callable[[], T]) -> T:
        """What every process makes by itself; where one cannot, all end, and a reason that several
        have is raised once.
        """
        if self.size == 1:
            return make()
        made: list[T] = []
        reason: StudioError | None = None
        try:
            made.append(make())
        except StudioError as error:
            reason = error
        reasons = self.gathered("" if reason is None else str(reason))
        if reason is not None and str(reason) not in reasons[: self.rank]:
            raise reason
        if any(reasons):
            raise OthersEndedError(f"process {self.rank} of {self.size} ends too.")
        return made[0]


ALONE = ProcessGroup()


def is_one_of_many() -> bool:
    """Whether a launcher has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined(device: str) -> Iterator[ProcessGroup]:
    """Join the processes that the launcher started with this one; device:

    base.device. Raises ConfigError when that cannot go.
    """
    if not is_one_of_many():
        yield ALONE
        return
    on_gpu = device in ("auto", "cuda") and torch.cuda.is_available()
    _check_device(device, on_gpu)
    shards = _wants_shards()
    # Objects travel on the CPU, gradients where they are
    _together(
        lambda: dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=PATIENCE
        )
    )
    world = ProcessGroup(dist.get_rank(), dist.get_world_size(), shards=shards)
    try:
        yield world
        world.meet()  # the others still wait for answers where one leaves early
    finally:
        # a divided base, in circles, that outlives the group it speaks through aborts the process
        # at its end
        gc.collect()
        dist.destroy_process_group()


def _check_device(device: str, on_gpu: bool) -> None:
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(
            f"base.device is {device}, but several processes were started: each takes a device "
            "of its own. Set it to auto, cuda or cpu."
        )
    if not on_gpu:
        return
    if local >= torch.cuda.device_count():
        found, asked = torch.cuda.device_count(), os.environ.get("LOCAL_WORLD_SIZE", "more")
        raise ConfigError(
            f"{asked} processes were started on a machine with {found} GPU(s). Start one for "
            "each GPU, or set base.device = cpu."
        )
    torch.cuda.set_device(local)


def _setting_is_on(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("true", "1", "yes")


def _wants_shards() -> bool:
    """Whether accelerate's configuration asks for FSDP. Raises ConfigError for what is not done."""
    if _setting_is_on("ACCELERATE_USE_DEEPSPEED"):
        raise ConfigError(
            "accelerate is configured for DeepSpeed, which divides trained weights and their "
            "optimiser: here these are a few MB, it is the frozen "
            "base that is large. Choose FSDP in `accelerate config` (version 2) to divide the "
            "base, or plain multi-GPU."
        )
    if _setting_is_on("ACCELERATE_USE_FSDP") and os.environ.get("FSDP_VERSION", "1") != "2":
        raise ConfigError(
            "accelerate is configured for FSDP version 1, which cannot divide a frozen base. "
            "Set fsdp_version: 2 in its configuration."
        )
    if _setting_is_on("ACCELERATE_USE_FSDP") and _setting_is_on("FSDP_OFFLOAD_PARAMS"):
        raise ConfigError(
            "accelerate is configured with fsdp_offload_params, which is not done here. Turn "
            "it off, or start more processes."
        )
    return _setting_is_on("ACCELERATE_USE_FSDP")


def _figures(like: Tensor, *values: bool) -> list[Tensor]:
    return [torch.tensor(float(value), dtype=like.dtype, device=like.device) for value in values]


def _together(act: Callable[[], Any]) -> None:
    """Do what all processes do at once.

    Raises OthersEndedError when one of them is not there any more.
    """
    try:
        act()
    except (
        RuntimeError
    ) as error:  # what torch.distributed raises when a connection ends or no one answers
        if isinstance(error, torch.OutOfMemoryError):
            raise
        rank, size = os.environ.get("RANK", "?"), os.environ.get("WORLD_SIZE", "?")
        raise OthersEndedError(
            f"process {rank} of {size}: another process of this training has ended "
            f"({str(error).splitlines()[0]}); its own message says why. "
            "Run the same command again to resume."
        ) from None
