"""What is worth a look in a dataset before it is trained on: pictures, captions, shapes. Knows
Pillow and files; no torch, no gradio.

A finding names pictures and offers fixes; studio.datasets.fixes carries them out.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from studio.datasets import store
from studio.datasets.base_info import Base, reader_of
from studio.datasets.caption_edits import tidied
from training.data import checks
from training.data.buckets import Bucket, buckets, nearest
from training.data.caption_files import caption_from_name
from training.data.pictures import open_picture
from training.data.repetitions import (
    TWICE,
    Look,
    is_foreign,
    look_of,
    near_copies,
    same_captions,
)
from training.errors import DataError
from training.storage.paths import read_regular

KEPT = ".kept.json"  # findings that the owner has looked at and wants to leave as they are
BATCH_SIZE = 4  # pictures, where it is not known: the setting's default


@dataclass(frozen=True)
class Finding:
    """kind: which check; pictures: names; words: what was found and why it matters; offered_fixes:
    (id, label), the one to prefer first.
    """

    kind: str
    pictures: tuple[str, ...]
    words: str
    offered_fixes: tuple[tuple[str, str], ...]

    @property
    def key(self) -> str:
        return "|".join([self.kind, *sorted(self.pictures)])

    @property
    def keys(self) -> list[str]:
        """What is kept when its owner leaves it as it is: a picture without a caption by itself,
        so that the next one is found.
        """
        if self.kind != "wordless":
            return [self.key]
        return [f"{self.kind}|{name}" for name in self.pictures]


def findings(
    dataset: Path,
    base: Base,
    batch_size: int = BATCH_SIZE,
) -> list[Finding]:
    """Everything found, but what its owner wants to leave; the worst first.

    Reads each picture once for each state of its file.
    """
    seen: dict[str, Look] = {}
    found: list[Finding] = []
    for name in store.pictures(dataset):
        try:
            seen[name] = look(dataset / name)
        except DataError as error:
            found.append(
                Finding(
                    "broken",
                    (name,),
                    f"{name} {error} Training cannot start with it.",
                    (("take_out", "Remove it"),),
                )
            )
    captions = store.captions(dataset)
    found += _alike(seen, captions)
    shapes = {name: bucket_of(of, base) for name, of in seen.items()}
    found += _small(seen, shapes)
    found += _lonely(shapes, batch_size)
    left = kept(dataset)
    found += _wordless(dataset, captions, left)
    found += _odd(dataset, captions)
    found += _repeated(captions)
    found += _too_long(captions, base)
    return [f for f in found if f.key not in left]


def look(picture: Path) -> Look:
    """Raises DataError without the file's name."""
    stat = picture.stat()
    return _look(picture, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=4096)
def _look(picture: Path, _time: int, _size: int) -> Look:
    try:
        opened = open_picture(picture)
    except DataError as error:
        raise DataError(str(error).removeprefix(f"{picture} ")) from None
    return look_of(opened)


def kept(dataset: Path) -> set[str]:
    """Keys of the findings to leave."""
    try:
        kept_names = json.loads(read_regular(dataset / KEPT).decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return set()
    return (
        {key for key in kept_names if isinstance(key, str)}
        if isinstance(kept_names, list)
        else set()
    )


def bucket_of(seen: Look, base: Base) -> Bucket:
    """The shape a picture is trained in."""
    return nearest(seen.width, seen.height, buckets(base.side, base.multiple))


def _alike(seen: Mapping[str, Look], captions: Mapping[str, str]) -> Iterator[Finding]:
    """Groups of near copies, the best one first: with a caption, then the largest."""
    for members in near_copies(seen):
        members.sort(key=lambda name: (not captions[name], -seen[name].width * seen[name].height))
        yield Finding(
            "alike",
            tuple(members),
            f"{len(members)} pictures that look the same: {TWICE}",
            (("take_out_others", f"Keep only {members[0]}"), ("leave", "Keep them")),
        )


def _small(seen: Mapping[str, Look], shapes: Mapping[str, Bucket]) -> Iterator[Finding]:
    sizes = {name: (of.width, of.height) for name, of in seen.items()}
    for remark in checks.small(sizes, shapes):
        fixes = (("take_out", "Remove it"), ("leave", "Keep it"))
        yield Finding("small", (remark.picture,), remark.words, fixes)


def _lonely(shapes: Mapping[str, Bucket], batch_size: int) -> Iterator[Finding]:
    count = Counter(shapes.values())
    for remark in checks.lonely(shapes, batch_size):
        fixes = (("take_out", "Remove it"), ("leave", "Keep it"))
        if count[shapes[remark.picture]] == 1:
            fixes = (("crop", "Crop to fit"), *fixes)
        yield Finding("lonely", (remark.picture,), remark.words, fixes)


def _wordless(
    dataset: Path, captions: Mapping[str, str], left: Container[str]
) -> Iterator[Finding]:
    """Pictures without a caption: those whose file names would be used, and those that would have
    none.
    """
    bare = [name for name, text in captions.items() if not text and f"wordless|{name}" not in left]
    said = {
        name: "" if store.sidecar(dataset / name).exists() else caption_from_name(name)
        for name in bare
    }
    named = tuple(name for name in bare if said[name])
    unnamed = tuple(name for name in bare if not said[name])
    if named:
        words = f"{named[0]} has no caption. Its file name will be used: “{said[named[0]]}”."
        fixes = (("use_name", "Use the file name as the caption"), ("leave", "Keep it"))
        if len(named) > 1:
            words = (
                f"{len(named)} pictures have no caption. Their file names will be used, such as "
                f"“{said[named[0]]}” for {named[0]}."
            )
            fixes = (("use_name", "Use file names as captions"), ("leave", "Keep them"))
        yield Finding("wordless", named, words, fixes)
    if unnamed:
        words = f"{unnamed[0]} has no caption, and its file name says nothing about it."
        if len(unnamed) > 1:
            words = (
                f"{len(unnamed)} pictures have no caption, and their file names say nothing about "
                "them."
            )
        label = "Keep it" if len(unnamed) == 1 else "Keep them"
        yield Finding("wordless", unnamed, words, (("leave", label),))


def _odd(dataset: Path, captions: Mapping[str, str]) -> Iterator[Finding]:
    for name, text in captions.items():
        file = store.sidecar(dataset / name)
        content = file.read_bytes() if file.is_file() else b""
        if content and not _is_utf8(content):
            yield Finding(
                "unreadable",
                (name,),
                f"The caption of {name} is not UTF-8 text and cannot be used.",
                (("rewrite", "Rewrite it"),),
            )
        elif is_foreign(text):
            yield Finding(
                "odd",
                (name,),
                f"{name}: “{text[:120]}” contains a link, HTML or a file name.",
                (("leave", "Keep it"),),
            )
        elif text and tidied(text) != " ".join(text.split()).rstrip(",") and _is_untidy(text):
            offered_fixes = (("tidy", f"Change to “{tidied(text)[:60]}”"), ("leave", "Keep it"))
            yield Finding(
                "untidy",
                (name,),
                f"{name}: “{text[:120]}” has empty or repeated tags.",
                offered_fixes,
            )


def _is_utf8(content: bytes) -> bool:
    try:
        return "\0" not in content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return False


def _is_untidy(text: str) -> bool:
    parts = [" ".join(part.split()).casefold() for part in text.split(",")]
    return "" in parts[:-1] or len(set(parts)) < len(parts)


def _repeated(captions: Mapping[str, str]) -> Iterator[Finding]:
    for names, words in same_captions(captions):
        yield Finding("repeated", tuple(names), words, (("leave", "Keep them"),))


def _too_long(captions: Mapping[str, str], base: Base) -> Iterator[Finding]:
    reader, trigger, template = reader_of(base), base.trigger, base.template
    fixes = (("shorten", "Shorten it"), ("leave", "Keep it"))
    for remark in checks.too_long(captions, trigger, template, reader) if reader else ():
        yield Finding("long", (remark.picture,), remark.words, fixes)
