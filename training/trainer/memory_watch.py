"""How much memory a run may take, and what its first updates were seen to take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from training.errors import OutOfMemory
from training.models import loader
from training.runtime import memory
from training.runtime.device import GIB, has_own_memory
from training.runtime.distributed import ProcessGroup
from training.runtime.memory import SPARE
from training.trainer.plan import Plan
from training.trainer.predicted_memory import predicted

# Updates whose memory is watched: the second one has the optimiser's moments beside it, later ones
# take no more
WATCHED = 2


class MemoryWatch:
    """Sees to it that what does not fit shows in the first updates, on a CPU as well.

    room: GiB that this process may take in all; limit: GiB that its first updates are let take;
    updates_left: updates that are still watched; peaks: GiB that were taken at worst while
    encoding, and in passes.
    """

    def __init__(self, plan: Plan, world: ProcessGroup) -> None:
        self.plan, device = plan, plan.place.device
        sharing = world.size if device.type == "cpu" else 1  # processes that share the memory
        self.free = memory.free(device) / sharing
        self.room = memory.taken(device) + self.free
        self.limit = (1 - SPARE) * self.room
        # The others of a divided base wait in the middle of a layer
        self.updates_left = 0 if world.shards else WATCHED
        self.peaks: dict[str, float] = {}

    def check_base(self) -> None:
        """Raise OutOfMemory when the base's weights alone take more than is free."""
        place, files = self.plan.place, self.plan.files
        # The others need not be there with the denoiser
        parts = [files.family.denoiser] if has_own_memory(place.device) else files.family.classes
        if place.storage:
            needed = predicted(self.plan.config, files, place).frozen
        else:
            counts = [loader.weight_count(files, [part]) for part in parts]
            # Without text groups the text encoders and the denoiser come one after the other
            weights = sum(counts) if files.family.text_groups else max(counts)
            needed = weights * place.dtype.itemsize / GIB
        if needed <= self.free:
            return
        half = ", or set base.dtype = bfloat16" if place.dtype == torch.float32 else ""
        fewer = "" if place.storage in ("int8", "nf4") else ", or set base.storage = int8"
        raise OutOfMemory(
            f"the weights of {files.title} alone take {needed:.1f} GiB in "
            f"{place.storage or place.precision}, and {self.free:.1f} GiB are free on "
            f"{place.name}. Close other programs, choose a smaller base{half}{fewer}."
        )

    @contextmanager
    def watched(self, networks: Iterable[nn.Module], what: str = "passes") -> Iterator[None]:
        """While inside, memory that would not be enough raises OutOfMemoryError, on a CPU as well;
        in the first updates only.
        """
        if not self.updates_left:
            yield
            return
        device = self.plan.place.device
        with memory.watched(device, self.limit, memory.mapped(networks)) as watch:
            yield
        self.peaks[what] = max(watch.peak, self.peaks.get(what, 0.0))

    def made_update(self) -> None:
        self.updates_left = max(0, self.updates_left - 1)
