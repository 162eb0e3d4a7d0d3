"""The `style-file` command: its arguments, and its exit codes. Imports no torch."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from training.cli import style_editing, style_inspection
from training.cli.for_programs import add_completion, print_line
from training.cli.output import lasting_output
from training.errors import StudioError, without_controls
from training.style_files.family_spec import SPECS
from training.style_files.metadata import ANONYMOUS, GROUPS
from training.style_files.safetensors_io import STORED
from training.style_files.strengths import GROUPS as PLACES

DORA_RANK = 64  # its magnitudes reach beyond the rank it was trained with
WEIGHTED = "FILE[:WEIGHT[:TEXT_WEIGHT]][:GROUP=WEIGHT,...]"
WEIGHTS = f"strength, another for the text encoders, others for groups: {PLACES}"
A_BASE = "mini, a diffusers folder, a .safetensors checkpoint or a hub id"


@lasting_output()
def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 2 with a message on stderr when the file or an argument is wrong."""
    arguments = _parser().parse_args(argv)
    try:
        answer = arguments.do(arguments)
    except StudioError as error:
        print(f"style-file: {error}", file=sys.stderr)
        return error.exit_code
    if arguments.json:
        print_line(dict(answer.record))
        return 0
    for line in answer.lines:
        print(without_controls(line))
    if answer.table is not None:
        Console().print(answer.table)
    return 0


Commands = dict[str, argparse.ArgumentParser]
Parsers = Any  # what add_subparsers returns; argparse gives its type no public name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="style-file",
        description="Look into style files, check them, rewrite them and share them.",
    )
    add_completion(parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    made = _reading_commands(commands) | _report_command(commands)
    made |= _changing_commands(commands) | _sharing_commands(commands)
    _add_common_arguments(made)
    return parser


def _command(
    commands: Parsers, name: str, do: Any, help: str, *, file: bool = True
) -> argparse.ArgumentParser:
    found = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    found.set_defaults(do=do)
    found.add_argument("--json", action="store_true", help="print one line of JSON instead")
    if file:
        found.add_argument(
            "file", type=Path, help="a .safetensors style, or a folder that peft wrote"
        )
    return found


def _reading_commands(commands: Parsers) -> Commands:
    inspect = _command(
        commands,
        "inspect",
        style_inspection.inspect,
        "show base, rank, trigger, recipe and what the style will do",
    )
    inspect.add_argument(
        "--published",
        action="store_true",
        help="show everything that the file tells whoever gets it",
    )
    check = _command(
        commands,
        "check",
        style_inspection.check,
        "say whether a base can load the style, and which layers not",
    )
    check.add_argument("--base", required=True, metavar="MODEL", help=A_BASE)
    convert = _command(
        commands, "convert", style_editing.convert, "write the style for other programs"
    )
    convert.add_argument(
        "--to",
        required=True,
        choices=("kohya", "diffusers"),
        help="kohya: nearly all programs; diffusers: dotted peft names",
    )
    convert.add_argument(
        "--base", metavar="MODEL", help="for DoRA, which only means something on its base"
    )
    convert.add_argument(
        "--rank", type=_rank, default=DORA_RANK, help="of what DoRA becomes (default: %(default)s)"
    )
    return {"inspect": inspect, "check": check, "convert": convert}


def _report_command(commands: Parsers) -> Commands:
    report = _command(
        commands,
        "report",
        style_inspection.report,
        "say how much of a style the files have, what they keep and copy, and which one to take",
        file=False,
    )
    report.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="styles for one base, for instance the checkpoints of a run",
    )
    report.add_argument(
        "--pictures",
        required=True,
        metavar="FOLDER",
        help="pictures in the style, with captions, as for training",
    )
    report.add_argument("--base", required=True, metavar="MODEL", help=A_BASE)
    report.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="where report.html and report.json are written",
    )
    report.add_argument(
        "--trigger", help="the word that calls the style (default: what the first file says)"
    )
    report.add_argument(
        "--template",
        default="",
        help="how a prompt is made with it (default: what the first file says, else that of "
        "training)",
    )
    report.add_argument(
        "--prompt",
        nargs="+",
        default=[],
        metavar="TEXT",
        help="what to draw; by default plain things that no caption names",
    )
    report.add_argument(
        "--held-out",
        default="",
        metavar="FOLDER",
        help="pictures in the style that it was not trained on, for the loss",
    )
    report.add_argument("--guidance", type=float, help="guidance scale (default: that of training)")
    report.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:N, xpu, xpu:N or mps"
    )
    return {"report": report}


def _changing_commands(commands: Parsers) -> Commands:
    merge = _command(
        commands, "merge", style_editing.merge, "mix styles of one base into one", file=False
    )
    merge.add_argument("files", nargs="+", metavar=WEIGHTED, help=WEIGHTS)
    merge.add_argument("--unet", type=float, default=1.0, help="factor on every weight in the UNet")
    merge.add_argument(
        "--text-encoder",
        type=float,
        default=1.0,
        help="factor on every weight in the text encoders",
    )
    resize = _command(commands, "resize", style_editing.resize, "cut the style to a smaller rank")
    split = _command(
        commands,
        "split",
        style_editing.split,
        "write what is shown and how it is drawn into two files, as B-LoRA divides them (SDXL)",
    )
    for half, what in (("content", "what is shown"), ("style", "how it is drawn")):
        split.add_argument(f"--{half}", required=True, type=Path, metavar="FILE", help=what)
    split.add_argument("--force", action="store_true", help="replace files that exist")
    extract = _command(
        commands,
        "extract",
        style_editing.extract,
        "take the style out of a fine-tuned model",
        file=False,
    )
    extract.add_argument("--tuned", required=True, metavar="MODEL", help=A_BASE)
    extract.add_argument("--base", required=True, metavar="MODEL", help="what it was tuned from")
    for one in (merge, resize, extract):
        one.add_argument("--rank", type=_rank, help="largest rank of a layer")
        one.add_argument(
            "--energy",
            type=_share,
            help="share of each layer's squared norm to keep, for instance 0.95",
        )
    return {"merge": merge, "resize": resize, "split": split, "extract": extract}


def _sharing_commands(commands: Parsers) -> Commands:
    scrub = _command(
        commands,
        "scrub",
        style_editing.scrub,
        "leave out what the file tells beyond its use; the weights stay byte for byte",
    )
    scrub.add_argument(
        "--keep",
        nargs="*",
        default=[],
        choices=tuple(GROUPS),
        help=f"groups to keep besides {' and '.join(ANONYMOUS)}",
    )
    bake = _command(
        commands,
        "bake",
        style_editing.bake,
        "write a base with styles merged into its weights",
        file=False,
    )
    bake.add_argument("files", nargs="+", metavar=WEIGHTED, help=WEIGHTS)
    bake.add_argument("--base", required=True, metavar="MODEL", help=A_BASE)
    bake.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="OUT",
        help="a new folder in diffusers' layout, or one new .safetensors checkpoint",
    )
    export = _command(
        commands,
        "export",
        style_editing.export,
        "pack a zip to share: the style in kohya names, a card for A1111, Forge and InvokeAI, "
        "a picture",
    )
    export.add_argument("--picture", type=Path, help="shown beside the style, 512 px")
    words = _command(
        commands,
        "words",
        style_editing.write_words,
        "write the words that the style brings with it, each into an embedding's file",
    )
    words.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="where WORD.safetensors is written",
    )
    words.add_argument("--force", action="store_true", help="replace files that exist")
    return {"scrub": scrub, "bake": bake, "export": export, "words": words}


def _add_common_arguments(made: Commands) -> None:
    for name in ("convert", "merge", "resize", "extract", "scrub", "export"):
        ending = ".zip" if name == "export" else ".safetensors"
        made[name].add_argument(
            "--out", required=True, type=Path, metavar="FILE", help=f"a new {ending} file"
        )
        made[name].add_argument("--force", action="store_true", help="replace FILE when it exists")
    for name in ("convert", "merge", "resize", "split", "extract", "export"):
        made[name].add_argument(
            "--dtype",
            choices=tuple(STORED),
            help="precision of the new file (default: the old one's, float16 for extract)",
        )
        made[name].add_argument(
            "--leave-out",
            nargs="*",
            default=[],
            metavar="GROUP",
            help=f"what not to publish: {', '.join(GROUPS)}, or single keys",
        )
    for name in ("convert", "merge", "resize", "export"):
        made[name].add_argument(
            "--family", choices=tuple(SPECS), help="kind of base, when the file does not show it"
        )


def _rank(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is no rank, 1 to 1024 was expected")
    return int(text)


def _share(text: str) -> float:
    if not re.fullmatch(r"0?\.\d+|1(\.0+)?", text) or not float(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no share, more than 0 and at most 1 was expected"
        )
    return float(text)


if __name__ == "__main__":
    sys.exit(main())
