"""The whole story of a training: `train(config, stop)` says what happens, one event at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch

from training.config import RunConfig
from training.device import memory_full
from training.errors import DivergedError
from training.events import Event, Finished, Noted, Started
from training.run import Run, planned

Stop = Callable[[], bool]


def never() -> bool:
    return False


def train(config: RunConfig, stop: Stop = never) -> Iterator[Event]:
    """Train until the last update or until stop() says so; then the style is written and compared.

    Begun again with the same config it goes on after its newest checkpoint. Raises StudioError; what was saved by then stays.
    """
    began = time.time()
    plan = planned(config)
    if plan.finished >= config.optim.steps:
        yield Noted(f"{config.run_folder} is finished already, after {plan.finished} updates. Choose another save.name for a new run.")
        yield Finished(plan.finished, f"{config.save.name}.safetensors", stopped=False, seconds=0.0)
        return
    run = Run(plan)
    try:
        for event in run.prepare():
            yield event
            if stop():
                break
        else:
            yield Started(run.step, run.steps, len(run.examples), run.trainable, run.total, run.place.name, run.place.precision)
            yield from _updates(run, stop)
    except torch.OutOfMemoryError as error:
        raise memory_full(error) from None
    if run.step == 0:
        yield Noted("Stopped before the first update: there is nothing to save yet.")
        yield Finished(0, "", stopped=True, seconds=time.time() - began)
        return
    path = run.export().relative_to(run.folder).as_posix()
    yield Finished(run.step, path, stopped=run.step < run.steps, seconds=time.time() - began)


def _updates(run: Run, stop: Stop) -> Iterator[Event]:
    """Updates with what is due between them; at the end the state is on disk."""
    preview, save = run.config.preview.every, run.config.save.every
    if preview and run.step == 0 and not stop():
        yield run.preview()
    saved = run.step
    while run.step < run.steps and not stop():
        try:
            yield run.update()
        except DivergedError:
            if run.step != saved:
                yield run.save()
            raise
        last = run.step == run.steps
        if save and run.step % save == 0 and not last:
            yield run.save()
            saved = run.step
        if preview and (run.step % preview == 0 or last) and not stop():
            yield run.preview()
    if run.step and run.step != saved:
        yield run.save()
