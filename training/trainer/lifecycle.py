"""The way of one style from its plan to its file: what is due before, between and after updates."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from training.adapters.multi_lora import SharedBase
from training.errors import DivergedError, SpaceError, StudioError
from training.events import Event, Finished, Noted, Saved, Started, Warned
from training.models import loader
from training.runtime import cpu_threads
from training.runtime.device import memory_full
from training.runtime.distributed import ALONE, ProcessGroup
from training.trainer import export, previews, saving
from training.trainer.full_disk import Stop, never, retry_on_full_disk
from training.trainer.plan import Plan
from training.trainer.requests import taken
from training.trainer.setup import set_up
from training.trainer.trainer import DidNotFit, Microbatch, Trainer

T = TypeVar("T")


class Training:
    """One style, alone or among others; whoever drives it sends its microbatches through the base.

    Its methods are the events that happen meanwhile. stop: asked between updates; the style is then
    written as it is.
    """

    def __init__(
        self,
        plan: Plan,
        stop: Stop = never,
        shared_base: SharedBase | None = None,
        world: ProcessGroup = ALONE,
    ) -> None:
        self.plan, self.stop, self.shared_base, self.world = plan, stop, shared_base, world
        self._trainer: Trainer | None = None  # between set-up and export
        self.checkpointed = 0  # updates in the newest checkpoint that was written here
        self._saved = 0  # updates in the newest checkpoint that is there
        self._began = time.monotonic()

    @property
    def active(self) -> bool:
        """Whether it has microbatches to make."""
        return self._trainer is not None

    @property
    def trainer(self) -> Trainer:
        """The one in training, while there is one: see `active`."""
        if self._trainer is None:
            raise RuntimeError("this style is not set up yet, or done")
        return self._trainer

    def next_microbatch(self, place: int = 0) -> Microbatch:
        """What is to go through the base next; place: this style's among others."""
        return self.trainer.next_microbatch(place)

    def begin(self) -> Iterator[Event]:
        """Everything before the first update. Raises StudioError."""
        config = self.plan.config
        if self.plan.finished >= config.optim.steps:
            yield Noted(
                f"{config.run_folder} is finished already, after {self.plan.finished} updates. "
                "Choose another save.name for a new run."
            )
            path = f"{config.save.name}.safetensors"
            yield Finished(self.plan.finished, path, stopped=False, seconds=0.0)
            return
        with memory_errors():
            steps = set_up(self.plan, self.shared_base, self.world)
            self._trainer = yield from _until_stopped(steps, self.stop)
            if self._trainer is None:
                finished = yield from self._nothing(0)
                yield replace(finished, seconds=time.monotonic() - self._began)
                return
            yield from saving.go_on(self.trainer)
            self._saved = self.trainer.step
            if not self.stop():
                yield self._started()
                if self.trainer.step == 0 or not previews.is_there(self.trainer):
                    yield from self._previews_when_due()
        if self.trainer.step >= self.trainer.steps or self.stop():
            yield from self.finish()

    def finish_microbatch(self, result: Tensor | DidNotFit) -> Iterator[Event]:
        """Take the loss of the microbatch that was asked for; after an update do what is due, and
        after the last one all that ends a training. Raises StudioError.
        """
        trainer = self.trainer
        before = trainer.step
        with memory_errors():
            try:
                event = trainer.finish_microbatch(result)
            except DivergedError:
                if trainer.step != self._saved:
                    yield from self._save()
                raise
            if event is None:
                return
            yield event
            self._saved = min(self._saved, trainer.step)  # gone back, it is made again
            if trainer.step != before:  # else the update will be made again
                yield from self._after_update()
        ends = trainer.step >= trainer.steps or self.stop()
        del trainer
        if ends:
            yield from self.finish()

    def finish(self) -> Iterator[Event]:
        """Write state and style, and the report after the last update. Raises StudioError."""
        self.trainer.leave_update()
        if self.trainer.step and self.trainer.step != self._saved:
            yield from self._save()
        finished = yield from self._export()
        self.close()  # the report draws with the base and the finished file
        config = self.plan.config
        if config.report.minutes and finished.path and not finished.stopped and self.world.writes:
            yield from reported(self.plan, self.stop)
        yield replace(finished, seconds=time.monotonic() - self._began)

    def close(self) -> None:
        """Let go of the networks and the adapters."""
        if self._trainer is not None and self.shared_base:
            self.shared_base.leave(self._trainer.adapter_index)
        self._trainer = None

    # --- between updates ---

    def _started(self) -> Started:
        trainer = self.trainer
        return Started(
            trainer.step,
            trainer.steps,
            len(trainer.data.examples),
            trainer.attached.count,
            trainer.total,
            trainer.place.name,
            trainer.place.precision,
        )

    def _after_update(self) -> Iterator[Event]:
        """The checkpoint, the previews and the requests that are due."""
        trainer, every = self.trainer, self.plan.config.save.every
        # Not among updates that were left out: what the run goes back to is from before them
        due = every and trainer.step % every == 0 and not trainer.guard.lost
        if due and trainer.step not in (self._saved, trainer.steps):
            yield from self._save()
        if not self.stop():
            yield from self._previews_when_due()
        for request in self.world.first(lambda: taken(trainer.folder)):
            if request == "draw":
                yield from self._previews()
            elif trainer.step != self._saved and not trainer.guard.lost:
                yield from self._save()

    def _previews_when_due(self) -> Iterator[Event]:
        every, step = self.plan.config.preview.every, self.trainer.step
        if every and (step % every == 0 or step == self.trainer.steps):
            yield from self._previews()

    def _previews(self) -> Iterator[Event]:
        """The previews; a disk without room for them ends no training."""
        if not self.plan.config.preview.every:
            yield Warned(
                "nothing can be drawn now: with preview.every = 0 what draws is not kept in memory."
            )
            return
        try:
            yield previews.preview(self.trainer)
        except SpaceError as error:
            step = self.trainer.step
            yield Warned(f"the previews after {step} updates are left out: {error}")

    def _save(self) -> Iterator[Saved | Warned]:
        """A checkpoint, however long the disk is full."""
        trainer = self.trainer
        self._saved = trainer.step
        saved = yield from retry_on_full_disk(lambda: saving.save(trainer), self.stop)
        yield saved

    def _export(self) -> Generator[Event, None, Finished]:
        """Write the style, unless nothing was learnt.

        Raises DivergedError when all updates were made and nothing came of them.
        """
        trainer = self.trainer
        stopped = trainer.step < trainer.steps
        if trainer.step and export.has_effect(trainer):
            path = yield from retry_on_full_disk(lambda: export.export(trainer), self.stop)
            name = path.relative_to(trainer.folder).as_posix()
            return Finished(trainer.step, name, stopped=stopped, seconds=0.0)
        if not stopped:
            raise DivergedError(
                "nothing was learnt: the adapters change no weight, so no style is written. Raise "
                "optim.unet_lr or optim.steps."
            )
        return (yield from self._nothing(trainer.step))

    def _nothing(self, step: int) -> Generator[Event, None, Finished]:
        """Say that there is nothing to write after so many updates."""
        if step:
            yield Noted("Stopped before anything was learnt: there is no style to write yet.")
        else:
            yield Noted("Stopped before the first update: there is nothing to save yet.")
        return Finished(step, "", stopped=True, seconds=0.0)


@contextmanager
def memory_errors() -> Iterator[None]:
    """While inside, torch's error of a full memory becomes ours, which says what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise memory_full(error) from None


def _until_stopped(
    steps: Generator[Event, None, T], stop: Stop
) -> Generator[Event, None, T | None]:
    """Pass on what is said; return what is made, or None when asked to stop on the way."""
    while True:
        try:
            event = next(steps)
        except StopIteration as ended:
            return ended.value
        yield event
        if stop():
            steps.close()
            return None


def reported(
    plan: Plan, stop: Stop = never, *, minutes: float | None = None
) -> Iterator[Noted | Warned]:
    """Make the style report of a run.

    What goes wrong here becomes a warning and loses nothing: the style is written already.
    """
    from training.evaluation.run_report import of_run

    minutes = plan.config.report.minutes if minutes is None else minutes
    try:
        parts = loader.load(plan.files, plan.place, reading=plan.reading)
        with cpu_threads.following():
            for text in of_run(plan.config, plan.dataset, parts, minutes=minutes):
                yield Noted(text)
                if stop():
                    return
    except (StudioError, torch.OutOfMemoryError) as error:
        yield Warned(f"no report: {error}")
