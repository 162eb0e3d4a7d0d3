"""What is worth knowing before a training starts, as a list: trigger word, captions, near copies,
size, time and memory, each with what puts it right. Knows no components.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from studio.datasets import checks, fixes, store
from studio.datasets.base_info import Base, known
from studio.library.forecasts import Pace
from studio.page.templates import render
from studio.page.views.charts import duration
from studio.processes.plan import Memory
from training.errors import ModelError
from training.storage.paths import Workspace

# Kind of a finding: what one of it is called, and several
CALLED = {
    "broken": ("picture that cannot be read", "pictures that cannot be read"),
    "unreadable": ("caption that cannot be read", "captions that cannot be read"),
    "wordless": ("picture without a caption", "pictures without a caption"),
    "alike": ("group of near copies", "groups of near copies"),
    "small": ("picture that is too small", "pictures that are too small"),
    "lonely": ("picture with an unusual aspect ratio", "pictures with unusual aspect ratios"),
    "odd": ("caption with a link or a file name", "captions with links or file names"),
    "untidy": ("caption with repeated tags", "captions with repeated tags"),
    "repeated": ("caption used more than once", "captions used more than once"),
    "long": ("caption that is too long", "captions that are too long"),
}
OF_CAPTIONS = ("wordless", "unreadable", "odd", "untidy", "repeated", "long")
OF_SIZE = ("broken", "small", "lonely")
BY_PICTURE = ("broken", "unreadable", "wordless", "small", "lonely", "odd", "untidy", "long")
NO_TRIGGER = "None. Prompts cannot turn the style on or off."
FEWEST_LETTERS = 3  # of a trigger word that is made of a name
LONG = 6 * 3600.0  # seconds of a training; a longer one is worth a word
FEWEST_STEPS = 100
ODD_SIDE = 1.5  # times a base's own side, or the reverse: its images fall apart there
MANY = 0.25  # of the pictures: so many are not taken out, but trained smaller


@dataclass(frozen=True)
class Wanted:
    """What of a form the list looks at. pictures: in a step; side: px, 0 for the base's own."""

    dataset: str
    name: str
    trigger: str
    model: str
    steps: int
    pictures: int
    side: int
    storage: str


@dataclass(frozen=True)
class Line:
    """good: nothing to do; question: what Start asks first, "" where it need not; fix: what its
    button says; what that does: changes of settings by key, repairs of kinds of findings, takes_out
    their pictures, or else it opens a tab or a control, or presses a button.
    """

    kind: str
    title: str
    words: str
    good: bool = False
    question: str = ""
    fix: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    repairs: tuple[str, ...] = ()
    takes_out: tuple[str, ...] = ()
    opens: str = ""
    presses: str = ""

    @property
    def acts(self) -> bool:
        """Whether its button is for the server."""
        return bool(self.changes or self.repairs or self.takes_out)


def wanted(dataset: str | None, values: Mapping[str, Any]) -> Wanted:
    """What stands in a form, whatever that is. values: by the setting's key."""

    def words(key: str) -> str:
        value = values.get(key)
        return value.strip() if isinstance(value, str) else ""

    def number(key: str, least: int = 1) -> int:
        value = values.get(key)
        good = isinstance(value, int | float) and least <= value < 10**9
        return int(value) if good and value is not None else least

    pictures = number("optim.batch_size") * number("optim.accumulate")
    return Wanted(
        dataset if isinstance(dataset, str) else "",
        words("save.name"),
        words("data.trigger"),
        words("base.model") or "mini",
        number("optim.steps"),
        pictures,
        number("data.resolution", 0),
        words("base.storage") or "auto",
    )


def lines(
    workspace: Workspace, of: Wanted, pace: Pace | None = None, memory: Memory | None = None
) -> tuple[Line, ...]:
    """The whole list; () before there is a dataset with pictures.

    pace: of an earlier run, where there was one; memory: as predicted, where it was.
    """
    if of.dataset not in store.names(workspace):
        return ()
    folder = store.folder(workspace, of.dataset)
    if not (count := len(store.pictures(folder))):
        return ()
    found = findings(folder, of)
    return (
        _trigger(of),
        _captions(found, count),
        _copies(found),
        _size(found, count, of, folder),
        _time(of, pace),
        *_memory(of, memory),
    )


def shown(found: Sequence[Line]) -> str:
    """The list as HTML."""
    return render("train_preflight", lines=found)


def questions(found: Sequence[Line]) -> list[str]:
    """What Start asks before it goes ahead, [] where it need not."""
    return [line.question for line in found if line.question]


def base_of(of: Wanted) -> Base:
    """What is known of the base, at the size of the form, with its trigger word."""
    try:
        base = known(of.model)
    except ModelError:
        base = Base()
    side = of.side if of.side >= base.multiple else base.side
    return replace(base, trigger=of.trigger, side=side)


def findings(folder: Path, of: Wanted) -> tuple[checks.Finding, ...]:
    """Those of the dataset check."""
    return _findings(folder, base_of(of), _state(folder))


def _trigger(of: Wanted) -> Line:
    if of.trigger:
        return Line("trigger", "Trigger word", f"“{of.trigger}”", good=True)
    word = re.sub(r"[^a-z]", "", of.name.lower())[:20]
    line = Line("trigger", "Trigger word", NO_TRIGGER, question="Start without a trigger word?")
    if len(word) < FEWEST_LETTERS:
        return replace(line, fix="Add one", opens="data-trigger")
    return replace(line, fix=f"Use “{word}”", changes={"data.trigger": word})


def _captions(found: Sequence[checks.Finding], count: int) -> Line:
    of_captions = [finding for finding in found if finding.kind in OF_CAPTIONS]
    if not of_captions:
        words = "The picture has one" if count == 1 else f"All {count} pictures have one"
        return Line("captions", "Captions", words, good=True)
    spoilt = {name for finding in of_captions if _spoils(finding) for name in finding.pictures}
    question = f"Start anyway? {_are(len(spoilt))}." if spoilt else ""
    line = Line("captions", "Captions", _counted(of_captions), question=question)
    if kinds := fixes.fixable(of_captions):
        return replace(line, fix="Fix captions", repairs=tuple(kinds))
    return replace(line, fix="Open Dataset", opens="Dataset")


def _copies(found: Sequence[checks.Finding]) -> Line:
    alike = [finding for finding in found if finding.kind == "alike"]
    if not alike:
        return Line("copies", "Near copies", "None", good=True)
    return Line(
        "copies", "Near copies", _counted(alike), fix="Keep one of each", repairs=("alike",)
    )


def _size(found: Sequence[checks.Finding], count: int, of: Wanted, folder: Path) -> Line:
    base = base_of(of)
    own = base_of(replace(of, side=0)).side
    if not own / ODD_SIDE <= base.side <= own * ODD_SIDE:
        words = f"{base.side} px, but this base model was made for {own} px."
        return Line("size", "Size", words, fix=f"Use {own} px", changes={"data.resolution": 0})
    of_size = [finding for finding in found if finding.kind in OF_SIZE]
    if not of_size:
        return Line("size", "Size", f"Trained at {base.side} px", good=True)
    kinds = Counter(finding.kind for finding in of_size)
    line, broken = Line("size", "Size", f"{_counted(of_size)}."), kinds["broken"]
    if broken:
        label = "Leave it out" if broken == 1 else f"Leave these {broken} out"
        question = f"Start anyway? {_are(broken, 'cannot be read')}."
        return replace(line, fix=label, repairs=("broken",), question=question)
    small = [finding.pictures[0] for finding in of_size if finding.kind == "small"]
    if len(small) > MANY * count:
        side = _fitting(folder, small, base)
        if own / ODD_SIDE <= side < base.side:
            return replace(line, fix=f"Train at {side} px", changes={"data.resolution": side})
    if small:
        label = "Leave it out" if len(small) == 1 else f"Leave these {len(small)} out"
        return replace(line, fix=label, takes_out=("small",))
    if fixes.fixable(of_size):
        return replace(line, fix="Crop to fit", repairs=("lonely",))
    return replace(line, fix="Open Dataset", opens="Dataset")


def _fitting(folder: Path, small: Sequence[str], base: Base) -> int:
    """The largest side, in px, for which none of these pictures is enlarged."""
    areas = [seen.width * seen.height for seen in (checks.look(folder / one) for one in small)]
    return int(min(areas) ** 0.5) // base.multiple * base.multiple


def _time(of: Wanted, pace: Pace | None) -> Line:
    if pace is None:
        return Line("time", "Time", "Not known yet", good=True, fix="Estimate", presses="measure")
    seconds = pace.time(of.steps, of.pictures, of.side)
    words = f"About {duration(_rounded(seconds))}, by the pace of “{pace.run}”"
    if seconds <= LONG or of.steps < 2 * FEWEST_STEPS:
        return Line("time", "Time", words, good=True)
    half = max(FEWEST_STEPS, of.steps // 2 // 50 * 50)
    changes = {"optim.steps": half}
    return Line("time", "Time", f"{words}.", fix=f"Use {half} steps", changes=changes)


def _rounded(seconds: float) -> float:
    """Whole minutes from a minute on."""
    return seconds if seconds < 60 else round(seconds / 60) * 60.0


def _memory(of: Wanted, memory: Memory | None) -> list[Line]:
    if memory is None:
        return []
    if not memory.needed:
        return [Line("memory", "Memory", "More than enough", good=True)]
    words = f"About {memory.needed:.1f} GB of {memory.room:.1f} GB free"
    if memory.needed <= memory.room:
        return [Line("memory", "Memory", words, good=True)]
    question = f"Start anyway? It is expected to need {memory.needed:.1f} GB of memory, and "
    question += f"{memory.room:.1f} GB are free."
    line = Line("memory", "Memory", f"{words}: too little.", question=question)
    if memory.storage is None:
        return [replace(line, fix="Choose a smaller base model", opens="Settings")]
    changes: dict[str, Any] = {} if of.storage == "auto" else {"base.storage": "auto"}
    own = of.side or base_of(of).side
    if memory.side < own:
        changes["data.resolution"] = memory.side
        return [replace(line, fix=f"Train at {memory.side} px", changes=changes)]
    return [replace(line, fix="Compress the base model", changes=changes)]


def _are(count: int, what: str = "no caption") -> str:
    have = "" if what.startswith("cannot") else "has " if count == 1 else "have "
    return f"{count} picture{'' if count == 1 else 's'} {have}{what}"


def _counted(found: Sequence[checks.Finding]) -> str:
    """How many of each kind, the most first."""
    count: Counter[str] = Counter()
    for finding in found:
        count[finding.kind] += len(finding.pictures) if finding.kind in BY_PICTURE else 1
    return ", ".join(f"{n} {CALLED[kind][n > 1]}" for kind, n in count.most_common())


def _spoils(finding: checks.Finding) -> bool:
    """Whether a training would refuse the picture, or learn it without any words."""
    offered = dict(finding.offered_fixes)
    return finding.kind == "unreadable" or (
        finding.kind == "wordless" and "use_name" not in offered
    )


@functools.lru_cache(maxsize=8)
def _findings(folder: Path, base: Base, _: int) -> tuple[checks.Finding, ...]:
    return tuple(checks.findings(folder, base))


def _state(folder: Path) -> int:
    """What changes with any file of a dataset."""
    files = sorted(folder.iterdir())
    return hash(tuple((f.name, f.stat().st_mtime_ns, f.stat().st_size) for f in files))
