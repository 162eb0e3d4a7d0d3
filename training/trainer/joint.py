"""Many styles over one frozen base: `together(configs, stop)` trains each as it would be trained
alone, their passes made in one.

Every style has its own pictures, settings, seed, optimiser, checkpoints and events. One that ends,
stops or fails leaves; the others go on.

Passes are made in turns, each style one a turn. Who goes on from a later checkpoint than the others
goes along with them until they are there too, and learns nothing from it: the shapes of a pass, and
so its rounding, are then those of a training that nothing disturbed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch

from training.adapters import lora_layers
from training.adapters.multi_lora import SharedBase
from training.config.schema import RunConfig
from training.errors import ConfigError, StudioError
from training.events import Event, Failed, Noted, Saved, Warned
from training.models import loader
from training.runtime import memory
from training.runtime.device import finished, repeatable
from training.storage import run_lock
from training.trainer import schedule
from training.trainer.loop import Stop, never, retry_on_full_disk, training_events
from training.trainer.pace import AT_ONCE, Pace
from training.trainer.plan import Plan, planned
from training.trainer.schedule import JointSchedule
from training.trainer.trainer import Batch, LeftError, MicrobatchRequest, TooManyError, Trainer

TRIES = 3  # passes of every size that are timed, the first of them to warm up


def together(
    configs: Sequence[RunConfig], stop: Stop = never, *, at_once: int | None = None
) -> Iterator[tuple[int, Event]]:
    """Train every config's style; yields (number of the config, event).

    at_once: styles in one pass, fewer when the memory is full; None: so many as prove to be
    quickest when they are timed, AT_ONCE at most.

    A style that cannot go on says so by a Failed event, and the others do. Raises StudioError
    before anything is begun when the configs cannot be trained on one base, or a config is wrong.
    """
    plans = checked(configs)
    with ExitStack() as locks:
        for plan in plans:
            locks.enter_context(run_lock.held(plan.config.run_folder))
        locks.enter_context(
            repeatable(
                any(plan.config.optim.deterministic for plan in plans), plans[0].place.device
            )
        )
        shared_base = SharedBase(loader.load(plans[0].files, plans[0].place))
        for i in range(AT_ONCE, len(plans)):
            yield (
                i,
                Noted(
                    f"it waits until the {i // AT_ONCE * AT_ONCE} styles before it are done: "
                    f"{AT_ONCE} are trained at once"
                ),
            )
        for first in range(0, len(plans), AT_ONCE):
            if first and stop():
                return
            yield from (
                (first + i, event)
                for i, event in _JointTrainer(
                    plans[first : first + AT_ONCE], stop, at_once, shared_base
                ).events()
            )


def checked(configs: Sequence[RunConfig]) -> list[Plan]:
    """Every style's plan. Raises StudioError when a config is wrong or they cannot be trained on
    one base.
    """
    plans = [planned(config) for config in configs]
    if not plans:
        raise ConfigError("there is nothing to train: no style was named.")
    folders: dict[Path, str] = {}
    for plan in plans:
        config, first = plan.config, plans[0].config
        for key in ("model", "device", "dtype"):
            if getattr(config.base, key) != getattr(first.base, key):
                raise ConfigError(
                    f"styles that are trained together share one base: base.{key} is "
                    f"{getattr(first.base, key)!r} for {first.save.name} and "
                    f"{getattr(config.base, key)!r} for {config.save.name}. Make it the same, "
                    "or train them one after another."
                )
        if config.optim.compile != "off":
            raise ConfigError(
                "optim.compile is for one style alone, whose rows all go one way "
                f"({config.save.name}). Set it to off."
            )
        if other := folders.get(config.run_folder):
            raise ConfigError(
                f"two styles would be written into {config.run_folder} ({other}). Give each "
                "its own save.name."
            )
        folders[config.run_folder] = config.save.name
    return plans


@dataclass(frozen=True)
class _Pass:
    """One style's pass in a turn.

    learns: whether its story waits for it; else the style only goes along.
    """

    i: int
    asked: MicrobatchRequest
    alone: bool = False
    learns: bool = True

    @property
    def kind(self) -> tuple[int, ...]:
        """What can go through the base in one batch:

        latents of one size; a style that goes alone is of its own kind.
        """
        return (*self.asked.batches[0].noisy.shape[2:], self.i + 1 if self.alone else 0)


class _JointTrainer:
    """The stories of several styles, and what each of them waits for."""

    def __init__(
        self, plans: Sequence[Plan], stop: Stop, at_once: int | None, shared_base: SharedBase
    ) -> None:
        self.plans, self.stop, self.at_once, self.shared_base = plans, stop, at_once, shared_base
        self.configs = [plan.config for plan in plans]
        self.stories = [training_events(plan, stop, self.shared_base) for plan in plans]
        self.asked: dict[int, MicrobatchRequest] = {}
        self.saved: dict[int, int] = {}
        self.failed: set[int] = set()
        self.turn = 0
        self.joint_schedule = JointSchedule({}, {})
        self.ahead: dict[
            int, tuple[Trainer, int]
        ] = {}  # who goes along with those behind, and the first turn in which it does not

    def events(self) -> Iterator[tuple[int, Event]]:
        for i in range(len(self.plans)):
            yield from self._on(i, None)
        if self.asked and not self.stop():
            yield from self._gathered()
        while self.asked and not self.stop():
            self.turn = self._next()
            due = sorted(self._due(), key=lambda one: (one.kind, one.i))
            for _, alike in groupby(due, lambda one: one.kind):
                yield from self._taken(list(alike))
        for i in list(
            self.asked
        ):  # updates that were begun are left for the next time, when all are there again
            yield from self._on(i, LeftError())

    # --- who goes ---

    def _gathered(self) -> Iterator[tuple[int, Event]]:
        """Find the company that the styles were left in, or found a new one; those ahead of the
        others shall go along.
        """
        here = sorted(self.asked)
        kept = schedule.found(self.configs, here)
        if kept is None:
            if any(asked.number for asked in self.asked.values()):
                message = (
                    "these styles were not trained together in this way before: they go on, "
                    "but not to the bit as if they had never stopped."
                )
                yield here[0], Warned(message)
            kept = schedule.founded(
                self.configs, {i: asked.number for i, asked in self.asked.items()}
            )
        self.joint_schedule = kept
        self.turn = self._next()
        for i in kept.began:
            if i in self.asked:
                self._goes_along(
                    i, self.asked[i].run, math.inf if self._alone(i) else self._turn(i)
                )
            elif i in self.failed:
                kept.alone.setdefault(i, self.turn)
            else:
                yield from self._finished_before(i)
        yield from self._kept()

    def _next(self) -> int:
        """The turn that is due."""
        return min((self._turn(i) for i in self.asked if not self._alone(i)), default=self.turn)

    def _finished_before(self, i: int) -> Iterator[tuple[int, Event]]:
        """A style that was finished is loaded once more if the others have yet to come to
        its end.
        """
        optim = self.configs[i].optim
        end = optim.steps * optim.accumulate - self.joint_schedule.began[i]
        if self.turn >= end:
            return
        yield (
            i,
            Noted(
                "it goes along until the others are where it was finished: what they learn is "
                "then the same to the bit"
            ),
        )
        run = Trainer(self.plans[i], self.shared_base)
        try:
            for _ in run.prepare():
                pass
        except (StudioError, torch.OutOfMemoryError) as error:
            yield (
                i,
                Warned(
                    "it cannot go along, so the others go on, but not to the bit as if they "
                    f"had never stopped: {error}"
                ),
            )
        else:
            self._goes_along(i, run, end)

    def _goes_along(self, i: int, run: Trainer, until: float) -> None:
        until = min(until, self.joint_schedule.alone.get(i, math.inf))
        if self.turn < until < math.inf:
            self.ahead[i] = run, int(until)

    def _turn(self, i: int) -> int:
        """In which a style's next pass is due."""
        return self.asked[i].number - self.joint_schedule.began[i]

    def _alone(self, i: int) -> bool:
        """Whether a style makes its passes outside of the turns:

        it went back to an earlier state, must split its pictures, or failed before.
        """
        run = self.asked[i].run
        return (
            run.guard.returns > 0
            or run.splits > 1
            or self._turn(i) >= self.joint_schedule.alone.get(i, math.inf)
        )

    def _due(self) -> Iterator[_Pass]:
        """The passes of those who go alone and of this turn, with those who go along."""
        alone = [i for i in self.asked if self._alone(i)]
        yield from (_Pass(i, self.asked[i], alone=True) for i in alone)
        if len(alone) == len(self.asked):
            return
        yield from (
            _Pass(i, asked)
            for i, asked in self.asked.items()
            if i not in alone and self._turn(i) == self.turn
        )
        for i, (run, until) in list(self.ahead.items()):
            if self.turn < until:
                number = self.joint_schedule.began[i] + self.turn
                yield _Pass(i, MicrobatchRequest(run, run.batches(number), number), learns=False)
            else:
                del self.ahead[i]
                if i not in self.asked:
                    self.shared_base.leave(run.adapter_index)

    def _kept(self) -> Iterator[tuple[int, Event]]:
        """Write down what decides the passes from here on."""
        first = min(self.joint_schedule.began)
        yield from (
            (first, event)
            for event in retry_on_full_disk(
                lambda: schedule.write(self.joint_schedule, self.configs), self.stop
            )
        )

    # --- passes ---

    def _taken(self, alike: list[_Pass]) -> Iterator[tuple[int, Event]]:
        """All passes of one kind in a turn, so many at once as is quickest; what only goes along is
        left out where it goes with nobody.
        """
        area = round(
            math.log2(math.prod(alike[0].kind[:2]))
        )  # buckets of one resolution have nearly one area
        pace = Pace(self.joint_schedule.paces.setdefault(area, {}), self.at_once)
        while any(one.learns for one in alike) and not self.stop():
            if pace.untimed(len(alike)):
                yield from self._timed(alike, pace)
            size = pace.size(len(alike))
            now, alike = alike[:size], alike[size:]
            if any(one.learns for one in now) and not self.stop():
                yield from self._made(now, pace)

    def _timed(self, alike: Sequence[_Pass], pace: Pace) -> Iterator[tuple[int, Event]]:
        """Time the sizes that so many styles can go in.

        Nobody learns from these passes, so that their outcome is kept before it counts.
        """
        run = alike[0].asked.run
        device = run.place.device
        while size := pace.untimed(len(alike)):
            took: list[float] = []
            memory.give_back(device)
            before = run.peaks.pop("passes", 0.0)
            try:
                for _ in range(TRIES):
                    if self.stop():
                        return
                    began = time.monotonic()
                    self._passed(alike[:size], learn=False)
                    finished(device)
                    took.append((time.monotonic() - began) / size)
                pace.took[size] = min(took[1:])
                if "passes" in run.peaks:
                    pace.peaks[size] = run.peaks["passes"]
            except torch.OutOfMemoryError as error:
                _give_back(error, device)
                pace.took[size] = None
            run.peaks["passes"] = max(before, run.peaks.get("passes", 0.0))
        yield from self._kept()
        yield alike[0].i, Noted(pace.words(len(alike)))

    def _made(self, now: Sequence[_Pass], pace: Pace) -> Iterator[tuple[int, Event]]:
        """One pass for these styles; where the memory is full, each begins its update again, fewer
        at once.
        """
        answers: list[torch.Tensor | Exception]
        try:
            answers = list(self._passed(now))
        except torch.OutOfMemoryError as error:
            _give_back(error, now[0].asked.run.place.device)
            answers = [error if len(now) == 1 else TooManyError(str(error)) for _ in now]
            if len(now) > 1:
                pace.took[len(now)] = None
                yield from self._kept()
        for one, answer in zip(now, answers, strict=True):
            if one.learns:
                del self.asked[one.i]
                yield from self._on(one.i, answer)

    def _passed(self, now: Sequence[_Pass], *, learn: bool = True) -> list[torch.Tensor]:
        """The losses of one pass; gradients are added up where a style learns."""
        with ExitStack() as untouched:
            for one in now:
                if not (learn and one.learns):
                    untouched.enter_context(one.asked.run.optimiser.untouched())
            return self._backward([one.asked for one in now])

    def _backward(self, waiting: Sequence[MicrobatchRequest]) -> list[torch.Tensor]:
        if len(waiting) == 1:
            run = waiting[0].run
            with run.adapters_active():
                return [run.backward(waiting[0].batches)]
        parts, family = waiting[0].run.parts, waiting[0].run.parts.family
        each: list[tuple[Trainer, Batch]] = [
            (asked.run, batch) for asked in waiting for batch in asked.batches
        ]
        each.sort(
            key=lambda one: not one[0].trains_text
        )  # those whose words are encoded anew stand first
        fresh = [(run, batch) for run, batch in each if run.trains_text]
        words = [run.words(batch.captions) for run, batch in each[len(fresh) :]]
        if fresh:
            with self.shared_base.routed(
                [run.adapter_index for run, batch in fresh for _ in batch.t]
            ):
                captions = [caption for _, batch in fresh for caption in batch.captions]
                words.insert(
                    0,
                    family.encode_text(
                        fresh[0][0].parts,
                        captions,
                        [run.tokens for run, batch in fresh for _ in batch.t],
                    ),
                )
        noisy, t = (
            torch.cat([getattr(batch, name) for _, batch in each]) for name in ("noisy", "t")
        )
        lora_layers.set_gradient_checkpointing(
            parts.denoiser, any(run.passes.checkpointing for run, _ in each)
        )
        with (
            waiting[0].run.watched(),
            self.shared_base.routed([run.adapter_index for run, batch in each for _ in batch.t]),
        ):
            said = family.predict(parts, noisy, t, family.gather(words))
            losses = [
                run.loss(batch, some)
                for (run, batch), some in zip(
                    each, said.split([len(batch.t) for _, batch in each]), strict=True
                )
            ]
            torch.stack(
                [loss * run.loss_share for (run, _), loss in zip(each, losses, strict=True)]
            ).sum().backward()
        return [
            torch.stack(
                [
                    loss.detach()
                    for (run, _), loss in zip(each, losses, strict=True)
                    if run is asked.run
                ]
            ).sum()
            for asked in waiting
        ]

    def _on(self, i: int, answer: torch.Tensor | Exception | None) -> Iterator[tuple[int, Event]]:
        """Let a story go on until it waits for a pass or ends; one that leaves the turns has this
        written down.
        """
        running = self.stories[i]
        try:
            item = running.throw(answer) if isinstance(answer, Exception) else running.send(answer)
            while not isinstance(item, MicrobatchRequest):
                if isinstance(item, Saved):
                    self.saved[i] = item.step
                yield i, item
                item = next(running)
            self.asked[i] = item
        except StopIteration:
            return
        except StudioError as error:
            self.failed.add(i)
            yield i, Failed(str(error), self.saved.get(i, 0), error.passing)
        if (
            i in self.joint_schedule.began
            and i not in self.joint_schedule.alone
            and (i not in self.asked or self._alone(i))
        ):
            self.joint_schedule.alone[i] = self.turn + 1
            yield from self._kept()


def _give_back(error: torch.OutOfMemoryError, device: torch.device) -> None:
    """Let go of all that the pass had computed, which the frames of its error hold."""
    error.__traceback__ = None
    memory.give_back(device)
