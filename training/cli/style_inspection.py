"""The reading commands of `style-file`: inspect, check, report.

Torch is loaded only where a base is opened or drawn with.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from training.cli.style_io import read_with_warnings
from training.errors import MOST_LISTED, StyleFileError, without_controls
from training.storage.paths import checked_writable
from training.style_files.base_weights import BaseWeights
from training.style_files.key_names import counted
from training.style_files.matching import match, unfitting
from training.style_files.merge import overpowering
from training.style_files.metadata import published
from training.style_files.reading import (
    Style,
    accepted_names,
    bases,
    printable,
    read_metadata,
    read_style,
)

SHOWN = 4000  # characters of one value in the table; --json has up to 64 KiB


def inspect(arguments: argparse.Namespace) -> None:
    if arguments.published:
        show_published(read_metadata(arguments.file))
        return
    style = read_style(arguments.file)
    if arguments.json:
        print(
            json.dumps(
                described(style)
                | {"metadata": {key: printable(value) for key, value in style.metadata.items()}},
                indent=2,
            )
        )
        return
    table = Table(
        title=Text(printable(arguments.file.name, 80)), show_header=False, title_justify="left"
    )
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in described(style).items():
        if key == "recipe":
            rows = [
                (f"{section}.{name}", v)
                for section, values in value.items()
                if isinstance(values, dict)
                for name, v in values.items()
            ]
            value = ", ".join(
                f"{name} {' '.join(map(str, v)) if isinstance(v, list) else v}"
                for name, v in rows
                if v not in ("", [])
            )
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        if shown:
            table.add_row(key.replace("_", " "), Text(printable(shown, SHOWN)))
    Console().print(table)


def described(style: Style) -> dict[str, Any]:
    """What there is to know about a style, in JSON's types."""
    says = (
        f"put {style.trigger!r} into the prompt to call it"
        if style.trigger
        else "no trigger word is known"
    )
    return {
        "title": style.title,
        "trigger": style.trigger,
        "family": style.family,
        "family_in_words": bases().get(style.family, "unknown"),
        "base": style.base,
        "prediction": style.prediction,
        "kinds": list(style.kinds),
        "ranks": style.ranks,
        "layers": len(style.modules),
        "words": [
            f"{printable(word, 60)} ({len(next(iter(v.values())))} vectors)"
            for word, v in style.words.items()
        ],
        "weights": sum(lora.down.size + lora.up.size for lora in style.modules.values()),
        "dialect": style.dialect,
        "dtype": style.dtype,
        "sha256": style.sha256,
        "effect": f"changes {counted(style.modules)}; {says}",
        "recipe": style.recipe,
        "warnings": list(style.warnings),
    }


def show_published(metadata: Mapping[str, str]) -> None:
    table = Table("group", "key", "value")
    for field in published(metadata):
        table.add_row(
            field.group, Text(printable(field.key, 80)), Text(printable(field.value, 200))
        )
    Console().print(table)


def check(arguments: argparse.Namespace) -> None:
    style = read_style(arguments.file)
    from training.models.base_files import find
    from training.models.loader import base_shapes

    family, parts = base_shapes(arguments.base)
    names = accepted_names(parts, family)
    unfit = [] if style.magnitudes else unfitting(style, names)
    for name, reason in unfit[5:MOST_LISTED]:
        print(without_controls(f"does not fit: {name} ({reason})"))
    if len(unfit) > MOST_LISTED:
        print(f"does not fit: {len(unfit) - MOST_LISTED:,} more")
    matched = match(style, names)
    print(
        f"{arguments.file} fits {arguments.base}: it changes "
        f"{counted(f'{part}.{module}' for part, module in matched)}."
    )
    base = BaseWeights(find(arguments.base).folder)
    if too_much := overpowering(match(style, accepted_names(base.shapes, family)), base):
        share = f"{len(too_much)} of its {len(matched)} layers"
        print(
            f"But: in {share}, for instance {'.'.join(too_much[0])}, it changes the base by "
            "more than the base itself: use it at less strength."
        )
    for warning in style.warnings:
        print(without_controls(f"But: {warning}"))


def report(arguments: argparse.Namespace) -> None:
    styles = [read_with_warnings(path) for path in arguments.files]
    recipe = styles[0].recipe.get("data")
    of_recipe = recipe.get("template") if isinstance(recipe, dict) else None  # of unknown origin
    tables = {
        "base": {"model": arguments.base, "device": arguments.device},
        "data": {
            "folder": arguments.pictures,
            "trigger": styles[0].trigger if arguments.trigger is None else arguments.trigger,
        },
        "report": {"prompts": arguments.prompt, "held_out": arguments.held_out},
        "preview": {} if arguments.guidance is None else {"guidance": arguments.guidance},
    }
    if template := arguments.template or (of_recipe if isinstance(of_recipe, str) else ""):
        tables["data"]["template"] = template
    from training.config.loading import from_mapping

    config = from_mapping(tables, "the flags")
    # torch stays out of the other commands
    from training.evaluation.run_report import of_files
    from training.models import base_files, loader
    from training.runtime.device import choose

    files = base_files.find(config.base.model)
    names = accepted_names(loader.base_shapes(config.base.model)[1], files.family.name)
    for path, style in zip(arguments.files, styles, strict=True):
        try:
            match(style, names)  # all of them, before anything is drawn
        except StyleFileError as error:
            raise StyleFileError(f"{path}: {error}") from None
    checked_writable(arguments.out, "--out")
    parts = loader.load(files, choose(config.base.device, config.base.dtype))
    for text in of_files(
        arguments.files, parts, arguments.out, config.data, config.preview, config.report
    ):
        print(text, flush=True)
