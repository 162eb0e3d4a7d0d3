"""What a training will take of this machine, told before it starts: its time, by the pace of an
earlier run; its memory, by the small files of its base. Knows no torch and no gradio.
"""

from __future__ import annotations

import functools
import statistics
from dataclasses import dataclass
from pathlib import Path

import psutil

from studio.datasets import base_info
from studio.library import library, sample_project
from studio.processes import plan, process
from studio.processes.event_tail import last_events
from studio.processes.job import device_of
from training.config.schema import RunConfig
from training.errors import ModelError, StudioError
from training.events import Stepped
from training.storage.paths import Workspace

MOST_RUNS = 20  # earlier runs that are looked at, the latest first
GIB = 1024**3
# Memory in which a base fits for certain: times the size of its files, as training.trainer asks
# for, in 32 bits, and GiB beside it
AMPLE, BESIDE, LEFT = 3.0, 4.0, 0.9
FEWEST = 3  # steps that tell a pace


@dataclass(frozen=True)
class Pace:
    """run: which it was; seconds: of a step; pictures: in a step; side: px, 0 for the base's own"""

    run: str
    seconds: float
    pictures: int
    side: int

    def time(self, steps: int, pictures: int, side: int) -> float:
        """Seconds that so many steps of so many pictures take. side: px, of the base's square where
        a setting is 0, in both.
        """
        area = (side / self.side) ** 2 if side and self.side else 1.0
        return steps * self.seconds * area * pictures / max(1, self.pictures)


def pace(workspace: Workspace, model: str) -> Pace | None:
    """That of the latest run on a base in this workspace; None where there was none."""
    for name in library.runs(workspace)[:MOST_RUNS]:
        run = workspace.runs() / name
        config = None if sample_project.is_example_run(run) else process.earlier(run)
        if config is None or config.base.model != model:
            continue
        file = run / "events.jsonl"
        seconds = _seconds(run, file.stat().st_mtime_ns) if file.is_file() else None
        if seconds is not None:
            pictures = config.optim.batch_size * config.optim.accumulate
            return Pace(name, seconds, pictures, config.data.resolution)
    return None


@functools.lru_cache(maxsize=64)
def _seconds(run: Path, _: int) -> float | None:
    """The median of its last steps."""
    steps = [event.seconds for event in last_events(run, 0) if isinstance(event, Stepped)]
    return statistics.median(steps) if len(steps) >= FEWEST else None


class Memories:
    """What trainings are predicted to take; each is asked for once, in a process that takes
    seconds.
    """

    def __init__(self) -> None:
        self._found: dict[str, plan.Memory | None] = {}

    def known(self, config: RunConfig) -> plan.Memory | None:
        """What is known without asking: needed is 0 where there is more than enough."""
        if (key := _key(config)) in self._found:
            return self._found[key]
        folder = _folder(config.base.model)
        if folder is None or device_of(config) != "cpu":
            return None
        files = [*folder.rglob("*.safetensors"), *folder.rglob("*.bin")]
        size = sum(file.stat().st_size for file in files if file.is_file()) / GIB
        room = LEFT * psutil.virtual_memory().available / GIB
        if not files or AMPLE * size + BESIDE > room:
            return None
        return plan.Memory(0.0, room, config.base.storage, 0)

    def is_open(self, config: RunConfig) -> bool:
        """Whether asking would tell more."""
        if _key(config) in self._found or _folder(config.base.model) is None:
            return False
        return self.known(config) is None

    def ask(self, config: RunConfig) -> plan.Memory | None:
        """Predict it; None where it cannot be."""
        try:
            found = plan.memory(config)
        except (StudioError, OSError):
            found = None
        self._found[_key(config)] = found
        return found


def _key(config: RunConfig) -> str:
    """What a prediction depends on."""
    optim = config.optim
    beside = (config.data.resolution, optim.text_encoder_lr > 0, optim.ema > 0)
    return repr((config.base, config.adapter, beside))


def _folder(model: str) -> Path | None:
    """Where a base's small files lie, None where they are not on this machine as such."""
    try:
        return base_info.folder_of(model.strip())
    except ModelError:
        return None
