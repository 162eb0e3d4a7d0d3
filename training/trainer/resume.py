"""What a run must share with its checkpoint to go on as if it had never stopped, and a list of all
that differs. Knows no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from training.config.loading import FREE_TO_CHANGE
from training.config.places import BASE, PLACES
from training.config.schema import RunConfig
from training.config.section import Section
from training.config.settings import settings
from training.data.dataset import Example
from training.errors import SpaceError
from training.storage.disk_errors import advice, cause
from training.system import file_system
from training.trainer import microbatching

STORAGE = "base.storage"
MOST = 5  # file names in one sentence
OF_A_RUN = (
    "checkpoints",
    "previews",
    "class_pictures",
    "words",
    "company.json",
    "events.jsonl",
    microbatching.FILE,
    "threads.json",
)


def settings_record(config: RunConfig) -> dict[str, Any]:
    """The settings that decide what is learnt, by dotted key."""
    return {
        s.key: _recorded(getattr(getattr(config, s.section), s.name))
        for s in settings()
        if not {s.section, s.key} & FREE_TO_CHANGE
    }


def _recorded(value: Any) -> Any:
    """Tables as they can be written down, without where their folders lie."""
    if isinstance(value, list):
        return [_recorded(one) for one in value]
    return value.model_dump(exclude={"folder"}) if isinstance(value, Section) else value


def pictures_record(examples: Sequence[Example]) -> list[list[str]]:
    """Name, hash of the content and hash of the caption of every picture, in order; the captions
    themselves are not kept.
    """
    return [
        [e.recorded, e.identity, hashlib.sha256(e.words.encode()).hexdigest()] for e in examples
    ]


def changed_settings(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A sentence for every setting that differs; one that an earlier version did not have counts as
    its default, and of a place only whether there is one.
    """
    defaults = {s.key: s.default for s in settings()}
    before = {key: then.get(key, defaults[key]) for key in now}
    return [
        f"{key}: {before[key]!r} then, {value!r} now"
        for key, value in now.items()
        if before[key] != value
        and key not in BASE  # its content counts: see changed_base
        and not (key in PLACES and before[key] and value)
        and key != STORAGE  # what came of it counts: see changed_storage
    ]


def changed_storage(then: str, now: str) -> list[str]:
    """Whether the base is kept otherwise. As training.runtime.device.DeviceSpec names it, "" for
    its precision.
    """
    before, after = (name or "the precision itself" for name in (then, now))
    return [] if then == now else [f"{STORAGE}: {before} then, {after} now"]


def changed_base(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of the base is another than the one this state was written with, wherever it lies."""
    if then["base"] != now["base"]:
        return ["the weights of the base"]
    if "base_parts" not in then:  # written by an earlier version, which knew only the UNet
        before, after = then["settings"], now["settings"]
        return [
            f"{key}: {before.get(key)!r} then, {after[key]!r} now" for key in moved(before, after)
        ]
    known = then["base_parts"]
    differing = [part for part, found in now["base_parts"].items() if known.get(part) != found]
    return [f"the weights of the base ({', '.join(differing)})"] if differing else []


def moved(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings that name another place of the base. then, now: by dotted key."""
    return [key for key in BASE if then.get(key, "") != now.get(key, "")]


def changed_start(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Whether the style that the adapters began as is another one."""
    before, after = (one["settings"].get("adapter.start", "") for one in (then, now))
    if before == after or not before or not after:
        return []
    if "start" in then:
        same = then["start"] == now["start"]
    else:  # written by an earlier version, which looked for it from where it was run
        same = PurePath(before).name == PurePath(after).name
    return [] if same else [f"adapter.start: {before!r} then, {after!r} now"]


def changed_assistant(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Whether another assistant is active, wherever its file lies."""
    before, after = then.get("assistant", ""), now["assistant"]
    return ["the content of base.assistant"] if before and after and before != after else []


def changed_pictures(
    then: Sequence[Sequence[str]], now: Sequence[Sequence[str]], kind: str = "picture"
) -> list[str]:
    """What was added, taken away or changed, one sentence each."""
    before, after = ({name: rest for name, *rest in pictures} for pictures in (then, now))
    common = [name for name in after if name in before]
    found = {
        f"{kind}s that were not there": [name for name in after if name not in before],
        f"{kind}s that are gone": [name for name in before if name not in after],
        f"{kind}s that were changed": [
            name for name in common if before[name][0] != after[name][0]
        ],
        "captions that were changed": [
            name for name in common if before[name][1] != after[name][1]
        ],
    }
    changes = [
        f"{what}: "
        f"{', '.join(names[:MOST])}{f' and {len(names) - MOST} more' if len(names) > MOST else ''}"
        for what, names in found.items()
        if names
    ]
    if not changes and list(before) != list(after):
        return [f"the order of the {kind}s"]
    return changes


def changed_place(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of the machine differs, so that sums may round otherwise."""
    return [
        f"{what} was {then[what]}, now it is {value}"
        for what, value in now.items()
        if then.get(what, value) != value
    ]


def refusal(folder: Path, differences: Sequence[str]) -> str:
    """The message to the user when a run may not go on."""
    lines = [
        f"{folder} holds a run that was started with other settings or pictures:",
        *(f"  - {line}" for line in differences),
    ]
    advice = (
        "Restore them to resume it, or choose another save.name for a new run. "
        "--save.resume adapt resumes with things as they are now, "
        "--save.resume anew sets the earlier work aside and starts over."
    )
    return "\n".join([*lines, advice])


def put_aside(folder: Path, name: str) -> Path | None:
    """Move what a run made into folder/earlier-1 (or -2, ...) and return that; None when there was
    nothing. Raises SpaceError.
    """
    made = [
        folder / part for part in (*OF_A_RUN, f"{name}.safetensors") if (folder / part).exists()
    ]
    if not made:
        return None
    number = 1
    while (folder / f"earlier-{number}").exists():
        number += 1
    aside = folder / f"earlier-{number}"
    try:
        aside.mkdir()
        for path in made:
            file_system.rename(path, aside / path.name)
    except OSError as error:
        raise SpaceError(
            f"the earlier work in {folder} cannot be set aside ({cause(error)}). {advice(error)}"
        ) from error
    return aside
