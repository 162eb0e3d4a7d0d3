"""The arguments of `train-style`: a flag for every setting, presets, sweeps; argv -> config.

Paths in a TOML file are relative to that file; paths in flags and save.folder are relative to where
the command is run.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import Any, NoReturn

from training.cli.for_programs import EXIT_CODES, add_completion, add_schema
from training.config import tables
from training.config.loading import from_mapping, nearest, read_toml, with_overrides
from training.config.places import absolute, absolute_flags
from training.config.presets import LENGTHS, PRESETS, STRENGTHS, settings_of
from training.config.schema import RunConfig
from training.config.settings import Setting, settings
from training.errors import ConfigError

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


class WholeWords(argparse.HelpFormatter):
    """Ends no line within a word that has a hyphen, so that texts can be searched."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class Parser(argparse.ArgumentParser):
    """argparse that complains as the rest of the project does."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}. See train-style --help.")


def parser() -> Parser:
    made = Parser(
        prog="train-style",
        description="Train a style: a LoRA for Stable Diffusion, from a folder of pictures.",
        allow_abbrev=False,
        epilog=EXIT_CODES,
        formatter_class=WholeWords,
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
    made.add_argument(
        "--json",
        action="store_true",
        help="print events as lines of JSON instead of a bar and a plan as JSON",
    )
    add_schema(made)
    add_completion(made)
    _add_presets(made)
    _add_settings(made)
    return made


def _add_presets(made: Parser) -> None:
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


def _add_settings(made: Parser) -> None:
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


def _metavar(s: Setting) -> str:
    if s.choices and s.kind is not list:
        return "{" + ",".join(s.choices) + "}"
    if s.table:
        return "TABLE"
    return {str: "TEXT", int: "N", float: "X", bool: "{on,off}", list: "ITEM"}[s.kind]


def sweep_from(argv: list[str]) -> tuple[list[RunConfig], argparse.Namespace]:
    """The configs of a sweep's file, and what to do with them (dry_run, json); flags win over what
    all of them share. Raises ConfigError.
    """
    from training.cli.sweep import styles_of

    found, unknown = parser().parse_known_args(argv)
    by_key = {s.key: s for s in settings()}
    if unknown:
        raise ConfigError(f"{unknown[0]!r} belongs to no flag. See train-style --help.")
    if not found.file or found.preset is not None or found.report:
        raise ConfigError(
            "--sweep takes a file, SWEEP.toml, flags of settings and --dry-run; no --preset or "
            "--report."
        )
    given = read_toml(Path(found.file))
    flags = {
        key: parse_value(by_key[key], value) for key, value in vars(found).items() if key in by_key
    }
    given = with_overrides(given, absolute_flags(flags, Path.cwd()))
    return styles_of(given, found.file, Path(found.file).resolve().parent), found


def config_from(argv: list[str]) -> tuple[RunConfig, argparse.Namespace]:
    """Return the config, and what to do with it (dry_run, report, json).

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
            "train-style --help."
        )
    by_key = {s.key: s for s in settings()}
    flags = {
        key: parse_value(by_key[key], value) for key, value in vars(found).items() if key in by_key
    }
    given = (
        absolute(read_toml(Path(found.file)), Path(found.file).resolve().parent)
        if found.file
        else {}
    )
    given = with_overrides(given, absolute_flags(flags, Path.cwd()))
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


def parse_value(s: Setting, text: Any) -> Any:
    """A flag's text as the setting's type; what cannot be one stays text, so that the check names
    it.
    """
    if (s.kind is bool or "on" in s.choices) and isinstance(text, str):
        return True if text.lower() in TRUE else False if text.lower() in FALSE else text
    if s.table and isinstance(text, list):
        return [tables.parsed(item) for item in text]
    if s.kind in (int, float):
        try:
            return s.kind(text)
        except ValueError:
            return text
    return text
