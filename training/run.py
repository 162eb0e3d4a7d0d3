"""One run: everything that is checked and made before the first update, one update, one preview, one checkpoint, the export."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training import __version__, adapter, checkpoint, objective, priors
from training.batches import Order, drawn
from training.buckets import Bucket, buckets, nearest
from training.cache import Latents, Words
from training.config import RunConfig, changes, from_mapping, read_toml, to_toml
from training.dataset import Dataset, Example, captioned, open_picture, pixels, read_dataset
from training.device import Place, choose
from training.errors import ConfigError, DataError, DivergedError, SpaceError, StyleFileError
from training.events import Noted, Previewed, Saved, Stepped, Warned
from training.families import detect
from training.families.family import Parts
from training.optim import Group, Optimiser, course
from training.prompt import Prompt
from training.render import draw
from training.style_file import match, metadata_for, read_style, write_style
from training.style_names import accepted_names, canonical_name
from training.workspace import checked_writable, inside, write_whole

LOST_IN_A_ROW = 5  # updates that could not be made because something was not finite, before the run stops


@dataclass(frozen=True)
class Plan:
    """What was found before anything heavy was loaded."""

    config: RunConfig
    dataset: Dataset
    given_priors: tuple[Example, ...]
    files: detect.BaseFiles
    place: Place
    finished: int  # updates after which this run's style was already exported, else 0


def planned(config: RunConfig) -> Plan:
    """Check everything that can be checked without loading weights; nothing is written but the run's empty folder."""
    if not config.data.folder:
        raise ConfigError("data.folder is empty: name the folder that holds your pictures, for instance --data.folder pictures.")
    place = choose(config.base.device, config.base.dtype)
    files = detect.find(config.base.model)
    check_resolution(config, files)
    data = config.data
    dataset = read_dataset(Path(data.folder), trigger=data.trigger, template=data.template, background=data.background)
    given = priors.given(config.prior)
    check_same_run(config)
    checked_writable(config.run_folder, "save.folder")
    return Plan(config, dataset, given, files, place, _finished(config))


def check_same_run(config: RunConfig) -> None:
    """Refuse to go on with a run that was begun with other settings, naming each."""
    begun = config.run_folder / "run.toml"
    try:
        if config.run_folder.exists() and not config.run_folder.is_dir():
            raise ConfigError(f"{config.run_folder} is a file where the run's folder should be. Choose another save.name.")
        if not begun.exists():
            return
    except OSError as error:
        raise SpaceError(f"save.folder leads to {config.run_folder}, which cannot be looked at ({error.strerror}). Choose another folder.") from None
    changed = [f"  - {key}: {then!r} then, {now!r} now" for key, then, now in changes(from_mapping(read_toml(begun), str(begun)), config)]
    if changed and checkpoint.finished(config.run_folder / "checkpoints"):
        raise ConfigError(
            "\n".join([f"{config.run_folder} holds a run that was begun with other settings:", *changed])
            + "\nChoose another save.name, or put the settings back to go on with it."
        )


def check_resolution(config: RunConfig, files: detect.BaseFiles) -> None:
    """Refuse a data.resolution that the base's networks cannot halve as often as they must."""
    own, multiple = detect.sides(files)
    side = config.data.resolution or own
    if side < multiple or side % multiple:
        near = max(multiple, round(side / multiple) * multiple)
        raise ConfigError(f"data.resolution is {side} px, a multiple of {multiple} was expected for {files.title}. Try {near}.")


def _finished(config: RunConfig) -> int:
    from training.events import Finished, read

    last = None
    for event in read(config.run_folder / "events.jsonl"):
        last = event if isinstance(event, Finished) else last
    done = last is not None and not last.stopped and (config.run_folder / last.path).exists()
    return last.step if done else 0


class Run:
    """A loaded base, adapters on it, pictures in latents, an optimiser: ready for updates."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.config, self.place = plan, plan.config, plan.place
        self.folder = self.config.run_folder
        self.step, self.lost, self.started = 0, 0, time.time()
        self.pace: list[float] = []  # seconds of the latest updates
        self.parts: Parts
        self.optimiser: Optimiser

    # --- before the first update ---

    def prepare(self, *, resume: bool = True) -> Iterator[Noted | Warned]:
        """Load, encode, attach, restore. Says what takes time and what was worth noting."""
        config, plan = self.config, self.plan
        if resume:
            write_whole(self.folder / "run.toml", to_toml(config))
        yield from (Warned(note) for note in plan.dataset.notes)
        yield Noted(f"loading {plan.files.title}")
        self.parts = detect.load(plan.files, self.place)
        self.choices = self._buckets()
        self.examples = list(plan.dataset.examples)
        yield from self._crowded()
        if config.prior.images and config.prior.weight:
            yield from self._class_pictures(draw_missing=resume)
        else:
            self.prior_examples: list[Example] = []
        yield Noted(f"encoding {len(self.examples) + len(self.prior_examples)} pictures")
        self._encode()
        self._attach()
        if config.preview.every == 0:
            self.parts.networks.pop("vae")
        if resume:
            yield from self._restore()

    def _buckets(self) -> list[Bucket]:
        side = self.config.data.resolution or self.parts.size
        return buckets(side, self.parts.multiple) if self.config.data.buckets else [Bucket(side, side)]

    def _crowded(self) -> Iterator[Warned]:
        """Pictures smaller than their bucket are enlarged; that is worth a word."""
        fitted = [(e, nearest(e.width, e.height, self.choices)) for e in self.examples]
        small = [e.path.name for e, b in fitted if min(e.width, e.height) < min(b.width, b.height) / 1.5]
        if small:
            some = ", ".join(small[:3]) + (" and others" if len(small) > 3 else "")
            yield Warned(f"{len(small)} pictures are much smaller than what is trained ({some}) and will be enlarged: larger ones learn finer.")

    def _class_pictures(self, *, draw_missing: bool) -> Iterator[Noted]:
        prior, given = self.config.prior, self.plan.given_priors
        missing = prior.images - len(given)
        self.prior_examples = list(given)
        if missing <= 0 or not draw_missing:
            return
        folder, preview = priors.own_folder(self.folder), self.config.preview
        yield Noted(f"drawing {missing} class pictures of {prior.prompt!r}")
        made = priors.drawn(self.parts, prior, folder, missing, seed=self.config.optim.seed, steps=preview.steps, guidance=preview.guidance)
        for count in made:
            yield Noted(f"{count} of {missing} class pictures are drawn")
        for example in read_dataset(folder).examples[:missing]:
            self.prior_examples.append(example)

    def _encode(self) -> None:
        """Latents of every picture in its bucket and mirrored; class pictures go round the buckets that are in use."""
        data = self.config.data
        self.latents = Latents()
        self.bucket_of = [nearest(e.width, e.height, self.choices) for e in self.examples]
        self.used = sorted(set(self.bucket_of))
        self.prior_of: dict[Bucket, list[int]] = {bucket: [] for bucket in self.used}
        for i in range(max(len(self.prior_examples), len(self.used)) if self.prior_examples else 0):
            self.prior_of[self.used[i % len(self.used)]].append(i % len(self.prior_examples))
        wanted = [(e, b) for e, b in zip(self.examples, self.bucket_of, strict=True)]
        wanted += [(self.prior_examples[i], b) for b, found in self.prior_of.items() for i in found]
        for example, bucket in wanted:
            picture = open_picture(example.path, data.background)
            for mirrored in (False, True) if data.flip else (False,):
                self.latents.add((example.digest, bucket, mirrored), pixels(picture, bucket, mirrored), self.parts)

    def _attach(self) -> None:
        """Put the adapters on and make the optimiser; fewer and other adapters are the only thing that differs between styles."""
        config, family, networks = self.config, self.parts.family, self.parts.networks
        from training.attention import choose_attention

        choose_attention(self.parts.denoiser)
        lrs = {family.denoiser: config.optim.unet_lr, **dict.fromkeys(family.text_encoders, config.optim.text_encoder_lr)}
        self.adapters: dict[tuple[str, str], tuple[nn.Parameter, nn.Parameter]] = {}
        groups: dict[str, Group] = {}
        # Before the adapters go on: their layers are named as the base's own
        self.names = accepted_names({part: detect.weight_shapes(networks[part]) for part in lrs}, family.name)
        for part, lr in lrs.items():
            if lr == 0:
                continue
            of_text = part in family.text_encoders
            table, targets = (family.text_groups, config.adapter.text_encoder_targets) if of_text else (family.groups, config.adapter.targets)
            modules = adapter.chosen_modules(networks[part], table, targets)
            found = adapter.attach(networks[part], modules, rank=config.adapter.rank, alpha=config.adapter.alpha, seed=config.optim.seed)
            self.adapters |= {(part, module): pair for module, pair in found.items()}
            groups[part] = Group([p for pair in found.values() for p in pair], lr)
        if config.optim.checkpointing:
            self.parts.denoiser.enable_gradient_checkpointing()
        self.trains_text = config.optim.text_encoder_lr > 0
        self.words = Words(self.parts)
        self.optimiser = Optimiser(groups, weight_decay=config.optim.weight_decay, clip=config.optim.clip, ema=config.optim.ema)
        self.order = Order(self._groups(), batch_size=config.optim.batch_size, seed=config.optim.seed)
        self.scale_loss = 2.0**10 if self.place.dtype == torch.float16 else 1.0  # keeps small float16 gradients from vanishing

    def _groups(self) -> list[list[int]]:
        return [[i for i, b in enumerate(self.bucket_of) if b == bucket] for bucket in self.used]

    def _restore(self) -> Iterator[Noted | Warned]:
        found, complaints = checkpoint.newest(self.folder / "checkpoints")
        yield from (Warned(complaint) for complaint in complaints)
        if found is None:
            return
        if found.state.get("pictures") != self._fingerprint():
            raise DataError(
                f"the pictures or captions in {self.config.data.folder} are not the ones that {self.folder} was begun with. Choose another "
                "save.name for a new run, or put them back to go on with this one."
            )
        self.optimiser.restore(found.tensors)
        self.step, self.started = found.step, found.state["started"]
        yield Noted(f"going on after {self.step} of {self.config.optim.steps} updates")

    def _fingerprint(self) -> str:
        """Pictures, captions and base in one hash."""
        told = [[e.digest, e.caption] for e in (*self.examples, *self.prior_examples)]
        return hashlib.sha256(json.dumps([told, self.parts.hash]).encode()).hexdigest()

    @property
    def steps(self) -> int:
        return self.config.optim.steps

    @property
    def trainable(self) -> int:
        return sum(down.numel() + up.numel() for down, up in self.adapters.values())

    @property
    def total(self) -> int:
        """Weights of the parts that are adapted, adapters not counted."""
        adapted = {part for part, _ in self.adapters}
        return sum(p.numel() for part in adapted for p in self.parts.networks[part].parameters()) - self.trainable

    # --- one update ---

    def update(self) -> Stepped | Warned:
        """Make the next update; a Warned instead of a Stepped says it was left out. Raises DivergedError after several in a row."""
        began, optim = time.time(), self.config.optim
        losses = [self._backward(k) for k in range(optim.accumulate)]
        norm = self.optimiser.norm()
        loss, size = torch.stack([torch.stack(losses).mean(), norm]).tolist()
        self.step += 1
        if not (math.isfinite(loss) and math.isfinite(size)):
            self.optimiser.clear()
            self.lost += 1
            if self.lost >= LOST_IN_A_ROW:
                self.step -= self.lost
                raise DivergedError(
                    f"loss or gradient were not finite {self.lost} times in a row (loss {loss}). The state after {self.step} updates is kept. "
                    "Lower optim.unet_lr and optim.text_encoder_lr, or set base.dtype = float32, and choose another save.name."
                )
            return Warned(f"update {self.step} was left out: loss {loss}, gradient norm {size}")
        self.lost = 0
        share = course(optim.schedule, self.step - 1, optim.steps, optim.warmup)
        self.optimiser.update(norm, share)
        seconds = time.time() - began
        self.pace = [*self.pace[-19:], seconds]
        left = sum(self.pace) / len(self.pace) * (optim.steps - self.step)
        return Stepped(self.step, loss, max(optim.unet_lr, optim.text_encoder_lr) * share, size, seconds, left)

    def _backward(self, k: int) -> Tensor:
        """Pass k of the next update: gradients are added up; returns the loss, on the device."""
        optim, data, parts = self.config.optim, self.config.data, self.parts
        rows = self.order.rows(self.step * optim.accumulate + k)
        bucket = self.bucket_of[rows[0]]
        picked = [(self.examples[i], self.examples[i].caption, 1.0) for i in rows]
        if self.prior_examples:
            near = self.prior_of[bucket]
            first = (self.step * optim.accumulate + k) * len(rows)
            prior = self.config.prior
            picked += [(self.prior_examples[near[(first + j) % len(near)]], prior.prompt, prior.weight) for j in range(len(rows))]
        shape = self.latents.shape((picked[0][0].digest, bucket, False))
        chance = dict(shape=shape, timesteps=len(parts.alphas_cumprod), flip=data.flip, noise_offset=optim.noise_offset)
        dropout = lambda j: data.caption_dropout if j < len(rows) else 0.0
        draws = [drawn(optim.seed, self.step, k * 2 * len(rows) + j, caption_dropout=dropout(j), **chance) for j in range(len(picked))]
        x0 = torch.stack([self.latents.sample((e.digest, bucket, d.mirrored), d.latent_noise) for (e, _, _), d in zip(picked, draws, strict=True)])
        noise, t = torch.stack([d.noise for d in draws]), torch.tensor([d.timestep for d in draws])
        captions = ["" if d.wordless else caption for (_, caption, _), d in zip(picked, draws, strict=True)]
        alpha_bar = parts.alphas_cumprod[t]
        weights = objective.loss_weights(parts.prediction_type, alpha_bar, optim.min_snr) * torch.tensor([w for _, _, w in picked])
        noisy = objective.noised(x0, noise, alpha_bar).to(self.place.device, self.place.dtype, memory_format=torch.channels_last)
        wanted = objective.target(parts.prediction_type, x0, noise, alpha_bar).to(self.place.device)
        words = self.parts.family.encode_text(parts, captions) if self.trains_text else self.words(captions)
        said = parts.family.predict(parts, noisy, t.to(self.place.device), words)
        loss = objective.weighted_loss(said, wanted, weights.to(self.place.device), rows=len(rows))
        (loss / optim.accumulate * self.scale_loss).backward()
        if self.scale_loss != 1 and k == optim.accumulate - 1:
            for flat in self.optimiser.flats.values():
                flat.grad.div_(self.scale_loss)
        return loss.detach()

    # --- what leaves the run ---

    def prompts(self) -> list[Prompt]:
        """What previews draw: the user's prompts, or three captions, with the trigger put in."""
        p, data = self.config.preview, self.config.data
        texts: Sequence[str] = [captioned(text, data.trigger, data.template) for text in p.prompts]
        if not texts:
            every = max(1, len(self.examples) // 3)
            texts = [e.caption for e in self.examples[::every][:3]]
        return [Prompt(text, p.negative, p.steps, p.guidance, p.seed + i) for i, text in enumerate(texts)]

    def preview(self) -> Previewed:
        """Draw the previews as they are now; training is not touched."""
        prompts = self.prompts()
        self.optimiser.swap_average()
        pictures = draw(self.parts, prompts)
        self.optimiser.swap_average()
        paths = []
        for i, (prompt, picture) in enumerate(zip(prompts, pictures, strict=True)):
            path = f"previews/step-{self.step:07d}-{i}.png"
            write_whole(inside(self.folder, path), prompt.to_png(picture))
            paths.append(path)
        return Previewed(self.step, tuple(paths), tuple(p.text for p in prompts))

    def save(self) -> Saved:
        """Write a checkpoint of everything a resumed run needs."""
        state: dict[str, Any] = {"pictures": self._fingerprint(), "started": self.started, "version": __version__}
        folder = self.folder / "checkpoints"
        path = checkpoint.write(folder, self.step, self.optimiser.tensors(), state, keep=self.config.save.keep)
        return Saved(self.step, path.relative_to(self.folder).as_posix())

    def export(self) -> Path:
        """Write the style, read it back with the strict loader, compare every module's change of weights. Raises StyleFileError."""
        config, parts = self.config, self.parts
        self.optimiser.swap_average()
        own = {(part, m): adapter.as_lora(down, up, config.adapter.alpha) for (part, m), (down, up) in self.adapters.items()}
        self.optimiser.swap_average()
        metadata = metadata_for(
            config, family=parts.family.name, base_name=parts.title, base_hash=parts.hash, prediction=parts.prediction_type,
            resolution=config.data.resolution or parts.size, steps=self.step, pictures=len(self.examples),
            started=self.started, finished=time.time(), version=__version__,
        )  # fmt: skip
        path = inside(self.folder, f"{config.save.name}.safetensors")
        write_style(path, {canonical_name(part, m, parts.family.name): lora for (part, m), lora in own.items()}, metadata)
        back = match(read_style(path), self.names)
        for key, lora in own.items():
            wanted, found = lora.delta(), back[key].delta()
            worst, largest = abs(wanted - found).max(), abs(wanted).max()
            if worst > 4e-3 * largest + 1e-7:
                raise StyleFileError(f"{path} does not give back what was trained ({'.'.join(key)} is {worst:.2g} off). The checkpoint is kept.")
        return path
