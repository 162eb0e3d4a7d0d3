"""Styles that are drawn with: read from a file, put on the rows of a batch, taken off again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from training.adapters.lora_layers import (
    Adapter,
    LoraLayer,
    Router,
)
from training.adapters.other_methods import HadaAdapter, KronAdapter, OtherAdapter
from training.models import loader
from training.models.clip_text import clip_skips
from training.models.family import OWN_WAY, Parts, Reading
from training.models.textual_inversion import Token, of_words
from training.style_files.key_names import accepted_names
from training.style_files.lora import Change, Hada, Kron, Lora
from training.style_files.matching import match
from training.style_files.reading import Style


@dataclass(frozen=True)
class ActiveStyle:
    """A style put on some rows of a batch: for every part, module -> change, and how strongly."""

    modules: Mapping[tuple[str, str], Change]  # (part, module name) -> matrices
    strength: float = 1.0
    tokens: tuple[Token, ...] = ()  # its own words, which know no strength
    reading: Reading = OWN_WAY  # how captions were read when it was trained

    @property
    def words(self) -> tuple[Token, ...]:
        """Those that are read: none of a style of strength 0."""
        return self.tokens if self.strength else ()


def load_style(style: Style, parts: Parts) -> ActiveStyle:
    """Return the style at full strength, checked against the base.

    Raises StyleFileError when it does not fit.
    """
    shapes = {part: loader.weight_shapes(parts.networks[part]) for part in parts.family.adapted}
    clip_skip, pieces = style.reading
    if not parts.family.text_groups:
        clip_skip, pieces = 0, 1  # of CLIP's encoders, whose last states are not heard there
    if clip_skip:
        encoder = parts.networks[parts.family.text_encoders[0]]
        layers = getattr(encoder.config, "num_hidden_layers", 0)
        if clip_skip not in clip_skips(parts.family.spec, layers):
            clip_skip = 0
    return ActiveStyle(
        match(style, accepted_names(shapes, parts.family.name)),
        tokens=of_words(style.words),
        reading=Reading(clip_skip, pieces),
    )


def read_by(parts: Parts, rows: Sequence[Sequence[ActiveStyle]]) -> Parts:
    """The base as rows with these styles read their captions: each with the clip skip of its first
    style that has one, all of them as long as the style of the longest captions.
    """
    styles = [[active for active in row if active.strength] for row in rows]
    skips = [
        next((a.reading.clip_skip for a in row if a.reading.clip_skip), parts.readings[0].clip_skip)
        for row in styles
    ]
    longest = max([parts.readings[0].pieces, *(a.reading.pieces for row in styles for a in row)])
    return replace(parts, readings=tuple(Reading(skip, longest) for skip in skips))


@contextmanager
def apply_styles(
    networks: Mapping[str, nn.Module], rows: Sequence[Sequence[ActiveStyle]]
) -> Iterator[None]:
    """While inside, row i of every batch goes through the styles rows[i]; an empty list is the base
    itself.

    Every touched layer has its rows' styles added and is the former one again afterwards. A batch
    must have len(rows) rows or a multiple of it (guidance doubles them: uncond rows first, then
    cond).
    """
    # Rows of the same styles are one adapter
    alike: dict[tuple[int, ...], int] = {}
    route = [alike.setdefault(tuple(map(id, row)), len(alike)) for row in rows]
    different = {index: rows[route.index(index)] for index in alike.values()}
    router = Router(tuple(route))
    layers: list[LoraLayer] = []
    try:
        for part, network in networks.items():
            touched = {
                module
                for row in rows
                for active in row
                for (p, module) in active.modules
                if p == part
            }
            for name in sorted(touched):
                layer = LoraLayer(network.get_submodule(name), router)
                layers.append(layer)
                for index, row in different.items():
                    own = [
                        (active.modules[part, name], active.strength)
                        for active in row
                        if (part, name) in active.modules
                    ]
                    _put_on(layer, index, own)
        yield
    finally:
        for layer in reversed(layers):
            layer.restore()


def _put_on(layer: LoraLayer, index: int, styles: Sequence[tuple[Change, float]]) -> None:
    """Put the styles of one row on a layer: low-rank ones as one adapter, others one by one."""
    low_rank = [(change, strength) for change, strength in styles if isinstance(change, Lora)]
    others = [change.times(s) for change, s in styles if not isinstance(change, Lora)]
    if not styles:
        return
    weight = layer.base.weight
    if low_rank:
        layer.adapters[index] = _joined(weight, low_rank)
    if others:
        layer.others[index] = [_other(weight, change) for change in others]


def _other(weight: Tensor, change: Kron | Hada) -> OtherAdapter:
    """A change of another kind as an adapter, in the precision of the base's weight."""

    def matrices(*arrays: np.ndarray) -> list[Tensor]:
        return [torch.from_numpy(np.ascontiguousarray(array)).to(weight) for array in arrays]

    if isinstance(change, Kron):
        return KronAdapter(*matrices(change.one, change.two))
    a1, b1, a2, b2 = matrices(*change.matrices)
    return HadaAdapter(a1, b1, a2, b2, change.scale)


def _joined(weight: Tensor, styles: Sequence[tuple[Lora, float]]) -> Adapter:
    """Return several styles of one row as one adapter: their matrices one below the other,
    strength and alpha / rank inside up.
    """
    downs, ups = [], []
    for lora, strength in styles:
        scale = strength * lora.alpha / lora.rank
        up = np.asarray(lora.up, np.float64).reshape(lora.up.shape[0], lora.rank) * scale
        down = torch.from_numpy(np.ascontiguousarray(lora.down))
        downs.append(down.reshape(lora.rank, *weight.shape[1:]).to(weight.dtype))
        ups.append(torch.from_numpy(up).to(weight.dtype))
    down, up = torch.cat(downs), torch.cat(ups, 1)
    return Adapter(down.to(weight.device), up.to(weight.device), 1.0)
