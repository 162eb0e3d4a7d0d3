"""What the Dataset tab shows, as HTML: thumbnails, the picture with its crop, the token count,
findings. Knows no files and no gradio.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from studio.datasets import fixes
from studio.datasets.base_info import Tokens
from studio.datasets.checks import Finding
from studio.datasets.store import Added
from studio.page.scripts import script
from studio.page.templates import note, render
from training.data.buckets import Bucket, fit

PAGE = 120  # pictures that are shown at once
MOST_SIDE_BY_SIDE = 6  # pictures of a finding
MOST_FINDINGS = 100
FEWEST_GROUPED = 3  # findings of a kind that are shown as one
# Kind: what several of it are, in words
TOGETHER = {
    "broken": "{count} pictures cannot be read. Training cannot start with them.",
    "small": "{count} pictures are too small. Enlarging them would blur the style.",
    "lonely": "{count} pictures have an aspect ratio of their own, which slows training down.",
    "unreadable": "{count} captions are not UTF-8 text and cannot be used.",
    "odd": "{count} captions contain a link, HTML or a file name.",
    "untidy": "{count} captions have empty or repeated tags.",
    "long": "{count} captions are too long for the base model and will be cut off.",
}
# Fix: its button where it is for all
OF_ALL = {
    "take_out": "Remove all",
    "leave": "Keep all",
    "crop": "Crop all",
    "rewrite": "Rewrite all",
    "tidy": "Tidy all",
    "shorten": "Shorten all",
}


# The parts of the page that are drawn here tell the server what was clicked or moved.
PICK = script("pictures_pick")
TAGS = script("pictures_tags")
FIX = script("pictures_fix")
MOVE = script("pictures_crop")
KEEP = script("pictures_keep")


def thumbnails(
    dataset: str, items: Sequence[tuple[str, str, bool]], names: Sequence[str], page: int
) -> str:
    """One page of the pictures that pass the filter, each with a box by which it is chosen.

    items: address, name, whether it has a caption; names: of all that pass, on every page.
    """
    return render(
        "pictures_thumbnails",
        dataset=dataset,
        items=items,
        names=names,
        page=page,
        size=PAGE,
        pages=-(-len(names) // PAGE),
    )


def tags(found: Sequence[tuple[str, int]]) -> str:
    """The most frequent tags and how often each stands; a click shows its pictures."""
    return render("pictures_tags", tags=found) if found else ""


def desk(
    address: str,
    name: str,
    of: str,
    size: tuple[int, int],
    bucket: Bucket,
    place: tuple[float, float],
    count: tuple[int, int],
) -> str:
    """The picture with what the model will see of it.

    of: dataset/name; size: px; count: which one, of how many.
    """
    wide, high, _, _ = fit(*size, bucket)
    return render(
        "pictures_desk",
        address=address,
        name=name,
        of=of,
        size=size,
        bucket=bucket,
        place=place,
        count=count,
        across=bucket.width / wide,
        down=bucket.height / high,
        axis="across" if wide - bucket.width > high - bucket.height else "down",
        movable=(wide, high) != (bucket.width, bucket.height),
    )


def kept(root: Path | None = None, of: str = "", text: str | None = None) -> str:
    """What tells the browser that it need not keep a caption any more. root: of the workspace; of:
    dataset/name; text: as it was saved, None for any.
    """
    mark = hashlib.sha256(str(root).encode()).hexdigest()[:16]
    return render("pictures_kept", workspace=mark, of=of, text=text)


def nothing_chosen() -> str:
    return render("pictures_no_desk")


def example() -> str:
    """What is said of the example dataset."""
    return render("pictures_example")


def meter(tokens: Tokens | None) -> str:
    """How much of what a base reads a caption takes, and what is cut off."""
    share = min(100, 100 * tokens.count / max(1, tokens.most)) if tokens else 0
    return render("pictures_meter", tokens=tokens, share=share)


def summary(count: int, without: int, complaints: Sequence[str] = ()) -> str:
    """How many pictures there are and how many still want a caption."""
    return render("pictures_summary", count=count, without=without, complaints=complaints)


def report(added: Added) -> str:
    """What became of an upload."""
    return render(
        "pictures_report",
        kept=len(added.kept),
        captions=added.captions,
        captioned=added.captioned,
        notes=added.notes,
        refused=added.refused,
    )


@dataclass(frozen=True)
class Group:
    """Findings of one kind. words, fixes: of all of them, "" and () for a single one."""

    kind: str
    findings: tuple[Finding, ...]
    words: str = ""
    fixes: tuple[tuple[str, str], ...] = ()

    @property
    def pictures(self) -> list[str]:
        return [name for finding in self.findings for name in finding.pictures]


def grouped(found: Sequence[Finding]) -> list[Group]:
    """The findings in their order, several of a kind together."""
    groups = []
    for kind in dict.fromkeys(finding.kind for finding in found):
        of_kind = tuple(finding for finding in found if finding.kind == kind)
        if len(of_kind) >= FEWEST_GROUPED and kind in TOGETHER:
            fixes = [(fix, OF_ALL[fix]) for fix, _ in of_kind[0].offered_fixes if fix in OF_ALL]
            words = TOGETHER[kind].format(count=len(of_kind))
            groups.append(Group(kind, of_kind, words, tuple(fixes)))
        else:
            groups += [Group(kind, (finding,)) for finding in of_kind]
    return groups


def findings(found: Sequence[Finding], addresses: Mapping[str, str], note: str = "") -> str:
    """Every finding with its pictures side by side and a button for each fix, several of a kind
    together. addresses: of thumbnails, by name.
    """
    return render(
        "pictures_findings",
        groups=grouped(found[:MOST_FINDINGS]),
        more=max(0, len(found) - MOST_FINDINGS),
        addresses=addresses,
        note=note,
        most=MOST_SIDE_BY_SIDE,
        safe=fixes.safe(found),
        found=len(found),
    )


def bulk_example(changed: Mapping[str, str], before: Mapping[str, str]) -> str:
    """What an edit would do: every caption it changes, before and after."""
    if not changed:
        return note("No caption will change.")
    rows = [(name, before[name], after) for name, after in changed.items()]
    return render("pictures_edit", rows=rows, unchanged=len(before) - len(changed))


def edited(count: int) -> str:
    """How many captions an edit changed."""
    text = f"{count} caption{'' if count == 1 else 's'} changed."
    return render("pictures_done", text=text)


def no_captioning_model(models: Sequence[str]) -> str:
    """What is needed before a model can describe pictures."""
    return render("pictures_no_model", models=models)


def described(count: int, of: int, *, done: bool = False) -> str:
    """How far a model has come with captions."""
    if not of:
        return note("Every picture already has a caption.")
    text = f"{count} of {of} captions written"
    end = ". Check them: models make mistakes." if done else " …"
    return render("pictures_done", text=text + end)
