"""What a comparison draws: base, columns, prompts, seeds; and the flags that say so."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from training.cli.for_programs import add_completion
from training.data.captions import TEMPLATE, captioned
from training.errors import ConfigError, DataError
from training.samplers import OWN, SAMPLERS, named
from training.storage.paths import checked_writable
from training.style_files.reading import Style, printable, read_style
from training.style_files.strengths import GROUPS, Weight, mix

if TYPE_CHECKING:
    pass


MOST_STEPS, MOST_GUIDANCE, MOST_SIZE = 200, 30.0, 4096  # denoising steps, scale, px


STYLES = (
    "style files, each a column; strength 1 is as trained, 0 is the base. FILE:0.7:0.2 takes "
    "the text encoders at 0.2, "
    f"FILE:0.7:mid=1,up.1=0 groups of layers otherwise ({GROUPS}); FILE:0.7+FILE:0.5 is a mix"
)


EVERY = "15"  # seconds between lines where there is no terminal to draw a bar in


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

    size: px, 0 for the base's own; cells: None for no single pictures; events: file that is told
    how far the drawing is, None for none; as_json: the same and the result on stdout.
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
    events: Path | None = None
    as_json: bool = False

    @property
    def rows(self) -> list[tuple[str, int]]:
        """Prompt and seed of every row."""
        return [(prompt, seed) for prompt in self.prompts for seed in self.seeds]


class Parser(argparse.ArgumentParser):
    """argparse that complains as the rest of the project does."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}. See compare-styles --help.")


def parser() -> Parser:
    made = Parser(
        prog="compare-styles",
        description="Draw a base model beside styles, all from the same noise, into one "
        "labelled picture.",
        allow_abbrev=False,
    )
    add_completion(made)
    add = made.add_argument
    several: dict[str, Any] = {"nargs": "+", "action": "extend"}
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
    _add_output_arguments(made)
    return made


def _add_output_arguments(made: Parser) -> None:
    """Where the pictures go, what they leave out, and what they are drawn on."""
    add = made.add_argument
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
        help="auto, cpu, cuda, cuda:N, xpu, xpu:N or mps (default: auto)",
    )
    add(
        "--every",
        default=EVERY,
        metavar="S",
        help=f"seconds between words on what is done, where no bar can be drawn (default: {EVERY})",
    )
    add(
        "--events",
        metavar="FILE",
        help="also append what is done to FILE, every --every seconds, one JSON object a line",
    )
    add(
        "--json",
        action="store_true",
        help="print the same lines instead of a bar, and the result as the last one",
    )


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
    if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:\d+)?", given.device):
        raise ConfigError(
            f"--device is {given.device!r}: auto, cpu, cuda, cuda:N, xpu, xpu:N or mps was "
            "expected."
        )
    numbers = {
        "seeds": tuple(_whole("--seed", s, 0, 2**63 - 1) for s in given.seed or ["0"]),
        "steps": _whole("--steps", given.steps, 1, MOST_STEPS),
        "guidance": _number("--guidance", given.guidance, 1, MOST_GUIDANCE),
        "size": _whole("--size", given.size, 0, MOST_SIZE),
        "every": _number("--every", given.every, 0, 3600),
    }
    out = Path(given.out).expanduser()
    cells = Path(given.cells).expanduser() if given.cells else None
    events = Path(given.events).expanduser() if given.events else None
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
    if events:
        checked_writable(events.resolve().parent, "--events's folder")
    plain = {
        "events": events,
        "as_json": given.json,
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
    """The base's column, then every style's or mix's.

    Named by titles, or by files where titles are missing or the same.
    """
    all_taken = [taken for styles in chosen for taken in styles]
    paths = {
        taken.title: {t.path.resolve() for t in all_taken if t.title == taken.title}
        for taken in all_taken
    }
    active = []
    for styles in chosen:
        names = [t.path.stem if len(paths[t.title]) > 1 else t.title for t in styles]
        active.append(Column(" + ".join(names), styles, calls))
    return (Column("base"), *active) if base else tuple(active)
