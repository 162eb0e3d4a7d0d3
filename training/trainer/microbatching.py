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
        if record["settings"] != json.loads(json.dumps(dict(settings))):
            return {}
        found = {int(step): MicrobatchPlan(**passes) for step, passes in record["turns"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    sound = all(
        type(p.splits) is int and p.splits > 0 and type(p.checkpointing) is bool
        for p in found.values()
    )
    return found if sound else {}
