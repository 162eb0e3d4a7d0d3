"""Adapters and learnt words on a base, and the style that they begin as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from training.adapters import lora_layers, other_methods
from training.adapters.multi_lora import SharedBase
from training.config.layer_patterns import kept, parsed_ranks, ranks_of
from training.config.schema import RunConfig
from training.errors import StyleFileError
from training.models.family import Parts
from training.models.textual_inversion import Token, first_token
from training.modules.compile import compile_passes
from training.style_files.key_names import Place
from training.style_files.lora import Change, Hada, Kron, Lora
from training.style_files.matching import match
from training.style_files.reading import Style, printable
from training.trainer import assistant, optimizers
from training.trainer.optimizer import Group, Optimiser

# (part, module): (down, up); of LoKr (one, two), of LoHa (a1, b1, a2, b2)
Adapters = dict[tuple[str, str], lora_layers.Factors]


@dataclass(frozen=True)
class Attached:
    """What is trained.

    names: those that a style file may give the base's modules; adapter_index: of this style among
    those of a shared base.
    """

    names: Mapping[str, Place]
    adapters: Adapters
    tokens: tuple[Token, ...]
    optimiser: Optimiser
    adapter_index: int = 0

    @property
    def count(self) -> int:
        """Weights that are trained."""
        words = sum(vectors.numel() for token in self.tokens for vectors in token.vectors.values())
        return words + sum(p.numel() for own in self.adapters.values() for p in own)

    def changes(self, config: RunConfig) -> dict[tuple[str, str], Change]:
        """What is trained as a style file has it."""
        shapes = {(part, module): shape for part, module, shape in self.names.values()}
        return {
            key: as_change(config, factors, shapes[key]) for key, factors in self.adapters.items()
        }


def attach(
    config: RunConfig,
    parts: Parts,
    names: Mapping[str, Place],
    shared_base: SharedBase | None,
    start: Style | None,
    helper: Style | None = None,
) -> Attached:
    """Put the adapters on and make the optimiser; fewer and other adapters are all in which styles
    differ. helper: the base's assistant, which they come beside. Raises StyleFileError for a start
    that does not fit.
    """
    if helper:
        assistant.put_on(helper, parts.denoiser, names)
    optim = config.optim
    adapter_index = shared_base.new_adapter_index() if shared_base else 0
    adapters: Adapters = {}
    groups: dict[str, Group] = {}
    for part in parts.family.adapted:
        is_denoiser = part == parts.family.denoiser
        lr = optim.unet_lr if is_denoiser else optim.text_encoder_lr
        if lr == 0:
            continue
        found = _put_on(config, parts, part, shared_base, adapter_index)
        adapters |= {(part, module): own for module, own in found.items()}
        groups |= _groups(part, list(found.values()), lr, optim.up_ratio)
    compile_passes(parts.denoiser, optim.compile)
    if start:
        _begin_as(start, config, names, adapters)
    tokens: tuple[Token, ...] = ()
    if config.adapter.tokens:
        tokens = (_first_token(config, parts, start),)
        vectors = [p for token in tokens for p in token.vectors.values()]
        groups["tokens"] = Group(cast(list[nn.Parameter], vectors), optim.token_lr)
    optimiser = optimizers.made(
        optim.method,
        groups,
        weight_decay=optim.weight_decay,
        clip=optim.clip,
        ema=optim.ema,
        other=optim.other,
    )
    return Attached(names, adapters, tokens, optimiser, adapter_index)


def _put_on(
    config: RunConfig, parts: Parts, part: str, shared_base: SharedBase | None, adapter_index: int
) -> Mapping[str, lora_layers.Factors]:
    """New adapters of the chosen method on a part's modules."""
    adapter, seed = config.adapter, config.optim.seed
    network, modules = parts.networks[part], _modules(config, parts, part)
    ranks = parsed_ranks(adapter.ranks) if part == parts.family.denoiser else {}
    own = ranks_of(modules, ranks, adapter.rank)
    if adapter.method != "lora":
        put_other = lora_layers.attach_other
        if shared_base:
            put_other = partial(shared_base.attach_other, adapter_index)
        if adapter.method == "lokr":
            return put_other(network, modules, other_methods.kron_maker(adapter.factor, seed))
        make = other_methods.hada_maker(own, adapter.multiplier, seed)
        return put_other(network, modules, make)
    put_on = partial(shared_base.attach, adapter_index) if shared_base else lora_layers.attach
    alpha = adapter.file_alpha(adapter.rank)
    return put_on(network, modules, rank=adapter.rank, alpha=alpha, seed=seed, ranks=own)


def as_change(config: RunConfig, factors: Sequence[Tensor], shape: Sequence[int]) -> Change:
    """A layer's trained matrices as a style file has them. shape: of the base's weight."""
    adapter = config.adapter
    if adapter.method == "lokr":
        one, two = factors
        return other_methods.as_kron(one, two)
    if adapter.method == "loha":
        alpha = adapter.file_alpha(len(factors[1]))
        return other_methods.as_hada(factors, alpha, tuple(shape[2:]))
    down, up = factors
    return lora_layers.as_lora(down, up, adapter.file_alpha(len(down)))


def _groups(
    part: str, layers: Sequence[lora_layers.Factors], lr: float, up_ratio: float
) -> dict[str, Group]:
    """The weights of a part, in one group where they learn alike."""
    if up_ratio == 1:
        return {part: Group([p for layer in layers for p in layer], lr)}
    downs, ups = zip(*layers, strict=True)
    return {f"{part}.down": Group(downs, lr), f"{part}.up": Group(ups, lr * up_ratio)}


def _modules(config: RunConfig, parts: Parts, part: str) -> list[str]:
    """Names of the modules of a part that the settings want adapted."""
    family, adapter = parts.family, config.adapter
    network = parts.networks[part]
    if part == family.denoiser:
        idle = family.idle(parts.denoiser)
        names = lora_layers.chosen_modules(network, family.groups, adapter.targets)
        names = [name for name in names if name not in idle]
        return kept(names, adapter.only, adapter.without)
    return lora_layers.chosen_modules(network, family.text_groups, adapter.text_encoder_targets)


def _first_token(config: RunConfig, parts: Parts, start: Style | None) -> Token:
    """Return the trigger as a word of its own, as it was in the style that is gone on from if that
    has it with as many vectors.
    """
    # As tokenizers read it; diffusers loses further vectors of words with capitals
    word, count = config.data.trigger.lower(), config.adapter.tokens
    token = first_token(parts, word, count, config.adapter.token_start, config.optim.seed)
    found = start.words.get(word) if start else None
    for part, values in (found or {}).items():
        if values.shape != token.vectors[part].shape:
            raise StyleFileError(
                f"{config.adapter.start} knows {word!r} by {len(values)} vectors, this run "
                f"by {count}. Set adapter.tokens to {len(values)}."
            )
        token.vectors[part].data.copy_(torch.from_numpy(values))
    return token


def _begin_as(
    style: Style, config: RunConfig, names: Mapping[str, Place], adapters: Adapters
) -> None:
    """Let the adapters be that style's, exactly.

    Raises StyleFileError when it holds a layer that is not trained here, or of another base.
    """
    found = match(style, names)
    _check_nothing_lost(style, config, [key for key in found if key not in adapters])
    if config.adapter.method == "lokr":
        _begin_as_kron(config, found, adapters)
        return
    if config.adapter.method == "loha":
        _begin_as_hada(config, found, adapters)
        return
    scale = config.adapter.multiplier
    loras = {key: change.as_lora() for key, change in found.items()}
    for key, lora in loras.items():
        if lora.rank > len(adapters[key][0]):
            raise StyleFileError(
                f"{config.adapter.start} has rank {lora.rank} at {'.'.join(key)}, this run "
                f"{len(adapters[key][0])}. Raise adapter.rank or what adapter.ranks says of it."
            )
    with torch.no_grad():
        for key, lora in loras.items():
            down, up = adapters[key]
            own = torch.from_numpy(
                np.asarray(lora.up, np.float32) * np.float32(lora.alpha / lora.rank / scale)
            )
            first = torch.from_numpy(np.asarray(lora.down, np.float32))
            down[: lora.rank] = first.view(lora.rank, *down.shape[1:]).to(down)
            up[:, : lora.rank] = own.view(-1, lora.rank, *up.shape[2:]).to(up)


def _begin_as_kron(
    config: RunConfig, found: Mapping[tuple[str, str], Change], adapters: Adapters
) -> None:
    for key, change in found.items():
        if isinstance(change, Lora) and change.is_zero:
            continue
        if not isinstance(change, Kron):
            raise StyleFileError(
                f"{config.adapter.start} is low-rank at {'.'.join(key)}, this run trains LoKr. Set "
                'adapter.method = "lora", or start from a LoKr.'
            )
        own, shapes = adapters[key], (change.one.shape, change.two.shape)
        if shapes != tuple(tuple(p.shape) for p in own):
            raise StyleFileError(
                f"{config.adapter.start} has factors of {shapes[0]} and {shapes[1]} at "
                f"{'.'.join(key)}, this run of {tuple(own[0].shape)} and {tuple(own[1].shape)}. "
                f"Set adapter.factor to {max(shapes[0])}."
            )
        for parameter, matrix in zip(own, (change.one, change.two), strict=True):
            parameter.data.copy_(torch.from_numpy(np.ascontiguousarray(matrix)))


def _begin_as_hada(
    config: RunConfig, found: Mapping[tuple[str, str], Change], adapters: Adapters
) -> None:
    for key, change in found.items():
        if isinstance(change, Lora) and change.is_zero:
            continue
        if not isinstance(change, Hada):
            raise StyleFileError(
                f"{config.adapter.start} is no LoHa at {'.'.join(key)}, which this run trains. Set "
                "adapter.method to what the style is, or start from a LoHa."
            )
        own, rank = adapters[key], len(change.b1)
        if any(m.shape != p.shape for m, p in zip(change.matrices, own, strict=True)):
            raise StyleFileError(
                f"{config.adapter.start} has rank {rank} at {'.'.join(key)}, this run "
                f"{len(own[1])}. Set adapter.rank, or what adapter.ranks says of it, to {rank}."
            )
        # LoHa's strength may be in any of its matrices
        factor = np.float32(change.scale / config.adapter.multiplier)
        first = (change.a1 * factor, change.b1, change.a2, change.b2)
        for parameter, matrix in zip(own, first, strict=True):
            parameter.data.copy_(torch.from_numpy(np.ascontiguousarray(matrix)))


def _check_nothing_lost(style: Style, config: RunConfig, untrained: list[tuple[str, str]]) -> None:
    """Refuse a start with layers or words that this run would not train."""
    if untrained:
        raise StyleFileError(
            f"{config.adapter.start} changes {len(untrained)} layers that this run would "
            f"not train ({'.'.join(untrained[0])}), so they would be lost. "
            "Add what they are to adapter.targets or adapter.text_encoder_targets, and set "
            "optim.text_encoder_lr above 0 for the text encoder."
        )
    own = {config.data.trigger.lower()} if config.adapter.tokens else set()
    if lost := sorted(set(style.words) - own):
        raise StyleFileError(
            f"{config.adapter.start} brings the word {printable(lost[0], 60)!r}, which "
            "would be lost. Set data.trigger to it, and "
            f"adapter.tokens to {len(style.words[lost[0]]['text_encoder'])}."
        )
