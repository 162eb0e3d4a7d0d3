"""A run's events passed on to experiment trackers (TensorBoard, W&B, ...), in a thread of its own.

A tracker can neither slow nor stop a training: what it does not take in time is dropped, and what
goes wrong in it becomes one warning.
"""

from __future__ import annotations

import dataclasses
import json
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from training import events
from training.config.schema import RunConfig
from training.errors import ConfigError

WAITING = 1000  # events that may wait for a slow tracker; more are dropped
PATIENCE = 20.0  # seconds that the end of a run waits for what is left
# Packages: the tracker's own, by the name that accelerate gives it
PACKAGES = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "trackio": "trackio",
    "mlflow": "mlflow",
    "comet_ml": "comet_ml",
    "aim": "aim",
    "clearml": "clearml",
    "dvclive": "dvclive",
    "swanlab": "swanlab",
}
# Those whose log_images accelerate gives one shape, and what else it has to be told
TAKES_PICTURES: dict[str, dict[str, Any]] = {
    "tensorboard": {"dataformats": "NHWC"},
    "wandb": {},
    "swanlab": {},
    "clearml": {},
}
FOLDER = "tracking"  # in the run's folder, for trackers that write files


def check(names: Iterable[str]) -> None:
    """Raise ConfigError where a tracker's package is not installed."""
    missing = [PACKAGES[name] for name in names if find_spec(PACKAGES[name]) is None]
    if missing:
        raise ConfigError(
            f"save.track names {', '.join(missing)}, which is not installed here. Install it with "
            f"pip install {' '.join(missing)}, or leave it out of save.track."
        )


def tracked(stream: Iterable[events.Event], config: RunConfig) -> Iterator[events.Event]:
    """Pass events on and tell the trackers; what went wrong there is warned of at the end."""
    for _, event in tracked_many(((0, event) for event in stream), [config]):
        yield event


def tracked_many(
    stream: Iterable[tuple[int, events.Event]], configs: Sequence[RunConfig]
) -> Iterator[tuple[int, events.Event]]:
    """The same for several styles, each event with its style's number."""
    threads = {n: TrackerThread(config) for n, config in enumerate(configs) if config.save.track}
    for thread in threads.values():
        thread.start()
    try:
        for number, event in stream:
            if number in threads:
                threads[number].take(event)
                if isinstance(event, events.Finished | events.Failed):  # always a style's last one
                    yield from ((number, warned) for warned in threads.pop(number).finished())
            yield number, event
    finally:
        for thread in threads.values():
            thread.finished()


class TrackerThread(threading.Thread):
    """Takes events without waiting and gives them to every tracker of a run."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(name="trackers", daemon=True)
        self.config = config
        self.waiting: queue.Queue[events.Event | None] = queue.Queue(WAITING)
        self.dropped = 0
        self.complaints: dict[str, str] = {}  # tracker -> what went wrong first

    def take(self, event: events.Event) -> None:
        try:
            self.waiting.put_nowait(event)
        except queue.Full:
            self.dropped += 1

    def finished(self) -> list[events.Warned]:
        """Wait a while for what is left; return what went wrong."""
        try:
            self.waiting.put(None, timeout=PATIENCE)
        except queue.Full:
            self.dropped += 1
        self.join(PATIENCE)
        found = [
            events.Warned(
                f"{name} failed ({what}). The training continued without it; events.jsonl has all."
            )
            for name, what in self.complaints.items()
        ]
        if self.is_alive() or self.dropped:
            slow = f"{self.dropped + self.waiting.qsize()} events were left out"
            found.append(events.Warned(f"the trackers were too slow: {slow}."))
        return found

    def run(self) -> None:
        trackers: dict[str, Any] = {}
        for name in self.config.save.track:
            self._try(name, lambda name=name: trackers.update({name: started(name, self.config)}))
        while (event := self.waiting.get()) is not None:
            for name, tracker in trackers.items():
                self._try(name, partial(tell, tracker, event, self.config.run_folder))
        for name, tracker in trackers.items():
            self._try(name, partial(tell_verdict, tracker, self.config.run_folder))
            self._try(name, tracker.finish)

    def _try(self, name: str, action: Callable[[], object]) -> None:
        """Do what a tracker does, unless it has failed before."""
        if name in self.complaints:
            return
        try:
            action()
        # Libraries of others, each with errors of its own; none may cost a training
        except Exception as error:
            self.complaints[name] = f"{type(error).__name__}: {error}"


def started(name: str, config: RunConfig) -> Any:
    """A tracker of accelerate's, with the run's settings written into it."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    kind = LOGGER_TYPE_TO_CLASS[name]
    given = [config.save.name]
    if kind.requires_logging_directory:
        folder = config.run_folder / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        given.append(str(folder))
    tracker = kind(*given)
    if hasattr(tracker, "start"):
        tracker.start()
    tracker.store_init_configuration(flat(config))
    return tracker


def flat(config: RunConfig) -> dict[str, bool | int | float | str]:
    """Every setting under its name; folders and addresses are left out, lists become text."""
    return {
        f"{section}.{name}": value if isinstance(value, bool | int | float) else str(value)
        for section, table in config.model_dump().items()
        for name, value in table.items()
        if not name.endswith(("folder", "folders", "start", "held_out", "model", "webhook"))
    }


def tell(tracker: Any, event: events.Event, folder: Path) -> None:
    """Give a tracker what it can show of an event."""
    if isinstance(event, events.Stepped):
        values = dataclasses.asdict(event)
        names = ("loss", "learning_rate", "gradient_norm", "seconds")
        tracker.log({f"train/{name}": values[name] for name in names}, step=event.step)
    elif isinstance(event, events.Previewed) and tracker.name in TAKES_PICTURES:
        for place, (prompt, path) in enumerate(zip(event.prompts, event.paths, strict=False), 1):
            shown = {f"preview/{place} {prompt[:100]}": pixels(folder / path)}
            tracker.log_images(shown, step=event.step, **TAKES_PICTURES[tracker.name])


def tell_verdict(tracker: Any, folder: Path) -> None:
    """Give a tracker the report's scores, where one was made: of every checkpoint at strength 1."""
    file = folder / "report" / "report.json"
    if not file.is_file():
        return
    record = json.loads(file.read_text(encoding="utf-8"))
    for tried in record["tried"]:
        if tried["strength"] == 1:
            names = ("style", "content", "copies", "quality")
            tracker.log({f"report/{name}": tried[name] for name in names}, step=tried["step"])


def pixels(path: Path) -> Any:
    """A picture of the run as uint8 [1, H, W, 3]."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))[None]
