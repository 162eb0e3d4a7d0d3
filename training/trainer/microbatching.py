"""How the pictures of an update go through the base so that it fits into the memory: every way
learns the same, smaller ones take longer.

What a run came to is written down from which update on, so that it goes on in the same way. Knows
no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from training.config.places import without_places
from training.storage.paths import read_regular, write_whole

FILE = "passes.json"  # in a run's folder; not there as long as everything fits as the settings say


@dataclass(frozen=True)
class MicrobatchPlan:
    """splits: parts in which the pictures of a pass go through the base, one after another, their
    gradients added up: a smaller batch with more accumulation. checkpointing: activations are
    computed again in the backward pass instead of kept (Chen et al. 2016).
    """

    splits: int = 1
    checkpointing: bool = False

    def smaller(self, largest: int, *, may_checkpoint: bool) -> MicrobatchPlan | None:
        """What needs less memory next, checkpointing before a smaller batch; None when there is
        nothing. largest: pictures of a pass.
        """
        if may_checkpoint and not self.checkpointing:
            return replace(self, checkpointing=True)
        return replace(self, splits=2 * self.splits) if self.splits < largest else None

    def words(self, largest: int) -> str:
        """For the user: `with gradient checkpointing, in passes of 2 pictures`."""
        parts = ["with gradient checkpointing"] if self.checkpointing else []
        at_once = -(-largest // self.splits)
        parts += (
            [f"in passes of {at_once} picture{'s' if at_once > 1 else ''}"]
            if self.splits > 1
            else []
        )
        return ", ".join(parts) or "as the settings say"


class MicrobatchPlans:
    """How a run's microbatches are made, from which update on.

    checkpointing: the setting, "on", "off" or "auto"; largest: pictures of a microbatch that are
    made at once where the memory is large enough; folder: of the run, None where nothing is
    written; settings: those that the plans are found for.
    """

    def __init__(
        self, checkpointing: str, largest: int, folder: Path | None, settings: Mapping[str, Any]
    ) -> None:
        self.checkpointing, self.largest = checkpointing, largest
        self.folder, self.settings = folder, settings
        self.as_set = MicrobatchPlan(checkpointing=checkpointing == "on")
        self.current = self.as_set
        self.by_step: dict[int, MicrobatchPlan] = {}  # where not as the settings say

    def at(self, step: int) -> MicrobatchPlan:
        """Return the plan of an update, which is the present one from here on."""
        self.current = self.by_step.get(step, self.current)
        return self.current

    def restore(self, by_step: Mapping[int, MicrobatchPlan], step: int) -> bool:
        """Make the updates after `step` as this run made them before, to the bit; what the setting
        says of checkpointing now wins. Return whether that differs from the settings.
        """
        wanted = self.checkpointing
        self.by_step = dict(by_step)
        if wanted != "auto":
            self.by_step = {
                first: replace(plan, checkpointing=wanted == "on")
                for first, plan in by_step.items()
            }
        earlier = [first for first in self.by_step if first <= step]
        if earlier:
            self.current = self.by_step[max(earlier)]
        return bool(earlier)

    def narrow(self, step: int) -> bool:
        """Take the plan that needs less memory next, from update `step` on; False where there is
        none. Raises SpaceError where it cannot be written down; it is taken nevertheless.
        """
        automatic = self.checkpointing == "auto"
        smaller = self.current.smaller(self.largest, may_checkpoint=automatic)
        if smaller is None:
            return False
        self.current = smaller
        self.by_step = {first: plan for first, plan in self.by_step.items() if first < step}
        self.by_step[step] = smaller
        if self.folder is not None:
            write(self.folder, self.settings, self.by_step)
        return True

    @property
    def words(self) -> str:
        """The present plan, for the user."""
        return self.current.words(self.largest)


def write(folder: Path, settings: Mapping[str, Any], turns: Mapping[int, MicrobatchPlan]) -> None:
    """turns: how passes are made from an update on; settings:

    those that this was found for. Raises SpaceError.
    """
    record = {
        "settings": dict(settings),
        "turns": [[step, asdict(passes)] for step, passes in sorted(turns.items())],
    }
    write_whole(folder / FILE, json.dumps(record))


def read(folder: Path, settings: Mapping[str, Any]) -> dict[int, MicrobatchPlan]:
    """The turns that were written for these settings; none where there are none that can be
    read.
    """
    try:
        record = json.loads(read_regular(folder / FILE).decode("utf-8"))
        if without_places(record["settings"]) != without_places(json.loads(json.dumps(settings))):
            return {}
        found = {int(step): MicrobatchPlan(**passes) for step, passes in record["turns"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    sound = all(
        type(p.splits) is int and p.splits > 0 and type(p.checkpointing) is bool
        for p in found.values()
    )
    return found if sound else {}
