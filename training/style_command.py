"""The `style-file` command: look into a style file, check it against a base, write it for other programs. Knows no torch but for `check`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from training.errors import StudioError, StyleFileError
from training.style_file import BASES, Style, accepted_names, converted, match, printable, read_style, write_style
from training.style_names import PREFIXES, counted

SHOWN = 4000  # characters of one value in the table; --json has up to 64 KiB


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 2 with a message on stderr when the file or an argument is wrong."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.do(arguments)
    except StudioError as error:
        print(f"style-file: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="style-file", description="Look into style files, check them and convert them.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    inspect = commands.add_parser("inspect", help="show base, rank, trigger, recipe and what the style will do")
    inspect.add_argument("file", type=Path)
    inspect.add_argument("--json", action="store_true", help="print one JSON object, with all metadata")
    inspect.set_defaults(do=_inspect)
    check = commands.add_parser("check", help="say whether a base can load the style, and why not")
    check.add_argument("file", type=Path)
    check.add_argument("--base", required=True, metavar="MODEL", help="mini, a diffusers folder, a .safetensors checkpoint or a hub id")
    check.set_defaults(do=_check)
    convert = commands.add_parser("convert", help="write the style for other programs")
    convert.add_argument("file", type=Path)
    convert.add_argument("--to", required=True, choices=("kohya", "diffusers"), help="kohya: nearly all programs; diffusers: dotted peft names")
    convert.add_argument("--out", required=True, type=Path, metavar="FILE", help="a new .safetensors file")
    convert.add_argument("--family", choices=tuple(PREFIXES), help="kind of base, when the file does not show it")
    convert.add_argument("--force", action="store_true", help="replace FILE when it exists")
    convert.set_defaults(do=_convert)
    return parser


def _inspect(arguments: argparse.Namespace) -> None:
    style = read_style(arguments.file)
    if arguments.json:
        print(json.dumps(described(style) | {"metadata": {key: printable(value) for key, value in style.metadata.items()}}, indent=2))
        return
    table = Table(title=Text(printable(arguments.file.name, 80)), show_header=False, title_justify="left")
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in described(style).items():
        if key == "recipe":
            rows = [(f"{section}.{name}", v) for section, values in value.items() if isinstance(values, dict) for name, v in values.items()]
            value = ", ".join(f"{name} {' '.join(map(str, v)) if isinstance(v, list) else v}" for name, v in rows if v not in ("", []))
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        if shown:
            table.add_row(key.replace("_", " "), Text(printable(shown, SHOWN)))
    Console().print(table)


def described(style: Style) -> dict[str, Any]:
    """What there is to know about a style, in JSON's types."""
    says = f"put {style.trigger!r} into the prompt to call it" if style.trigger else "no trigger word is known"
    return {
        "title": style.title,
        "trigger": style.trigger,
        "family": style.family,
        "family_in_words": BASES.get(style.family, "unknown"),
        "base": style.base,
        "prediction": style.prediction,
        "ranks": style.ranks,
        "layers": len(style.modules),
        "weights": sum(lora.down.size + lora.up.size for lora in style.modules.values()),
        "dialect": style.dialect,
        "dtype": style.dtype,
        "sha256": style.sha256,
        "effect": f"changes {counted(style.modules)}; {says}",
        "recipe": style.recipe,
        "warnings": list(style.warnings),
    }


def _check(arguments: argparse.Namespace) -> None:
    style = read_style(arguments.file)
    from training.families.detect import base_shapes  # torch stays out of the other commands

    family, parts = base_shapes(arguments.base)
    matched = match(style, accepted_names(parts, family))
    print(f"{arguments.file} fits {arguments.base}: it changes {counted(f'{part}.{module}' for part, module in matched)}.")
    for warning in style.warnings:
        print(f"But: {warning}")


def _convert(arguments: argparse.Namespace) -> None:
    style = read_style(arguments.file)
    family = arguments.family or style.family
    if family not in PREFIXES:
        raise StyleFileError(
            f"{arguments.file.name} is a style for {BASES.get(family, 'an unknown base')}; {', '.join(PREFIXES)} can be converted."
            " If it is one of these, say so with --family."
        )
    if arguments.out.exists() and not arguments.force:
        raise StyleFileError(f"{arguments.out} exists. Choose another name, or replace it with --force.")
    write_style(arguments.out, converted(style, arguments.to, family), style.metadata, dtype=style.dtype, dialect=arguments.to)
    print(f"{arguments.out} written: {counted(style.modules)}.")


if __name__ == "__main__":
    sys.exit(main())
