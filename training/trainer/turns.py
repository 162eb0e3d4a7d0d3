"""The turns in which several styles go through one base: each sends one microbatch a turn.

One that goes on from a later checkpoint than the others goes along with them until they are there
too, and learns nothing from it: the shapes of a pass, and so its rounding, are then those of a
training that nothing disturbed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from training.adapters.multi_lora import SharedBase
from training.errors import StudioError
from training.events import Event, Noted, Warned
from training.runtime import cpu_threads, memory
from training.runtime.cpu_threads import RecordedThreads
from training.runtime.device import finished
from training.trainer import saving, schedule
from training.trainer.engine import Engine, give_back
from training.trainer.full_disk import Stop, retry_on_full_disk
from training.trainer.lifecycle import Training
from training.trainer.pace import Pace
from training.trainer.schedule import JointSchedule
from training.trainer.setup import set_up, without_notes
from training.trainer.trainer import DidNotFit, Microbatch, Trainer

TRIES = 3  # passes of every size that are timed, the first of them to warm up
PlacedEvents = Iterator[tuple[int, Event]]


@dataclass(frozen=True)
class Due:
    """A microbatch of a turn. alone: whether nothing else may go with it."""

    microbatch: Microbatch
    alone: bool = False

    @property
    def place(self) -> int:
        return self.microbatch.place

    @property
    def learns(self) -> bool:
        return self.microbatch.learns

    @property
    def kind(self) -> tuple[int, ...]:
        """What can go through the base in one pass: latents of one size; a style that goes alone is
        of its own kind.
        """
        size = self.microbatch.batches[0].noisy.shape[2:]
        return (*size, self.place + 1 if self.alone else 0)


class Turns:
    """Who goes through the base with whom, so that a training that is gone on with makes the same
    passes as one that was never stopped.

    at_once: styles in one pass; None: as many as prove to be quickest.
    """

    def __init__(
        self,
        trainings: Sequence[Training],
        stop: Stop,
        at_once: int | None,
        shared_base: SharedBase,
    ) -> None:
        self.trainings, self.stop, self.at_once = trainings, stop, at_once
        self.configs = [training.plan.config for training in trainings]
        self.shared_base, self.engine = shared_base, Engine(shared_base)
        self.turn = 0
        self.joint_schedule = JointSchedule({}, {})
        self._failed: set[int] = set()
        # Who goes along with those behind, and the first turn in which it does not
        self._ahead: dict[int, tuple[Trainer, int]] = {}
        self._threads = RecordedThreads(None, {}, lambda by_step: None)
        self._waiting: list[list[Due]] = []  # of this turn, those of one kind together
        self._group: list[Due] = []
        self._pace = Pace({})

    # --- what the driver asks ---

    def begin(self) -> PlacedEvents:
        """Find the schedule that the styles were left in, or make a new one; those ahead of the
        others shall go along.
        """
        if not self._active or self.stop():
            return
        kept = schedule.found(self.configs, self._active)
        numbers = {i: self._trainer(i).next_number for i in self._active}
        if kept is None:
            if any(numbers.values()):
                message = (
                    "these styles were not trained jointly in this combination before: they "
                    "resume, but the result will differ slightly from training that never stopped."
                )
                yield self._active[0], Warned(message)
            kept = schedule.founded(self.configs, numbers)
        self.joint_schedule = kept
        device = self._trainer(self._active[0]).place.device
        self._threads = RecordedThreads(
            cpu_threads.followed(device), kept.threads, self._write_threads
        )
        self.turn = self._next_turn()
        for i in kept.began:
            if self.trainings[i].active:
                until = math.inf if self._alone(i) else self._turn(i)
                self._go_along(i, self._trainer(i), until)
            elif i in self._failed:
                kept.alone.setdefault(i, self.turn)
            else:
                yield from self._finished_before(i)
        yield from self._keep()

    def interrupted(self) -> bool:
        """Begun updates are left for the next time, when all are there again."""
        return self.stop()

    def prepare(self) -> PlacedEvents:
        """Choose the next group, so many at once as is quickest; what only goes along is left out
        where it goes with nobody.
        """
        self._group = []
        while not self._group and not self.stop():
            if not self._waiting:
                self.turn = self._next_turn()
                self._threads.at(self.turn)
                due = sorted(self._due(), key=lambda one: (one.kind, one.place))
                self._waiting = [list(alike) for _, alike in groupby(due, lambda one: one.kind)]
            alike = self._waiting.pop(0)
            if not any(one.learns for one in alike):
                continue
            # Buckets of one resolution have nearly one area
            area = round(math.log2(math.prod(alike[0].kind[:2])))
            self._pace = Pace(self.joint_schedule.paces.setdefault(area, {}), self.at_once)
            if self._pace.untimed(len(alike)):
                yield from self._time(alike)
                if self.stop():
                    return
            size = self._pace.size(len(alike))
            now, later = alike[:size], alike[size:]
            if later:
                self._waiting.insert(0, later)
            if any(one.learns for one in now):
                self._group = now

    def next_group(self) -> list[Microbatch]:
        group, self._group = self._group, []
        return [one.microbatch for one in group]

    def passed(
        self, group: Sequence[Microbatch], results: Sequence[Tensor | DidNotFit]
    ) -> PlacedEvents:
        """Write down that so many are too many."""
        if len(group) > 1 and any(isinstance(result, DidNotFit) for result in results):
            self._pace.took[len(group)] = None
            yield from self._keep()

    def moved(self, place: int) -> PlacedEvents:
        """Write down that a style leaves the turns, in which the others were used to it."""
        kept, active = self.joint_schedule, self.trainings[place].active
        if place not in kept.began or place in kept.alone:
            return
        if place in self._failed or (active and self._alone(place)):
            kept.alone[place] = self.turn + 1
            yield from self._keep()

    def survives(self, place: int) -> bool:
        self._failed.add(place)
        return True

    # --- who goes ---

    @property
    def _active(self) -> list[int]:
        return [i for i, training in enumerate(self.trainings) if training.active]

    def _trainer(self, i: int) -> Trainer:
        return self.trainings[i].trainer

    def _next_turn(self) -> int:
        """The turn that is due."""
        return min((self._turn(i) for i in self._active if not self._alone(i)), default=self.turn)

    def _turn(self, i: int) -> int:
        """In which a style's next microbatch is due."""
        return self._trainer(i).next_number - self.joint_schedule.began[i]

    def _alone(self, i: int) -> bool:
        """Whether a style makes its passes outside of the turns: it went back to an earlier state,
        must split its pictures, or failed before.
        """
        trainer = self._trainer(i)
        return (
            trainer.guard.returns > 0
            or trainer.microbatches.current.splits > 1
            or self._turn(i) >= self.joint_schedule.alone.get(i, math.inf)
        )

    def _due(self) -> Iterator[Due]:
        """The microbatches of those who go alone and of this turn, with those who go along."""
        alone = [i for i in self._active if self._alone(i)]
        yield from (Due(self.trainings[i].next_microbatch(i), alone=True) for i in alone)
        in_turns = [i for i in self._active if i not in alone]
        if not in_turns:
            return
        for i in in_turns:
            if self._turn(i) == self.turn:
                yield Due(self.trainings[i].next_microbatch(i))
        for i, (trainer, until) in list(self._ahead.items()):
            if self.turn < until:
                number = self.joint_schedule.began[i] + self.turn
                yield Due(Microbatch(i, trainer, trainer.batches(number), number, learns=False))
            else:
                del self._ahead[i]
                if not self.trainings[i].active:
                    self.shared_base.leave(trainer.adapter_index)

    def _finished_before(self, i: int) -> PlacedEvents:
        """Load a style that was finished once more if the others have yet to come to its end."""
        optim = self.configs[i].optim
        end = optim.steps * optim.accumulate - self.joint_schedule.began[i]
        if self.turn >= end:
            return
        message = (
            "it goes along until the others are where it was finished: what they learn is "
            "then the same to the bit"
        )
        yield i, Noted(message)
        try:
            trainer = without_notes(set_up(self.trainings[i].plan, self.shared_base))
            list(saving.go_on(trainer))
        except (StudioError, torch.OutOfMemoryError) as error:
            message = (
                "it cannot join, so the others resume without it, and their result will "
                f"differ slightly from training that never stopped: {error}"
            )
            yield i, Warned(message)
        else:
            self._go_along(i, trainer, end)

    def _go_along(self, i: int, trainer: Trainer, until: float) -> None:
        until = min(until, self.joint_schedule.alone.get(i, math.inf))
        if self.turn < until < math.inf:
            self._ahead[i] = trainer, int(until)

    def _write_threads(self, by_step: Mapping[int, int]) -> None:
        kept = replace(self.joint_schedule, threads=dict(by_step))
        schedule.write(kept, self.configs)
        self.joint_schedule.threads = kept.threads

    def _keep(self) -> PlacedEvents:
        """Write down what decides the passes from here on."""
        first = min(self.joint_schedule.began)
        write = retry_on_full_disk(
            lambda: schedule.write(self.joint_schedule, self.configs), self.stop
        )
        for event in write:
            yield first, event

    # --- how many at once ---

    def _time(self, alike: Sequence[Due]) -> PlacedEvents:
        """Time the sizes that so many styles can go in.

        Nobody learns from these passes, so that their outcome is kept before it counts.
        """
        trainer, pace = alike[0].microbatch.trainer, self._pace
        while size := pace.untimed(len(alike)):
            memory.give_back(trainer.place.device)
            before = trainer.watch.peaks.pop("passes", 0.0)
            try:
                took = self._tries([one.microbatch for one in alike[:size]])
            except torch.OutOfMemoryError as error:
                give_back(error, trainer)
                pace.took[size] = None
            else:
                if not took:
                    return
                pace.took[size] = min(took[1:]) / size
                if "passes" in trainer.watch.peaks:
                    pace.peaks[size] = trainer.watch.peaks["passes"]
            peak = trainer.watch.peaks.get("passes", 0.0)
            trainer.watch.peaks["passes"] = max(before, peak)
        yield from self._keep()
        yield alike[0].place, Noted(pace.words(len(alike)))

    def _tries(self, group: Sequence[Microbatch]) -> list[float]:
        """Seconds of every try; none when asked to stop."""
        took: list[float] = []
        for _ in range(TRIES):
            if self.stop():
                return []
            began = time.monotonic()
            self.engine.losses(group, learn=False)
            finished(group[0].trainer.place.device)
            took.append(time.monotonic() - began)
        return took
