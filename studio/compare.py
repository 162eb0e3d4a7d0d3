"""The headless comparison: base and styles side by side, from the same noise along a row. Checks,
draws one grid, writes it.

torch comes in only after the arguments and style files are checked, so that --help and most
complaints are at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from studio import grid_events
from studio.grid import _footer, grid_of, headings
from studio.grid_spec import GridSpec, Row, Taken, grid_spec_from
from studio.lettering import readable, unreadable
from training import __version__
from training.cli.for_programs import print_line
from training.cli.output import lasting_output
from training.errors import DataError, StudioError
from training.prompt import KEY, Prompt
from training.storage.paths import read_regular, write_whole
from training.style_files.metadata import model_name
from training.style_files.reading import Style, printable

if TYPE_CHECKING:
    from studio.library.generator import Generator
    from training.diffusion.from_picture import Start


@lasting_output()
def main(argv: list[str] | None = None) -> int:
    """Exit code 0; 2 when the input is wrong (nothing was drawn); 1 when the memory is too
    small.
    """
    try:
        spec = grid_spec_from(sys.argv[1:] if argv is None else argv)
        grid = compare(spec)
        if spec.as_json:
            print_line({"grid": str(grid), "cells": str(spec.cells) if spec.cells else None})
        else:
            print(grid)
    except StudioError as error:
        print(f"compare-styles: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("compare-styles: interrupted, nothing was written.", file=sys.stderr)
        return 130
    return 0


# What is wanted


# Drawing


def compare(spec: GridSpec) -> Path:
    """Check the styles against the base, draw every row, write grid and cells; return the grid's
    path. Raises StudioError.
    """
    _quieten()
    from studio.library.generator import Generator, is_cut
    from training.models import base_files, loader
    from training.runtime import cpu_threads
    from training.style_files.matching import match
    from training.style_files.reading import accepted_names

    generator = Generator(spec.device, spec.dtype)
    files = base_files.find(spec.base)
    own, multiple = loader.sides(files)
    size = spec.size or own
    if size % multiple:
        raise DataError(
            f"--size is {size} px, which {files.title} cannot draw. Give a multiple of "
            f"{multiple} px; its own size is {own}."
        )
    family, shapes = loader.base_shapes(spec.base)
    for column in spec.columns:
        for taken in column.styles:
            _match_named(taken, lambda style: match(style, accepted_names(shapes, family)))
    with _progress(spec, files.family.flow is not None) as on_progress:
        parts = generator.load(spec.base)
        styles = [taken.style for column in spec.columns for taken in column.styles]
        pieces = max((style.reading[1] for style in styles), default=1)
        for text in dict.fromkeys(column.text(p) for column in spec.columns for p in spec.prompts):
            if is_cut(parts, text, pieces):
                _note(spec, f"the base reads only the beginning of {text[:60]!r}…: it is too long.")
        for column in spec.columns:
            for taken in column.styles:
                for warning in (
                    *taken.style.warnings,
                    *_other_prediction(taken.style, parts.prediction_type),
                ):
                    _note(spec, f"{taken.title}: {warning}")
        with cpu_threads.following():
            starts = _starts(spec, size, multiple)
            pictures = [
                _row(generator, spec, row, on_progress, starts.get(row.strength))
                for row in spec.rows
            ]
    made = dataclasses.replace(spec, size=size)
    settings = described(made, files.title, parts.hash, generator.place.precision)
    _note_letters(made)
    originals = [starts[row.strength].pixels for row in made.rows] if starts else []
    grid = _grid(made, files.title, pictures, [*map(Image.fromarray, originals)], settings)
    if spec.cells:
        for r, row in enumerate(pictures):
            for c, picture in enumerate(row):
                write_whole(spec.cells / f"{r}-{c}.png", _cell(made, settings, r, c, picture))
    write_whole(spec.out, _png(grid, {KEY: json.dumps(settings, ensure_ascii=False)}))
    return spec.out


def _note_letters(spec: GridSpec) -> None:
    """Name the letters that no font here has."""
    if missing := unreadable([*spec.prompts, *(c.title for c in spec.columns)]):
        _note(
            spec,
            f"no font here has {missing[:20]}: in the picture they are written out, as "
            f"{readable(missing[0])}. Install a font for them, for instance Noto Sans.",
        )


def _grid(
    spec: GridSpec,
    base: str,
    pictures: list[list[Image.Image]],
    originals: list[Image.Image],
    settings: dict[str, Any],
) -> Image.Image:
    """The grid, with what each row began with as its first column."""
    heads = headings(spec, base)
    if originals:
        heads = [("original", ""), *heads]
        pictures = [[first, *row] for first, row in zip(originals, pictures, strict=True)]
    labels = [(row.prompt, row.remark) for row in spec.rows]
    return grid_of(heads, labels, pictures, footer=_footer(settings))


def _match_named(taken: Taken, check: Callable[[Style], Any]) -> None:
    """Say which file it is that does not fit."""
    try:
        check(taken.style)
    except StudioError as error:
        raise type(error)(f"{taken.path.name}: {error}") from None


def _starts(spec: GridSpec, size: int, multiple: int) -> dict[float | None, Start]:
    """What the rows of each strength begin with; {} where they begin with noise."""
    from training.diffusion.from_picture import start_from

    if spec.image is None:
        return {}
    first = start_from(spec.image, 1.0, side=size, multiple=multiple, mask=spec.mask)
    return {strength: dataclasses.replace(first, strength=strength) for strength in spec.strengths}


def _row(
    generator: Generator,
    spec: GridSpec,
    row: Row,
    on_progress: Callable[[int, int], None],
    start: Start | None,
) -> list[Image.Image]:
    """All columns of one row in one denoising loop."""
    prompts = prompts_of(spec, row.prompt, row.seed)
    return generator.draw(
        prompts,
        [generator.wear([(t.path, t.weight) for t in c.styles]) for c in spec.columns],
        on_progress,
        start,
    )


def prompts_of(spec: GridSpec, prompt: str, seed: int) -> list[Prompt]:
    return [
        Prompt(
            c.text(prompt), spec.negative, spec.steps, spec.guidance, seed, spec.size, spec.sampler
        )
        for c in spec.columns
    ]


def _other_prediction(style: Style, prediction: str) -> Iterator[str]:
    if style.prediction not in ("", prediction):
        yield f"it was trained for {style.prediction}, this base says {prediction}: expect noise."


def _note(spec: GridSpec, text: str) -> None:
    note = printable(text, 500)
    if not spec.as_json:
        print(f"compare-styles: note: {note}", file=sys.stderr)
    _report(spec, grid_events.Noted(note))


def _report(spec: GridSpec, event: grid_events.GridEvent) -> None:
    """Tell spec.events. A report that cannot be written costs the report, not the drawing."""
    if spec.as_json:
        print(grid_events.to_line(event), flush=True)
    if spec.events:
        with suppress(OSError):
            grid_events.append(spec.events, event)


def _quieten() -> None:
    """Loading bars and remarks of the libraries say nothing to who compares pictures."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    for library in (of_diffusers, of_transformers):
        library.set_verbosity_error()
        library.disable_progress_bar()


def _steps(spec: GridSpec, row: Row, flow: bool) -> int:
    """Denoising steps of a row. flow: whether the base is one."""
    from training.diffusion.from_picture import steps_left

    return spec.steps if row.strength is None else steps_left(spec.steps, row.strength, flow=flow)


@contextmanager
def _progress(spec: GridSpec, flow: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr where that is a terminal, else now and then a line, and an event; yields what
    to call after every denoising step.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console, done, reported = Console(stderr=True), 0, time.monotonic()
    rows, steps = len(spec.rows), sum(_steps(spec, row, flow) for row in spec.rows)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, disable=spec.as_json or not console.is_terminal, transient=True
    ) as bar:
        task = bar.add_task("loading the base", total=steps)

        def on_progress(step: int, of: int) -> None:
            nonlocal done, reported
            done += 1
            bar.update(
                task,
                completed=min(done, steps),
                description=f"row {min(rows, (done - 1) // of + 1)} of {rows}",
            )
            if time.monotonic() - reported <= spec.every:
                return
            reported = time.monotonic()
            _report(spec, grid_events.Drawn(done, steps))
            if not console.is_terminal and not spec.as_json:
                print(f"drawn {done} of {steps} denoising steps", file=sys.stderr, flush=True)

        yield on_progress


# What the files say


def described(spec: GridSpec, base: str, base_hash: str, precision: str) -> dict[str, Any]:
    """The settings that decide the grid, for its metadata. Names and hashes, no folders."""
    columns = [c.described() | {"prompts": [c.text(p) for p in spec.prompts]} for c in spec.columns]
    begun = {}
    if spec.image is not None:
        begun = {"image": _of_file(spec.image), "strengths": list(spec.strengths)}
    if spec.mask is not None:
        begun["mask"] = _of_file(spec.mask)
    return begun | {
        "kind": "comparison",
        "version": __version__,
        "base": {"title": base, "model": model_name(spec.base), "sha256": base_hash},
        "columns": columns,
        "prompts": list(spec.prompts),
        "negative": spec.negative,
        "seeds": list(spec.seeds),
        "steps": spec.steps,
        "guidance": spec.guidance,
        "sampler": spec.sampler,
        "size": spec.size,
        "dtype": precision,
    }


def _cell(
    spec: GridSpec, settings: dict[str, Any], row: int, column: int, picture: Image.Image
) -> bytes:
    """One picture: its Prompt under the usual key, and beside it the base and the style."""
    at = spec.rows[row]
    prompt = prompts_of(spec, at.prompt, at.seed)[column]
    style = {k: v for k, v in settings["columns"][column].items() if k != "prompts"}
    texts = {
        KEY: prompt.to_json(),
        f"{KEY}_column": json.dumps({"base": settings["base"], **style}, ensure_ascii=False),
    }
    if at.strength is not None:
        start = {name: settings[name] for name in ("image", "mask") if name in settings}
        texts[f"{KEY}_start"] = json.dumps(start | {"strength": at.strength}, ensure_ascii=False)
    return _png(picture, texts)


def _of_file(path: Path) -> dict[str, str]:
    """A picture that was begun with, by its name and hash."""
    digest = hashlib.sha256(read_regular(path)).hexdigest()
    return {"file": path.name, "sha256": digest}


def _png(picture: Image.Image, texts: dict[str, str]) -> bytes:
    info, file = PngInfo(), io.BytesIO()
    for key, text in texts.items():
        info.add_itxt(key, text)
    picture.save(file, "PNG", pnginfo=info)
    return file.getvalue()


# The grid, pure Pillow


if __name__ == "__main__":
    sys.exit(main())
