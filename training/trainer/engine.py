"""Microbatches through the base and back: of one style, or of many in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from training.adapters import lora_layers
from training.adapters.multi_lora import SharedBase
from training.events import Stepped, Warned
from training.runtime import memory
from training.trainer.batches import Batch
from training.trainer.trainer import DidNotFit, Microbatch, Trainer


class Engine:
    """shared_base: what styles that go together share; None where a run has its own."""

    def __init__(self, shared_base: SharedBase | None = None) -> None:
        self.shared_base = shared_base

    def forward_backward(self, group: Sequence[Microbatch]) -> list[Tensor | DidNotFit]:
        """Add up the gradients of those that learn; return for each its loss, on the device, or
        that all did not fit into the memory.
        """
        try:
            return list(self.losses(group))
        except torch.OutOfMemoryError as error:
            give_back(error, group[0].trainer)
            return [DidNotFit(error, len(group)) for _ in group]

    def losses(self, group: Sequence[Microbatch], *, learn: bool = True) -> list[Tensor]:
        """The same; learn: False leaves all gradients as they are. Raises OutOfMemoryError."""
        with ExitStack() as untouched:
            for one in group:
                if not (learn and one.learns):
                    untouched.enter_context(one.trainer.optimiser.untouched())
            if len(group) > 1:
                return self._joint(group)
            trainer = group[0].trainer
            with trainer.adapters_active():
                return [trainer.backward(group[0].batches)]

    def _joint(self, group: Sequence[Microbatch]) -> list[Tensor]:
        """One forward and backward for the rows of several styles."""
        first, shared_base = group[0].trainer, self.shared_base
        if shared_base is None:
            raise ValueError("several styles at once need a shared base")
        each = [(one.trainer, batch) for one in group for batch in one.batches]
        # Those whose captions are encoded anew stand first
        each.sort(key=lambda one: not one[0].plan.trains_text)
        noisy = torch.cat([batch.noisy for _, batch in each])
        t = torch.cat([batch.t for _, batch in each])
        conditioning = _conditioning(each, shared_base)
        checkpointing = any(trainer.microbatches.current.checkpointing for trainer, _ in each)
        lora_layers.set_gradient_checkpointing(first.parts.denoiser, checkpointing)
        with (
            first.watch.watched(first.parts.networks.values()),
            shared_base.routed(_rows(each)),
        ):
            predicted = first.parts.family.predict(first.parts, noisy, t, conditioning)
            parts = predicted.split([len(batch.t) for _, batch in each])
            losses = [
                trainer.loss(batch, part)
                for (trainer, batch), part in zip(each, parts, strict=True)
            ]
            shares = [trainer.loss_share for trainer, _ in each]
            total = [loss * share for loss, share in zip(losses, shares, strict=True)]
            torch.stack(total).sum().backward()
        of_each = {id(one.trainer): list[Tensor]() for one in group}
        for (trainer, _), loss in zip(each, losses, strict=True):
            of_each[id(trainer)].append(loss.detach())
        return [torch.stack(of_each[id(one.trainer)]).sum() for one in group]


def _conditioning(each: Sequence[tuple[Trainer, Batch]], shared_base: SharedBase) -> object:
    """The captions' states, in the order of the rows; with gradients for those that are
    trained.
    """
    fresh = [(trainer, batch) for trainer, batch in each if trainer.plan.trains_text]
    kept = [trainer.words(batch.captions) for trainer, batch in each[len(fresh) :]]
    first = each[0][0].parts
    if fresh:
        captions = [caption for _, batch in fresh for caption in batch.captions]
        tokens = [trainer.tokens for trainer, batch in fresh for _ in batch.t]
        with shared_base.routed(_rows(fresh)):
            kept.insert(0, first.encode_text(captions, tokens))
    return first.family.gather(kept)


def _rows(each: Sequence[tuple[Trainer, Batch]]) -> list[int]:
    """Which adapters every row goes through."""
    return [trainer.adapter_index for trainer, batch in each for _ in batch.t]


def give_back(error: torch.OutOfMemoryError, trainer: Trainer) -> None:
    """Let go of all that a pass had computed, which the frames of its error hold."""
    error.__traceback__ = None
    memory.give_back(trainer.place.device)


def update(trainer: Trainer) -> Stepped | Warned:
    """Make the next update of one style that is alone.

    A Warned instead of a Stepped: see Trainer.finish_microbatch.
    """
    engine = Engine(trainer.shared_base)
    while True:
        (result,) = engine.forward_backward([trainer.next_microbatch()])
        if event := trainer.finish_microbatch(result):
            return event
