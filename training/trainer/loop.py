"""A training of one style: `train(config, stop)` says what happens, one event at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

from training.adapters.multi_lora import SharedBase
from training.config.schema import RunConfig
from training.errors import ConfigError
from training.events import Event, Warned
from training.models import fsdp
from training.runtime import cpu_threads
from training.runtime.cpu_threads import RecordedThreads
from training.runtime.device import repeatable
from training.runtime.distributed import ALONE, ProcessGroup
from training.storage import run_lock
from training.trainer import resume, schedule
from training.trainer.driver import OneStyle, drive
from training.trainer.full_disk import Stop, never
from training.trainer.lifecycle import Training
from training.trainer.plan import Plan, planned


def train(config: RunConfig, stop: Stop = never, world: ProcessGroup = ALONE) -> Iterator[Event]:
    """Train until the last update or until stop() says so; then the style is written and compared.

    Begun again with the same config it goes on after its newest checkpoint. Raises StudioError;
    what was saved by then stays.
    world: the processes that all call this with one config; all say the same, the first one writes,
    and stops when any is asked to.
    """
    plan = _alike(world.each(lambda: planned(config)), world)
    _check_shares(config, world)
    with (
        cpu_threads.given_back(),
        repeatable(config.optim.deterministic, plan.place.device),
        run_lock.held(config.run_folder) if world.writes else nullcontext(),
    ):
        if world.writes and plan.finished < config.optim.steps and schedule.left(config.run_folder):
            yield Warned(
                "this style was trained jointly with others before: it resumes alone, so its "
                "result will differ slightly from joint training."
            )
        shared_base = None
        if world.shards:
            shared_base = SharedBase(fsdp.loaded(plan.files, plan.place, plan.reading))
        training = Training(plan, world.agreed_stop(stop), shared_base, world)
        threads = _threads(plan, world)
        for _, event in drive([training], OneStyle(training, threads, shared_base)):
            yield event


def _alike(plan: Plan, world: ProcessGroup) -> Plan:
    """The plan with the base kept as the first process keeps it, for all must have the same; a base
    that is divided among them is kept in its precision.
    """
    storage, note = world.first(lambda: (plan.place.storage, plan.note))
    if world.shards and storage and plan.config.base.storage not in ("auto", "bfloat16"):
        raise ConfigError(
            f"base.storage = {storage} does not go with a base that is divided among processes. "
            "Set it to auto, or turn FSDP off."
        )
    storage, note = ("", "") if world.shards else (storage, note)
    return replace(plan, place=replace(plan.place, storage=storage), note=note)


def _threads(plan: Plan, world: ProcessGroup) -> RecordedThreads:
    """How many threads compute, from before anything is loaded; several processes must agree, so
    theirs are as they began.
    """
    if world.size > 1:
        return RecordedThreads(None, {}, lambda by_step: None)
    config = plan.config
    anew = config.save.resume == "anew"
    settings = resume.settings_record(config)
    threads = cpu_threads.of_run(config.run_folder, settings, plan.place.device, anew=anew)
    # With "anew" the folder is put aside only when the training is set up
    threads.begin(choose=not anew and not (config.run_folder / "checkpoints").is_dir())
    return threads


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
    if world.shards and config.base.assistant:
        raise ConfigError(
            "base.assistant does not go with a base that is divided among processes. Leave it "
            "empty, or turn FSDP off."
        )
    if world.shards and config.preview.model:
        raise ConfigError(
            "preview.model does not go with a base that is divided among processes. Leave it "
            "empty, or turn FSDP off."
        )
    if world.shards and rows % world.size:
        raise ConfigError(
            f"optim.batch_size is {rows}: where the base is divided among {world.size} "
            f"processes, a multiple of {world.size} was expected. Set it to one."
        )
