"""Settings <-> the Train tab's form. Values go in and out by the setting's key; no components."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studio.datasets import base_info, store
from studio.library import library, sample_project
from studio.page import forms
from studio.processes import process
from training.config.loading import from_mapping
from training.config.presets import LENGTHS, PRESETS, STRENGTHS, settings_of
from training.config.schema import RunConfig
from training.config.settings import settings
from training.errors import ConfigError, DataError, ModelError
from training.storage.paths import Workspace

# Settings that presets choose by the base
OF_THE_BASE = tuple(sorted({key for preset in PRESETS.values() for key in preset.mini}))


def config_of(workspace: Workspace, dataset: str | None, values: dict[str, Any]) -> RunConfig:
    """The form's settings with the folders that are the page's.

    Raises ConfigError that lists what is wrong, also where there is no such base, and DataError
    without pictures.
    """
    folder = store.folder(workspace, dataset or "")
    if not store.pictures(folder):
        raise DataError(
            f"The dataset {folder.name} has no pictures yet. Add some in Dataset first."
        )
    mapping = forms.to_mapping(tuple(values), tuple(values.values()))
    mapping["data"]["folder"] = str(folder)
    if mapping["prior"]["folder"]:  # seen from where the page was started, not from run.toml
        mapping["prior"]["folder"] = str(Path(mapping["prior"]["folder"]).expanduser().resolve())
    mapping["save"]["folder"] = str(workspace.runs())
    config = from_mapping(mapping, "the form")
    try:
        base_info.known(config.base.model)
    except ModelError as error:
        raise ConfigError(f"base.model: {error}") from None
    return config


def preset_values(name: str | None, length: str, strength: str, model: str) -> dict[str, Any]:
    """What changes in the form when a preset is chosen: its values, and defaults where only another
    preset says something.
    """
    if name is None:
        return {}
    chosen = settings_of(name, model=model, length=length, strength=strength)
    known = {key for preset in PRESETS.values() for key in (*preset.chosen, *preset.mini)}
    return {
        s.key: forms.shown(s, chosen.get(s.key, s.default)) for s in settings() if s.key in known
    }


def values_by_base() -> dict[str, Any]:
    """What presets choose of OF_THE_BASE for the built-in base and for others:

    preset -> length -> strength -> the two.
    """
    return {
        name: {
            length: {
                strength: [_of_the_base(name, length, strength, model) for model in ("mini", "")]
                for strength in STRENGTHS
            }
            for length in LENGTHS
        }
        for name in PRESETS
    }


def _of_the_base(name: str, length: str, strength: str, model: str) -> list[Any]:
    values = preset_values(name, length, strength, model)
    return [values[key] for key in OF_THE_BASE]


def first_values(workspace: Workspace) -> tuple[str | None, RunConfig]:
    """The preset and the settings that the form shows first:

    those of the user's newest run under a name that is free, or those of the first preset.
    """
    for name in library.runs(workspace):
        run = workspace.runs() / name
        if not sample_project.is_example_run(run):
            if (config := process.earlier(run)) is not None:
                return None, named(config, library.free_run_name(workspace, config.save.name))
            break
    preset, base = next(iter(PRESETS)), library.bases(workspace)[0]
    mapping: dict[str, dict[str, Any]] = {"base": {"model": base}}
    for key, value in settings_of(preset, model=base).items():
        section, _, name = key.partition(".")
        mapping.setdefault(section, {})[name] = value
    config = from_mapping(mapping)
    return preset, named(config, library.free_run_name(workspace, config.save.name))


def named(config: RunConfig, name: str) -> RunConfig:
    """The same settings under another name."""
    return config.model_copy(update={"save": config.save.model_copy(update={"name": name})})


def values_of(config: RunConfig) -> dict[str, Any]:
    """What the controls show for settings, by key."""
    keys = [s.key for s in settings()]
    return dict(zip(keys, forms.from_config(config, keys), strict=True))
