"""The `style-file` command:

look into styles, check, rewrite, mix, cut, extract, bake and share them. Knows no torch but to find
a base.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from training.errors import StudioError, StyleFileError
from training.storage.paths import checked_writable, inside, write_whole
from training.style_files.base_weights import BaseWeights, write_single, write_with_style
from training.style_files.embeddings import Words, alike, embedding_bytes, joined
from training.style_files.family_spec import SPECS
from training.style_files.key_names import counted
from training.style_files.matching import match, unfitting
from training.style_files.merge import (
    Changes,
    Result,
    extracted,
    merged,
    overpowering,
    packed,
    resized,
    without_magnitudes,
)
from training.style_files.metadata import ANONYMOUS, GROUPS, public, published, rewritten, without
from training.style_files.reading import (
    Lora,
    Style,
    accepted_names,
    bases,
    printable,
    read_metadata,
    read_style,
    style_from_bytes,
)
from training.style_files.safetensors_io import STORED
from training.style_files.strengths import GROUPS as PLACES
from training.style_files.strengths import weighted
from training.style_files.writing import EMPTY, named, placed, scrubbed, style_bytes

SHOWN = 4000  # characters of one value in the table; --json has up to 64 KiB
ULP = {
    "float32": 2.0**-22,
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
}  # how far a stored number is off at most, as a share, scales included
SMALLEST = 2.0**-24  # what float16 can tell from 0
DORA_RANK = 64  # its magnitudes reach beyond the rank it was trained with
WEIGHTED = "FILE[:WEIGHT[:TEXT_WEIGHT]][:GROUP=WEIGHT,...]"
WEIGHTS = f"strength, another for the text encoders, others for groups: {PLACES}"
A_BASE = "mini, a diffusers folder, a .safetensors checkpoint or a hub id"


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 2 with a message on stderr when the file or an argument is wrong."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.do(arguments)
    except StudioError as error:
        print(f"style-file: {error}", file=sys.stderr)
        return error.exit_code
    return 0


Commands = dict[str, argparse.ArgumentParser]
Parsers = Any  # what add_subparsers returns; argparse gives its type no public name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="style-file",
        description="Look into style files, check them, rewrite them and share them.",
    )
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
    if file:
        found.add_argument(
            "file", type=Path, help="a .safetensors style, or a folder that peft wrote"
        )
    return found


def _reading_commands(commands: Parsers) -> Commands:
    inspect = _command(
        commands, "inspect", _inspect, "show base, rank, trigger, recipe and what the style will do"
    )
    inspect.add_argument(
        "--json", action="store_true", help="print one JSON object, with all metadata"
    )
    inspect.add_argument(
        "--published",
        action="store_true",
        help="show everything that the file tells whoever gets it",
    )
    check = _command(
        commands, "check", _check, "say whether a base can load the style, and which layers not"
    )
    check.add_argument("--base", required=True, metavar="MODEL", help=A_BASE)
    convert = _command(commands, "convert", _convert, "write the style for other programs")
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
        _report,
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
    report.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    return {"report": report}


def _changing_commands(commands: Parsers) -> Commands:
    merge = _command(commands, "merge", _merge, "mix styles of one base into one", file=False)
    merge.add_argument("files", nargs="+", metavar=WEIGHTED, help=WEIGHTS)
    merge.add_argument("--unet", type=float, default=1.0, help="factor on every weight in the UNet")
    merge.add_argument(
        "--text-encoder",
        type=float,
        default=1.0,
        help="factor on every weight in the text encoders",
    )
    resize = _command(commands, "resize", _resize, "cut the style to a smaller rank")
    extract = _command(
        commands, "extract", _extract, "take the style out of a fine-tuned model", file=False
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
    return {"merge": merge, "resize": resize, "extract": extract}


def _sharing_commands(commands: Parsers) -> Commands:
    scrub = _command(
        commands,
        "scrub",
        _scrub,
        "leave out what the file tells beyond its use; the weights stay byte for byte",
    )
    scrub.add_argument(
        "--keep",
        nargs="*",
        default=[],
        choices=tuple(GROUPS),
        help=f"groups to keep besides {' and '.join(ANONYMOUS)}",
    )
    bake = _command(commands, "bake", _bake, "write a base that wears styles for good", file=False)
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
        _export,
        "pack a zip to share: the style in kohya names, a card for A1111, Forge and InvokeAI, "
        "a picture",
    )
    export.add_argument("--picture", type=Path, help="shown beside the style, 512 px")
    words = _command(
        commands,
        "words",
        _words,
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
    for name in ("convert", "merge", "resize", "extract", "export"):
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


# Looking


def _inspect(arguments: argparse.Namespace) -> None:
    if arguments.published:
        _show_published(read_metadata(arguments.file))
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


def _show_published(metadata: Mapping[str, str]) -> None:
    table = Table("group", "key", "value")
    for field in published(metadata):
        table.add_row(
            field.group, Text(printable(field.key, 80)), Text(printable(field.value, 200))
        )
    Console().print(table)


def _check(arguments: argparse.Namespace) -> None:
    style = read_style(arguments.file)
    from training.models.base_files import find
    from training.models.loader import base_shapes

    family, parts = base_shapes(arguments.base)
    names = accepted_names(parts, family)
    unfit = [] if style.magnitudes else unfitting(style, names)
    for name, reason in unfit[5:]:
        print(f"does not fit: {name} ({reason})")
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
            "more than the base itself: wear it at less strength."
        )
    for warning in style.warnings:
        print(f"But: {warning}")


def _report(arguments: argparse.Namespace) -> None:
    styles = [_read(path) for path in arguments.files]
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


# Writing


def _free(out: Path, force: bool, inputs: Sequence[Path], ending: str = ".safetensors") -> None:
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


def _family(style: Style, path: Path, chosen: str | None) -> str:
    family = chosen or style.family
    if family not in SPECS:
        raise StyleFileError(
            f"{path.name} is a style for {bases().get(family, 'an unknown base')}; "
            f"{', '.join(SPECS)} can be written."
            " If it is one of these, say so with --family."
        )
    return family


def _read(path: Path) -> Style:
    style = read_style(path)
    for warning in style.warnings:
        print(f"{path.name}: {warning}", file=sys.stderr)
    return style


def _opened(model: str) -> tuple[BaseWeights, str]:
    from training.models.base_files import find

    files = find(model)
    return BaseWeights(files.folder), files.family.name


def _content(
    arguments: argparse.Namespace,
    changes: Changes,
    family: str,
    metadata: Mapping[str, str],
    dtype: Any,
    dialect: Any = "kohya",
    words: Words = EMPTY,
) -> tuple[bytes, dict[str, Lora]]:
    """The bytes of a new style file, read back and compared, and its layers by name."""
    modules = named(changes, dialect, family)
    metadata = rewritten(
        metadata,
        family,
        {lora.rank for lora in changes.values()},
        {lora.alpha for lora in changes.values()},
    )
    metadata = without(metadata, arguments.leave_out)
    stored = arguments.dtype or dtype
    content = style_bytes(
        arguments.out.name, modules, metadata, dtype=stored, dialect=dialect, words=words
    )
    _check_back(
        arguments.out.name,
        style_from_bytes(content, arguments.out.name),
        changes,
        words,
        family,
        stored,
    )
    return content, modules


def _check_back(
    name: str, back: Style, changes: Changes, words: Words, family: str, stored: str
) -> None:
    """Raise StyleFileError unless the strict reader gives back every layer's change of weights, as
    far as the precision holds it, and every word.
    """
    bare = lambda part, module: (
        part,
        module.removeprefix("text_model."),
    )  # which a base's files may have or not
    found = {bare(*place): lora for place, lora in placed(back, family).items()}
    for key, lora in ((bare(*place), lora) for place, lora in changes.items()):
        if key in found and _same_matrices(found[key], lora, ULP[stored]):
            continue
        up, down = lora.flat()
        bound = 2 * ULP[stored] * (abs(up) @ abs(down)).max() + 1e-6
        off = (
            abs(found[key].delta().ravel() - lora.delta().ravel()).max() if key in found else np.inf
        )
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


def _same_matrices(found: Lora, lora: Lora, ulp: float) -> bool:
    """Whether two changes are made of the same matrices, but for rounding:

    then so are the products, which take a hundred times as long.
    """
    pairs = list(zip(found.flat(), lora.flat(), strict=True))
    return all(
        a.shape == b.shape and bool((abs(a - b) <= ulp * abs(b) + SMALLEST).all()) for a, b in pairs
    )


def _written(out: Path, content: bytes, modules: Mapping[str, Lora], result: Result) -> None:
    write_whole(out, content)
    lost = f" {result.residual:.2%} of the change is left out." if result.residual > 1e-6 else ""
    print(
        f"{out} written, {len(content) / 1e6:.1f} MB: {counted(modules)}, read back and the "
        f"same.{lost}"
    )
    for note in result.notes:
        print(f"But: {note}")


def _convert(arguments: argparse.Namespace) -> None:
    _free(arguments.out, arguments.force, [arguments.file])
    style = _read(arguments.file)
    if style.magnitudes and arguments.base:
        base, family = _opened(arguments.base)
        result = without_magnitudes(
            style, accepted_names(base.shapes, family), base, rank=arguments.rank
        )
    else:
        family = _family(style, arguments.file, arguments.family)
        result = Result(placed(style, family))
    words = style.words if arguments.to == "kohya" else {}
    if style.words and not words:
        command = f"style-file words {arguments.file} --out FOLDER"
        result = replace(
            result,
            notes=(
                *result.notes,
                f"{_embedding_summary(style.words)}, which diffusers reads from files of their "
                f"own: {command}",
            ),
        )
    content, modules = _content(
        arguments, result.changes, family, style.metadata, style.dtype, arguments.to, words
    )
    _written(arguments.out, content, modules, result)


def _merge(arguments: argparse.Namespace) -> None:
    given = [weighted(text) for text in arguments.files]
    _free(arguments.out, arguments.force, [path for path, _ in given])
    styles = [_read(path) for path, _ in given]
    families = [
        _family(style, path, arguments.family)
        for style, (path, _) in zip(styles, given, strict=True)
    ]
    if len(set(families)) > 1:
        kinds = ", ".join(
            f"{path.name} is for {bases()[family]}"
            for (path, _), family in zip(given, families, strict=True)
        )
        raise StyleFileError(f"Only styles of one base can be mixed: {kinds}.")
    weights = [weight.times(arguments.unet, arguments.text_encoder) for _, weight in given]
    changes = [placed(style, families[0]) for style in styles]
    result = merged(
        list(zip(changes, weights, strict=True)), rank=arguments.rank, energy=arguments.energy
    )
    titles = [style.title or path.stem for style, (path, _) in zip(styles, given, strict=True)]
    words = {
        "modelspec.title": arguments.out.stem,
        "ss_output_name": arguments.out.stem,
        "modelspec.merged_from": ", ".join(titles),
        "modelspec.trigger_phrase": ", ".join(
            dict.fromkeys(style.trigger for style in styles if style.trigger)
        ),
        "modelspec.description": f"A mixture of {' and '.join(titles)}.",
    }
    kind = public(styles[0].metadata, ("kind",))
    dtypes = {style.dtype for style in styles}
    metadata = kind | {key: value for key, value in words.items() if value}
    own = joined((path.name, style.words) for style, (path, _) in zip(styles, given, strict=True))
    dtype = dtypes.pop() if len(dtypes) == 1 else "float32"
    content, modules = _content(arguments, result.changes, families[0], metadata, dtype, words=own)
    _written(arguments.out, content, modules, result)


def _resize(arguments: argparse.Namespace) -> None:
    if not (arguments.rank or arguments.energy):
        raise StyleFileError(
            "resize needs --rank or --energy, which say how small the style is to be. For "
            "instance --energy 0.95."
        )
    _free(arguments.out, arguments.force, [arguments.file])
    style = _read(arguments.file)
    family = _family(style, arguments.file, arguments.family)
    result = resized(placed(style, family), rank=arguments.rank, energy=arguments.energy)
    content, modules = _content(
        arguments, result.changes, family, style.metadata, style.dtype, words=style.words
    )
    _written(arguments.out, content, modules, result)


def _extract(arguments: argparse.Namespace) -> None:
    if not (arguments.rank or arguments.energy):
        raise StyleFileError(
            "extract needs --rank or --energy, which say how large the style may be. For "
            "instance --rank 32."
        )
    _free(arguments.out, arguments.force, [])
    (tuned, _), (base, family) = _opened(arguments.tuned), _opened(arguments.base)
    with Console(stderr=True).status("comparing") as status:
        on_progress = lambda done, of: status.update(f"comparing, tensor {done + 1} of {of}")
        result = extracted(
            tuned,
            base,
            rank=arguments.rank or 1024,
            energy=arguments.energy,
            on_progress=on_progress,
        )
    title = arguments.out.stem
    metadata = {
        "modelspec.title": title,
        "ss_output_name": title,
        "modelspec.description": "A style, extracted from a fine-tuned model.",
    }
    content, modules = _content(arguments, result.changes, family, metadata, "float16")
    _written(arguments.out, content, modules, result)


def _scrub(arguments: argparse.Namespace) -> None:
    _free(arguments.out, arguments.force, [arguments.file])
    before = read_metadata(arguments.file)
    kept = public(before, (*ANONYMOUS, *arguments.keep))
    content = scrubbed(arguments.file, kept)
    write_whole(arguments.out, content)
    gone = [
        field for field in published(before) if field.key not in kept and field.group != "hashes"
    ]
    left_out = ", ".join(printable(field.key, 80) for field in gone) or "nothing"
    print(
        f"{arguments.out} written, its weights read back and the same to the bit. Left out: "
        f"{left_out}. It tells:"
    )
    _show_published(read_metadata(arguments.out))


def _bake(arguments: argparse.Namespace) -> None:
    given = [weighted(text) for text in arguments.files]
    styles = [_read(path) for path, _ in given]
    base, family = _opened(arguments.base)
    names = accepted_names(base.shapes, family)
    fitted = [
        without_magnitudes(style, names, base, rank=1024).changes
        if style.magnitudes
        else match(style, names)
        for style in styles
    ]
    result = merged(
        [(changes, weight) for changes, (_, weight) in zip(fitted, given, strict=True)],
        largest=None,
    )
    with Console(stderr=True).status("writing") as status:
        on_progress = lambda name: status.update(f"writing {name}")
        if arguments.out.suffix.lower() == ".safetensors":
            write_single(base, family, result.changes, arguments.out, on_progress)
        else:
            write_with_style(base, result.changes, arguments.out, on_progress)
    print(
        f"{arguments.out} written: {arguments.base} with "
        f"{counted(f'{part}.{module}' for part, module in result.changes)} changed."
    )
    for words in (style.words for style in styles if style.words):
        print(
            f"But: {_embedding_summary(words)}, which no base can hold: style-file words "
            "writes them into files of their own."
        )


def _words(arguments: argparse.Namespace) -> None:
    style = _read(arguments.file)
    if not style.words:
        raise StyleFileError(
            f"{arguments.file.name} brings no words of its own: its trigger is made of words "
            "that the base knows."
        )
    checked_writable(arguments.out, "--out")
    paths = {word: inside(arguments.out, f"{word}.safetensors") for word in style.words}
    for path in paths.values():
        _free(path, arguments.force, [arguments.file])
    for word, vectors in style.words.items():
        write_whole(paths[word], embedding_bytes(word, vectors))
        print(
            f"{paths[word]} written: the word {printable(word, 60)!r}. Put it into the folder "
            "of embeddings; its file's name is the word."
        )


def _embedding_summary(words: Words) -> str:
    return f"left out: the word {' and '.join(repr(printable(word, 60)) for word in words)}"


def _export(arguments: argparse.Namespace) -> None:
    _free(
        arguments.out,
        arguments.force,
        [arguments.file, *([arguments.picture] if arguments.picture else [])],
        ".zip",
    )
    style = _read(arguments.file)
    family = _family(style, arguments.file, arguments.family)
    content, _ = _content(
        arguments, placed(style, family), family, style.metadata, style.dtype, words=style.words
    )
    write_whole(
        arguments.out, packed(arguments.out.stem, content, style, family, arguments.picture)
    )
    beside = " and a picture" if arguments.picture else "; no picture (--picture)"
    print(
        f"{arguments.out} written: {arguments.out.stem}.safetensors with its card{beside}. "
        "Unpack it into the folder of styles of A1111 or Forge."
    )


if __name__ == "__main__":
    sys.exit(main())
