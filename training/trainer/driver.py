"""The one loop of every training: of one style or of many on one frozen base."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor

from training.adapters.multi_lora import SharedBase
from training.errors import StudioError
from training.events import Event, Failed, Saved
from training.runtime.cpu_threads import RecordedThreads
from training.trainer.engine import Engine
from training.trainer.lifecycle import Training
from training.trainer.trainer import DidNotFit, Microbatch

PlacedEvents = Iterator[tuple[int, Event]]  # place of the style among the trained ones, event


class Schedule(Protocol):
    """Who goes through the base next, and with whom."""

    engine: Engine

    def begin(self) -> PlacedEvents:
        """Called once, when all are set up."""
        ...

    def interrupted(self) -> bool:
        """Whether all updates that were begun shall be left, for the next time."""
        ...

    def prepare(self) -> PlacedEvents:
        """What must be found out before the next group goes."""
        ...

    def next_group(self) -> list[Microbatch]:
        """Those that go through the base next, in one pass; none where nobody is due."""
        ...

    def passed(
        self, group: Sequence[Microbatch], results: Sequence[Tensor | DidNotFit]
    ) -> PlacedEvents:
        """Called after a pass."""
        ...

    def moved(self, place: int) -> PlacedEvents:
        """Called after everything that a style did."""
        ...

    def survives(self, place: int) -> bool:
        """Whether the others go on when this style fails."""
        ...


def drive(trainings: Sequence[Training], schedule: Schedule) -> PlacedEvents:
    """Train the styles until each has made its last update, was asked to stop or has failed.

    Yields (place of the style, event). Raises the StudioError of a style whose failure the others
    do not survive.
    """
    for place, training in enumerate(trainings):
        yield from _moved(place, training, training.begin(), schedule)
    yield from schedule.begin()
    while any(training.active for training in trainings) and not schedule.interrupted():
        yield from schedule.prepare()
        group = schedule.next_group()
        if not group:
            continue
        results = schedule.engine.forward_backward(group)
        yield from schedule.passed(group, results)
        pairs = zip(group, results, strict=True)
        learnt = [(one.place, result) for one, result in pairs if one.learns]
        del group, pairs  # which hold the base, while a finished style draws its report
        for place, result in learnt:
            training = trainings[place]
            yield from _moved(place, training, training.finish_microbatch(result), schedule)
    for place, training in enumerate(trainings):
        if training.active:
            yield from _moved(place, training, training.finish(), schedule)


def _moved(
    place: int, training: Training, events: Iterator[Event], schedule: Schedule
) -> PlacedEvents:
    """Pass on what a style says; one that fails says so where the others go on."""
    try:
        for event in events:
            if isinstance(event, Saved):
                training.checkpointed = event.step
            yield place, event
    except StudioError as error:
        if not schedule.survives(place):
            raise
        training.close()
        yield place, Failed(str(error), training.checkpointed, error.passing)
    yield from schedule.moved(place)


class OneStyle:
    """The schedule of one style alone, which finishes every update that it has begun."""

    def __init__(
        self,
        training: Training,
        threads: RecordedThreads,
        shared_base: SharedBase | None = None,
    ) -> None:
        self.training, self.threads, self.engine = training, threads, Engine(shared_base)

    def begin(self) -> PlacedEvents:
        yield from ()

    def interrupted(self) -> bool:
        return False

    def prepare(self) -> PlacedEvents:
        yield from ()

    def next_group(self) -> list[Microbatch]:
        trainer = self.training.trainer
        if trainer.begins_update:
            self.threads.at(trainer.step)
        return [trainer.next_microbatch()]

    def passed(
        self, group: Sequence[Microbatch], results: Sequence[Tensor | DidNotFit]
    ) -> PlacedEvents:
        yield from ()

    def moved(self, place: int) -> PlacedEvents:
        yield from ()

    def survives(self, place: int) -> bool:
        return False
