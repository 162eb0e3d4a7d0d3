"""The headless comparison: base and styles side by side, from the same noise along a row. Checks,
draws one grid, writes it.

torch comes in only after the arguments and style files are checked, so that --help and most
complaints are at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import math
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from training import __version__
from training.data.dataset import TEMPLATE, captioned
from training.errors import ConfigError, DataError, StudioError
from training.prompt import KEY, Prompt
from training.samplers import OWN, SAMPLERS, named
from training.storage.paths import checked_writable, write_whole
from training.style_files.metadata import model_name
from training.style_files.reading import Style, printable, read_style
from training.style_files.strengths import GROUPS, Weight, mix

if TYPE_CHECKING:
    from studio.library.generator import Generator

MOST_STEPS, MOST_GUIDANCE, MOST_SIZE = 200, 30.0, 4096  # denoising steps, scale, px
STYLES = (
    "style files, each a column; strength 1 is as trained, 0 is the base. FILE:0.7:0.2 takes "
    "the text encoders at 0.2, "
    f"FILE:0.7:mid=1,up.1=0 groups of layers otherwise ({GROUPS}); FILE:0.7+FILE:0.5 is a mix"
)
EVERY = "15"  # seconds between lines where there is no terminal to draw a bar in


def main(argv: list[str] | None = None) -> int:
    """Exit code 0; 2 when the input is wrong (nothing was drawn); 1 when the memory is too
    small.
    """
    try:
        print(compare(grid_spec_from(sys.argv[1:] if argv is None else argv)))
    except StudioError as error:
        print(f"compare-styles: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("compare-styles: interrupted, nothing was written.", file=sys.stderr)
        return 130
    return 0


# What is wanted


@dataclass(frozen=True)
class Taken:
    """A style file, how strongly it is taken, and what was read from it."""

    path: Path
    weight: Weight
    style: Style

    @property
    def trigger(self) -> str:
        return printable(self.style.trigger, 200)

    @property
    def title(self) -> str:
        return printable(self.style.title, 80).strip() or self.path.stem

    def called(self, prompt: str) -> str:
        """The prompt with the trigger, as the style's own template says."""
        data = self.style.recipe.get("data")
        template = data.get("template") if isinstance(data, dict) else None
        try:
            return captioned(
                prompt,
                self.trigger,
                template if isinstance(template, str) and "{trigger}" in template else TEMPLATE,
            )
        except DataError:  # metadata of unknown origin: the usual way then
            return captioned(prompt, self.trigger)

    def described(self) -> dict[str, Any]:
        """For a picture's metadata."""
        weight = self.weight
        strength = weight.unet if weight == Weight(weight.unet, weight.unet) else str(weight)
        return {
            "file": self.path.name,
            "sha256": self.style.sha256,
            "strength": strength,
            "trigger": self.style.trigger,
        }


@dataclass(frozen=True)
class Column:
    """What a column of the grid is drawn with:

    one style, a mix of several, or none for the base.
    """

    title: str
    styles: tuple[Taken, ...] = ()
    calls: bool = False  # put the styles' triggers into prompts that lack them

    def text(self, prompt: str) -> str:
        """The words this column is drawn from."""
        for taken in self.styles if self.calls else ():
            prompt = taken.called(prompt)
        return prompt

    def remarks(self, prompts: Sequence[str]) -> list[str]:
        """What stands below the title."""
        called = any(self.text(p) != p for p in prompts)
        weights = [str(taken.weight) or "1" for taken in self.styles]
        strength = (
            [f"strength {' + '.join(weights)}"]
            if len(weights) > 1 or any(w != "1" for w in weights)
            else []
        )
        words = ", ".join(
            dict.fromkeys(printable(taken.trigger, 60) for taken in self.styles if taken.trigger)
        )
        return strength + ([f"prompt + “{words}”"] if called else [])

    def described(self) -> dict[str, Any]:
        """For a picture's metadata."""
        if len(self.styles) == 1:
            return {"title": self.title} | self.styles[0].described()
        return {"title": self.title} | (
            {"mix": [taken.described() for taken in self.styles]} if self.styles else {}
        )


@dataclass(frozen=True)
class GridSpec:
    """What to compare, checked as far as it can be without a base.

    size: px, 0 for the base's own; cells: None for no single pictures.
    """

    base: str
    columns: tuple[Column, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    out: Path
    cells: Path | None
    negative: str = ""
    steps: int = 25
    guidance: float = 5.0
    size: int = 0
    sampler: str = OWN
    dtype: str = "auto"
    device: str = "auto"
    every: float = float(EVERY)

    @property
    def rows(self) -> list[tuple[str, int]]:
        """Prompt and seed of every row."""
        return [(prompt, seed) for prompt in self.prompts for seed in self.seeds]


class Parser(argparse.ArgumentParser):
    """argparse that complains as the rest of the project does."""

    def error(self, message: str) -> None:
        raise ConfigError(f"{message}. See compare-styles --help.")


def parser() -> Parser:
    made = Parser(
        prog="compare-styles",
        description="Draw a base model beside styles, all from the same noise, into one "
        "labelled picture.",
        allow_abbrev=False,
    )
    add, several = made.add_argument, {"nargs": "+", "action": "extend"}
    add(
        "--base",
        required=True,
        metavar="MODEL",
        help="mini (built in), a diffusers folder, a single .safetensors checkpoint, or a hub id",
    )
    add("--style", **several, default=[], metavar="FILE[:STRENGTH]", help=STYLES)
    add(
        "--prompt",
        **several,
        default=[],
        metavar="TEXT",
        help="what to draw, each a row for every seed",
    )
    add("--seed", **several, metavar="N", help="noise of the rows (default: 0)")
    add(
        "--negative",
        default="",
        metavar="TEXT",
        help="what to keep away from; needs a guidance above 1",
    )
    add(
        "--steps",
        default="25",
        metavar="N",
        help=f"denoising steps, 1 to {MOST_STEPS} (default: 25)",
    )
    add(
        "--guidance",
        default="5",
        metavar="G",
        help=f"guidance scale, 1 to {MOST_GUIDANCE:g}; 1 = off (default: 5)",
    )
    add(
        "--sampler",
        default=OWN,
        metavar="NAME",
        help=f"base (its own, the default), {', '.join(SAMPLERS)}",
    )
    add("--size", default="0", metavar="PX", help="side of a picture; 0 = the base's own (default)")
    add("--out", required=True, metavar="GRID.png", help="the grid; replaced when it exists")
    add(
        "--cells",
        metavar="FOLDER",
        help="also every picture by itself, as <row>-<column>.png, both counted from 0",
    )
    add("--no-base", action="store_true", help="leave out the base's column")
    add(
        "--no-trigger",
        action="store_true",
        help="draw every column from the prompt as it is, without the style's trigger word",
    )
    add(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="precision of the base (default: auto)",
    )
    add(
        "--device",
        default="auto",
        metavar="NAME",
        help="auto, cpu, cuda, cuda:N or mps (default: auto)",
    )
    add(
        "--every",
        default=EVERY,
        metavar="S",
        help=f"seconds between words on what is done, where no bar can be drawn (default: {EVERY})",
    )
    return made


def grid_spec_from(argv: Sequence[str]) -> GridSpec:
    """Check the arguments and read the style files; no torch. Raises StudioError."""
    given = parser().parse_args(list(argv))
    if not given.prompt:
        raise ConfigError(
            "--prompt is missing: say what to draw, for instance --prompt 'an icon of a red apple'."
        )
    chosen = [mix(text) for text in given.style]
    if given.no_base and not chosen:
        raise ConfigError(
            "--no-base without a --style leaves nothing to draw. Give a style file, or leave "
            "out --no-base."
        )
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", given.device):
        raise ConfigError(
            f"--device is {given.device!r}: auto, cpu, cuda, cuda:N or mps was expected."
        )
    numbers = {
        "seeds": tuple(_whole("--seed", s, 0, 2**63 - 1) for s in given.seed or ["0"]),
        "steps": _whole("--steps", given.steps, 1, MOST_STEPS),
        "guidance": _number("--guidance", given.guidance, 1, MOST_GUIDANCE),
        "size": _whole("--size", given.size, 0, MOST_SIZE),
        "every": _number("--every", given.every, 0, 3600),
    }
    out, cells = (
        Path(given.out).expanduser(),
        Path(given.cells).expanduser() if given.cells else None,
    )
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out is {given.out!r}: a name that ends in .png was expected.")
    if out.is_dir():
        raise ConfigError(
            f"--out is {given.out!r}, which is a folder. Give the name of a .png file."
        )
    styles = [
        tuple(Taken(path, weight, read_style(path)) for path, weight in taken) for taken in chosen
    ]
    columns = _columns(styles, calls=not given.no_trigger, base=not given.no_base)
    checked_writable(out.resolve().parent, "--out's folder")
    if cells:
        checked_writable(cells, "--cells")
    plain = {
        "negative": given.negative,
        "sampler": named(given.sampler),
        "dtype": given.dtype,
        "device": given.device,
    }
    return GridSpec(
        given.base, columns, tuple(given.prompt), out=out, cells=cells, **plain, **numbers
    )


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", text))


def _number(what: str, text: str, low: float, high: float) -> float:
    if not _is_number(text) or not low <= float(text) <= high or not math.isfinite(float(text)):
        raise ConfigError(f"{what} is {text!r}: a number from {low:g} to {high:g} was expected.")
    return float(text)


def _whole(what: str, text: str, low: int, high: int) -> int:
    if not re.fullmatch(r"[+-]?\d{1,30}", text) or not low <= int(text) <= high:
        raise ConfigError(f"{what} is {text!r}: a whole number from {low} to {high} was expected.")
    return int(text)


def _columns(chosen: Sequence[tuple[Taken, ...]], *, calls: bool, base: bool) -> tuple[Column, ...]:
    """The base's column, then every style's or mix's:

    named by titles, or by files where titles are missing or the same.
    """
    all_taken = [taken for styles in chosen for taken in styles]
    paths = {
        taken.title: {t.path.resolve() for t in all_taken if t.title == taken.title}
        for taken in all_taken
    }
    name = lambda taken: taken.path.stem if len(paths[taken.title]) > 1 else taken.title
    active = [Column(" + ".join(map(name, styles)), styles, calls) for styles in chosen]
    return (Column("base"), *active) if base else tuple(active)


# Drawing


def compare(spec: GridSpec) -> Path:
    """Check the styles against the base, draw every row, write grid and cells; return the grid's
    path. Raises StudioError.
    """
    _quieten()
    from studio.library.generator import Generator, is_cut
    from training.models import loader
    from training.style_files.reading import accepted_names, match

    generator = Generator(spec.device, spec.dtype)
    files = loader.find(spec.base)
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
    with _progress(len(spec.rows) * spec.steps, len(spec.rows), spec.every) as told:
        parts = generator.load(spec.base)
        for text in dict.fromkeys(column.text(p) for column in spec.columns for p in spec.prompts):
            if is_cut(parts, text):
                _note(f"the base reads only the beginning of {text[:60]!r}…: it is too long.")
        for column in spec.columns:
            for taken in column.styles:
                for warning in (
                    *taken.style.warnings,
                    *_other_prediction(taken.style, parts.prediction_type),
                ):
                    _note(f"{taken.title}: {warning}")
        pictures = [_row(generator, spec, prompt, seed, told) for prompt, seed in spec.rows]
    made = dataclasses.replace(spec, size=size)
    settings = described(made, files.title, parts.hash, generator.place.precision)
    labels = [(prompt, f"seed {seed}") for prompt, seed in made.rows]
    grid = grid_of(headings(made, files.title), labels, pictures, footer=_footer(settings))
    if spec.cells:
        for r, row in enumerate(pictures):
            for c, picture in enumerate(row):
                write_whole(spec.cells / f"{r}-{c}.png", _cell(made, settings, r, c, picture))
    write_whole(spec.out, _png(grid, {KEY: json.dumps(settings, ensure_ascii=False)}))
    return spec.out


def _match_named(taken: Taken, check: Callable[[Style], Any]) -> None:
    """Say which file it is that does not fit."""
    try:
        check(taken.style)
    except StudioError as error:
        raise type(error)(f"{taken.path.name}: {error}") from None


def _row(
    generator: Generator, spec: GridSpec, prompt: str, seed: int, told: Callable[[int, int], None]
) -> list[Image.Image]:
    """All columns of one row in one denoising loop."""
    prompts = prompts_of(spec, prompt, seed)
    return generator.draw(
        prompts,
        [generator.wear([(t.path, t.weight) for t in c.styles]) for c in spec.columns],
        told,
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


def _note(text: str) -> None:
    print(f"compare-styles: note: {printable(text, 500)}", file=sys.stderr)


def _quieten() -> None:
    """Loading bars and remarks of the libraries say nothing to who compares pictures."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    for library in (of_diffusers, of_transformers):
        library.set_verbosity_error()
        library.disable_progress_bar()


@contextmanager
def _progress(steps: int, rows: int, every: float) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr where that is a terminal, else now and then a line; yields what to call after
    every denoising step.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console, done, said = Console(stderr=True), 0, time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, disable=not console.is_terminal, transient=True
    ) as bar:
        task = bar.add_task("loading the base", total=steps)

        def told(step: int, of: int) -> None:
            nonlocal done, said
            done += 1
            bar.update(
                task,
                completed=min(done, steps),
                description=f"row {min(rows, (done - 1) // of + 1)} of {rows}",
            )
            if not console.is_terminal and time.monotonic() - said > every:
                said = time.monotonic()
                print(f"drawn {done} of {steps} denoising steps", file=sys.stderr, flush=True)

        yield told


# What the files say


def described(spec: GridSpec, base: str, base_hash: str, precision: str) -> dict[str, Any]:
    """The settings that decide the grid, for its metadata. Names and hashes, no folders."""
    columns = [c.described() | {"prompts": [c.text(p) for p in spec.prompts]} for c in spec.columns]
    return {
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
    prompt = prompts_of(spec, *spec.rows[row])[column]
    style = {k: v for k, v in settings["columns"][column].items() if k != "prompts"}
    return _png(
        picture,
        {
            KEY: prompt.to_json(),
            f"{KEY}_column": json.dumps({"base": settings["base"], **style}, ensure_ascii=False),
        },
    )


def _png(picture: Image.Image, texts: dict[str, str]) -> bytes:
    info, file = PngInfo(), io.BytesIO()
    for key, text in texts.items():
        info.add_itxt(key, text)
    picture.save(file, "PNG", pnginfo=info)
    return file.getvalue()


# The grid, pure Pillow

INK, GREY, HAIRLINE, PAPER = "#1c1c1c", "#6b6b6b", "#dedede", "white"
SMALLEST_CELL = 192  # px; smaller pictures are shown two, three, ... times as large


def headings(spec: GridSpec, base: str) -> list[tuple[str, str]]:
    """Title and remark of every column."""
    return [
        (c.title if c.styles else f"base: {base}", ", ".join(c.remarks(spec.prompts)))
        for c in spec.columns
    ]


def _footer(settings: dict[str, Any]) -> str:
    negative = f", negative “{settings['negative']}”" if settings["negative"] else ""
    sampler = "" if settings["sampler"] == OWN else f" of {settings['sampler']}"
    drawn = (
        f"{settings['size']} px, {settings['steps']} steps{sampler}, guidance "
        f"{settings['guidance']:g}{negative}, {settings['dtype']}"
    )
    return f"{settings['base']['title']}, {drawn}. The same noise along a row."


def grid_of(
    headings: Sequence[tuple[str, str]],
    rows: Sequence[tuple[str, str]],
    pictures: Sequence[Sequence[Image.Image]],
    *,
    footer: str = "",
) -> Image.Image:
    """One labelled picture.

    headings: title and remark of each column; rows: prompt and remark of each row; pictures:
    [rows][columns].
    """
    side = pictures[0][0].width
    cell = side * max(1, -(-SMALLEST_CELL // side))
    large = min(30, max(15, cell // 15))  # px, letters
    gap, small = max(6, cell // 32), round(large * 0.82)
    margin, label = 3 * gap, min(340, max(170, round(cell * 0.75)))
    tops = (
        [_lines(title, cell, large, 2) for title, _ in headings],
        [_lines(remark, cell, small, 2) for _, remark in headings],
    )
    heading = max(_height(t, large) + _height(r, small) for t, r in zip(*tops, strict=True)) + gap
    width = margin + label + len(headings) * (gap + cell) + margin
    end = _lines(footer, width - 2 * margin, small, 2)
    sheet = Image.new(
        "RGB",
        (
            width,
            margin
            + heading
            + len(rows) * (cell + gap)
            + (_height(end, small) + gap if end else 0)
            + margin
            - gap,
        ),
        PAPER,
    )
    pen = ImageDraw.Draw(sheet)
    for c, (title, remark) in enumerate(zip(*tops, strict=True)):
        x = margin + label + gap + c * (cell + gap)
        y = margin + heading - gap - _height(title, large) - _height(remark, small)
        _write(pen, x, _write(pen, x, y, title, large, INK), remark, small, GREY)
    for r, (prompt, remark) in enumerate(rows):
        y = margin + heading + r * (cell + gap)
        fitting = max(1, int((cell - 2 * small) / (large * 1.3)))
        below = _write(
            pen, margin, y, _lines(prompt or "(no words)", label, large, fitting), large, INK
        )
        _write(pen, margin, below + gap // 2, [remark], small, GREY)
        for c, picture in enumerate(pictures[r]):
            shown = (
                picture if cell == side else picture.resize((cell, cell), Image.Resampling.LANCZOS)
            )
            x = margin + label + gap + c * (cell + gap)
            pen.rectangle(
                (x - 1, y - 1, x + cell, y + cell), outline=HAIRLINE
            )  # white pictures end somewhere too
            sheet.paste(shown, (x, y))
    _write(pen, margin, margin + heading + len(rows) * (cell + gap) + gap // 2, end, small, GREY)
    return sheet


def _font(size: int) -> Any:
    return ImageFont.load_default(size=size)


def _height(lines: Sequence[str], size: int) -> int:
    return round(len(lines) * size * 1.3)


def _write(
    pen: ImageDraw.ImageDraw, x: int, y: int, lines: Sequence[str], size: int, colour: str
) -> int:
    """Draw lines from (x, y) down; return where the next one would begin."""
    for i, line in enumerate(lines):
        pen.text((x, y + round(i * size * 1.3)), line, fill=colour, font=_font(size))
    return y + _height(lines, size)


def _lines(text: str, width: int, size: int, most: int) -> list[str]:
    """text in at most `most` lines of `width` px, ending in … when that is too few.

    Words too long for a line are broken.
    """
    font = _font(size)
    words, lines = _in_known_letters(" ".join(printable(text, 2000).split()), font).split(), [""]
    while words:
        word = words.pop(0)
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        elif lines[-1]:
            lines.append("")
            words.insert(0, word)
        else:
            fits = next(
                (n for n in range(len(word) - 1, 0, -1) if font.getlength(word[:n]) <= width), 1
            )
            lines[-1] = word[:fits]
            words[:0] = [word[fits:]] if word[fits:] else []
            lines += [""] if words else []
        if len(lines) > most:
            break
    if len(lines) <= most:
        return [line for line in lines if line]
    last = lines[most - 1]
    while last and font.getlength(last + "…") > width:
        last = last[:-1]
    return [*lines[: most - 1], last.rstrip() + "…"]


def _in_known_letters(text: str, font: Any) -> str:
    """Letters that the built-in font lacks without their accents, where that helps:

    it knows little more than ASCII.
    """
    if text.isascii():
        return text
    unknown = bytes(font.getmask("\uffff"))
    known = lambda c: c.isascii() or bytes(font.getmask(c)) != unknown
    plain = lambda c: "".join(
        x for x in unicodedata.normalize("NFKD", c) if not unicodedata.combining(x)
    )
    return "".join(c if known(c) else plain(c) for c in text)


if __name__ == "__main__":
    sys.exit(main())
