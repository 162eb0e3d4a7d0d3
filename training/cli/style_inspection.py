"""The reading commands of `style-file`: inspect, check, report.

Torch is loaded only where a base is opened or drawn with.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from training.cli.for_programs import print_line
from training.cli.style_io import Answer, read_with_warnings
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


def inspect(arguments: argparse.Namespace) -> Answer:
    if arguments.published:
        metadata = read_metadata(arguments.file)
        return Answer({"published": published_fields(metadata)}, table=published_table(metadata))
    style = read_style(arguments.file)
    record = described(style)
    metadata = {key: printable(value) for key, value in style.metadata.items()}
    return Answer(record | {"metadata": metadata}, table=_table(arguments.file.name, record))


def _table(name: str, record: Mapping[str, Any]) -> Table:
    """What there is to know about a style, a row for each thing."""
    table = Table(title=Text(printable(name, 80)), show_header=False, title_justify="left")
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in record.items():
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
    return table


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
        "weights": sum(change.size for change in style.modules.values()),
        "dialect": style.dialect,
        "dtype": style.dtype,
        "sha256": style.sha256,
        "effect": f"changes {counted(style.modules)}; {says}",
        "recipe": style.recipe,
        "warnings": list(style.warnings),
    }


def published_fields(metadata: Mapping[str, str]) -> list[dict[str, str]]:
    """Everything that a file tells whoever gets it, for programs."""
    return [
        {"group": field.group, "key": printable(field.key, 80), "value": printable(field.value)}
        for field in published(metadata)
    ]


def published_table(metadata: Mapping[str, str]) -> Table:
    """The same for a person."""
    table = Table("group", "key", "value")
    for field in published(metadata):
        table.add_row(
            field.group, Text(printable(field.key, 80)), Text(printable(field.value, 200))
        )
    return table


def check(arguments: argparse.Namespace) -> Answer:
    """Raises StyleFileError for a style that does not fit; --json says which layers before."""
    style = read_style(arguments.file)
    from training.models.base_files import find
    from training.models.loader import base_shapes

    family, parts = base_shapes(arguments.base)
    names = accepted_names(parts, family)
    unfit = [] if style.magnitudes else unfitting(style, names)
    try:
        matched = match(style, names)
    except StyleFileError as error:
        if arguments.json:
            layers = [{"layer": name, "reason": reason} for name, reason in unfit]
            print_line({"fits": False, "reason": str(error), "layers": layers})
        else:
            _print_unfit(unfit)
        raise
    base = BaseWeights(find(arguments.base).folder)
    too_much = overpowering(match(style, accepted_names(base.shapes, family)), base)
    changes = counted(f"{part}.{module}" for part, module in matched)
    record = {
        "fits": True,
        "layers": len(matched),
        "stronger_than_the_base": [".".join(place) for place in too_much],
        "warnings": list(style.warnings),
    }
    lines = [f"{arguments.file} fits {arguments.base}: it changes {changes}."]
    if too_much:
        share = f"{len(too_much)} of its {len(matched)} layers"
        lines.append(
            f"But: in {share}, for instance {'.'.join(too_much[0])}, it changes the base by "
            "more than the base itself: use it at less strength."
        )
    return Answer(record, [*lines, *(f"But: {warning}" for warning in style.warnings)])


def _print_unfit(unfit: Sequence[tuple[str, str]]) -> None:
    """Name the layers that do not fit, but for those that the error names."""
    for name, reason in unfit[5:MOST_LISTED]:
        print(without_controls(f"does not fit: {name} ({reason})"))
    if len(unfit) > MOST_LISTED:
        print(f"does not fit: {len(unfit) - MOST_LISTED:,} more")


def report(arguments: argparse.Namespace) -> Answer:
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

    files = base_files.find(config.base.model, config.base.rest)
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
        if arguments.json:
            print_line({"event": "noted", "message": text})
        else:
            print(text, flush=True)
    return Answer({"report": str(arguments.out / "report.json")})
