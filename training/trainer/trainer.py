"""One run: everything that is checked and made before the first update, one update, one preview,
one checkpoint, the export.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training import __version__
from training.adapters import lora_layers
from training.adapters.multi_lora import SharedBase
from training.config.loading import to_toml
from training.data.buckets import Bucket, buckets, nearest
from training.data.captions import captioned
from training.data.dataset import Example, read_dataset
from training.data.pictures import open_picture, pixels
from training.diffusion import class_images, objective
from training.diffusion.sampling import draw
from training.errors import (
    ConfigError,
    DataError,
    DivergedError,
    OutOfMemory,
    SpaceError,
    StyleFileError,
)
from training.events import Noted, Previewed, Saved, Stepped, Warned
from training.models import loader
from training.models.family import Conditioning, Parts
from training.models.textual_inversion import Token, as_words, first_token
from training.modules.compile import begin_pass, compile_passes
from training.prompt import Prompt
from training.runtime import memory
from training.runtime.device import (
    GIB,
    device_record,
    finished,
    has_own_memory,
    sent,
)
from training.runtime.distributed import ALONE, ProcessGroup
from training.runtime.rng import Order, drawn
from training.storage.paths import (
    STEPS,
    checked_room,
    fsync_folder,
    inside,
    write_whole,
)
from training.style_files import embeddings
from training.style_files.key_names import accepted_names, canonical_name
from training.style_files.matching import match
from training.style_files.metadata import Made, metadata_for
from training.style_files.reading import Style, printable, read_style
from training.style_files.writing import write_style
from training.trainer import checkpoint, microbatching, resume
from training.trainer.divergence import LOST_IN_A_ROW, Guard
from training.trainer.latent_cache import LatentStore
from training.trainer.latents import Latents, Words
from training.trainer.microbatching import MicrobatchPlan
from training.trainer.optimizer import Group, Optimiser, course
from training.trainer.plan import Plan, _check_same_pictures

PREVIEW_BYTES = 3  # a pixel of a PNG at worst
HALF = 2  # bytes of a weight in a style file
WORDS = "words"  # folder of learnt words, each in a file of its own
MARGIN = 2**20  # bytes for run.toml, events and what the file system itself takes
# share of the free memory that is left to others, and to what one update needs more than another
SPARE = 0.1
# updates whose memory is watched: the second one has the optimiser's moments beside it, later ones
# take no more
WATCHED = 2


@dataclass(frozen=True)
class Batch:
    """Rows that want one forward and backward, on the device, and their part in a loss over `rows`
    style pictures.
    """

    noisy: Tensor  # [B, C, h, w], in the base's precision
    wanted: Tensor  # [B, C, h, w]
    t: Tensor  # [B]
    weights: Tensor  # [B]
    captions: list[str]
    rows: int

    def part(self, some: slice) -> Batch:
        return Batch(
            self.noisy[some],
            self.wanted[some],
            self.t[some],
            self.weights[some],
            self.captions[some],
            self.rows,
        )


@dataclass(frozen=True)
class MicrobatchRequest:
    """A pass that a run waits for: whoever drives the run adds up its gradients and sends back the
    loss, or throws OutOfMemoryError.

    number: of the pass in the run, from 0.
    """

    run: Trainer
    batches: tuple[Batch, ...]
    number: int


class TooManyError(torch.OutOfMemoryError):
    """A pass did not fit into memory because of the other styles in it."""


class LeftError(Exception):
    """Thrown into a run that waits for a pass when none will be made any more:

    its update is left for the next time.
    """


class Trainer:
    """A loaded base, adapters on it, pictures in latents, an optimiser: ready for updates.

    bench: a base that is loaded already and shared with other runs; without one the run loads its
    own.
    world: the processes that train this one style together; each holds the same adapters and
    moments, the first one writes.
    """

    def __init__(
        self, plan: Plan, shared_base: SharedBase | None = None, world: ProcessGroup = ALONE
    ) -> None:
        self.plan, self.config, self.place, self.world = plan, plan.config, plan.place, world
        self.shared_base, self.adapter_index = (
            shared_base,
            shared_base.new_adapter_index() if shared_base else 0,
        )
        self.folder = self.config.run_folder
        self.step, self.started, self.guard = 0, time.time(), Guard()
        self.room = self.limit = (
            math.inf
        )  # GiB that this process may take in all, and that its first updates are let take
        self.passes = self.as_set
        self.turns: dict[
            int, MicrobatchPlan
        ] = {}  # how passes are made from an update on, where not as the settings say
        # the others of a divided base wait in the middle of a layer
        self.watching = 0 if world.shards else WATCHED
        self.staying: set[str] = set()  # networks that updates need, once they are on the device
        self.peaks: dict[
            str, float
        ] = {}  # GiB that were taken at worst while encoding, and in passes
        self.trial = False
        # a pass that is ready, by its number
        self.ahead: tuple[int, tuple[Batch, ...]] | None = None
        self.pace: list[float] = []  # seconds of the latest updates
        self.parts: Parts
        self.optimiser: Optimiser

    # --- before the first update ---

    def prepare(self, *, trial: bool = False) -> Iterator[Noted | Warned | Saved]:
        """Load, encode, attach, restore.

        Says what takes time and what was worth noting. trial: nothing is written or gone on with.
        """
        config, plan, self.trial = self.config, self.plan, trial
        if not trial and self.world.writes:
            if config.save.resume == "anew" and (
                aside := resume.put_aside(self.folder, config.save.name)
            ):
                yield Noted(f"the earlier work of {config.save.name} lies in {aside.name} now")
            # Once: a run.toml that says "anew" would put this work aside at the next start
            lasting = config.model_copy(
                update={"save": config.save.model_copy(update={"resume": "exact"})}
            )
            write_whole(self.folder / "run.toml", to_toml(lasting))
        yield from (Warned(note) for note in plan.dataset.notes)
        if config.optim.compile != "off" and self.place.device.type == "cpu":
            yield Warned(
                "compiling for a CPU takes ten minutes and more, and a stop is heard after the "
                "first update: optim.compile is for GPUs."
            )
        yield Noted(f"loading {plan.files.title}")
        self._look_for_room()
        self.parts = (
            self.shared_base.parts()
            if self.shared_base
            else loader.load(plan.files, self.place, waiting=True)
        )
        self.staying = set(self.parts.networks) - {"vae"} if self.shared_base else set()
        self.choices = self._buckets()
        self.examples = list(plan.dataset.examples)
        yield from self._crowded()
        if config.prior.images and config.prior.weight:
            with self._at_hand(*self.parts.networks):
                yield from self._class_pictures(draw_missing=not trial)
        else:
            self.prior_examples: list[Example] = []
        yield Noted(f"encoding {len(self.examples) + len(self.prior_examples)} pictures")
        with self._at_hand("vae"), self.watched("encoding"):
            self._encode()
        # Before the adapters go on: their layers are named as the base's own
        shapes = {part: loader.weight_shapes(self.parts.networks[part]) for part in self._adaptable}
        self.names = accepted_names(shapes, self.parts.family.name)
        self.words = Words(self.parts)
        with self._at_hand(*(() if self.trains_text else self.parts.family.text_encoders)):
            self._forget()
        self._attach()
        self.good = self._state()
        if not trial:
            yield from self._restore()
            yield from self._as_before()
            if self.world.writes:
                self._check_room()
        self.world.meet()

    def _look_for_room(self) -> None:
        """See how much memory there is. Raises OutOfMemory when it cannot even hold the base."""
        place, files = self.place, self.plan.files
        among = self.world.size if place.device.type == "cpu" else 1  # processes that share it
        free = memory.free(place.device) / among
        self.room = memory.taken(place.device) + free
        self.limit = (1 - SPARE) * self.room
        # the others need not be there with it
        parts = [files.family.denoiser] if has_own_memory(place.device) else files.family.classes
        needed = loader.weight_count(files, parts) * place.dtype.itemsize / GIB
        if self.shared_base is None and needed > free:
            half = ", or set base.dtype = bfloat16" if place.dtype == torch.float32 else ""
            raise OutOfMemory(
                f"the weights of {files.title} alone take {needed:.1f} GiB in "
                f"{place.precision}, and {free:.1f} GiB are free on {place.name}. Close "
                f"other programs, choose a smaller base{half}."
            )

    @contextmanager
    def watched(self, what: str = "passes") -> Iterator[None]:
        """While inside, memory that would not be enough is told by OutOfMemoryError, by a CPU as
        well; in the first updates only.
        """
        if not self.watching:
            yield
            return
        with memory.watched(
            self.place.device, self.limit, memory.mapped(self.parts.networks.values())
        ) as watch:
            yield
        self.peaks[what] = max(watch.peak, self.peaks.get(what, 0.0))

    @contextmanager
    def _at_hand(self, *parts: str) -> Iterator[None]:
        """While inside, these networks are on the device.

        What updates do not need waits beside a GPU, not in its memory.
        """
        for part in parts:
            self.parts.networks[part].to(self.place.device)
        try:
            yield
        finally:
            if has_own_memory(self.place.device):
                for part in {*parts} & {*self.parts.networks} - self.staying:
                    self.parts.networks[part].to("cpu")
                memory.give_back(self.place.device)

    @property
    def trains_text(self) -> bool:
        """Whether what a caption says changes from update to update."""
        return self.config.optim.text_encoder_lr > 0 or self.config.adapter.tokens > 0

    @property
    def _adaptable(self) -> tuple[str, ...]:
        return (self.parts.family.denoiser, *self.parts.family.text_encoders)

    def _as_before(self) -> Iterator[Noted]:
        """Make the passes as this run made them after these updates, to the bit; what the setting
        says of checkpointing now wins.
        """
        record, wanted = resume.settings_record(self.config), self.config.optim.checkpointing
        self.turns = self.world.first(lambda: microbatching.read(self.folder, record))
        if wanted != "auto":
            self.turns = {
                step: replace(turn, checkpointing=wanted == "on")
                for step, turn in self.turns.items()
            }
        if self.step:
            self.limit = self.room  # it has shown already that it fits
        if earlier := [step for step in self.turns if step <= self.step]:
            self.passes = self.turns[max(earlier)]
            yield Noted(f"updates are made as before: {self.passes.words(self.largest)}")

    def _buckets(self) -> list[Bucket]:
        side = self.config.data.resolution or self.parts.size
        return (
            buckets(side, self.parts.multiple) if self.config.data.buckets else [Bucket(side, side)]
        )

    def _crowded(self) -> Iterator[Warned]:
        """Pictures smaller than their bucket are enlarged; that is worth a word."""
        fitted = [(e, nearest(e.width, e.height, self.choices)) for e in self.examples]
        small = [
            e.path.name for e, b in fitted if min(e.width, e.height) < min(b.width, b.height) / 1.5
        ]
        if small:
            some = ", ".join(small[:3]) + (" and others" if len(small) > 3 else "")
            yield Warned(
                f"{len(small)} pictures are much smaller than what is trained ({some}) and "
                "will be enlarged: larger ones learn finer."
            )

    def _class_pictures(self, *, draw_missing: bool) -> Iterator[Noted]:
        prior, given = self.config.prior, self.plan.given_priors
        missing = prior.images - len(given)
        self.prior_examples = list(given)
        if missing <= 0 or not draw_missing:
            return
        folder, preview = class_images.own_folder(self.folder), self.config.preview
        yield Noted(f"drawing {missing} class pictures of {prior.prompt!r}")
        chance = dict(seed=self.config.optim.seed, steps=preview.steps, guidance=preview.guidance)
        for count in class_images.drawn(
            self.parts, prior, folder, missing, world=self.world, **chance
        ):
            yield Noted(f"{count} of {missing} class pictures are drawn")
        for example in read_dataset(folder).examples[:missing]:
            self.prior_examples.append(example)

    def _encode(self) -> None:
        """Latents of every picture in its bucket and mirrored; class pictures go round the buckets
        that are in use.
        """
        data = self.config.data
        parts, room = self.parts, int(self.config.save.latents * 2**30)
        made_by = {
            "vae": parts.vae_hash,
            "scale": parts.latent_scale,
            "shift": parts.latent_shift,
            **device_record(self.place),
        }
        store = LatentStore(made_by, room) if room and parts.vae_hash else None
        self.latents = Latents(store)
        self.bucket_of = [nearest(e.width, e.height, self.choices) for e in self.examples]
        self.used = sorted(set(self.bucket_of))
        self.prior_of: dict[Bucket, list[int]] = {bucket: [] for bucket in self.used}
        for i in range(max(len(self.prior_examples), len(self.used)) if self.prior_examples else 0):
            self.prior_of[self.used[i % len(self.used)]].append(i % len(self.prior_examples))
        wanted = [(e, b) for e, b in zip(self.examples, self.bucket_of, strict=True)]
        wanted += [(self.prior_examples[i], b) for b, found in self.prior_of.items() for i in found]
        for i in self.world.share(len(wanted)):
            example, bucket = wanted[i]
            picture = open_picture(example.path, data.background)
            if hashlib.sha256(example.path.read_bytes()).hexdigest() != example.digest:
                raise DataError(
                    f"{example.path} was changed while the training was being prepared. Start "
                    "it again."
                )
            for mirrored in (False, True) if data.flip else (False,):
                self.latents.add(
                    (example.identity, bucket, mirrored),
                    pixels(picture, bucket, mirrored, example.place),
                    self.parts,
                )
        self.latents.share(self.world)
        if store and self.world.writes:
            store.tidy()

    def _attach(self) -> None:
        """Put the adapters on and make the optimiser; fewer and other adapters are the only thing
        that differs between styles.
        """
        config, family, networks = self.config, self.parts.family, self.parts.networks
        from training.modules.attention import choose_attention

        self.staying = {*self._adaptable} & {*networks}
        for part in self.staying:
            networks[part].to(self.place.device)
        choose_attention(self.parts.denoiser)
        lrs = {
            family.denoiser: config.optim.unet_lr,
            **dict.fromkeys(family.text_encoders, config.optim.text_encoder_lr),
        }
        self.adapters: dict[tuple[str, str], tuple[nn.Parameter, nn.Parameter]] = {}
        groups: dict[str, Group] = {}
        for part, lr in lrs.items():
            if lr == 0:
                continue
            of_text = part in family.text_encoders
            table, targets = (
                (family.text_groups, config.adapter.text_encoder_targets)
                if of_text
                else (family.groups, config.adapter.targets)
            )
            modules = lora_layers.chosen_modules(networks[part], table, targets)
            own = dict(rank=config.adapter.rank, alpha=config.adapter.alpha, seed=config.optim.seed)
            found = (
                self.shared_base.attach(self.adapter_index, networks[part], modules, **own)
                if self.shared_base
                else lora_layers.attach(networks[part], modules, **own)
            )
            self.adapters |= {(part, module): pair for module, pair in found.items()}
            groups[part] = Group([p for pair in found.values() for p in pair], lr)
        compile_passes(self.parts.denoiser, config.optim.compile)
        if self.plan.start:
            self._begin_from(self.plan.start)
        self.tokens: tuple[Token, ...] = ()
        if count := config.adapter.tokens:
            self.tokens = (self._first_token(count),)
            groups["tokens"] = Group(
                [p for token in self.tokens for p in token.vectors.values()], config.optim.token_lr
            )
        self.optimiser = Optimiser(
            groups,
            weight_decay=config.optim.weight_decay,
            clip=config.optim.clip,
            ema=config.optim.ema,
        )
        self.order = Order(
            self._groups(), batch_size=config.optim.batch_size, seed=config.optim.seed
        )
        # keeps small float16 gradients from vanishing
        self.scale_loss = 2.0**10 if self.place.dtype == torch.float16 else 1.0

    def _first_token(self, count: int) -> Token:
        """The trigger as a word of its own, as it was in the style that is gone on from if that has
        it with as many vectors.
        """
        config, start = self.config, self.plan.start
        # as tokenizers read it; diffusers loses further vectors of words with capitals
        word = config.data.trigger.lower()
        token = first_token(self.parts, word, count, config.adapter.token_start, config.optim.seed)
        found = start.words.get(word) if start else None
        for part, values in (found or {}).items():
            if values.shape != token.vectors[part].shape:
                raise StyleFileError(
                    f"{config.adapter.start} knows {word!r} by {len(values)} vectors, this run "
                    f"by {count}. Set adapter.tokens to {len(values)}."
                )
            token.vectors[part].data.copy_(torch.from_numpy(values))
        return token

    def _begin_from(self, style: Style) -> None:
        """Let the adapters be that style's, exactly.

        Raises StyleFileError when it holds a layer that is not trained here, or of another base.
        """
        config, found = self.config, match(style, self.names)
        untrained = [".".join(key) for key in found if key not in self.adapters]
        if untrained:
            raise StyleFileError(
                f"{config.adapter.start} changes {len(untrained)} layers that this run would "
                f"not train ({untrained[0]}), so they would be lost. "
                "Add what they are to adapter.targets or adapter.text_encoder_targets, and set "
                "optim.text_encoder_lr above 0 for the text encoder."
            )
        if lost := sorted(
            set(style.words) - ({config.data.trigger.lower()} if config.adapter.tokens else set())
        ):
            raise StyleFileError(
                f"{config.adapter.start} brings the word {printable(lost[0], 60)!r}, which "
                "would be lost. Set data.trigger to it, and "
                f"adapter.tokens to {len(style.words[lost[0]]['text_encoder'])}."
            )
        scale = config.adapter.alpha / config.adapter.rank
        with torch.no_grad():
            for key, lora in found.items():
                down, up = self.adapters[key]
                own = torch.from_numpy(
                    np.asarray(lora.up, np.float32) * np.float32(lora.alpha / lora.rank / scale)
                )
                down[: lora.rank] = (
                    torch.from_numpy(np.asarray(lora.down, np.float32))
                    .view(lora.rank, *down.shape[1:])
                    .to(down)
                )
                up[:, : lora.rank] = own.view(-1, lora.rank, *up.shape[2:]).to(up)

    def _forget(self) -> None:
        """Let go of what is not needed any more:

        the VAE where nothing will be drawn, text encoders whose every word is known.
        """
        networks, config = self.parts.networks, self.config
        if config.preview.every == 0:
            networks.pop("vae")
        if self.trains_text:
            return
        texts = {e.caption for e in self.examples} | {"", config.prior.prompt}
        texts |= {e.plain for e in self.examples} if config.prior.frozen_weight else set()
        texts |= (
            {text for p in self.prompts() for text in (p.text, p.negative)}
            if config.preview.every
            else set()
        )
        self.words(sorted(texts))
        for part in self.parts.family.text_encoders:
            networks.pop(part)

    def _groups(self) -> list[list[int]]:
        return [[i for i, b in enumerate(self.bucket_of) if b == bucket] for bucket in self.used]

    def _restore(self) -> Iterator[Noted | Warned | Saved]:
        """Go on after the newest checkpoint that verifies.

        Raises DataError or ConfigError when it is not of this run.
        """
        found, complaints = self.world.first(lambda: checkpoint.newest(self.folder / "checkpoints"))
        yield from (Warned(complaint) for complaint in complaints)
        if found is None:
            if complaints:
                yield Warned("no checkpoint verifies: the run begins at its first update.")
            return
        then, now = found.state, self._record()
        changed = resume.changed_settings(
            then["settings"], now["settings"]
        ) + resume.changed_pictures(then["pictures"], now["pictures"])
        changed += resume.changed_pictures(
            then["class_pictures"], now["class_pictures"], "class picture"
        )
        changed += ["the weights of the base"] if then["base"] != now["base"] else []
        if self.config.save.resume == "exact":
            _check_same_pictures(self.config, changed)
        if not self.optimiser.fits(found.tensors):
            raise ConfigError(
                resume.refusal(
                    self.folder,
                    [
                        *changed,
                        "the adapters have other parts or sizes, with which nothing can be adapted",
                    ],
                )
            )
        for difference in resume.changed_place(then["place"], now["place"]):
            yield Warned(
                f"{difference}: the run goes on, but not to the bit as if it had never stopped."
            )
        self.optimiser.restore(found.tensors)
        self.step, self.started, self.guard = found.step, then["started"], Guard(**then["guard"])
        self.good = self._state()
        yield Noted(f"going on after {self.step} of {self.config.optim.steps} updates")
        if changed:
            yield Warned("going on with changes: " + "; ".join(changed))
            # from here on these are its settings and pictures, also after a crash
            yield self.save()

    def _record(self) -> dict[str, Any]:
        """What must be the same for a resumed run to equal an undisturbed one."""
        return {
            "settings": resume.settings_record(self.config),
            "pictures": resume.pictures_record(self.examples),
            "class_pictures": resume.pictures_record(self.prior_examples),
            "base": self.parts.hash,
            "place": device_record(self.place) | {"processes": self.world.size},
        }

    def _check_room(self) -> None:
        """Raises SpaceError when the disk cannot hold what this run will still write."""
        config, one, left = (
            self.config,
            checkpoint.room_needed(self.optimiser.tensors()),
            self.steps - self.step,
        )
        there = len(checkpoint.finished(self.folder / "checkpoints"))
        styles = 1 + (left // config.save.every if config.save.every and config.save.styles else 0)
        previews = (
            (left // config.preview.every + 1) * len(self.prompts()) * self.parts.size**2
            if config.preview.every
            else 0
        )
        needed = (
            one * max(1, config.save.keep + 1 - there)
            + styles * self.trainable * HALF
            + previews * PREVIEW_BYTES
            + MARGIN
        )
        checked_room(self.folder, needed, f"The run {config.save.name}")

    @property
    def steps(self) -> int:
        return self.config.optim.steps

    @property
    def as_set(self) -> MicrobatchPlan:
        """How passes are made where the memory is large enough."""
        return MicrobatchPlan(checkpointing=self.config.optim.checkpointing == "on")

    @property
    def splits(self) -> int:
        """Parts that a pass is made in."""
        return self.passes.splits

    @property
    def largest(self) -> int:
        """Pictures of a pass that are made at once if all are."""
        return self.config.optim.batch_size * (2 if self.prior_examples else 1)

    @property
    def trainable(self) -> int:
        words = sum(vectors.numel() for token in self.tokens for vectors in token.vectors.values())
        return words + sum(down.numel() + up.numel() for down, up in self.adapters.values())

    @property
    def total(self) -> int:
        """Weights of the parts that are adapted, adapters not counted."""
        adapted = {part for part, _ in self.adapters}
        return sum(
            p.numel()
            for part in adapted
            for p in self.parts.networks[part].parameters()
            if not p.requires_grad
        )

    # --- one update ---

    def update(self) -> Stepped | Warned:
        """Make the next update alone; a Warned instead of a Stepped says it was left out, or that
        the run went back. Raises DivergedError.
        """
        asking = self.updating()
        try:
            asked = next(asking)
            while True:
                try:
                    loss = self.backward(asked.batches)
                except torch.OutOfMemoryError as error:
                    asked = asking.throw(error)
                else:
                    asked = asking.send(loss)
        except StopIteration as ended:
            return ended.value

    def updating(self) -> Generator[MicrobatchRequest, Tensor, Stepped | Warned]:
        """The next update, its passes made by another: see Asked."""
        began, optim = time.monotonic(), self.config.optim
        self.passes = self.turns.get(self.step, self.passes)
        losses: list[Tensor] = []
        full = False
        try:
            for k in range(optim.accumulate):
                number = self.step * optim.accumulate + k
                losses.append((yield MicrobatchRequest(self, self._ready(number), number)))
                self._look_ahead(number + 1)
        except TooManyError:
            self.optimiser.clear()  # what the pass had left there
            return Warned(
                f"the memory is full: update {self.step + 1} is made again with fewer styles "
                "at once. What is learnt stays the same."
            )
        except torch.OutOfMemoryError as error:
            if self.world.shards:  # the others wait in the middle of a layer
                raise
            error.__traceback__ = None  # its frames hold all that the pass had computed
            full, losses = True, [torch.zeros(())]
        whole, full = self.world.summed(
            self.optimiser.gradients(), torch.stack(losses).mean(), full
        )
        if full:
            return self._narrower()
        self.watching = max(0, self.watching - 1)
        if self.scale_loss != 1:
            for flat in self.optimiser.flats.values():
                flat.grad.div_(self.scale_loss)
        norm = self.optimiser.norm()
        loss, size = torch.stack([whole.to(norm.device), norm]).tolist()
        if not (math.isfinite(loss) and math.isfinite(size)):
            return self._left_out(loss, size)
        self.step += 1
        self.guard.good()
        share = course(optim.schedule, self.step - 1, optim.steps, optim.warmup) * self.guard.share
        self.optimiser.update(norm, share)
        seconds = time.monotonic() - began
        self.pace = [*self.pace[-19:], seconds]
        left = sum(self.pace) / len(self.pace) * (optim.steps - self.step)
        return Stepped(
            self.step, loss, max(optim.unet_lr, optim.text_encoder_lr) * share, size, seconds, left
        )

    def _left_out(self, loss: float, size: float) -> Warned:
        """Nothing is learnt from figures that are not finite; see training.trainer.divergence for
        what comes then.
        """
        self.optimiser.clear()
        self.step += 1
        verdict = self.guard.bad()
        if verdict == "leave out":
            return Warned(f"update {self.step} was left out: loss {loss}, gradient norm {size}")
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
        step, tensors = self.good = self._last_good()
        self.optimiser.restore(tensors)
        self.step = step
        return Warned(
            f"loss or gradient were not finite {LOST_IN_A_ROW} times in a row (loss {loss}): "
            f"back to the state after {step} updates, "
            f"with {self.guard.share:g} of the learning rate"
        )

    def _last_good(self) -> tuple[int, dict[str, Tensor]]:
        """What was saved last, or the checkpoint before where not one update after it was finite:

        it was saved when things had gone wrong already.
        """
        step, _ = self.good
        if self.step - LOST_IN_A_ROW > step:
            return self.good
        before, _ = self.world.first(
            lambda: checkpoint.newest(self.folder / "checkpoints", before=step)
        )
        return (before.step, before.tensors) if before else self.good

    def _state(self) -> tuple[int, dict[str, Tensor]]:
        """A copy to go back to."""
        return self.step, {
            name: tensor.detach().to("cpu", copy=True)
            for name, tensor in self.optimiser.tensors().items()
        }

    def _narrower(self) -> Warned:
        """Go on in a way that needs less memory, and write it down.

        Nothing of the update is kept. Raises OutOfMemory when there is none.
        """
        wanted, device = self.config.optim.checkpointing, self.place.device
        found = self.passes.smaller(self.largest, may_checkpoint=wanted == "auto")
        self.optimiser.clear()
        memory.give_back(device)
        self.peaks.pop("passes", None)
        if found is None:
            raise OutOfMemory(self._too_small())
        self.passes, said = found, ""
        self.turns = {step: turn for step, turn in self.turns.items() if step < self.step} | {
            self.step: found
        }
        if self.world.writes and not self.trial:
            try:
                microbatching.write(self.folder, resume.settings_record(self.config), self.turns)
            except SpaceError as error:
                said = f" ({error})"
        return Warned(
            f"the memory is full: update {self.step + 1} is made again "
            f"{found.words(self.largest)}, as are all that follow. What is learnt stays "
            f"the same.{said}"
        )

    def _too_small(self) -> str:
        """What a user is told when not even one picture at a time can be learnt from."""
        how = (
            "with gradient checkpointing"
            if self.passes.checkpointing
            else "without gradient checkpointing"
        )
        advice = "" if self.passes.checkpointing else "Set optim.checkpointing = auto. "
        free = (
            f", and {self.room:.1f} GiB are there for it on {self.place.name}"
            if math.isfinite(self.room)
            else ""
        )
        return (
            f"the memory is too small: one picture at a time, {how}, takes more than there "
            f"is{free}. {advice}Lower data.resolution, choose a smaller "
            "base, or close other programs."
        )

    def batches(self, number: int) -> tuple[Batch, ...]:
        """Pass `number` of the run: the style's and class pictures, then those whose answer shall
        stay the base's own.

        Of each this process's share, with the chance of their places in the whole pass: how many
        processes there are changes no row.
        """
        optim, data, parts = self.config.optim, self.config.data, self.parts
        step, k = divmod(number, optim.accumulate)
        rows = self.order.rows(number)
        bucket = self.bucket_of[rows[0]]
        picked = [(self.examples[i], self.examples[i].caption, 1.0) for i in rows]
        if self.prior_examples:
            near = self.prior_of[bucket]
            first, prior = number * len(rows), self.config.prior
            picked += [
                (self.prior_examples[near[(first + j) % len(near)]], prior.prompt, prior.weight)
                for j in range(len(rows))
            ]
        own = [
            *self.world.share(len(rows)),
            *(len(rows) + j for j in self.world.share(len(picked) - len(rows))),
        ]
        picked, style = (
            [picked[j] for j in own],
            [i for j, i in enumerate(rows) if j in self.world.share(len(rows))],
        )
        shape = self.latents.shape((picked[0][0].identity, bucket, False))
        chance = dict(
            shape=shape,
            timesteps=len(parts.alphas_cumprod),
            flip=data.flip,
            noise_offset=optim.noise_offset,
            timestep_bias=optim.timestep_bias,
        )
        dropout = lambda j: data.caption_dropout if j < len(rows) else 0.0
        draws = [
            drawn(optim.seed, step, k * 2 * len(rows) + j, caption_dropout=dropout(j), **chance)
            for j in own
        ]
        x0 = torch.stack(
            [
                self.latents.sample((e.identity, bucket, d.mirrored), d.latent_noise)
                for (e, _, _), d in zip(picked, draws, strict=True)
            ]
        )
        noise, t = torch.stack([d.noise for d in draws]), torch.tensor([d.timestep for d in draws])
        captions = [
            "" if d.wordless else caption for (_, caption, _), d in zip(picked, draws, strict=True)
        ]
        alpha_bar = parts.alphas_cumprod[t]
        weights = objective.loss_weights(
            parts.prediction_type, alpha_bar, optim.min_snr
        ) * torch.tensor([w for _, _, w in picked])
        noisy = objective.noised(x0, noise, alpha_bar).to(
            self.place.dtype, memory_format=torch.channels_last
        )
        wanted = objective.target(parts.prediction_type, x0, noise, alpha_bar)
        made = Batch(
            *(sent(tensor, self.place.device) for tensor in (noisy, wanted, t, weights)),
            captions,
            len(rows),
        )
        return (
            (made, self._staying(made, [self.examples[i].plain for i in style]))
            if self.config.prior.frozen_weight
            else (made,)
        )

    def _ready(self, number: int) -> tuple[Batch, ...]:
        (at, made), self.ahead = self.ahead or (None, ()), None
        return made if at == number else self.batches(number)

    def _look_ahead(self, number: int) -> None:
        """Make the next pass's batches while the device is still at work on the last one, if they
        are chance and pictures alone.
        """
        optim, prior = self.config.optim, self.config.prior
        if number < optim.steps * optim.accumulate and not prior.frozen_weight:
            self.ahead = number, self.batches(number)

    def _staying(self, made: Batch, plain: list[str]) -> Batch:
        """Style pictures with captions without the trigger, to which the answer shall stay the
        frozen base's own (Li and Hoiem 2016, of classes).
        """
        some, networks = made.part(slice(0, len(plain))), self.parts.networks
        at_once = -(-len(plain) // self.splits)
        with (
            torch.no_grad(),
            lora_layers.adapters_disabled(
                networks[part] for part in {part for part, _ in self.adapters}
            ),
        ):
            parts = [slice(i, i + at_once) for i in range(0, len(plain), at_once)]
            wanted = torch.cat(
                [self._said(some.noisy[part], some.t[part], plain[part]) for part in parts]
            )
        return Batch(
            some.noisy,
            wanted,
            some.t,
            some.weights * self.config.prior.frozen_weight,
            plain,
            made.rows,
        )

    def backward(self, batches: Sequence[Batch]) -> Tensor:
        """Add up the gradients of a pass, in parts that fit into memory; returns its loss, on the
        device.
        """
        losses = []
        lora_layers.set_gradient_checkpointing(self.parts.denoiser, self.passes.checkpointing)
        with self.watched():
            for some in self._in_parts(batches):
                begin_pass(self.parts.denoiser)
                loss = self.loss(some, self._said(some.noisy, some.t, some.captions))
                (loss * self.loss_share).backward()
                losses.append(loss.detach())
        return torch.stack(losses).sum()

    def _in_parts(self, batches: Sequence[Batch]) -> Iterator[Batch]:
        at_once = -(-max(len(batch.t) for batch in batches) // self.splits)
        for batch in batches:
            for i in range(0, len(batch.t), at_once):
                yield batch.part(slice(i, i + at_once))

    @torch.no_grad()
    def recomputing(self) -> float:
        """Seconds of an update that checkpointing takes, measured:

        those of the blocks that it computes a second time.
        """
        seconds = began = 0.0

        def begin(*_: object) -> None:
            nonlocal began
            finished(self.place.device)
            began = time.monotonic()

        def end(*_: object) -> None:
            nonlocal seconds
            finished(self.place.device)
            seconds += time.monotonic() - began

        blocks, count = lora_layers.recomputed(self.parts.denoiser), self.config.optim.accumulate
        hooks = [
            hook
            for block in blocks
            for hook in (block.register_forward_pre_hook(begin), block.register_forward_hook(end))
        ]
        try:
            for number in range(self.step * count, (self.step + 1) * count):
                for some in self._in_parts(self.batches(number)):
                    self.parts.family.predict(
                        self.parts, some.noisy, some.t, self.encode_captions(some.captions)
                    )
        finally:
            for hook in hooks:
                hook.remove()
        return seconds

    def loss(self, batch: Batch, said: Tensor) -> Tensor:
        """Its part in the loss of a pass."""
        return objective.weighted_loss(said, batch.wanted, batch.weights, rows=batch.rows)

    @property
    def loss_share(self) -> float:
        """What a pass's loss is multiplied with before its gradients are taken."""
        return self.scale_loss / self.config.optim.accumulate

    def _said(self, noisy: Tensor, t: Tensor, captions: list[str]) -> Tensor:
        return self.parts.family.predict(self.parts, noisy, t, self.encode_captions(captions))

    def encode_captions(self, captions: Sequence[str]) -> Conditioning:
        """The states of captions, from memory where the text encoder is not trained."""
        return (
            self.parts.family.encode_text(self.parts, captions, [self.tokens] * len(captions))
            if self.trains_text
            else self.words(captions)
        )

    def adapters_active(self) -> AbstractContextManager[None]:
        """While inside, the base is drawn with this run's adapters, as it is all the time where the
        run has a base of its own.
        """
        return self.shared_base.routed([self.adapter_index]) if self.shared_base else nullcontext()

    # --- what leaves the run ---

    def prompts(self) -> list[Prompt]:
        """What previews draw: the user's prompts, or three captions, with the trigger put in."""
        p, data = self.config.preview, self.config.data
        texts: Sequence[str] = [captioned(text, data.trigger, data.template) for text in p.prompts]
        if not texts:
            every = max(1, len(self.examples) // 3)
            texts = [e.caption for e in self.examples[::every][:3]]
        return [
            Prompt(text, p.negative, p.steps, p.guidance, p.seed + i, sampler=p.sampler)
            for i, text in enumerate(texts)
        ]

    def preview(self) -> Previewed:
        """Draw the previews as they are now; training is not touched."""
        prompts, paths = self.prompts(), self._preview_paths()
        if not (self.world.writes or self.world.shards):
            return Previewed(self.step, paths, tuple(p.text for p in prompts))
        with self.optimiser.averaged(), self.adapters_active(), self._at_hand("vae"):
            pictures = draw(self.parts, prompts, encode=self.encode_captions)
        for path, prompt, picture in zip(paths, prompts, pictures, strict=True):
            if self.world.writes:
                write_whole(inside(self.folder, path), prompt.to_png(picture))
        return Previewed(self.step, paths, tuple(p.text for p in prompts))

    def preview_is_there(self) -> bool:
        """Whether the previews of this update were drawn, perhaps before a crash."""
        return self.world.first(
            lambda: all((self.folder / path).is_file() for path in self._preview_paths())
        )

    def _preview_paths(self) -> tuple[str, ...]:
        return tuple(f"previews/step-{self.step:07d}-{i}.png" for i in range(len(self.prompts())))

    def save(self) -> Saved:
        """Write a checkpoint of everything a resumed run needs, and before it its style.

        Raises SpaceError; what was saved before stays.
        """
        self.good = self._state()
        if not self.world.writes:
            return Saved(self.step, "")
        state: dict[str, Any] = {**self._record(), "guard": asdict(self.guard)}
        state |= {"started": self.started, "version": __version__}
        folder, tensors = self.folder / "checkpoints", self.optimiser.tensors()
        checked_room(
            self.folder, checkpoint.room_needed(tensors), f"A checkpoint of {self.config.save.name}"
        )
        if self.config.save.styles and self.has_effect():
            self.export(f"{STEPS}/{self.config.save.name}-{self.step:06d}.safetensors")
        path = checkpoint.write(folder, self.step, tensors, state, keep=self.config.save.keep)
        return Saved(self.step, path.relative_to(self.folder).as_posix())

    def has_effect(self) -> bool:
        """Whether any adapter changes any weight of the base."""
        with self.optimiser.averaged():
            return any(bool(down.any()) and bool(up.any()) for down, up in self.adapters.values())

    def export(self, file: str = "") -> Path:
        """Write the style to save.name (or to a file in the run's folder), read it back with the
        strict loader, compare every module's change of weights, and only then give it its name.

        Raises StyleFileError, also for weights that are not finite; SpaceError.
        """
        config, parts = self.config, self.parts
        path = inside(self.folder, file or f"{config.save.name}.safetensors")
        if not self.world.writes:
            return path
        with self.optimiser.averaged():
            own = {
                (part, m): lora_layers.as_lora(down, up, config.adapter.alpha)
                for (part, m), (down, up) in self.adapters.items()
            }
            words = as_words(self.tokens)
        made = Made(
            family=parts.family.name,
            base_name=parts.title,
            base_hash=parts.hash,
            prediction=parts.prediction_type,
            resolution=config.data.resolution or parts.size,
            steps=self.step,
            pictures=len(self.examples),
            started=self.started,
            finished=time.time(),
            version=__version__,
            checkpointing=self.passes.checkpointing,
        )
        metadata = metadata_for(config, made, config.save.leave_out)
        unchecked = path.with_name(f".{path.name}")
        write_style(
            unchecked,
            {canonical_name(part, m, parts.family.name): lora for (part, m), lora in own.items()},
            metadata,
            words=words,
        )
        written = read_style(unchecked)
        back = match(written, self.names)
        if not embeddings.alike(written.words, words):
            raise StyleFileError(
                f"{path} does not give back the word that was learnt. The checkpoint is kept."
            )
        for key, lora in own.items():
            wanted, found = lora.delta(), back[key].delta()
            worst, largest = abs(wanted - found).max(), abs(wanted).max()
            if worst > 4e-3 * largest + 1e-7:
                raise StyleFileError(
                    f"{path} does not give back what was trained ({'.'.join(key)} is "
                    f"{worst:.2g} off). The checkpoint is kept."
                )
        try:
            for word, vectors in words.items() if not file else ():
                write_whole(
                    self.folder / WORDS / f"{word}.safetensors",
                    embeddings.embedding_bytes(word, vectors),
                )
            unchecked.replace(path)
            fsync_folder(path.parent)
        except OSError as error:
            raise SpaceError(
                f"{path} could not be written ({error.strerror}). Choose a folder you may write to."
            ) from error
        return path
