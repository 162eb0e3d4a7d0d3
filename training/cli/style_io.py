"""Styles as the `style-file` command reads and writes them: every new file is read back first."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from training.errors import StyleFileError, without_controls
from training.storage.paths import write_whole
from training.style_files.base_weights import BaseWeights
from training.style_files.embeddings import Words, alike, writable
from training.style_files.family_spec import SPECS
from training.style_files.key_names import counted
from training.style_files.lora import Change, Hada, Kron
from training.style_files.merge import Changes, Result
from training.style_files.metadata import rewritten, without
from training.style_files.reading import (
    Style,
    bases,
    printable,
    read_style,
    style_from_bytes,
)
from training.style_files.writing import EMPTY, named, placed, style_bytes, written_dialect

ULP = {
    "float32": 2.0**-22,
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
}  # how far a stored number is off at most, as a share, scales included
SMALLEST = 2.0**-24  # what float16 can tell from 0


@dataclass(frozen=True)
class Answer:
    """What a command says: the record to a program (--json), the rest to a person."""

    record: Mapping[str, object]
    lines: Sequence[str] = field(default=())
    table: Table | None = None


def check_output(
    out: Path, force: bool, inputs: Sequence[Path], ending: str = ".safetensors"
) -> None:
    """Raise StyleFileError when out is an input, exists without --force, or ends in another way."""
    if out.suffix.lower() != ending:
        raise StyleFileError(
            f"{out.name} does not end in {ending}, by which other programs know it. Name it "
            f"{out.stem}{ending}."
        )
    if out.exists() and any(path.exists() and out.samefile(path) for path in inputs):
        raise StyleFileError(f"{out} is read and would be written over. Choose another name.")
    if out.exists() and not force:
        raise StyleFileError(f"{out} exists. Choose another name, or replace it with --force.")


def family_of(style: Style, path: Path, chosen: str | None) -> str:
    family = chosen or style.family
    if family not in SPECS:
        raise StyleFileError(
            f"{path.name} is a style for {bases().get(family, 'an unknown base')}; "
            f"{', '.join(SPECS)} can be written."
            " If it is one of these, say so with --family."
        )
    return family


def read_with_warnings(path: Path) -> Style:
    style = read_style(path)
    for warning in style.warnings:
        print(without_controls(f"{path.name}: {warning}"), file=sys.stderr)
    return style


def open_base(model: str) -> tuple[BaseWeights, str]:
    from training.models.base_files import find

    files = find(model)
    return BaseWeights(files.folder), files.family.name


def style_content(
    arguments: argparse.Namespace,
    changes: Changes,
    family: str,
    metadata: Mapping[str, str],
    dtype: Any,
    dialect: Any = "kohya",
    words: Words = EMPTY,
) -> tuple[bytes, dict[str, Change]]:
    """The bytes of a new style file, read back and compared, and its layers by name. Words that can
    be no tensor's name everywhere are left out, and named.
    """
    words, odd = writable(words)
    if odd:
        print(
            f"left out: {', '.join(repr(printable(word, 60)) for word in odd)}. A word that is "
            "written has letters, digits, _ and - only.",
            file=sys.stderr,
        )
    dialect = written_dialect(dialect, family)
    modules = named(changes, dialect, family)
    metadata = rewritten(metadata, family, list(changes.values()))
    metadata = without(metadata, arguments.leave_out)
    stored = arguments.dtype or dtype
    content = style_bytes(
        arguments.out.name, modules, metadata, dtype=stored, dialect=dialect, words=words
    )
    _check_same(
        arguments.out.name,
        style_from_bytes(content, arguments.out.name),
        changes,
        words,
        family,
        stored,
    )
    return content, modules


def _check_same(
    name: str, back: Style, changes: Changes, words: Words, family: str, stored: str
) -> None:
    """Raise StyleFileError unless the strict reader gives back every layer's change of weights, as
    far as the precision holds it, and every word.
    """
    found = {_without_prefix(place): lora for place, lora in placed(back, family).items()}
    for place, lora in changes.items():
        key = _without_prefix(place)
        written = found.get(key)
        if written is not None and _same_matrices(written, lora, ULP[stored]):
            continue
        bound = 2 * ULP[stored] * _largest_sum(lora) + 1e-6
        off = _largest_difference(written, lora)
        if not off <= bound:
            raise StyleFileError(
                f"{name} was not written: it would not give back {'.'.join(key)} ({off:.2g} "
                "off). Take --dtype float32."
            )
    if not alike(back.words, words):
        raise StyleFileError(
            f"{name} was not written: it would not give back the words that the style brings. "
            "Take --dtype float32."
        )


def _largest_sum(change: Change) -> float:
    """The largest number that a change is added up to, signs aside."""
    if isinstance(change, Kron):
        return float(abs(change.one).max() * abs(change.two).max())
    if isinstance(change, Hada):
        one, two = abs(change.a1) @ abs(change.b1), abs(change.a2) @ abs(change.b2)
        return float((one * two).max() * change.scale)
    up, down = change.flat()
    return float((abs(up) @ abs(down)).max())


def _largest_difference(written: Change | None, lora: Change) -> float:
    if written is None:
        return np.inf
    return abs(written.delta().ravel() - lora.delta().ravel()).max()


def _without_prefix(place: tuple[str, str]) -> tuple[str, str]:
    """(part, module) without text_model, which a base's files may have or not."""
    part, module = place
    return part, module.removeprefix("text_model.")


def _same_matrices(found: Change, lora: Change, ulp: float) -> bool:
    """Whether two changes are made of the same matrices, but for rounding.

    Then so are the products, which take a hundred times as long.
    """
    if type(found) is not type(lora):
        return False
    pairs = list(zip(_matrices(found), _matrices(lora), strict=True))
    return all(
        a.shape == b.shape and bool((abs(a - b) <= ulp * abs(b) + SMALLEST).all()) for a, b in pairs
    )


def _matrices(change: Change) -> tuple[np.ndarray, ...]:
    """What a change is made of, any scale inside."""
    if isinstance(change, Kron):
        return change.one, change.two
    if isinstance(change, Hada):
        return change.a1 * np.float32(change.scale), change.b1, change.a2, change.b2
    return change.flat()


def write_checked(
    out: Path, content: bytes, modules: Mapping[str, Change], result: Result
) -> Answer:
    write_whole(out, content)
    lost = f" {result.residual:.2%} of the change is left out." if result.residual > 1e-6 else ""
    record = {
        "file": str(out),
        "bytes": len(content),
        "layers": len(modules),
        "left_out": result.residual,
        "notes": list(result.notes),
    }
    first = (
        f"{out} written, {len(content) / 1e6:.1f} MB: {counted(modules)}, read back and the "
        f"same.{lost}"
    )
    return Answer(record, [first, *(f"But: {note}" for note in result.notes)])
