"""Patterns over the names of layers, as settings give them.

A pattern is a part of a name between dots, or several, with `*` and `?` for other letters:
`attn2`, `up_blocks.1`, `up_blocks.*.attentions.1`, `to_*`. Knows nothing of networks.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

LARGEST_RANK = 512


def fits(name: str, pattern: str) -> bool:
    """Whether a layer's dotted name holds the pattern's parts, one after another."""
    return fnmatchcase(f".{name}.", f"*.{pattern.strip('.')}.*")


def kept(names: Sequence[str], only: Sequence[str], without: Sequence[str]) -> list[str]:
    """Names that a pattern of `only` fits (all of them where there is none) and none of
    `without`.
    """
    return [
        name
        for name in names
        if (not only or any(fits(name, pattern) for pattern in only))
        and not any(fits(name, pattern) for pattern in without)
    ]


def parsed_ranks(ranks: Sequence[str]) -> dict[str, int]:
    """`PATTERN=RANK` each, as pattern -> rank. Raises ValueError with a sentence."""
    found: dict[str, int] = {}
    for text in ranks:
        pattern, _, rank = text.rpartition("=")
        if not pattern.strip() or not rank.strip().isdecimal():
            raise ValueError(f"{text!r}: PATTERN=RANK was expected, for instance conv*=4")
        if not 1 <= int(rank) <= LARGEST_RANK:
            raise ValueError(f"{text!r}: a rank from 1 to {LARGEST_RANK} was expected")
        found[pattern.strip()] = int(rank)
    return found


def ranks_of(names: Sequence[str], ranks: Mapping[str, int], usual: int) -> dict[str, int]:
    """Every name's rank: that of the last pattern that fits it, else the usual one."""
    found = dict.fromkeys(names, usual)
    for pattern, rank in ranks.items():
        found |= {name: rank for name in names if fits(name, pattern)}
    return found


def complaints(
    names: Sequence[str], only: Sequence[str], without: Sequence[str], ranks: Sequence[str]
) -> Iterator[str]:
    """What is wrong with patterns for layers of these names: those that fit none, and nothing left
    to train.
    """
    parts = sorted({".".join(name.split(".")[:n]) for name in names for n in range(1, 9)})
    parts += sorted({part for name in names for part in name.split(".") if not part.isdecimal()})
    settings = {"only": only, "without": without, "ranks": [*parsed_ranks(ranks)]}
    for setting, patterns in settings.items():
        for pattern in patterns:
            if not any(fits(name, pattern) for name in names):
                near = difflib.get_close_matches(pattern, parts, 3, 0.5)
                hint = f" Near it are {', '.join(near)}." if near else ""
                yield (
                    f"adapter.{setting} holds {pattern!r}, which fits none of the {len(names)} "
                    f"layers that adapter.targets stands for, for instance {names[0]}.{hint}"
                )
    if not kept(names, only, without):
        yield "adapter.only and adapter.without leave no layer to train. Leave out some patterns"
