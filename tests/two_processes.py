"""What tests/test_world.py has two processes do: `torchrun --nproc_per_node 2 -m
tests.two_processes FOLDER`.

FOLDER/<name>.toml are trainings, in float64; what each process heard of each is written to
FOLDER/<name>-<rank>.json.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from training.config.loading import from_mapping, read_toml
from training.config.schema import RunConfig
from training.errors import StudioError
from training.events import Event, Stepped
from training.runtime.distributed import ProcessGroup, joined
from training.trainer import plan
from training.trainer.loop import train
from training.trainer.trainer import Trainer

LAST = 2  # the update in which something happens to one of them


def main() -> None:
    folder = Path(sys.argv[1])
    signal.signal(
        signal.SIGTERM, signal.SIG_IGN
    )  # the launcher ends the others when one has died; the command takes it for a stop
    choose, loss = plan.choose, Trainer.loss
    plan.choose = lambda device, dtype: dataclasses.replace(
        choose(device, "float32"), dtype=torch.float64
    )
    with joined("cpu") as world:
        for name in (path.stem for path in sorted(folder.glob("*.toml"))):
            Trainer.loss = troubled(loss, name) if world.rank == 1 else loss
            of_name = ProcessGroup(world.rank, world.size, shards="shards" in name)
            heard = list(
                recorded_events(from_mapping(read_toml(folder / f"{name}.toml")), of_name, name)
            )
            (folder / f"{name}-{world.rank}.json").write_text(json.dumps(heard))


def recorded_events(config: RunConfig, world: ProcessGroup, name: str) -> Iterator[Any]:
    """Events of a training as lists of their class and values; an error as the last."""
    made: list[Event] = []

    def stop() -> bool:
        return "stopped" in name and world.rank == 1 and len(made) == LAST

    try:
        for event in train(config, stop, world):
            made += [event] if isinstance(event, Stepped) else []
            yield [type(event).__name__, dataclasses.asdict(event)]
    except StudioError as error:
        yield [type(error).__name__, str(error)]


def troubled(loss: Any, name: str) -> Any:
    """What happens to the second process while it makes an update."""
    happened = False

    def wrapped(run: Trainer, *given: Any) -> Any:
        nonlocal happened
        if run.step == LAST and not happened and ("full" in name or "killed" in name):
            happened = True
            if "killed" in name:
                os._exit(3)
            raise torch.OutOfMemoryError("the second device is full")
        return loss(run, *given)

    return wrapped


if __name__ == "__main__":
    main()
