"""One-click fixes of what studio.datasets.checks finds: each changes the workspace's own copy, and
each can be undone.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Container, Sequence
from pathlib import Path
from uuid import uuid4

from PIL import Image

from studio.datasets import checks, history, store
from studio.datasets.base_info import Base, reader_of
from studio.datasets.caption_edits import tidied
from training.data.buckets import fit, nearest
from training.data.caption_files import caption_from_name
from training.data.captions import captioned
from training.data.checks import kept
from training.data.pictures import open_picture
from training.errors import DataError

# What puts a finding right without a choice that only its owner can make
SAFE = {
    "alike": "take_out_others",
    "broken": "take_out",
    "wordless": "use_name",
    "unreadable": "rewrite",
    "untidy": "tidy",
    "long": "shorten",
    "lonely": "crop",
}


class NothingLeftError(DataError):
    """What was to be fixed is none any more."""

    def __init__(self) -> None:
        super().__init__("That was fixed or changed already. The list is up to date now.")


def apply_fix(dataset: Path, kind: str, fix: str, names: Sequence[str], base: Base) -> None:
    """Carry out one fix of a finding.

    Raises DataError when it is not a finding any more: nothing is done on what a page remembers.
    """
    finding = next(
        (
            f
            for f in checks.findings(dataset, base)
            if f.kind == kind and set(f.pictures) == set(names)
        ),
        None,
    )
    if finding is None or fix not in dict(finding.offered_fixes):
        raise NothingLeftError
    _apply(dataset, finding, fix, base)


def apply_to_all(dataset: Path, kind: str, fix: str, base: Base, act: str = "") -> int:
    """Carry out the same fix of every finding of a kind, undone as one change (with all of one
    act); return how many there were. Raises DataError when there is none.
    """
    found = [f for f in checks.findings(dataset, base) if f.kind == kind]
    found = [f for f in found if fix in dict(f.offered_fixes)]
    if not found:
        raise NothingLeftError
    act = act or uuid4().hex
    for finding in found:
        _apply(dataset, finding, fix, base, act)
    return len(found)


def fixable(found: Sequence[checks.Finding], kinds: Container[str] = SAFE) -> list[str]:
    """The kinds of these findings that can be put right at once, in the order of SAFE."""
    offered = {f.kind for f in found if SAFE.get(f.kind) in dict(f.offered_fixes)}
    return [kind for kind in SAFE if kind in offered and kind in kinds]


def safe(found: Sequence[checks.Finding]) -> int:
    """How many of these findings can be put right at once."""
    return sum(SAFE.get(finding.kind) in dict(finding.offered_fixes) for finding in found)


def apply_all(dataset: Path, base: Base, kinds: Container[str] = SAFE) -> int:
    """Put right whatever can be without a choice, of these kinds, undone as one change; return how
    many findings there were. Raises DataError when there is none.
    """
    act, count = uuid4().hex, 0
    for kind in fixable(checks.findings(dataset, base), kinds):
        # what one fix has put right already, such as the caption of a copy, is no finding any more
        with contextlib.suppress(NothingLeftError):
            count += apply_to_all(dataset, kind, SAFE[kind], base, act)
    if not count:
        raise NothingLeftError
    return count


def _apply(dataset: Path, finding: checks.Finding, fix: str, base: Base, act: str = "") -> None:
    name, captions = finding.pictures[0], store.captions(dataset)
    named = ", ".join(finding.pictures)[:80]
    if fix == "take_out":
        store.remove(dataset, finding.pictures, act=act)
    elif fix == "take_out_others":
        store.remove(dataset, finding.pictures[1:], act=act)
    elif fix == "leave":
        left = json.dumps(sorted({*checks.kept(dataset), *finding.keys}), ensure_ascii=False)
        content: dict[str, bytes | None] = {checks.KEPT: left.encode()}
        history.change(dataset, f"leave {named} as it is", content, act=act)
    elif fix == "use_name":
        texts = {one: caption_from_name(one) for one in finding.pictures}
        store.rewrite(dataset, f"file names as captions: {named}", texts, act=act)
    elif fix == "tidy":
        texts = {name: tidied(captions[name])}
        store.rewrite(dataset, f"tidy the caption of {name}", texts, act=act)
    elif fix == "rewrite":
        words = store.in_utf8(store.sidecar(dataset / name).read_bytes())
        store.rewrite(dataset, f"the caption of {name} as UTF-8", {name: words}, act=act)
    elif fix == "shorten":
        texts = {name: shortened(captions[name], base)}
        store.rewrite(dataset, f"shorten the caption of {name}", texts, act=act)
    elif fix == "crop":
        _crop(dataset, name, base, act)


def shortened(caption: str, base: Base) -> str:
    """The part of a caption that a base reads together with the trigger, without a word or tag that
    was cut in two.
    """
    reader, plain = reader_of(base), " ".join(caption.split())
    if reader is None or reader.reads(captioned(plain, base.trigger, base.template)):
        return caption
    read = kept(plain, base.trigger, base.template, reader)
    cut = plain[len(read) :]
    tag = read.rpartition(",")[0] if "," in read and not cut.startswith(",") else read
    return tag.strip(" ,") or read.strip(" ,")


def _crop(dataset: Path, name: str, base: Base, act: str) -> None:
    """A copy cut to the nearest shape that other pictures have takes the picture's place; its
    pixels stay as they are.
    """
    seen = {
        other: checks.look(dataset / other) for other in store.pictures(dataset) if other != name
    }
    picture = open_picture(dataset / name)
    to = nearest(*picture.size, {checks.bucket_of(of, base) for of in seen.values()})
    width, height, left, top = fit(*picture.size, to, store.place_of(dataset, name))
    across, down = picture.width / width, picture.height / height
    box = (
        round(left * across),
        round(top * down),
        round((left + to.width) * across),
        round((top + to.height) * down),
    )
    file, place = io.BytesIO(), store.crop_file(dataset / name)
    cut: Image.Image = picture.crop(box)
    cut.save(file, "PNG")
    files: dict[str, bytes | None] = {name: None, f"{Path(name).stem}.png": file.getvalue()}
    moved = {place.name: None} if place.exists() else {}
    history.change(dataset, f"crop {name}", files | moved, act=act)
