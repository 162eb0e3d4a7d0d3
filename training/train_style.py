"""The headless command: `train_style.py [RUN.toml] [--section.key VALUE ...]`; `--sweep` trains
several styles. It prints and writes events.jsonl.

Paths in a TOML file are relative to that file; paths in flags and save.folder are relative to where
the command is run.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):  # run as a file: the clone's root is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from training import events
from training.config.loading import from_mapping, nearest, read_toml, with_overrides
from training.config.presets import LENGTHS, PRESETS, STRENGTHS, settings_of
from training.config.schema import RunConfig
from training.config.settings import Setting, settings
from training.errors import BusyError, ConfigError, StudioError

if TYPE_CHECKING:
    from training.runtime.distributed import ProcessGroup

RANK = int(
    os.environ.get("RANK", "0")
)  # of several processes that a launcher started; 0 also alone
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


class Parser(argparse.ArgumentParser):
    """argparse that complains as the rest of the project does."""

    def error(self, message: str) -> None:
        raise ConfigError(f"{message}. See train_style.py --help.")


def parser() -> Parser:
    made = Parser(
        prog="train_style.py",
        description="Train a style: a LoRA for Stable Diffusion, from a folder of pictures.",
        allow_abbrev=False,
    )
    made.add_argument(
        "file", nargs="?", metavar="RUN.toml", help="settings; a flag overrides what stands in it"
    )
    made.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything, measure two updates, print the plan and stop",
    )
    made.add_argument(
        "--report",
        action="store_true",
        help="make the style report of a run that was trained before, and stop",
    )
    made.add_argument(
        "--sweep",
        action="store_true",
        help="train all that [[styles]] or [grid] of the file stand for, compare and rank them",
    )
    purposes = "; ".join(f"{name}: {preset.purpose}" for name, preset in PRESETS.items())
    made.add_argument(
        "--preset",
        metavar="NAME",
        help=f"where to start from ({purposes}); the file and the flags win over it",
    )
    made.add_argument(
        "--length",
        metavar="WORD",
        default="normal",
        help=f"of a preset: {', '.join(LENGTHS)} (default: normal)",
    )
    made.add_argument(
        "--strength",
        metavar="WORD",
        default="normal",
        help=f"of a preset: {', '.join(STRENGTHS)} (default: normal)",
    )
    sections: dict[str, Any] = {}
    for s in settings():
        group = sections.setdefault(
            s.section, made.add_argument_group(s.section) if s.section not in sections else None
        )
        unit = f" [{s.unit}]" if s.unit else ""
        shown = " ".join(s.default) if s.kind is list else s.default
        default = f" (default: {shown})" if shown not in ("", None) else ""
        text = f"{s.help}{unit}{default}".replace("%", "%%")
        group.add_argument(
            f"--{s.key}",
            dest=s.key,
            nargs="*" if s.kind is list else None,
            metavar=_metavar(s),
            help=text,
            default=argparse.SUPPRESS,
        )
    return made


def _metavar(s: Setting) -> str:
    if s.choices and s.kind is not list:
        return "{" + ",".join(s.choices) + "}"
    return {str: "TEXT", int: "N", float: "X", bool: "{on,off}", list: "ITEM"}[s.kind]


def sweep_from(argv: list[str]) -> tuple[list[RunConfig], bool]:
    """The configs of a sweep's file, and whether only its plan is wanted; flags win over what all
    of them share. Raises ConfigError.
    """
    from training.cli.sweep import styles_of

    found, unknown = parser().parse_known_args(argv)
    by_key = {s.key: s for s in settings()}
    if unknown:
        raise ConfigError(f"{unknown[0]!r} belongs to no flag. See train_style.py --help.")
    if not found.file or found.preset is not None or found.report:
        raise ConfigError(
            "--sweep takes a file, SWEEP.toml, flags of settings and --dry-run; no --preset or "
            "--report."
        )
    folder = Path(found.file).resolve().parent
    tables = _absolute(read_toml(Path(found.file)), folder)
    styles = tables.get("styles")
    tables |= (
        {"styles": [_absolute(one, folder) if isinstance(one, dict) else one for one in styles]}
        if isinstance(styles, list)
        else {}
    )
    flags = {key: _value(by_key[key], value) for key, value in vars(found).items() if key in by_key}
    return styles_of(with_overrides(tables, _absolute_flags(flags)), found.file), found.dry_run


def config_from(argv: list[str]) -> tuple[RunConfig, argparse.Namespace]:
    """Return the config, and what to do with it (dry_run, report).

    Raises ConfigError with everything that is wrong.
    """
    made = parser()
    found, unknown = made.parse_known_args(argv)
    known = [s.key for s in settings()]
    strange = [word.split("=")[0].lstrip("-") for word in unknown if word.startswith("-")]
    if strange:
        raise ConfigError(
            "\n".join(f"--{word} is not a setting{nearest(word, known)}" for word in strange)
        )
    if unknown:
        raise ConfigError(
            f"{unknown[0]!r} belongs to no flag. Put names with spaces in quotes; see "
            "train_style.py --help."
        )
    by_key = {s.key: s for s in settings()}
    flags = {key: _value(by_key[key], value) for key, value in vars(found).items() if key in by_key}
    tables = (
        _absolute(read_toml(Path(found.file)), Path(found.file).resolve().parent)
        if found.file
        else {}
    )
    given = with_overrides(tables, _absolute_flags(flags))
    if found.preset is None and (found.length, found.strength) != ("normal", "normal"):
        raise ConfigError(
            "--length and --strength are knobs of a preset: give --preset too, or set "
            "optim.steps, optim.unet_lr and the rest."
        )
    if found.preset is not None:
        base = given.get("base")
        model = base.get("model", "mini") if isinstance(base, dict) else "mini"
        start = with_overrides(
            {}, settings_of(found.preset, model=model, length=found.length, strength=found.strength)
        )
        given = start | {
            s: start.get(s, {}) | v if isinstance(v, dict) else v for s, v in given.items()
        }
    return from_mapping(given, found.file or "the flags"), found


def _value(s: Setting, text: Any) -> Any:
    """A flag's text as the setting's type; what cannot be one stays text, so that the check names
    it.
    """
    if (s.kind is bool or "on" in s.choices) and isinstance(text, str):
        return True if text.lower() in TRUE else False if text.lower() in FALSE else text
    if s.kind in (int, float):
        try:
            return s.kind(text)
        except ValueError:
            return text
    return text


def _absolute(tables: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Paths of a TOML file seen from its own folder, so that it works from anywhere."""
    for section, name in (
        ("data", "folder"),
        ("prior", "folder"),
        ("report", "held_out"),
        ("base", "model"),
    ):
        values = tables.get(section)
        if isinstance(values, dict) and isinstance(path := values.get(name), str):
            values[name] = _seen_from(folder, path, is_model=section == "base")
    return tables


def _absolute_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Paths seen from where the command is run, so that the run.toml that is written works from
    anywhere.
    """
    made = dict(flags)
    for key in ("data.folder", "prior.folder", "report.held_out", "base.model"):
        if key in made:
            made[key] = _seen_from(Path.cwd(), made[key], is_model=key == "base.model")
    return made


def _seen_from(folder: Path, path: str, *, is_model: bool) -> str:
    """The absolute path; what may be a built-in name or a hub id, and what no path can be, stays as
    it is for the checks to judge.
    """
    if not path or "\0" in path or (is_model and path == "mini"):
        return path
    try:
        absolute = (folder / Path(path).expanduser()).resolve()
        stays = is_model and not path.startswith((".", "~")) and not absolute.exists()
    except (RuntimeError, OSError):  # ~ of nobody, links in a circle, a name that is too long
        return path
    return path if stays else str(absolute)


class Interrupts:
    """The first Ctrl-C or SIGTERM asks the run to save and leave; the second leaves at once."""

    def __init__(self) -> None:
        self.asked = False
        for kind in (signal.SIGINT, signal.SIGTERM):
            signal.signal(kind, self._heard)

    def _heard(self, kind: int, frame: object) -> None:
        if self.asked:
            os._exit(128 + kind)
        self.asked = True
        message = (
            b"\nStopping after this update: saving and writing the style. Once more leaves "
            b"at once.\n"
        )
        with contextlib.suppress(
            OSError
        ):  # not print: the signal may have come in the middle of one
            os.write(2, message)

    def __call__(self) -> bool:
        return self.asked


def recorded(stream: Iterable[events.Event], folder: Path) -> Iterator[events.Event]:
    """Append each event to folder/events.jsonl before passing it on.

    A full disk does not end the training; it is told once.
    """
    warned = False
    for event in stream:
        try:
            events.append(folder / "events.jsonl", event)
        except OSError as error:
            if not warned:
                print(
                    f"{folder / 'events.jsonl'} cannot be written ({error.strerror}): the "
                    "training goes on without it.",
                    file=sys.stderr,
                )
            warned = True
        yield event


def run(config: RunConfig, world: ProcessGroup) -> int:
    """Train, show and record; of several processes the first one does the latter two.

    Returns the exit code.
    """
    from training.cli.terminal import show

    stop = Interrupts()
    begun, saved = False, 0

    def watched() -> Iterator[events.Event]:
        nonlocal begun, saved
        from training.trainer.loop import train

        for event in train(config, stop, world):
            begun = begun or isinstance(event, events.Started)
            saved = event.step if isinstance(event, events.Saved) else saved
            yield event

    try:
        if world.writes:
            show(recorded(watched(), config.run_folder), config.run_folder)
        else:
            collections.deque(watched(), maxlen=0)
    except BusyError as error:  # the run's events are another process's
        print(error, file=sys.stderr)
        return error.exit_code
    except StudioError as error:
        _fail(config, str(error), saved, begun, passing=error.passing, writes=world.writes)
        return 1 if begun else error.exit_code
    except (
        Exception
    ):  # the process edge: a defect of ours or of a library, told without a wall of code
        where = _kept(
            config.run_folder / ("crash.txt" if world.writes else f"crash-{world.rank}.txt"),
            traceback.format_exc(),
        )
        message = (
            f"something went wrong that should not have: {sys.exc_info()[1]}. Details: "
            f"{where}. Run the same command again to go on."
        )
        _fail(config, message, saved, begun, passing=True, writes=world.writes)
        return 1
    return 0


def report(config: RunConfig) -> int:
    """Judge the style files of a run that was trained before. Returns the exit code."""
    from training.trainer.loop import reported
    from training.trainer.plan import planned

    if not (config.run_folder / f"{config.save.name}.safetensors").exists():
        raise ConfigError(
            f"{config.run_folder} holds no finished style to report on. Train it first: the "
            "same command without --report."
        )
    code = 0
    for event in reported(planned(config), Interrupts(), minutes=math.inf):
        print(event.message, flush=True)
        code = 1 if isinstance(event, events.Warned) else code
    return code


def _joined(device: str) -> contextlib.AbstractContextManager[ProcessGroup]:
    """The processes that a launcher started with this one."""
    from training.runtime.distributed import joined

    return joined(device)


def _kept(report: Path, text: str) -> str:
    try:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(text, encoding="utf-8")
    except OSError:
        return text
    return str(report)


def _fail(
    config: RunConfig, message: str, saved: int, begun: bool, *, passing: bool, writes: bool
) -> None:
    message += f" Saved so far: {saved} updates." if saved else ""
    if writes and (begun or _is_open(config.run_folder)):  # a page may be waiting for a word
        list(recorded([events.Failed(message, saved, passing)], config.run_folder))
    print(message, file=sys.stderr)


def _is_open(folder: Path) -> bool:
    """Whether a run was begun there and has not finished."""
    last = None
    try:
        for event in events.read(folder / "events.jsonl"):
            last = event
        return (folder / "events.jsonl").exists() and not isinstance(last, events.Finished)
    except OSError:  # a name that is too long
        return False


def main(argv: list[str] | None = None) -> int:
    began = time.time()
    try:
        argv = sys.argv[1:] if argv is None else argv
        if "--sweep" in argv:
            from training.cli import sweep

            configs, only_plan = sweep_from(argv)
            if only_plan:
                from training.cli.dry_run import print_sweep

                if not RANK:  # the first process does it alone
                    print_sweep(configs, began)
                return 0
            with _joined(configs[0].base.device) as world:
                return sweep.run(configs, Interrupts(), world)
        config, wanted = config_from(argv)
        if (wanted.report or wanted.dry_run) and RANK:
            return 0  # the first process does these alone
        if wanted.report:
            return report(config)
        if wanted.dry_run:
            from training.cli.dry_run import print_plan

            print_plan(config, began)
            return 0
        with _joined(config.base.device) as world:
            return run(config, world)
    except StudioError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except (
        KeyboardInterrupt
    ):  # before a run listens for it, or in a dry run: there is nothing to save
        return 130


if __name__ == "__main__":
    sys.exit(main())
