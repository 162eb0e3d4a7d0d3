"""Which pictures of a dataset are shown: those with an issue, those whose captions have a tag.

Knows files; nothing of gradio.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from studio.datasets import checks, store
from studio.datasets.base_info import Base
from studio.datasets.caption_edits import tags

SHORT = 2  # words of a caption that says little
ALL = "All pictures"
NO_CAPTION, SHORT_CAPTION = "No caption", "Short caption"
# What a user chooses -> kinds of findings
FOUND: Mapping[str, tuple[str, ...]] = {
    "Caption issues": ("unreadable", "odd", "untidy", "repeated", "long"),
    "Near copies": ("alike",),
    "Too small": ("small",),
    "Unusual shape": ("lonely",),
    "Cannot be read": ("broken",),
}
FILTERS = (ALL, NO_CAPTION, SHORT_CAPTION, *FOUND)
MOST_TAGS = 30  # of a dataset that are listed


@dataclass(frozen=True)
class Filter:
    """kind: one of FILTERS; words: tags or words between commas that a caption or a file name must
    have, with - before those that it must not have.
    """

    kind: str = ALL
    words: str = ""

    @property
    def is_open(self) -> bool:
        """Whether every picture passes."""
        return self.kind not in FILTERS[1:] and not tags(self.words)


def passing(dataset: Path, base: Base, of: Filter) -> list[str]:
    """Names of the pictures that pass, in the order of the alphabet."""
    captions = store.captions(dataset)
    names = [name for name, text in captions.items() if _has(f"{name}\n{text}", of.words)]
    if of.kind == NO_CAPTION:
        return [name for name in names if not captions[name]]
    if of.kind == SHORT_CAPTION:
        return [name for name in names if 0 < len(captions[name].split()) <= SHORT]
    if of.kind not in FOUND:
        return names
    found = [f for f in checks.findings(dataset, base) if f.kind in FOUND[of.kind]]
    named = {name for finding in found for name in finding.pictures}
    return [name for name in names if name in named]


def _has(text: str, words: str) -> bool:
    text = text.casefold()
    for word in tags(words.casefold()):
        without = word.removeprefix("-").strip()
        if without and (without in text) == word.startswith("-"):
            return False
    return True


def frequent_tags(dataset: Path) -> list[tuple[str, int]]:
    """The tags that stand in two captions or more and how often, the most frequent first."""
    count: Counter[str] = Counter()
    for text in store.captions(dataset).values():
        count.update({tag.casefold() for tag in tags(text)})
    return [(tag, often) for tag, often in count.most_common(MOST_TAGS) if often > 1]
