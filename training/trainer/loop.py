"""The whole story of a training: `train(config, stop)` says what happens, one event at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, TypeVar

import torch

from training.adapters.multi_lora import SharedBase
from training.config.schema import RunConfig
from training.errors import ConfigError, DivergedError, SpaceError, StudioError
from training.events import Event, Finished, Noted, Started, Warned
from training.models import fsdp, loader
from training.runtime.device import memory_full, repeatable
from training.runtime.distributed import ALONE, ProcessGroup
from training.storage import run_lock
from training.trainer import schedule
from training.trainer.plan import Plan, planned
from training.trainer.requests import taken
from training.trainer.trainer import LeftError, MicrobatchRequest, Trainer

Stop = Callable[[], bool]
Story = Generator[Event | MicrobatchRequest, Any, None]
T = TypeVar("T")
PATIENCE = 3600.0  # seconds a training waits for room on the disk before it gives up
PATIENCE_ON_STOP = 30.0  # the same when it was asked to stop: someone waits for it
AGAIN = 10.0  # seconds between two tries


def never() -> bool:
    return False


def train(config: RunConfig, stop: Stop = never, world: ProcessGroup = ALONE) -> Iterator[Event]:
    """Train until the last update or until stop() says so; then the style is written and compared.

    Begun again with the same config it goes on after its newest checkpoint. Raises StudioError;
    what was saved by then stays.
    world: the processes that all call this with one config; all say the same, the first one writes,
    and stops when any is asked to.
    """
    plan = world.each(lambda: planned(config))
    _check_shares(config, world)
    with (
        repeatable(config.optim.deterministic, plan.place.device),
        run_lock.held(config.run_folder) if world.writes else nullcontext(),
    ):
        if world.writes and plan.finished < config.optim.steps and schedule.left(config.run_folder):
            yield Warned(
                "it was trained together with others before: it goes on alone, but not to the "
                "bit as if it were still with them."
            )
        shared_base = SharedBase(fsdp.loaded(plan.files, plan.place)) if world.shards else None
        yield from _alone(training_events(plan, world.agreed_stop(stop), shared_base, world))


def _check_shares(config: RunConfig, world: ProcessGroup) -> None:
    """Refuse a batch that cannot be divided among the processes."""
    rows = config.optim.batch_size
    if rows < world.size:
        raise ConfigError(
            f"optim.batch_size is {rows}, and {world.size} processes were started: each takes "
            "its share of a batch. Set optim.batch_size to "
            f"{world.size} or more (with optim.accumulate lower by as much the update stays as "
            "large), or start fewer processes."
        )
    if world.shards and config.optim.compile != "off":
        raise ConfigError(
            "optim.compile does not go with a base that is divided among processes. Set it to "
            "off, or turn FSDP off."
        )
    if world.shards and rows % world.size:
        raise ConfigError(
            f"optim.batch_size is {rows}: where the base is divided among {world.size} "
            f"processes, it must be a multiple of {world.size}."
        )


def _alone(running: Story) -> Iterator[Event]:
    """Make a story's passes as it asks for them; pass on what it says."""
    try:
        item = next(running)
        while True:
            if not isinstance(item, MicrobatchRequest):
                yield item
                item = next(running)
                continue
            try:
                with item.run.adapters_active():
                    loss = item.run.backward(item.batches)
            except torch.OutOfMemoryError as error:
                item = running.throw(error)
            else:
                item = running.send(loss)
    except StopIteration:
        return


def training_events(
    plan: Plan, stop: Stop, shared_base: SharedBase | None = None, world: ProcessGroup = ALONE
) -> Story:
    """A training as it goes, the passes of its updates made by whoever drives it (see Asked), alone
    or together with others'.
    """
    began, config = time.monotonic(), plan.config
    if plan.finished >= config.optim.steps:
        yield Noted(
            f"{config.run_folder} is finished already, after {plan.finished} updates. Choose "
            "another save.name for a new run."
        )
        yield Finished(plan.finished, f"{config.save.name}.safetensors", stopped=False, seconds=0.0)
        return
    run = Trainer(plan, shared_base, world)
    try:
        for event in run.prepare():
            yield event
            if stop():
                break
        else:
            yield Started(
                run.step,
                run.steps,
                len(run.examples),
                run.trainable,
                run.total,
                run.place.name,
                run.place.precision,
            )
            yield from _updates(run, stop)
    except torch.OutOfMemoryError as error:
        raise memory_full(error) from None
    finished = yield from _exported(run, stop, began)
    if shared_base:
        shared_base.leave(run.adapter_index)
    del run  # the adapters go; the report draws with the base and the finished files
    if config.report.minutes and finished.path and not finished.stopped and world.writes:
        yield from reported(plan, stop)
    yield replace(finished, seconds=time.monotonic() - began)


def reported(plan: Plan, stop: Stop = never, *, minutes: float | None = None) -> Iterator[Event]:
    """Make the style report of a run.

    What goes wrong here is told and loses nothing: the style is written already.
    """
    from training.evaluation.run_report import of_run

    try:
        parts = loader.load(plan.files, plan.place)
        for text in of_run(
            plan.config,
            plan.dataset,
            parts,
            minutes=plan.config.report.minutes if minutes is None else minutes,
        ):
            yield Noted(text)
            if stop():
                return
    except (StudioError, torch.OutOfMemoryError) as error:
        yield Warned(f"no report: {error}")


def _updates(run: Trainer, stop: Stop) -> Story:
    """Updates with what is due between them; at the end the state is on disk."""
    save, saved = run.config.save.every, run.step
    if (run.step == 0 or not run.preview_is_there()) and not stop():
        yield from _previewed(run)
    while run.step < run.steps and not stop():
        before = run.step
        try:
            yield (yield from run.updating())
        except LeftError:
            break
        except DivergedError:
            if run.step != saved:
                yield from _saved(run, stop)
            raise
        saved = min(saved, run.step)  # gone back behind a checkpoint, it is made again
        if run.step == before:  # the update will be made again
            continue
        # Not among updates that were left out: what the run goes back to is from before them
        if (
            save
            and run.step % save == 0
            and run.step not in (saved, run.steps)
            and not run.guard.lost
        ):
            saved = run.step
            yield from _saved(run, stop)
        if not stop():
            yield from _previewed(run)
        for request in run.world.first(lambda: taken(run.folder)):
            if request == "draw":
                yield from _drawn(run)
            elif run.step != saved and not run.guard.lost:
                saved = run.step
                yield from _saved(run, stop)
    if run.step and run.step != saved:
        yield from _saved(run, stop)


def _previewed(run: Trainer) -> Iterator[Event]:
    """The previews, when they are due; a disk without room for them ends no training."""
    every = run.config.preview.every
    if every and (run.step % every == 0 or run.step == run.steps):
        yield from _drawn(run)


def _drawn(run: Trainer) -> Iterator[Event]:
    if not run.config.preview.every:
        yield Warned(
            "nothing can be drawn now: with preview.every = 0 what draws is not kept in memory."
        )
        return
    try:
        yield run.preview()
    except SpaceError as error:
        yield Warned(f"the previews after {run.step} updates are left out: {error}")


def _exported(run: Trainer, stop: Stop, began: float) -> Generator[Event, None, Finished]:
    """The style, unless nothing was learnt.

    Raises DivergedError when all updates were made and nothing came of them.
    """
    stopped = run.step < run.steps
    if run.step and run.has_effect():
        path = (yield from retry_on_full_disk(run.export, stop)).relative_to(run.folder).as_posix()
        return Finished(run.step, path, stopped=stopped, seconds=time.monotonic() - began)
    if not stopped:
        raise DivergedError(
            "nothing was learnt: the adapters change no weight, so no style is written. Raise "
            "optim.unet_lr or optim.steps."
        )
    message = "Stopped before the first update: there is nothing to save yet."
    if run.step:
        message = "Stopped before anything was learnt: there is no style to write yet."
    yield Noted(message)
    return Finished(run.step, "", stopped=True, seconds=time.monotonic() - began)


def _saved(run: Trainer, stop: Stop) -> Iterator[Event]:
    """A checkpoint, however long the disk is full."""
    yield (yield from retry_on_full_disk(run.save, stop))


def retry_on_full_disk(act: Callable[[], T], stop: Stop) -> Generator[Event, None, T]:
    """Act; while the disk is full or cannot be written, say so, wait and try again.

    Raises SpaceError in the end.
    """
    began, warned = time.monotonic(), False
    while True:
        try:
            return act()
        except SpaceError as error:
            if time.monotonic() - began > (PATIENCE_ON_STOP if stop() else PATIENCE):
                raise
            if not warned:
                yield Warned(
                    f"{error} The training waits and tries again for {PATIENCE / 60:.0f} minutes."
                )
                warned = True
            _wait(AGAIN, stop)


def _wait(seconds: float, stop: Stop) -> None:
    """Sleep, but wake soon when asked to stop."""
    end, asked = time.monotonic() + seconds, stop()
    while time.monotonic() < end and stop() == asked:
        time.sleep(min(0.2, seconds))
