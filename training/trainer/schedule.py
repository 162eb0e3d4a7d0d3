"""What styles that are trained together keep beside their checkpoints, so that each goes on beside
the same others. Knows no torch.

The shapes of a whole pass decide how its sums are rounded. So a style's bits depend on who goes
through the base with it: not on what the others have learnt, but on how many they are and of what
rank. The passes of a joint schedule are counted in turns; which styles share it, how many go in one
pass and which goes alone is written into the folder of each before the first pass that it decides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from training.config.places import without_places
from training.config.schema import RunConfig
from training.errors import SpaceError
from training.storage.disk_errors import advice, cause
from training.storage.paths import read_regular, write_whole
from training.trainer import resume

FILE = "company.json"  # the joint schedule, in the folder of each style


@dataclass
class JointSchedule:
    """Keys of members are their places in the sweep.

    began: a member's pass in turn 0; settings: hash of what it is trained with; paces: size of
    latents -> styles in one pass -> seconds of one's share, None when they did not fit into memory;
    alone: a member's first turn outside of the others' passes; threads: turn -> threads of the CPU
    from it on, where not as the process began.
    """

    began: dict[int, int]
    settings: dict[int, str]
    paces: dict[int, dict[int, float | None]] = field(default_factory=dict)
    alone: dict[int, int] = field(default_factory=dict)
    threads: dict[int, int] = field(default_factory=dict)


def founded(configs: Sequence[RunConfig], passes: Mapping[int, int]) -> JointSchedule:
    """A new one. passes: place of every member -> its next pass."""
    return JointSchedule(dict(passes), {i: _settings(configs[i]) for i in passes})


def found(configs: Sequence[RunConfig], here: Sequence[int]) -> JointSchedule | None:
    """The joint schedule that the styles at the places `here` were left in; None when it is not the
    same for all of them, or not of these configs.
    """
    kept = {i: _read(config.run_folder / FILE) for i, config in enumerate(configs)}
    same = next(
        (
            joint_schedule
            for i, joint_schedule in kept.items()
            if joint_schedule and i in joint_schedule.began
        ),
        None,
    )
    if same is None or not set(here) <= set(same.began) <= set(kept):
        return None
    for i in same.began:
        other = kept[i]
        if (
            other is None
            or (other.began, other.settings) != (same.began, same.settings)
            or same.settings[i] not in _known_settings(configs[i])
        ):
            return None
    return same  # the first member's: it is written first, so it knows most


def write(joint_schedule: JointSchedule, configs: Sequence[RunConfig]) -> None:
    """Keep it in every member's folder, the first one's first. Raises SpaceError."""
    text = json.dumps(asdict(joint_schedule))
    for i in sorted(joint_schedule.began):
        write_whole(configs[i].run_folder / FILE, text)


def left(folder: Path) -> bool:
    """Forget the joint schedule of a style that goes on without it; whether there was one.

    Raises SpaceError.
    """
    try:
        (folder / FILE).unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise SpaceError(
            f"{folder / FILE} cannot be deleted ({cause(error)}). "
            f"{advice(error, 'delete it by hand')}"
        ) from error
    return True


def _settings(config: RunConfig) -> str:
    return _hash({"name": config.save.name, **without_places(resume.settings_record(config))})


def _known_settings(config: RunConfig) -> tuple[str, ...]:
    """As this version writes it, and as earlier ones did."""
    return _settings(config), _settings_with_rest(config), _settings_with_places(config)


def _settings_with_rest(config: RunConfig) -> str:
    record = resume.settings_record(config)
    rest = {"base.rest": record["base.rest"]}
    return _hash({"name": config.save.name, **without_places(record), **rest})


def _settings_with_places(config: RunConfig) -> str:
    record = resume.settings_record(config)
    del record["base.assistant"]  # younger than these records
    return _hash({"name": config.save.name, **record})


def _hash(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> JointSchedule | None:
    """None for a file that is not there or not one of these."""
    try:
        record = json.loads(read_regular(path))
        paces = {
            int(size): {int(count): _seconds(took) for count, took in pace.items()}
            for size, pace in record["paces"].items()
        }
        settings = {int(i): str(value) for i, value in record["settings"].items()}
        began, alone = _integers(record["began"]), _integers(record["alone"])
        threads = _integers(record.get("threads", {}))
        if any(count < 1 for count in threads.values()):
            return None
        return JointSchedule(began, settings, paces, alone, threads)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _integers(table: Any) -> dict[int, int]:
    return {int(key): int(value) for key, value in table.items()}


def _seconds(value: Any) -> float | None:
    return None if value is None else float(value)
