"""The flags of the headless comparison, and numbers among them. Knows no files."""

from __future__ import annotations

import argparse
import math
import re
from typing import Any, NoReturn

from training.cli.for_programs import add_completion
from training.errors import ConfigError
from training.prompt import MOST_GUIDANCE, MOST_STEPS
from training.samplers import OWN, SAMPLERS
from training.style_files.strengths import GROUPS

MOST_SIZE = 4096  # px


STYLES = (
    "style files, each a column; strength 1 is as trained, 0 is the base. FILE:0.7:0.2 takes "
    "the text encoders at 0.2, "
    f"FILE:0.7:mid=1,up.1=0 groups of layers otherwise ({GROUPS}); FILE:0.7+FILE:0.5 is a mix"
)


STRENGTH = "0.6"  # of --image


EVERY = "15"  # seconds between lines where there is no terminal to draw a bar in


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
    _add_start_arguments(made)
    _add_output_arguments(made)
    return made


def _add_start_arguments(made: Parser) -> None:
    """The picture that the others begin with."""
    add = made.add_argument
    add(
        "--image",
        metavar="FILE",
        help="begin with this sketch or photo instead of noise; it also stands in the grid, and "
        "the pictures take its shape",
    )
    add(
        "--strength",
        nargs="+",
        action="extend",
        metavar="S",
        help="how much of --image is drawn anew, above 0 to 1, each a row of its own (default: "
        f"{STRENGTH})",
    )
    add(
        "--mask",
        metavar="FILE",
        help="draw --image anew only where this picture of the same shape is white",
    )


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


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*", text))


def number(what: str, text: str, low: float, high: float) -> float:
    if not _is_number(text) or not low <= float(text) <= high or not math.isfinite(float(text)):
        raise ConfigError(f"{what} is {text!r}: a number from {low:g} to {high:g} was expected.")
    return float(text)


def whole(what: str, text: str, low: int, high: int) -> int:
    if not re.fullmatch(r"[+-]?\d{1,30}", text) or not low <= int(text) <= high:
        raise ConfigError(f"{what} is {text!r}: a whole number from {low} to {high} was expected.")
    return int(text)
