"""What is checked before anything heavy is loaded: settings, pictures, base, an earlier run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.adapters.lora_layers import chosen_modules
from training.config.layer_patterns import complaints, parsed_ranks
from training.config.loading import read_toml
from training.config.schema import RunConfig
from training.config.training_sections import Optim
from training.data.dataset import Dataset, Example, read_dataset
from training.data.several_folders import Reading as HowRead
from training.data.several_folders import Source, read_folders
from training.diffusion import class_images
from training.errors import (
    ConfigError,
    DataError,
    SpaceError,
    StyleFileError,
)
from training.models import base_files, loader
from training.models.family import Reading
from training.runtime.device import (
    DeviceSpec,
    choose,
)
from training.storage.disk_errors import advice, cause
from training.storage.paths import (
    checked_writable,
)
from training.style_files.reading import Style, read_style
from training.trainer import assistant, base_storage, checkpoint, optimizers, preview_base, resume

OF_SCHEDULES = ("min_snr", "noise_offset", "multires")  # settings that mean nothing in a flow


@dataclass(frozen=True)
class Plan:
    """What was found before anything heavy was loaded."""

    config: RunConfig
    dataset: Dataset
    given_priors: tuple[Example, ...]
    files: base_files.BaseFiles
    place: DeviceSpec
    finished: int  # updates after which this run's style was already exported, else 0
    start: Style | None = None  # what the adapters begin as
    assistant: Style | None = None  # a frozen change of the base while it is trained
    drawn_by: base_files.BaseFiles | None = None  # the base of previews, if it is another
    note: str = ""  # how the base is kept in memory, where that was chosen

    @property
    def reading(self) -> Reading:
        """How the base reads captions."""
        return Reading(self.config.base.clip_skip, self.config.base.text_pieces)

    @property
    def trains_text(self) -> bool:
        """Whether what a caption says changes from update to update."""
        if not self.files.family.text_groups:
            return False
        return self.config.optim.text_encoder_lr > 0 or self.config.adapter.tokens > 0


def planned(config: RunConfig) -> Plan:
    """Check everything that can be checked without loading weights; nothing is written but the
    run's empty folder.
    """
    check_folders(config)
    place = choose(config.base.device, config.base.dtype)
    base_storage.check_package(config.base.storage)
    optimizers.check_package(config.optim.method, config.optim.other)
    files = base_files.find(config.base.model, config.base.rest)
    check_resolution(config, files)
    loader.check_reading(files, config.base.clip_skip)
    check_targets(config, files)
    check_patterns(config, files)
    dataset = read_pictures(config)
    given = class_images.given(config.prior)
    check_same_run(config, dataset, files)
    check_noise(config, files)
    checked_writable(config.run_folder, "save.folder")
    helper = assistant.found(config, files)
    place, note = _placed(config, files, place)
    return Plan(
        config,
        dataset,
        given,
        files,
        place,
        _finished(config),
        start=_start(config),
        assistant=helper,
        drawn_by=preview_base.found(config, files),
        note=note,
    )


def check_folders(config: RunConfig) -> None:
    """Refuse settings without a folder of pictures. Raises ConfigError."""
    data = config.data
    if not data.folder and not data.folders:
        raise ConfigError(
            "data.folder is empty: name the folder that holds your pictures, for instance "
            "--data.folder pictures."
        )
    for number, one in enumerate(data.folders, 1):
        if not one.folder:
            raise ConfigError(
                f"data.folders, table {number} names no folder: folder = ... was expected in it."
            )


def read_pictures(config: RunConfig) -> Dataset:
    """The pictures of data.folder and data.folders as one set. Raises DataError."""
    data = config.data
    reading: HowRead = {
        "background": data.background,
        "lines": data.captions == "lines",
        "wildcards": data.wildcards,
        "mask": data.mask,
    }
    words = (data.trigger, data.template)
    if not data.folders and not data.balance:
        return read_dataset(Path(data.folder), trigger=words[0], template=words[1], **reading)
    sources = [Source(Path(data.folder), "", 1, 1.0, *words)] if data.folder else []
    for number, one in enumerate(data.folders, 1):
        is_class = one.kind == "class"
        source = Source(
            Path(one.folder),
            f"data.folders {number}",
            one.repeats,
            one.weight,
            "" if is_class else one.trigger or data.trigger,
            one.template or data.template,
            is_class,
            config.prior.prompt if is_class else "",
        )
        sources.append(source)
    return read_folders(sources, reading, balance=data.balance)


def _placed(
    config: RunConfig, files: base_files.BaseFiles, place: DeviceSpec
) -> base_storage.Chosen:
    """Where the base goes and how it is kept there: as before where the run goes on, for another
    storage is another base.

    Raises ConfigError where the settings now want another one.
    """
    found = None
    if config.save.resume != "anew":
        found, _ = checkpoint.newest(config.run_folder / "checkpoints")
    earlier = found.state.get("storage", "") if found else None
    chosen = base_storage.chosen(config, files, place, earlier)
    if earlier is not None and config.save.resume == "exact":
        changed = resume.changed_storage(earlier, chosen.place.storage)
        if changed:
            raise ConfigError(resume.refusal(config.run_folder, changed))
    return chosen


def check_patterns(config: RunConfig, files: base_files.BaseFiles) -> None:
    """Refuse patterns that fit no layer of the base. Raises ConfigError."""
    adapter = config.adapter
    if not (adapter.only or adapter.without or adapter.ranks):
        return
    network = loader.outline(files, files.family.denoiser)
    names = chosen_modules(network, files.family.groups, adapter.targets)
    wrong = list(complaints(names, adapter.only, adapter.without, adapter.ranks))
    if wrong:
        raise ConfigError("\n".join(wrong))


def _start(config: RunConfig) -> Style | None:
    """The style to go on from.

    Raises StyleFileError when it cannot be, as far as that shows without the base.
    """
    if not config.adapter.start:
        return None
    style = read_style(Path(config.adapter.start).expanduser())
    largest = max((change.rank for change in style.modules.values()), default=0)
    highest = max([config.adapter.rank, *parsed_ranks(config.adapter.ranks).values()])
    if config.adapter.method == "lora" and largest > highest:
        raise StyleFileError(
            f"{config.adapter.start} has rank {largest}, this run {config.adapter.rank}. Set "
            f"adapter.rank to {largest} or more, or cut the style "
            "first: style-file resize."
        )
    return style


def base_record(files: base_files.BaseFiles) -> dict[str, Any]:
    """The content of a base, by which it is known again wherever it lies."""
    family = files.family
    parts = {part: loader.part_hash(files, part) for part in ("vae", *family.text_encoders)}
    return {"base": loader.part_hash(files, family.denoiser), "base_parts": parts}


def check_same_run(
    config: RunConfig, dataset: Dataset | None = None, files: base_files.BaseFiles | None = None
) -> None:
    """Refuse to go on with a run that was begun with other settings or pictures, naming each;
    save.resume may say otherwise.
    """
    try:
        if config.run_folder.exists() and not config.run_folder.is_dir():
            raise ConfigError(
                f"{config.run_folder} is a file where the run's folder should be. Choose "
                "another save.name."
            )
        if config.save.resume != "exact":
            return
        if (config.run_folder / "run.toml").is_file():
            read_toml(
                config.run_folder / "run.toml"
            )  # what cannot be read may be someone's work: it is not written over
        found, _ = checkpoint.newest(config.run_folder / "checkpoints")
    except OSError as error:
        raise SpaceError(
            f"save.folder leads to {config.run_folder}, which cannot be looked at "
            f"({cause(error)}). {advice(error)}"
        ) from None
    if found is None:
        return
    then, settings = found.state["settings"], resume.settings_record(config)
    changed = resume.changed_settings(then, settings)
    if files is not None and resume.moved(then, settings):
        changed += resume.changed_base(found.state, {"settings": settings, **base_record(files)})
    if changed:
        raise ConfigError(resume.refusal(config.run_folder, changed))
    if dataset is not None:
        check_same_pictures(
            config,
            resume.changed_pictures(
                found.state["pictures"], resume.pictures_record(dataset.examples)
            ),
        )


def check_same_pictures(config: RunConfig, changed: list[str]) -> None:
    if changed:
        raise DataError(resume.refusal(config.run_folder, changed))


def check_resolution(config: RunConfig, files: base_files.BaseFiles) -> None:
    """Refuse a data.resolution that the base's networks cannot halve as often as they must."""
    own, multiple = loader.sides(files)
    side = config.data.resolution or own
    if side < multiple or side % multiple:
        near = max(multiple, round(side / multiple) * multiple)
        raise ConfigError(
            f"data.resolution is {side} px, a multiple of {multiple} was expected for "
            f"{files.title}. Try {near}."
        )


def check_targets(config: RunConfig, files: base_files.BaseFiles) -> None:
    """Refuse settings by which a base's layers would not be trained, or its words not be learnt."""
    family, adapter = files.family, config.adapter
    if not set(adapter.targets) & set(family.groups):
        raise ConfigError(
            f"adapter.targets names {', '.join(adapter.targets)}, of which {family.title} has "
            f"none. It has {', '.join(family.groups)}."
        )
    if family.text_groups:
        return
    if adapter.tokens:
        raise ConfigError(
            f"adapter.tokens is {adapter.tokens}, and the text encoders of {family.title} are not "
            "trained, so they learn no words. Set adapter.tokens to 0."
        )
    if config.base.clip_skip or config.base.text_pieces != 1:
        raise ConfigError(
            "base.clip_skip and base.text_pieces are for Stable Diffusion's text encoders: of "
            f"{family.title} set them to 0 and 1."
        )
    if not config.optim.unet_lr:
        raise ConfigError(
            f"optim.unet_lr is 0, and of {family.title} the transformer alone is trained. Set it "
            "above 0."
        )


def check_noise(config: RunConfig, files: base_files.BaseFiles) -> None:
    """Refuse settings of noise schedules for a base that is trained by flow matching; a run that
    was begun with them goes on. Raises ConfigError.
    """
    if files.family.flow is None:
        return
    found, _ = checkpoint.newest(config.run_folder / "checkpoints")
    usual = Optim()
    for key in OF_SCHEDULES if found is None or config.save.resume == "anew" else ():
        value, default = (getattr(optim, key) for optim in (config.optim, usual))
        if value not in (0, default):
            raise ConfigError(
                f"optim.{key} is {value}, which is for noise schedules such as Stable Diffusion's: "
                f"{files.family.title} is trained by flow matching. Leave it at {default}; which "
                "levels are learnt from is optim.timestep_bias."
            )


def _finished(config: RunConfig) -> int:
    from training.events import Finished, read

    if config.save.resume == "anew":
        return 0
    last = None
    for event in read(config.run_folder / "events.jsonl"):
        last = event if isinstance(event, Finished) else last
    if last is None or last.stopped or not (config.run_folder / last.path).exists():
        return 0
    return last.step
