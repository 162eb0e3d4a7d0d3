"""Settings from TOML, flags and forms, checked: every complaint comes in one list."""

from __future__ import annotations

import contextlib
import difflib
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from training.config import tables
from training.config.addresses import address_complaint
from training.config.input_sections import Data
from training.config.layer_patterns import parsed_ranks
from training.config.places import PATHS, TABLES
from training.config.schema import RunConfig, json_schema
from training.config.section import Section
from training.config.settings import Setting, settings
from training.config.training_sections import Optim
from training.data.captions import WORD, names_in
from training.errors import ConfigError, SpaceError, StudioError, listed
from training.storage.disk_errors import not_read
from training.storage.paths import checked_name, read_regular, write_whole

PRODIGY_RATE = 0.01  # a smaller one was meant for another optimiser
LONGEST_SHOWN = 200  # characters of a wrong value in a complaint
SCHEMA_FILE = "run.schema.json"  # beside a run.toml that was written here


def from_mapping(found: Mapping[str, Any], source: str = "the settings") -> RunConfig:
    """Check every value and return the config.

    Raises one ConfigError that lists everything wrong, with the nearest known names.
    """
    try:
        config = RunConfig.model_validate(_lenient(found))
    except ValidationError as error:
        complaints = [_complaint(e) for e in error.errors()]
        raise _all_in_one(complaints, source) from None
    if complaints := list(_cross_checks(config)):
        raise _all_in_one(complaints, source)
    return config


def _all_in_one(complaints: Sequence[str], source: str) -> ConfigError:
    head = f"{len(complaints)} settings are wrong" if len(complaints) > 1 else "A setting is wrong"
    return ConfigError("\n".join([f"{head} in {source}:", *listed(complaints)]))


def _lenient(found: Mapping[str, Any]) -> dict[str, Any]:
    """TOML writes 1 for 1.0:

    let a whole number stand where a float is expected; everything else stays strict.
    """
    floats = {(s.section, s.name) for s in settings() if s.kind is float}
    lenient: dict[str, Any] = {}
    for section, values in found.items():
        if isinstance(values, Mapping):
            values = {
                k: _as_float(v) if (section, k) in floats and type(v) is int else v
                for k, v in values.items()
            }
            values = values | {
                s.name: tables.with_floats(values[s.name], s.table)
                for s in settings()
                if s.table and s.section == section and s.name in values
            }
        lenient[section] = values
    return lenient


def _as_float(whole: int) -> float:
    try:
        return float(whole)
    except OverflowError:  # TOML's integers have no end
        return math.inf if whole > 0 else -math.inf


def _complaint(error: Mapping[str, Any]) -> str:
    place = error["loc"]
    if len(place) > 2 and (found := tables.setting_at(place)) and found.table:
        return _complaint_of_table(error, found.table)
    where = ".".join(str(part) for part in place)
    value = error.get("input")
    if error["type"] == "extra_forbidden":
        known = [s.key for s in settings()] if "." in where else list(RunConfig.model_fields)
        return f"{where} is not a setting{nearest(where, known)}"
    if error["type"] in ("model_type", "model_attributes_type"):
        return (
            f"{where} is {_shown(value)}, a section of settings was expected: [{where}] "
            "with its settings below"
        )
    return f"{where} is {_shown(value)}: {_expected(where, error)}"


def _complaint_of_table(error: Mapping[str, Any], table: type[Section]) -> str:
    place, value = error["loc"], error.get("input")
    where = tables.named(place)
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(place[-1]), list(table.model_fields), 1, 0.5)
        hint = f"did you mean {close[0]}?" if close else f"there is {', '.join(table.model_fields)}"
        return f"{where} is not a setting, {hint}"
    if len(place) == 3:
        return f'{where} is {_shown(value)}, a table was expected, such as {{folder = "drawings"}}'
    return f"{where} is {_shown(value)}: {_expected(where, error, tables.member(place))}"


NUMBERS = {int: "a whole number", float: "a number"}
OTHERS = {str: "text", bool: "true or false", list: "a list"}
DEVICES = (
    "auto, cpu, cuda, cuda:N, xpu, xpu:N or mps was expected"  # the one setting with a pattern
)


def _expected(where: str, error: Mapping[str, Any], setting: Setting | None = None) -> str:
    """What a setting takes, in words, from its declaration. setting: the one in a table."""
    section, _, name = where.partition(".")
    key = ".".join((section, name.partition(".")[0]))  # also of one value in a list
    key, setting = (where, setting) if setting else (key, _declared(key))
    limits = error.get("ctx") or {}
    match error["type"]:
        case "string_too_long":
            return f"at most {limits['max_length']} characters were expected"
        case "string_too_short":
            return "it must not be empty"
        case "string_pattern_mismatch":
            return DEVICES
        case "greater_than":
            return f"a number above {limits['gt']:g} was expected"
        case "less_than":
            return f"a number below {limits['lt']:g} was expected"
    if setting is not None and setting.choices:
        return f"one of {', '.join(setting.choices)} was expected"
    if setting is not None and setting.kind in NUMBERS:
        return _number_expected(setting)
    if setting is not None and key == where:
        return f"{OTHERS[setting.kind]} was expected"
    message = error["msg"][0].lower() + error["msg"][1:]
    return message.replace("input should", "it should")


def _declared(key: str) -> Setting | None:
    return next((s for s in settings() if s.key == key), None)


def _number_expected(setting: Setting) -> str:
    number, low, high = NUMBERS[setting.kind], setting.low, setting.high
    if low is None:
        return f"{number} was expected"
    if high is None or high > 2**53:  # a seed: nobody needs to know where it ends
        return f"{number} of at least {low:g} was expected"
    end = f"{high:,}" if isinstance(high, int) else f"{high:g}"
    return f"{number} from {low:g} to {end} was expected"


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no integers of more than some thousand digits
        return "too large a number"
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."


def nearest(word: str, known: list[str]) -> str:
    """Return ", did you mean X?" for the closest known name, or a hint where to find them all."""
    same_name = [k for k in known if k.rsplit(".", 1)[-1] == word.rsplit(".", 1)[-1]]
    close = same_name or difflib.get_close_matches(word, known, 1, 0.5)
    return f", did you mean {close[0]}?" if close else "; train-style --help lists all of them"


def _cross_checks(config: RunConfig) -> Iterator[str]:
    """What no single field can know."""
    try:
        checked_name(config.save.name, "save.name")
    except StudioError as error:
        yield str(error)
    if config.optim.unet_lr == 0 and config.optim.text_encoder_lr == 0:
        yield (
            "optim.unet_lr and optim.text_encoder_lr are both 0, so nothing would be "
            "trained: set one above 0"
        )
    if config.prior.images and not config.prior.prompt:
        yield (
            f"prior.images is {config.prior.images} but prior.prompt is empty: say what the "
            "class pictures show, or set prior.images = 0"
        )
    if config.adapter.tokens and not re.fullmatch(WORD, config.data.trigger):
        yield (
            f"adapter.tokens is {config.adapter.tokens} but data.trigger is "
            f"{_shown(config.data.trigger)}: one word of letters, digits, _ and - was "
            "expected, which the new vectors belong to"
        )
    if config.save.webhook and (complaint := address_complaint(config.save.webhook)):
        yield f"save.webhook is {_shown(config.save.webhook)}: {complaint}"
    yield from _optimiser_complaints(config.optim)
    if config.adapter.method == "lokr":
        yield from _lokr_complaints(config)
    if config.adapter.method != "lora" and config.optim.up_ratio != 1:
        yield (
            f"optim.up_ratio is {config.optim.up_ratio:g} with adapter.method = "
            f"{config.adapter.method}, which has no up matrices: set it to 1"
        )
    try:
        parsed_ranks(config.adapter.ranks)
    except ValueError as error:
        yield f"adapter.ranks holds {error}"
    yield from _template_complaints(config.data)
    yield from _folder_complaints(config.data)
    for s in settings():
        yield from _text_complaints(s.key, getattr(getattr(config, s.section), s.name))


def _lokr_complaints(config: RunConfig) -> Iterator[str]:
    """Settings that mean nothing for two whole matrices."""
    if config.adapter.ranks:
        yield "adapter.ranks is of adapter.method = lora; LoKr has adapter.factor: leave it empty"
    if config.adapter.scale != "alpha_over_rank":
        yield (
            f"adapter.scale is {config.adapter.scale} with adapter.method = lokr, whose scale "
            "is 1: set it to alpha_over_rank"
        )


def _optimiser_complaints(optim: Optim) -> Iterator[str]:
    rates = {
        name: getattr(optim, name)
        for name in ("unet_lr", "text_encoder_lr", "token_lr")
        if getattr(optim, name)
    }
    if optim.method == "other" and not optim.other.strip():
        yield (
            "optim.other is empty with optim.method = other: the name of an installed optimiser "
            "was expected"
        )
    if optim.method == "prodigy":
        for name, rate in rates.items():
            if rate < PRODIGY_RATE and name != "token_lr":
                yield (
                    f"optim.{name} is {rate:g} with optim.method = prodigy, which finds the rate "
                    "itself and multiplies it with this: set it to 1"
                )
    if optim.method == "schedule-free":
        if optim.schedule != "constant":
            yield (
                f"optim.schedule is {optim.schedule} with optim.method = schedule-free, which has "
                "none: set it to constant"
            )
        if optim.ema:
            yield (
                f"optim.ema is {optim.ema:g} with optim.method = schedule-free, which averages "
                "itself: set it to 0"
            )


def _template_complaints(data: Data) -> Iterator[str]:
    try:
        filled_in = names_in(data.template)
    except StudioError as error:
        yield str(error)
        return
    if "caption" not in filled_in:
        yield (
            f"data.template is {data.template!r}: it must contain {{caption}}, or every "
            "picture would have the same words"
        )
    if data.trigger and "trigger" not in filled_in:
        yield (
            f"data.trigger is {data.trigger!r} but data.template has no {{trigger}}: add it, "
            "or clear the trigger"
        )


def _folder_complaints(data: Data) -> Iterator[str]:
    for number, one in enumerate(data.folders, 1):
        where = f"data.folders, table {number}"
        if data.balance and one.repeats != 1:
            yield (
                f"{where}, repeats is {one.repeats} with data.balance, which chooses repeats: "
                "leave it out, or turn data.balance off"
            )
        if one.kind == "class" and (one.trigger or one.template):
            yield (
                f"{where} holds class pictures, which are shown without a trigger: leave out its "
                "trigger and template"
            )
        elif one.trigger or one.template:
            own = {
                "trigger": one.trigger or data.trigger,
                "template": one.template or data.template,
            }
            for complaint in _template_complaints(data.model_copy(update=own)):
                yield f"{where}: {complaint}"


def _text_complaints(key: str, value: object) -> Iterator[str]:
    """What TOML, events and file names could not hold."""
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, Section):
            for found in tables.texts([text]):
                yield from _text_complaints(key, found)
        if not isinstance(text, str):
            continue
        if "\0" in text:
            yield f"{key} holds a NUL character: remove it"
        elif any(
            "\ud800" <= c <= "\udfff" for c in text
        ):  # how Python tells a command's bytes that are not UTF-8
            yield f"{key} is {_shown(text)}, which is not UTF-8: rename it, or write it again"
        elif key in (*PATHS, *TABLES) and text.startswith("~") and not _is_of_a_user(text):
            yield f"{key} is {text!r}: there is no user of that name. Write the whole path"


def _is_of_a_user(path: str) -> bool:
    try:
        Path(path).expanduser()
    except RuntimeError:
        return False
    return True


def read_toml(path: Path) -> dict[str, Any]:
    """Return the file's tables, unchecked. Raises ConfigError when it is not there or not TOML."""
    try:
        return tomllib.loads(read_regular(path).decode("utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path} is not there. Give a run.toml, or only flags; train-style --help shows them."
        ) from None
    except IsADirectoryError:
        raise ConfigError(
            f"{path} is a folder, a TOML file was expected. Give {path / 'run.toml'}, if that "
            "is what you meant."
        ) from None
    except (
        ValueError,
        RecursionError,
    ) as error:  # ValueError: not TOML, not UTF-8, or a number of thousands of digits
        raise ConfigError(
            f"{path} is not TOML ({error}). Look at that line, or start again from a run.toml "
            "that worked."
        ) from None
    except OSError as error:
        raise ConfigError(not_read(path, error)) from None


def with_overrides(found: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return found with values set by dotted key, `{"optim.steps":

    10}`; the originals stay as they are.
    """
    merged = {
        section: dict(values) if isinstance(values, Mapping) else values
        for section, values in found.items()
    }
    for key, value in overrides.items():
        section, name = key.split(".", 1)
        if isinstance(
            merged.setdefault(section, {}), dict
        ):  # else it is not a section, which the check will say
            merged[section][name] = value
    return merged


# Sections and settings that change what is shown, kept or held in memory, never what is learnt: a
# run may go on with other values of theirs
FREE_TO_CHANGE = {"preview", "report", "save", "optim.checkpointing"}


def changes(before: RunConfig, now: RunConfig) -> list[tuple[str, Any, Any]]:
    """Every setting that decides what is learnt and differs: (section.name, then, now)."""
    then, new = before.model_dump(), now.model_dump()
    decisive = [s for s in settings() if not {s.section, s.key} & FREE_TO_CHANGE]
    return [
        (s.key, then[s.section][s.name], new[s.section][s.name])
        for s in decisive
        if then[s.section][s.name] != new[s.section][s.name]
    ]


def to_toml(config: RunConfig) -> str:
    """Every setting, so that the file says all that decided the run."""
    return tomli_w.dumps(config.model_dump())


def write_run(config: RunConfig, folder: Path) -> None:
    """Write run.toml into a run's folder, and beside it the schema that its first line names, by
    which editors complete and check it. Raises SpaceError where there is no room for run.toml.
    """
    with contextlib.suppress(SpaceError):  # an editor's convenience
        write_whole(folder / SCHEMA_FILE, json_schema())
    write_whole(folder / "run.toml", f"#:schema ./{SCHEMA_FILE}\n{to_toml(config)}")
