"""Many styles over one frozen base: `together(configs, stop)` trains each as it would be trained
alone, their microbatches going through the base in one pass.

Every style has its own pictures, settings, seed, optimiser, checkpoints and events. One that ends,
stops or fails leaves; the others go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from training.adapters.multi_lora import SharedBase
from training.config.schema import RunConfig
from training.errors import ConfigError
from training.events import Event, Noted
from training.models import loader
from training.runtime import cpu_threads
from training.runtime.device import repeatable
from training.storage import run_lock
from training.trainer.driver import drive
from training.trainer.full_disk import Stop, never
from training.trainer.lifecycle import Training
from training.trainer.pace import AT_ONCE
from training.trainer.plan import Plan, planned
from training.trainer.turns import Turns


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
    deterministic = any(plan.config.optim.deterministic for plan in plans)
    with ExitStack() as locks:
        for plan in plans:
            locks.enter_context(run_lock.held(plan.config.run_folder))
        locks.enter_context(repeatable(deterministic, plans[0].place.device))
        shared_base = SharedBase(
            loader.load(plans[0].files, plans[0].place, reading=plans[0].reading)
        )
        for i in range(AT_ONCE, len(plans)):
            before = i // AT_ONCE * AT_ONCE
            yield (
                i,
                Noted(
                    f"it waits until the {before} styles before it are done: {AT_ONCE} are "
                    "trained at once"
                ),
            )
        for first in range(0, len(plans), AT_ONCE):
            if first and stop():
                return
            trainings = [
                Training(plan, stop, shared_base) for plan in plans[first : first + AT_ONCE]
            ]
            with cpu_threads.given_back():
                turns = Turns(trainings, stop, at_once, shared_base)
                for place, event in drive(trainings, turns):
                    yield first + place, event


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
        for key in ("model", "rest", "assistant", "device", "dtype", "clip_skip", "text_pieces"):
            if getattr(config.base, key) != getattr(first.base, key):
                raise ConfigError(
                    f"styles that are trained together share one base: base.{key} is "
                    f"{getattr(first.base, key)!r} for {first.save.name} and "
                    f"{getattr(config.base, key)!r} for {config.save.name}. Make it the same, "
                    "or train them one after another."
                )
        if plan.place.storage != plans[0].place.storage:
            kept, others = (p.place.storage or p.place.precision for p in (plan, plans[0]))
            raise ConfigError(
                f"styles that are trained together share one base: its weights are kept as "
                f"{others} for {first.save.name} and as {kept} for {config.save.name}. Set "
                "base.storage to the same for both, or train them one after another."
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
