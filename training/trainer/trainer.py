"""One style in training: its microbatches, its updates, and the way back when they go wrong."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from training.adapters import lora_layers
from training.adapters.multi_lora import SharedBase
from training.config.schema import RunConfig
from training.errors import DivergedError, OutOfMemory, SpaceError
from training.events import Stepped, Warned
from training.models import objective
from training.models.family import Conditioning, Parts
from training.models.textual_inversion import Token
from training.modules.compile import begin_pass
from training.modules.stored import frozen_count
from training.runtime import memory
from training.runtime.device import DeviceSpec
from training.runtime.distributed import ProcessGroup
from training.trainer import checkpoint
from training.trainer.attach import Adapters, Attached
from training.trainer.batches import Batch, BatchMaker, EncodedData
from training.trainer.divergence import LOST_IN_A_ROW, Guard
from training.trainer.latents import Words
from training.trainer.memory_watch import MemoryWatch
from training.trainer.microbatching import MicrobatchPlans
from training.trainer.networks import Networks
from training.trainer.optimizer import Optimiser, course
from training.trainer.plan import Plan

State = tuple[int, dict[str, Tensor]]  # updates, and all that the optimiser must keep


@dataclass(frozen=True)
class Microbatch:
    """What one style sends through the base once.

    place: the style's among those that are trained; number: of the microbatch in its run, from 0;
    learns: whether its gradients count, else it only goes along with the others.
    """

    place: int
    trainer: Trainer
    batches: tuple[Batch, ...]
    number: int
    learns: bool = True


@dataclass(frozen=True)
class DidNotFit:
    """The result of a microbatch for which the memory was too small. styles: how many went through
    the base in it.
    """

    error: torch.OutOfMemoryError
    styles: int = 1


@dataclass(eq=False)
class Trainer:
    """A loaded base, adapters on it, pictures in latents, an optimiser: ready for updates.

    `training.trainer.setup.set_up` makes one.
    """

    plan: Plan
    world: ProcessGroup
    place: DeviceSpec
    networks: Networks
    data: EncodedData
    attached: Attached
    words: Words
    watch: MemoryWatch
    microbatches: MicrobatchPlans
    shared_base: SharedBase | None = None
    step: int = 0  # updates that were made
    started: float = field(default_factory=time.time)  # seconds since 1970
    guard: Guard = field(default_factory=Guard)
    pace: list[float] = field(default_factory=list)  # seconds of the latest updates
    maker: BatchMaker = field(init=False)
    good: State = field(init=False)  # to go back to
    _losses: list[Tensor] = field(default_factory=list)  # of the update that is being made
    _began: float = 0.0
    _ahead: tuple[int, tuple[Batch, ...]] | None = None  # a microbatch made beforehand

    def __post_init__(self) -> None:
        self.maker = BatchMaker(self.config, self.data, self.parts, self.world)
        self.remember()

    @property
    def config(self) -> RunConfig:
        return self.plan.config

    @property
    def folder(self) -> Path:
        return self.config.run_folder

    @property
    def parts(self) -> Parts:
        return self.networks.parts

    @property
    def adapters(self) -> Adapters:
        return self.attached.adapters

    @property
    def tokens(self) -> tuple[Token, ...]:
        return self.attached.tokens

    @property
    def optimiser(self) -> Optimiser:
        return self.attached.optimiser

    @property
    def adapter_index(self) -> int:
        return self.attached.adapter_index

    @property
    def steps(self) -> int:
        return self.config.optim.steps

    @property
    def total(self) -> int:
        """Weights of the parts that are adapted, adapters not counted."""
        adapted = {part for part, _ in self.adapters}
        return sum(frozen_count(self.parts.networks[part]) for part in adapted)

    def use_whole_captions(self) -> None:
        """Train on the captions as they are in their files, whatever is read of them."""
        self.data = self.data.with_whole_captions
        self.maker = BatchMaker(self.config, self.data, self.parts, self.world)

    # --- one update ---

    @property
    def next_number(self) -> int:
        """Of the next microbatch, in the run."""
        return self.step * self.config.optim.accumulate + len(self._losses)

    @property
    def begins_update(self) -> bool:
        """Whether the next microbatch is the first of its update."""
        return not self._losses

    def next_microbatch(self, place: int = 0) -> Microbatch:
        """Return what is to go through the base next; place: this style's among others."""
        if self.begins_update:
            self._began = time.monotonic()
            self.microbatches.at(self.step)
        number, (at, batches) = self.next_number, self._ahead or (-1, ())
        self._ahead = None
        return Microbatch(place, self, batches if at == number else self.batches(number), number)

    def finish_microbatch(self, result: Tensor | DidNotFit) -> Stepped | Warned | None:
        """Take the loss of the microbatch that was asked for, whose gradients are added up; after
        an update's last one make the update.

        A Warned instead of a Stepped says it was left out or is made again, or that the run went
        back. Raises DivergedError, OutOfMemory.
        """
        if isinstance(result, DidNotFit):
            return self._make_again(result)
        self._losses.append(result)
        self._look_ahead(self.next_number)
        if len(self._losses) < self.config.optim.accumulate:
            return None
        losses, self._losses = self._losses, []
        return self._update(torch.stack(losses).mean(), full=False)

    def leave_update(self) -> None:
        """Forget an update that was begun; it is made when the run goes on."""
        self._losses = []
        self.optimiser.clear()

    def _look_ahead(self, number: int) -> None:
        """Make the next microbatch while the device is still at work on the last one, if it is
        chance and pictures alone.
        """
        end = self.steps * self.config.optim.accumulate
        if number < end and not self.config.prior.frozen_weight:
            self._ahead = number, self.batches(number)

    def _make_again(self, result: DidNotFit) -> Stepped | Warned:
        """Begin the update again in a way that needs less memory."""
        self._losses = []
        if result.styles > 1:
            self.optimiser.clear()  # what the microbatch had left there
            return Warned(
                f"the memory is full: update {self.step + 1} is made again with fewer styles "
                "at once. What is learnt stays the same."
            )
        if self.world.shards:  # the others wait in the middle of a layer
            raise result.error
        return self._update(torch.zeros(()), full=True)

    def _update(self, loss: Tensor, *, full: bool) -> Stepped | Warned:
        """Make the update with the gradients that were added up by all processes, unless one of
        them had its memory full.
        """
        optim = self.config.optim
        whole, full = self.world.summed(self.optimiser.gradients(), loss, full)
        if full:
            return self._narrow()
        self.watch.made_update()
        if self.scale_loss != 1:
            for gradient in self.optimiser.gradients():
                gradient.div_(self.scale_loss)
        norm = self.optimiser.norm()
        value, size = torch.stack([whole.to(norm.device), norm]).tolist()
        if not (math.isfinite(value) and math.isfinite(size)):
            return self._leave_out(value, size)
        self.step += 1
        self.guard.good()
        share = course(optim.schedule, self.step - 1, optim.steps, optim.warmup, optim.cycles)
        share *= self.guard.share
        self.optimiser.update(norm, share)
        seconds = time.monotonic() - self._began
        self.pace = [*self.pace[-19:], seconds]
        left = sum(self.pace) / len(self.pace) * (optim.steps - self.step)
        rate = max(optim.unet_lr, optim.text_encoder_lr) * share
        return Stepped(self.step, value, rate, size, seconds, left)

    def _leave_out(self, loss: float, norm: float) -> Warned:
        """Learn nothing from figures that are not finite; see training.trainer.divergence for what
        comes then.
        """
        self.optimiser.clear()
        self.step += 1
        verdict = self.guard.bad()
        if verdict == "leave out":
            return Warned(f"update {self.step} was left out: loss {loss}, gradient norm {norm}")
        if verdict == "give up":
            self.step -= self.guard.lost
            self.guard.lost = 0
            raise DivergedError(
                f"loss or gradient were not finite {LOST_IN_A_ROW} times in a row (loss "
                f"{loss}), after going back {self.guard.returns} times. "
                f"The state after {self.step} updates is kept. Lower optim.unet_lr and "
                "optim.text_encoder_lr, or set base.dtype = float32, "
                "and choose another save.name."
            )
        self.step, tensors = self.good = self._last_good()
        self.optimiser.restore(tensors)
        return Warned(
            f"loss or gradient were not finite {LOST_IN_A_ROW} times in a row (loss {loss}): "
            f"back to the state after {self.step} updates, "
            f"with {self.guard.share:g} of the learning rate"
        )

    def remember(self) -> None:
        """Take a copy of the state, to go back to."""
        self.good = (
            self.step,
            {
                name: tensor.detach().to("cpu", copy=True)
                for name, tensor in self.optimiser.tensors().items()
            },
        )

    def _last_good(self) -> State:
        """Return what was saved last, or the checkpoint before where not one update after it was
        finite: it was saved when things had gone wrong already.
        """
        step, _ = self.good
        if self.step - LOST_IN_A_ROW > step:
            return self.good
        before, _ = self.world.first(
            lambda: checkpoint.newest(self.folder / "checkpoints", before=step)
        )
        return (before.step, before.tensors) if before else self.good

    def _narrow(self) -> Warned:
        """Go on in a way that needs less memory, and write it down.

        Nothing of the update is kept. Raises OutOfMemory when there is none.
        """
        self.optimiser.clear()
        memory.give_back(self.place.device)
        self.watch.peaks.pop("passes", None)
        unwritten = ""
        try:
            if not self.microbatches.narrow(self.step):
                raise OutOfMemory(self._too_small())
        except SpaceError as error:
            unwritten = f" ({error})"
        return Warned(
            f"the memory is full: update {self.step + 1} is made again "
            f"{self.microbatches.words}, as are all that follow. What is learnt stays "
            f"the same.{unwritten}"
        )

    def _too_small(self) -> str:
        """What a user is told when not even one picture at a time can be learnt from."""
        checkpointing = self.microbatches.current.checkpointing
        how = "with gradient checkpointing" if checkpointing else "without gradient checkpointing"
        advice = "" if checkpointing else "Set optim.checkpointing = auto. "
        return (
            f"the memory is too small: one picture at a time, {how}, takes more than there "
            f"is, and {self.watch.room:.1f} GiB are there for it on {self.place.name}. "
            f"{advice}Lower data.resolution, choose a smaller base, or close other programs."
        )

    # --- one microbatch ---

    def batches(self, number: int) -> tuple[Batch, ...]:
        """Microbatch `number` of the run: the style's and class pictures, then those whose answer
        shall stay the base's own.
        """
        made, plain = self.maker.batch(number, self.place)
        if self.config.prior.frozen_weight:
            return made, self._frozen(made, plain)
        return (made,)

    @torch.no_grad()
    def _frozen(self, made: Batch, plain: list[str]) -> Batch:
        """Style pictures with captions without the trigger, to which the answer shall stay the
        frozen base's own (Li and Hoiem 2016, of classes).
        """
        style = replace(made.part(slice(0, len(plain))), captions=plain)
        adapted = [self.parts.networks[part] for part in {part for part, _ in self.adapters}]
        with lora_layers.adapters_disabled(adapted):
            answers = [
                self.predict(some.noisy, some.t, some.captions) for some in self.in_parts([style])
            ]
        weights = style.weights * self.config.prior.frozen_weight
        return replace(style, wanted=torch.cat(answers), weights=weights, masks=None)

    def in_parts(self, batches: Sequence[Batch]) -> Iterator[Batch]:
        """The batches' rows, so many at once as fit into the memory."""
        largest = max(len(batch.t) for batch in batches)
        at_once = -(-largest // self.microbatches.current.splits)
        for batch in batches:
            yield from batch.in_parts(at_once)

    def backward(self, batches: Sequence[Batch]) -> Tensor:
        """Add up the gradients of a microbatch, in parts that fit into memory; returns its loss, on
        the device.
        """
        losses = []
        checkpointing = self.microbatches.current.checkpointing
        lora_layers.set_gradient_checkpointing(self.parts.denoiser, checkpointing)
        with self.watch.watched(self.parts.networks.values()):
            for some in self.in_parts(batches):
                begin_pass(self.parts.denoiser)
                loss = self.loss(some, self.predict(some.noisy, some.t, some.captions))
                (loss * self.loss_share).backward()
                losses.append(loss.detach())
        return torch.stack(losses).sum()

    def loss(self, batch: Batch, predicted: Tensor) -> Tensor:
        """Its part in the loss of a microbatch."""
        optim = self.config.optim
        kind = objective.Loss(optim.loss, optim.huber)
        return objective.weighted_loss(
            predicted,
            batch.wanted,
            batch.weights,
            rows=batch.rows,
            masks=batch.masks,
            kind=kind,
        )

    @property
    def scale_loss(self) -> float:
        """Keeps small float16 gradients from vanishing."""
        return 2.0**10 if self.place.dtype == torch.float16 else 1.0

    @property
    def loss_share(self) -> float:
        """What a microbatch's loss is multiplied with before its gradients are taken."""
        return self.scale_loss / self.config.optim.accumulate

    def predict(self, noisy: Tensor, t: Tensor, captions: list[str]) -> Tensor:
        """The denoiser's answer. noisy: [B, C, h, w]; t: [B]; returns [B, C, h, w]."""
        return self.parts.family.predict(self.parts, noisy, t, self.encode_captions(captions))

    def encode_captions(self, captions: Sequence[str]) -> Conditioning:
        """The states of captions, from memory where the text encoder is not trained."""
        if not self.plan.trains_text:
            return self.words(captions)
        return self.parts.encode_text(captions, [self.tokens] * len(captions))

    def adapters_active(self) -> AbstractContextManager[None]:
        """While inside, the base is drawn with this run's adapters, as it is all the time where the
        run has a base of its own.
        """
        return self.shared_base.routed([self.adapter_index]) if self.shared_base else nullcontext()
