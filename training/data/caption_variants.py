"""The ways in which a caption is said in training: tags in another order, some left out, wildcards
chosen. Pure strings.

A variant is a function of (seed, picture, number) alone, so a resumed run says what an undisturbed
one says, and the states of all variants can be computed once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from training.data.chance import uniform

# {red|green}, the innermost of nested ones; no place is looked at twice
WILDCARD = re.compile(r"\{([^{}|]*+\|[^{}]*+)\}")


@dataclass(frozen=True)
class Variation:
    """What chance does to captions.

    shuffled: tags, the words between commas, change places; keep: so many of the first stay first
    and are never left out; dropout: the share of the others that is left out; wildcards: of {a|b}
    one is said; count: variants of each caption.
    """

    shuffled: bool = False
    keep: int = 1
    dropout: float = 0.0
    wildcards: bool = False
    count: int = 8
    seed: int = 0

    def of(self, captions: Sequence[str], picture: str, always: str = "") -> tuple[str, ...]:
        """All that may be said of a picture: its captions, or `count` variants of each that chance
        changes. picture: its identity; always: a word whose tag is never left out, the trigger.
        """
        found: list[str] = []
        for number, caption in enumerate(captions):
            made = [self._variant(caption, (picture, number, k), always) for k in range(self.count)]
            found += made if len(set(made)) > 1 else made[:1]
        return tuple(found)

    def _variant(self, caption: str, key: tuple[str, int, int], always: str) -> str:
        def chance(*what: object) -> float:
            return uniform(self.seed, *key, *what)

        text = caption
        if self.wildcards:
            text = resolved(text, lambda place: chance("wildcard", place))
        if not self.shuffled and not self.dropout:
            return text
        tags = [tag for part in text.split(",") if (tag := part.strip())]
        first, rest = tags[: self.keep], tags[self.keep :]
        whole = re.compile(rf"(?<!\w){re.escape(always)}(?!\w)", re.IGNORECASE) if always else None
        rest = [
            tag
            for i, tag in enumerate(rest)
            if (whole and whole.search(tag)) or chance("drop", i) >= self.dropout
        ]
        if self.shuffled:
            order = sorted(range(len(rest)), key=lambda i: chance("place", i))
            rest = [rest[i] for i in order]
        return ", ".join([*first, *rest])


def resolved(text: str, chance: Callable[[int], float] = lambda place: 0.0) -> str:
    """The text with one of the alternatives of every {a|b}, from the inside out: the first one, or
    what chance (a number in [0, 1) for each, in their order) chooses. Other braces stay.
    """
    place = 0
    while found := WILDCARD.search(text):
        choices = found[1].split("|")
        text = (
            text[: found.start()] + choices[int(chance(place) * len(choices))] + text[found.end() :]
        )
        place += 1
    return " ".join(text.split())
