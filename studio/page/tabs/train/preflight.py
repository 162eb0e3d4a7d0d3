"""What is worth knowing before a training starts: the trigger word, the findings of the dataset.
Knows no components.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from studio.datasets import checks, collection, store
from studio.datasets.base_info import Base, known
from studio.page.templates import render
from training.errors import ModelError
from training.storage.paths import Workspace

# Kind of a finding: what one of it is called, and several
CALLED = {
    "broken": ("picture that cannot be read", "pictures that cannot be read"),
    "unreadable": ("caption that cannot be read", "captions that cannot be read"),
    "wordless": ("picture without a caption", "pictures without a caption"),
    "alike": ("group of near-duplicates", "groups of near-duplicates"),
    "small": ("picture that is too small", "pictures that are too small"),
    "lonely": ("picture with an unusual aspect ratio", "pictures with unusual aspect ratios"),
    "odd": ("caption with a link or a file name", "captions with links or file names"),
    "untidy": ("caption with repeated tags", "captions with repeated tags"),
    "repeated": ("caption used more than once", "captions used more than once"),
    "long": ("caption that is too long", "captions that are too long"),
}
BY_PICTURE = ("broken", "unreadable", "wordless", "small", "lonely", "odd", "untidy", "long")
NO_TRIGGER = "No trigger word. Without one, prompts cannot turn the style on or off."


@dataclass(frozen=True)
class Remark:
    """question: what Start asks first, "" where it need not; fix: what its button says; opens: the
    tab, or the control, where it is put right.
    """

    words: str
    question: str
    fix: str
    opens: str


def remarks(
    workspace: Workspace, dataset: str | None, trigger: str | None, model: str | None
) -> tuple[Remark, ...]:
    """Everything to look at before this training starts; () when there is nothing."""
    found = []
    if not (trigger or "").strip():
        found.append(Remark(NO_TRIGGER, "Start without a trigger word?", "Add one", "data-trigger"))
    if dataset in store.names(workspace):
        found += _of_pictures(store.folder(workspace, dataset), model or "mini", trigger or "")
    return tuple(found)


def shown(found: Sequence[Remark]) -> str:
    """The remarks as HTML, with a button that leads to each one's fix."""
    return render("train_preflight", remarks=found)


def questions(found: Sequence[Remark]) -> list[str]:
    """What Start asks before it goes ahead, [] where it need not."""
    return [remark.question for remark in found if remark.question]


def _of_pictures(folder: Path, model: str, trigger: str) -> list[Remark]:
    try:
        base = known(model)
    except ModelError:
        base = Base()
    found = _findings(folder, replace(base, trigger=trigger), _state(folder))
    if not found:
        return []
    words = f"The dataset check of “{collection.title(folder)}” found {', '.join(_counted(found))}."
    spoilt = {name for finding in found if _spoils(finding) for name in finding.pictures}
    question = f"Start anyway? {_are(len(spoilt))}." if spoilt else ""
    return [Remark(words, question, "Open Dataset", "Dataset")]


def _are(count: int) -> str:
    return f"{count} picture{' has' if count == 1 else 's have'} no caption or cannot be read"


def _counted(found: Sequence[checks.Finding]) -> list[str]:
    """How many of each kind, the most first."""
    count: Counter[str] = Counter()
    for finding in found:
        count[finding.kind] += len(finding.pictures) if finding.kind in BY_PICTURE else 1
    return [f"{n} {CALLED[kind][n > 1]}" for kind, n in count.most_common()]


def _spoils(finding: checks.Finding) -> bool:
    """Whether a training would refuse the picture, or learn it without any words."""
    fixes = dict(finding.offered_fixes)
    return finding.kind in ("broken", "unreadable") or (
        finding.kind == "wordless" and "use_name" not in fixes
    )


@functools.lru_cache(maxsize=8)
def _findings(folder: Path, base: Base, _: int) -> tuple[checks.Finding, ...]:
    return tuple(checks.findings(folder, base))


def _state(folder: Path) -> int:
    """What changes with any file of a dataset."""
    files = sorted(folder.iterdir())
    return hash(tuple((f.name, f.stat().st_mtime_ns, f.stat().st_size) for f in files))
