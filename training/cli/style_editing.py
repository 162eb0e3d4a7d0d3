"""The writing commands of `style-file`: convert, merge, resize, split, extract, scrub, bake,
export."""

from __future__ import annotations

import argparse
from dataclasses import replace

from rich.console import Console

from training.cli.style_inspection import published_fields, published_table
from training.cli.style_io import (
    Answer,
    check_output,
    family_of,
    open_base,
    read_with_warnings,
    style_content,
    write_checked,
)
from training.errors import StyleFileError
from training.storage.paths import checked_writable, inside, write_whole
from training.style_files.base_weights import write_single, write_with_style
from training.style_files.embeddings import Words, embedding_bytes, joined
from training.style_files.key_names import counted, dialect_of
from training.style_files.matching import match
from training.style_files.merge import (
    Result,
    extracted,
    low_rank,
    merged,
    packed,
    resized,
    without_magnitudes,
)
from training.style_files.merge import (
    split as split_changes,
)
from training.style_files.metadata import ANONYMOUS, public, published
from training.style_files.reading import accepted_names, bases, printable, read_metadata
from training.style_files.strengths import weighted
from training.style_files.writing import placed, scrubbed


def convert(arguments: argparse.Namespace) -> Answer:
    check_output(arguments.out, arguments.force, [arguments.file])
    style = read_with_warnings(arguments.file)
    if style.magnitudes and arguments.base:
        base, family = open_base(arguments.base)
        result = without_magnitudes(
            style, accepted_names(base.shapes, family), base, rank=arguments.rank
        )
    else:
        family = family_of(style, arguments.file, arguments.family)
        result = Result(placed(style, family))
    if arguments.to == "diffusers" and dialect_of(family) != "diffusers":
        result = low_rank(result)
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
    content, modules = style_content(
        arguments, result.changes, family, style.metadata, style.dtype, arguments.to, words
    )
    return write_checked(arguments.out, content, modules, result)


def merge(arguments: argparse.Namespace) -> Answer:
    given = [weighted(text) for text in arguments.files]
    check_output(arguments.out, arguments.force, [path for path, _ in given])
    styles = [read_with_warnings(path) for path, _ in given]
    families = [
        family_of(style, path, arguments.family)
        for style, (path, _) in zip(styles, given, strict=True)
    ]
    if len(set(families)) > 1:
        kinds = ", ".join(
            f"{path.name} is for {bases()[family]}"
            for (path, _), family in zip(given, families, strict=True)
        )
        raise StyleFileError(f"Only styles of one base can be mixed: {kinds}. Leave some out.")
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
    content, modules = style_content(
        arguments, result.changes, families[0], metadata, dtype, words=own
    )
    return write_checked(arguments.out, content, modules, result)


def resize(arguments: argparse.Namespace) -> Answer:
    if not (arguments.rank or arguments.energy):
        raise StyleFileError(
            "resize needs --rank or --energy, which say how small the style is to be. For "
            "instance --energy 0.95."
        )
    check_output(arguments.out, arguments.force, [arguments.file])
    style = read_with_warnings(arguments.file)
    family = family_of(style, arguments.file, arguments.family)
    result = resized(placed(style, family), rank=arguments.rank, energy=arguments.energy)
    content, modules = style_content(
        arguments, result.changes, family, style.metadata, style.dtype, words=style.words
    )
    return write_checked(arguments.out, content, modules, result)


def split(arguments: argparse.Namespace) -> Answer:
    outs = {"content": arguments.content, "style": arguments.style}
    for out in outs.values():
        check_output(out, arguments.force, [arguments.file])
    if arguments.content.resolve() == arguments.style.resolve():
        raise StyleFileError("--content and --style name one file: give each a name of its own.")
    style = read_with_warnings(arguments.file)
    family = family_of(style, arguments.file, None)
    if family != "sdxl":
        raise StyleFileError(
            f"{arguments.file.name} is for {bases()[family]}: content and style are known to lie "
            "in blocks of their own in Stable Diffusion XL only."
        )
    whole = placed(style, family)
    halves = split_changes(whole)
    rest = len(whole) - sum(len(changes) for changes in halves.values())
    notes = (f"{rest} layers of other blocks are in neither file.",) if rest else ()
    made = {}
    for half, out in outs.items():
        title = {"modelspec.title": out.stem, "ss_output_name": out.stem}
        made[half] = style_content(
            argparse.Namespace(**{**vars(arguments), "out": out}),
            halves[half],
            family,
            style.metadata | title,
            style.dtype,
        )
    answers = [
        write_checked(outs[half], content, modules, Result(halves[half], 0.0, notes))
        for half, (content, modules) in made.items()
    ]
    lines = list(dict.fromkeys(line for answer in answers for line in answer.lines))
    return Answer({half: answer.record for half, answer in zip(outs, answers, strict=True)}, lines)


def extract(arguments: argparse.Namespace) -> Answer:
    if not (arguments.rank or arguments.energy):
        raise StyleFileError(
            "extract needs --rank or --energy, which say how large the style may be. For "
            "instance --rank 32."
        )
    check_output(arguments.out, arguments.force, [])
    (tuned, _), (base, family) = open_base(arguments.tuned), open_base(arguments.base)
    with Console(stderr=True).status("comparing") as status:

        def on_progress(done: int, of: int) -> None:
            status.update(f"comparing, tensor {done + 1} of {of}")

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
    content, modules = style_content(arguments, result.changes, family, metadata, "float16")
    return write_checked(arguments.out, content, modules, result)


def scrub(arguments: argparse.Namespace) -> Answer:
    check_output(arguments.out, arguments.force, [arguments.file])
    before = read_metadata(arguments.file)
    kept = public(before, (*ANONYMOUS, *arguments.keep))
    content = scrubbed(arguments.file, kept)
    write_whole(arguments.out, content)
    gone = [
        field for field in published(before) if field.key not in kept and field.group != "hashes"
    ]
    left_out = [printable(field.key, 80) for field in gone]
    published_now = read_metadata(arguments.out)
    first = (
        f"{arguments.out} written, its weights read back and the same to the bit. Left out: "
        f"{', '.join(left_out) or 'nothing'}. It tells:"
    )
    record = {
        "file": str(arguments.out),
        "left_out": left_out,
        "published": published_fields(published_now),
    }
    return Answer(record, [first], published_table(published_now))


def bake(arguments: argparse.Namespace) -> Answer:
    given = [weighted(text) for text in arguments.files]
    styles = [read_with_warnings(path) for path, _ in given]
    base, family = open_base(arguments.base)
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

        def on_progress(name: str) -> None:
            status.update(f"writing {name}")

        if arguments.out.suffix.lower() == ".safetensors":
            write_single(base, family, result.changes, arguments.out, on_progress)
        else:
            write_with_style(base, result.changes, arguments.out, on_progress)
    first = (
        f"{arguments.out} written: {arguments.base} with "
        f"{counted(f'{part}.{module}' for part, module in result.changes)} changed."
    )
    notes = [
        f"{_embedding_summary(style.words)}, which no base can hold: style-file words "
        "writes them into files of their own."
        for style in styles
        if style.words
    ]
    record = {"file": str(arguments.out), "layers": len(result.changes), "notes": notes}
    return Answer(record, [first, *(f"But: {note}" for note in notes)])


def write_words(arguments: argparse.Namespace) -> Answer:
    style = read_with_warnings(arguments.file)
    if not style.words:
        raise StyleFileError(
            f"{arguments.file.name} brings no words of its own: its trigger is made of words "
            "that the base knows. Write it into the prompt; no file is needed."
        )
    checked_writable(arguments.out, "--out")
    paths = {word: inside(arguments.out, f"{word}.safetensors") for word in style.words}
    for path in paths.values():
        check_output(path, arguments.force, [arguments.file])
    for word, vectors in style.words.items():
        write_whole(paths[word], embedding_bytes(word, vectors))
    return Answer(
        {"files": {word: str(path) for word, path in paths.items()}},
        [
            f"{path} written: the word {printable(word, 60)!r}. Put it into the folder "
            "of embeddings; its file's name is the word."
            for word, path in paths.items()
        ],
    )


def _embedding_summary(words: Words) -> str:
    return f"left out: the word {' and '.join(repr(printable(word, 60)) for word in words)}"


def export(arguments: argparse.Namespace) -> Answer:
    check_output(
        arguments.out,
        arguments.force,
        [arguments.file, *([arguments.picture] if arguments.picture else [])],
        ".zip",
    )
    style = read_with_warnings(arguments.file)
    family = family_of(style, arguments.file, arguments.family)
    content, _ = style_content(
        arguments, placed(style, family), family, style.metadata, style.dtype, words=style.words
    )
    write_whole(
        arguments.out, packed(arguments.out.stem, content, style, family, arguments.picture)
    )
    beside = " and a picture" if arguments.picture else "; no picture (--picture)"
    first = (
        f"{arguments.out} written: {arguments.out.stem}.safetensors with its card{beside}. "
        "Unpack it into the folder of styles of A1111 or Forge."
    )
    return Answer({"file": str(arguments.out), "picture": bool(arguments.picture)}, [first])
