"""What captions say to a transformer: rows of states, joined, padded, and as named tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Said(NamedTuple):
    """What captions say where all have as many tokens."""

    states: Tensor  # [B, tokens, width]
    pooled: Tensor  # [B, width], a summary


class States(NamedTuple):
    """The same without a summary."""

    states: Tensor  # [B, tokens, width]


class Varied(NamedTuple):
    """What captions say where each has a number of tokens of its own: no padding is kept."""

    states: tuple[Tensor, ...]  # of every row [tokens, width] or [tokens, layers, width]


Kind = type[Said] | type[States] | type[Varied]


def gathered(some: Sequence[Said]) -> Said:
    """One conditioning with the rows of several, in order."""
    return Said(*(torch.cat(tensors) for tensors in zip(*some, strict=True)))


def stacked(some: Sequence[States]) -> States:
    """The same of states without a summary."""
    return States(torch.cat([one.states for one in some]))


def joined(some: Sequence[Varied]) -> Varied:
    """The same of rows of several lengths."""
    return Varied(tuple(row for one in some for row in one.states))


def padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of several lengths as [B, longest, ...] with zeros behind, and which of them are tokens,
    bool [B, longest]. Lengths are shapes, so a GPU is not waited for.
    """
    longest = max(map(len, rows))
    heard = torch.stack([torch.arange(longest, device=row.device) < len(row) for row in rows])
    filled = [F.pad(row, (*(0, 0) * (row.dim() - 1), 0, longest - len(row))) for row in rows]
    return torch.stack(filled), heard


def as_tensors(said: Said | States | Varied) -> dict[str, Tensor]:
    """One row as named tensors."""
    return {
        name: (value[0] if isinstance(value, tuple) else value).detach().contiguous()
        for name, value in said._asdict().items()
    }


def from_tensors(kind: Kind, tensors: Mapping[str, Tensor]) -> Said | States | Varied:
    """The same row again. Raises KeyError for tensors of another kind."""
    if kind is Varied:
        return Varied((tensors["states"],))
    if kind is States:
        return States(tensors["states"])
    return Said(tensors["states"], tensors["pooled"])
