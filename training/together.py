"""Many styles over one frozen base: `together(configs, stop)` trains each as it would be trained alone, their passes made in one.

Every style has its own pictures, settings, seed, optimiser, checkpoints and events. One that ends, stops or fails leaves; the others go on.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path

import torch

from training import adapter, lock, memory
from training.bench import Bench
from training.config import RunConfig
from training.device import finished, peak_memory
from training.errors import ConfigError, StudioError
from training.events import Event, Failed, Noted, Saved
from training.families import detect
from training.loop import Stop, Story, never, story
from training.run import Asked, Batch, Plan, Run, TooManyError, planned

AT_ONCE = 8  # styles in one pass at most; more take turns
TRIES = 3  # passes of every size that are timed, the first of them to warm up


def together(configs: Sequence[RunConfig], stop: Stop = never, *, at_once: int | None = None) -> Iterator[tuple[int, Event]]:
    """Train every config's style; yields (number of the config, event).

    at_once: styles in one pass, fewer when the memory is full; None: so many as the first updates show to be quickest, AT_ONCE at most.

    A style that cannot go on says so by a Failed event, and the others do. Raises StudioError before anything is begun when the configs
    cannot be trained on one base, or a config is wrong.
    """
    plans = [planned(config) for config in configs]
    _check_one_base(plans)
    with ExitStack() as locks:
        for plan in plans:
            locks.enter_context(lock.held(plan.config.run_folder))
        bench = Bench(detect.load(plans[0].files, plans[0].place))
        yield from _Round(bench, [story(plan, stop, bench) for plan in plans], at_once).events()


def _check_one_base(plans: Sequence[Plan]) -> None:
    if not plans:
        raise ConfigError("there is nothing to train: no style was named.")
    folders: dict[Path, str] = {}
    for plan in plans:
        config, first = plan.config, plans[0].config
        for key in ("model", "device", "dtype"):
            if getattr(config.base, key) != getattr(first.base, key):
                raise ConfigError(
                    f"styles that are trained together share one base: base.{key} is {getattr(first.base, key)!r} for {first.save.name} and "
                    f"{getattr(config.base, key)!r} for {config.save.name}. Make it the same, or train them one after another."
                )
        if config.optim.compile != "off":
            raise ConfigError(f"optim.compile is for one style alone, whose rows all go one way ({config.save.name}). Set it to off.")
        if other := folders.get(config.run_folder):
            raise ConfigError(f"two styles would be written into {config.run_folder} ({other}). Give each its own save.name.")
        folders[config.run_folder] = config.save.name


class Pace:
    """How many styles go through the base in one pass: sizes are timed on the first updates, and the one that is quickest for a style stays.

    A style learns the same in company of any size, so the trial costs nothing but what the slower sizes cost.
    """

    def __init__(self, at_once: int | None = None) -> None:
        self.fixed, self.most = at_once, at_once or AT_ONCE
        self.took: dict[int, list[float]] = {}  # size -> seconds a style

    def sizes(self, waiting: int) -> list[int]:
        """What is tried when so many styles wait, the largest first: all that may, then powers of two."""
        most = min(waiting, self.most)
        return [most] if self.fixed else sorted({most, *(2**i for i in range(most.bit_length()) if 2**i < most)}, reverse=True)

    def size(self, waiting: int) -> int:
        """Of the next pass."""
        sizes = self.sizes(waiting)
        return next((size for size in sizes if self.wants(size, waiting)), None) or min(sizes, key=self.seconds)

    def wants(self, size: int, waiting: int) -> bool:
        """Whether a pass of that size is still to be timed."""
        return len(self.sizes(waiting)) > 1 and len(self.took.get(size, ())) < TRIES

    def seconds(self, size: int) -> float:
        """For one style's share of a pass, as measured; 0 when it was not."""
        return statistics.median(self.took.get(size, ())[1:] or [0.0])

    def tell(self, size: int, seconds: float) -> None:
        """A pass of that size took so long."""
        self.took.setdefault(size, []).append(seconds / size)

    def full(self, size: int) -> None:
        """The memory was too small for a pass of that size."""
        self.most = max(1, size // 2)
        self.fixed = self.fixed and self.most

    def words(self, waiting: int) -> str:
        """What was found, for the user."""
        told = ", ".join(f"{size} at once {self.seconds(size):.3g} s" for size in self.sizes(waiting))
        return f"styles in one pass: {self.size(waiting)}, the quickest for a style's update here ({told})"


class _Round:
    """The stories of several styles, and what each of them waits for."""

    def __init__(self, bench: Bench, stories: Sequence[Story], at_once: int | None) -> None:
        self.bench, self.at_once = bench, at_once
        self.paces: dict[tuple[int, ...], Pace] = {}  # of every size of latents
        self.stories = dict(enumerate(stories))
        self.asked: dict[int, Asked] = {}
        self.saved: dict[int, int] = {}

    def events(self) -> Iterator[tuple[int, Event]]:
        for i in list(self.stories):
            yield from self._on(i, None)
        while self.asked:
            waiting = sorted(self.asked, key=lambda i: (_kind(self.asked[i]), i))
            for kind, alike in groupby(waiting, lambda i: _kind(self.asked[i])):
                some, pace = list(alike), self.paces.setdefault(kind, Pace(self.at_once))
                count = len(some)
                while some:
                    size, device = pace.size(len(some)), self.asked[some[0]].run.place.device
                    timed = pace.wants(size, len(some))
                    yield from self._made(some[:size], pace, timed)
                    if timed and not any(pace.wants(one, count) for one in pace.sizes(count)):
                        yield some[0], Noted(pace.words(count) + f"; peak {peak_memory(device):.2g} GiB so far")
                    some = some[size:]

    def _made(self, now: list[int], pace: Pace, timed: bool) -> Iterator[tuple[int, Event]]:
        """One pass for these styles; where the memory is full, each begins its update again, fewer at once."""
        waiting = [self.asked.pop(i) for i in now]
        began = time.monotonic()
        try:
            answers: list[torch.Tensor | torch.OutOfMemoryError] = list(self._passed(waiting))
            if timed:
                finished(waiting[0].run.place.device)
                pace.tell(len(now), time.monotonic() - began)
        except torch.OutOfMemoryError as error:
            error.__traceback__ = None  # its frames hold all that the pass had computed
            memory.give_back(waiting[0].run.place.device)
            pace.full(len(now))
            answers = [error if len(now) == 1 else TooManyError(str(error)) for _ in now]
        for i, answer in zip(now, answers, strict=True):
            yield from self._on(i, answer)

    def _passed(self, waiting: Sequence[Asked]) -> list[torch.Tensor]:
        if len(waiting) == 1:
            run = waiting[0].run
            with run.worn():
                return [run.backward(waiting[0].batches)]
        parts, family = waiting[0].run.parts, waiting[0].run.parts.family
        each: list[tuple[Run, Batch]] = [(asked.run, batch) for asked in waiting for batch in asked.batches]
        each.sort(key=lambda one: not one[0].trains_text)  # those whose words are encoded anew stand first
        fresh = [(run, batch) for run, batch in each if run.trains_text]
        words = [run.words(batch.captions) for run, batch in each[len(fresh) :]]
        if fresh:
            with self.bench.routed([run.slot for run, batch in fresh for _ in batch.t]):
                captions = [caption for _, batch in fresh for caption in batch.captions]
                words.insert(0, family.encode_text(fresh[0][0].parts, captions, [run.tokens for run, batch in fresh for _ in batch.t]))
        noisy, t = (torch.cat([getattr(batch, name) for _, batch in each]) for name in ("noisy", "t"))
        adapter.recompute(parts.denoiser, any(run.passes.checkpointing for run, _ in each))
        with waiting[0].run.watched(), self.bench.routed([run.slot for run, batch in each for _ in batch.t]):
            said = family.predict(parts, noisy, t.to(parts.denoiser.device), family.gather(words))
            losses = [run.loss(batch, some) for (run, batch), some in zip(each, said.split([len(batch.t) for _, batch in each]), strict=True)]
            torch.stack([loss * run.loss_share for (run, _), loss in zip(each, losses, strict=True)]).sum().backward()
        return [torch.stack([loss.detach() for (run, _), loss in zip(each, losses, strict=True) if run is asked.run]).sum() for asked in waiting]

    def _on(self, i: int, answer: torch.Tensor | torch.OutOfMemoryError | None) -> Iterator[tuple[int, Event]]:
        """Let a story go on until it waits for a pass or ends."""
        told = self.stories[i]
        try:
            item = told.throw(answer) if isinstance(answer, torch.OutOfMemoryError) else told.send(answer)
            while not isinstance(item, Asked):
                if isinstance(item, Saved):
                    self.saved[i] = item.step
                yield i, item
                item = next(told)
            self.asked[i] = item
        except StopIteration:
            return
        except StudioError as error:
            yield i, Failed(str(error), self.saved.get(i, 0), error.passing)


def _kind(asked: Asked) -> tuple[int, ...]:
    """What can go through the base in one batch: latents of one size. A run that must split its pictures goes alone."""
    return (*asked.batches[0].noisy.shape[2:], asked.run.slot + 1 if asked.run.splits > 1 else 0)
