"""How the frozen weights of a run's base are kept in memory: as base.storage says, as the run's
earlier updates had them, or as the predicted memory leaves room for.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from training.config.schema import RunConfig
from training.errors import ConfigError, ModelError
from training.models import base_files, loader
from training.models.files import weights_of
from training.runtime import memory
from training.runtime.device import GIB, DeviceSpec
from training.runtime.memory import SPARE
from training.trainer.predicted_memory import predicted

PACKAGE = "bitsandbytes"  # of nf4
# Memory in which a base fits for certain: times the size of its files in the wanted precision, and
# GiB beside it
AMPLE, BESIDE = 1.5, 4.0
SMALLER = (0.75, 0.5)  # of the side, which are tried where a base does not fit at its own


class Chosen(NamedTuple):
    """The place with the storage in it, and what is worth saying of how it was chosen."""

    place: DeviceSpec
    note: str = ""


class Forecast(NamedTuple):
    """GiB that a training is predicted to take as its settings say, and that are free. storage,
    side: with which it would fit, the most exact and the largest; None and 0 where nothing does.
    """

    needed: float
    room: float
    storage: str | None
    side: int


def chosen(
    config: RunConfig, files: base_files.BaseFiles, place: DeviceSpec, earlier: str | None = None
) -> Chosen:
    """Choose how a run keeps its base. earlier: how its checkpoint was trained, None where there is
    none.

    Raises ConfigError where the wanted storage needs a package that is not there.
    """
    wanted = config.base.storage
    if wanted == "auto" and earlier is None:
        return _by_memory(config, files, place)
    storage = earlier if wanted == "auto" else _sensible(wanted, place)
    check_package(storage or "")
    return Chosen(replace(place, storage=storage))


def forecast(config: RunConfig, files: base_files.BaseFiles, place: DeviceSpec) -> Forecast:
    """Predict whether a training fits its device, and how it would. Nothing is loaded.

    Raises ModelError where the base's configs do not describe it.
    """
    room, outlines = (1 - SPARE) * memory.free(place.device), dict[str, nn.Module]()
    own, grid = loader.sides(files)
    side, wanted = config.data.resolution or own, _sensible(config.base.storage, place)

    def peak(storage: str, side: int) -> float:
        data = config.data.model_copy(update={"resolution": side})
        there = config.model_copy(update={"data": data})
        return predicted(there, files, replace(place, storage=storage), outlines).peak

    kept = {storage: peak(storage, side) for storage in ladder(place)}
    fitting = next((storage for storage, needed in kept.items() if needed <= room), None)
    smallest = [*kept][-1]
    needed = kept[smallest if fitting is None else fitting]
    if wanted != "auto":
        needed = kept[wanted] if wanted in kept else peak(wanted, side)
        fitting = wanted if needed <= room else fitting
    if fitting is not None:
        return Forecast(needed, room, fitting, side)
    for share in SMALLER:
        smaller = max(grid, int(side * share) // grid * grid)
        if smaller < side and peak(smallest, smaller) <= room:
            return Forecast(needed, room, smallest, smaller)
    return Forecast(needed, room, None, 0)


def _sensible(wanted: str, place: DeviceSpec) -> str:
    """Weights of 16 bits are kept in 16 bits as they are."""
    return "" if wanted == "bfloat16" and place.dtype.itemsize <= 2 else wanted


def check_package(storage: str) -> None:
    if storage == "nf4" and not has_nf4():
        raise ConfigError(
            f"base.storage = nf4 needs the package {PACKAGE}, which is not installed: pip install "
            "'style-studio[nf4]', or set base.storage = int8, which needs none."
        )


def has_nf4() -> bool:
    """Whether the package is there that makes nf4."""
    return importlib.util.find_spec(PACKAGE) is not None


def ladder(place: DeviceSpec) -> Iterator[str]:
    """Storages from the most exact to the smallest; "" is the precision itself."""
    yield ""
    if place.dtype == torch.float32:
        yield "bfloat16"
    yield "int8"
    if has_nf4():
        yield "nf4"


def _by_memory(config: RunConfig, files: base_files.BaseFiles, place: DeviceSpec) -> Chosen:
    """The most exact storage that is predicted to fit; the precision itself where none is, for a
    prediction is none that forbids to try.
    """
    room = (1 - SPARE) * memory.free(place.device)
    if AMPLE * _size(files, place) + BESIDE <= room:
        return Chosen(place)
    whole, outlines = 0.0, dict[str, nn.Module]()
    for storage in ladder(place):
        there = replace(place, storage=storage)
        try:
            needed = predicted(config, files, there, outlines).peak
        except ModelError:  # which loading the base will tell
            return Chosen(place)
        whole = whole or needed
        if needed <= room:
            note = (
                f"the weights of {files.title} are kept as {storage}: in {place.precision} a "
                f"training would take about {whole:.1f} GiB of the {room:.1f} that there are, so "
                f"it takes about {needed:.1f} (base.storage = auto)"
            )
            return Chosen(there, note if storage else "")
    return Chosen(place)


def _size(files: base_files.BaseFiles, place: DeviceSpec) -> float:
    """GiB of the base's files, as if they were of 16 bits, in the wanted precision: at least what
    its weights take.
    """
    found = 0
    for part in files.family.classes:
        paths: list[Path] = weights_of(files.folder / part, files.title)[0]
        found += sum(path.stat().st_size for path in paths)
    return found / 2 * place.dtype.itemsize / GIB
