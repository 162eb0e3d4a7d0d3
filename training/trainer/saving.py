"""Checkpoints of a run: written, and gone on from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from training import __version__
from training.errors import ConfigError
from training.events import Noted, Saved, Warned
from training.runtime.device import device_record
from training.storage.paths import STEPS, checked_room
from training.trainer import checkpoint, export, microbatching, resume
from training.trainer.divergence import Guard
from training.trainer.plan import base_record, check_same_pictures
from training.trainer.previews import prompts_of
from training.trainer.trainer import Trainer

PREVIEW_BYTES = 3  # a pixel of a PNG at worst
HALF = 2  # bytes of a weight in a style file
# What is read of captions that are too long: see training.data.checks.trained_caption
WHOLE, SHORTENED = "as they are", "with room for the trigger"
MARGIN = 2**20  # bytes for run.toml, events and what the file system itself takes


def save(trainer: Trainer) -> Saved:
    """Write a checkpoint of everything a resumed run needs, and before it its style.

    Raises SpaceError; what was saved before stays.
    """
    trainer.remember()
    if not trainer.world.writes:
        return Saved(trainer.step, "")
    state: dict[str, Any] = {**_record(trainer), "guard": asdict(trainer.guard)}
    state |= {"started": trainer.started, "version": __version__}
    config, folder = trainer.config, trainer.folder
    tensors = trainer.optimiser.tensors()
    checked_room(folder, checkpoint.room_needed(tensors), f"A checkpoint of {config.save.name}")
    if config.save.styles and export.has_effect(trainer):
        export.export(trainer, f"{STEPS}/{config.save.name}-{trainer.step:06d}.safetensors")
    path = checkpoint.write(
        folder / "checkpoints", trainer.step, tensors, state, keep=config.save.keep
    )
    return Saved(trainer.step, path.relative_to(folder).as_posix())


def go_on(trainer: Trainer) -> Iterator[Noted | Warned | Saved]:
    """Restore what an earlier start of this run has left, and see that there is room for the rest.

    Raises DataError or ConfigError when it is not of this run, SpaceError.
    """
    yield from restore(trainer)
    yield from _same_microbatches(trainer)
    if trainer.world.writes:
        _check_room(trainer)
    trainer.world.meet()


def restore(trainer: Trainer) -> Iterator[Noted | Warned | Saved]:
    """Go on after the newest checkpoint that verifies, if there is one."""
    config, folder = trainer.config, trainer.folder
    found, complaints = trainer.world.first(lambda: checkpoint.newest(folder / "checkpoints"))
    yield from (Warned(complaint) for complaint in complaints)
    if found is None:
        if complaints:
            yield Warned("no checkpoint verifies: the run begins at its first update.")
        return
    then, now = found.state, _record(trainer)
    changed = _changed(then, now)
    if config.save.resume == "exact":
        check_same_pictures(config, changed)
    if not trainer.optimiser.fits(found.tensors):
        changed.append("the adapters have other parts or sizes, with which nothing can be adapted")
        raise ConfigError(resume.refusal(folder, changed))
    for difference in resume.changed_place(then["place"], now["place"]):
        yield Warned(
            f"{difference}: the run resumes, but its result will differ slightly from a run "
            "that was never stopped."
        )
    if then.get("captions", WHOLE) == WHOLE and trainer.data.are_shortened:
        trainer.use_whole_captions()
        yield Noted("captions are not shortened for the trigger, since this run began without that")
    trainer.optimiser.restore(found.tensors)
    trainer.step, trainer.started = found.step, then["started"]
    trainer.guard = Guard(**then["guard"])
    trainer.remember()
    yield Noted(f"going on after {trainer.step} of {trainer.steps} updates")
    if changed:
        yield Warned("going on with changes: " + "; ".join(changed))
        # From here on these are its settings and pictures, also after a crash
        yield save(trainer)


def _record(trainer: Trainer) -> dict[str, Any]:
    """What must be the same for a resumed run to equal an undisturbed one."""
    return {
        "settings": resume.settings_record(trainer.config),
        "pictures": resume.pictures_record(trainer.data.examples),
        "captions": SHORTENED if trainer.data.are_shortened else WHOLE,
        "class_pictures": resume.pictures_record(trainer.data.prior_examples),
        **base_record(trainer.plan.files),
        "storage": trainer.place.storage,
        "assistant": trainer.plan.assistant.sha256 if trainer.plan.assistant else "",
        "start": trainer.plan.start.sha256 if trainer.plan.start else "",
        "place": device_record(trainer.place)
        | {"processes": trainer.world.size}
        | ({"optimiser": version} if (version := trainer.optimiser.version) else {}),
    }


def _changed(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """A sentence for everything in which two records differ."""
    changed = resume.changed_settings(then["settings"], now["settings"])
    changed += resume.changed_pictures(then["pictures"], now["pictures"])
    changed += resume.changed_pictures(
        then["class_pictures"], now["class_pictures"], "class picture"
    )
    changed += resume.changed_storage(then.get("storage", ""), now["storage"])
    changed += resume.changed_base(then, now) + resume.changed_assistant(then, now)
    return changed + resume.changed_start(then, now)


def _same_microbatches(trainer: Trainer) -> Iterator[Noted]:
    """Make the microbatches as this run made them after these updates, to the bit."""
    folder, record = trainer.folder, resume.settings_record(trainer.config)
    plans = trainer.world.first(lambda: microbatching.read(folder, record))
    differs = trainer.microbatches.restore(plans, trainer.step)
    if trainer.step:
        trainer.watch.limit = trainer.watch.room  # it has shown already that it fits
    if differs:
        yield Noted(f"updates are made as before: {trainer.microbatches.words}")


def _check_room(trainer: Trainer) -> None:
    """Raises SpaceError when the disk cannot hold what this run will still write."""
    config, left = trainer.config, trainer.steps - trainer.step
    save, preview = config.save, config.preview
    there = len(checkpoint.finished(trainer.folder / "checkpoints"))
    one = checkpoint.room_needed(trainer.optimiser.tensors())
    styles = 1 + (left // save.every if save.every and save.styles else 0)
    pixels = 0
    if preview.every:
        count = (left // preview.every + 1) * len(prompts_of(config, trainer.data.first_captions))
        pixels = count * trainer.parts.size**2
    needed = one * max(1, save.keep + 1 - there)
    needed += styles * trainer.attached.count * HALF + pixels * PREVIEW_BYTES + MARGIN
    checked_room(trainer.folder, needed, f"The run {save.name}")
