"""From a plan to a trainer that is whole: load, encode, attach."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from training.adapters.multi_lora import SharedBase
from training.config.loading import write_run
from training.data.dataset import Example, read_dataset
from training.diffusion import class_images
from training.events import Noted, Warned
from training.models import loader
from training.models.family import Parts
from training.modules.attention import choose_attention
from training.runtime.distributed import ALONE, ProcessGroup
from training.style_files.key_names import accepted_names
from training.trainer import attach, resume
from training.trainer.batches import EncodedData
from training.trainer.encoding import chosen_buckets, cuts, encode, remarks
from training.trainer.latents import Words
from training.trainer.memory_watch import MemoryWatch
from training.trainer.microbatching import MicrobatchPlans
from training.trainer.networks import Networks
from training.trainer.plan import Plan
from training.trainer.previews import prompts_of
from training.trainer.trainer import Trainer


def set_up(
    plan: Plan,
    shared_base: SharedBase | None = None,
    world: ProcessGroup = ALONE,
    *,
    trial: bool = False,
) -> Generator[Noted | Warned, None, Trainer]:
    """Load, encode and attach; return the trainer as it is before anything is restored.

    Says what takes time and what was worth noting. shared_base: a base that is loaded already and
    shared with other styles; without one the run loads its own. world: the processes that train
    this one style together; each holds the same adapters and moments, the first one writes. trial:
    nothing is written. Raises StudioError.
    """
    config = plan.config
    if not trial and world.writes:
        yield from _begin_folder(plan)
    yield from _warnings(plan)
    yield Noted(f"loading {plan.files.title}")
    watch = MemoryWatch(plan, world)
    networks = _networks(plan, shared_base, watch)
    parts = networks.parts
    if parts.text_states is not None:
        parts.text_states.most = int(config.save.text_states * 2**30)
    choices = chosen_buckets(plan, parts)
    yield from remarks(plan, parts, choices)
    yield from cuts(plan, choices)
    prior_examples: list[Example] = []
    if config.prior.images and config.prior.weight:
        if parts.text_states is not None:  # before the denoiser is there
            parts.text_states.prepare(parts, [config.prior.prompt, parts.family.empty])
        with networks.at_hand(*{*parts.networks, parts.family.denoiser}):
            prior_examples = yield from _class_pictures(plan, parts, world, draw=not trial)
    if config.prior.weight:
        prior_examples += plan.dataset.class_examples
    count = len(plan.dataset.examples) + len(prior_examples)
    yield Noted(f"encoding {count} pictures")
    with networks.at_hand("vae"), watch.watched(parts.networks.values(), "encoding"):
        data = encode(plan, parts, world, choices, prior_examples)
    # Before the adapters go on: their layers are named as the base's own
    names = accepted_names(loader.adaptable_shapes(plan.files, parts), parts.family.name)
    words = Words(parts)
    asked = () if plan.trains_text or parts.text_states else parts.family.text_encoders
    with networks.at_hand(*asked):
        drop_unneeded(plan, data, networks, words)
    if parts.family.denoiser not in parts.networks:
        yield Noted(f"loading the {parts.family.denoiser} of {plan.files.title}")
    denoiser = parts.denoiser  # loaded now, if it had to wait
    networks.keep(parts.family.adapted)
    choose_attention(denoiser)
    attached = attach.attach(config, parts, names, shared_base, plan.start, plan.assistant)
    largest = config.optim.batch_size * (2 if prior_examples else 1)
    folder = config.run_folder if world.writes and not trial else None
    microbatches = MicrobatchPlans(
        config.optim.checkpointing, largest, folder, resume.settings_record(config)
    )
    return Trainer(
        plan, world, plan.place, networks, data, attached, words, watch, microbatches, shared_base
    )


def _begin_folder(plan: Plan) -> Iterator[Noted]:
    """Put earlier work aside where that is wanted, and write the settings down."""
    config = plan.config
    folder, save = config.run_folder, config.save
    if save.resume == "anew" and (aside := resume.put_aside(folder, save.name)):
        yield Noted(f"the earlier work of {save.name} lies in {aside.name} now")
    # Once: a run.toml that says "anew" would put this work aside at the next start. It lies where
    # it was written, from wherever it is started again
    lasting_save = {"resume": "exact", "folder": str(folder.parent)}
    lasting = config.model_copy(update={"save": save.model_copy(update=lasting_save)})
    write_run(lasting, folder)


def _warnings(plan: Plan) -> Iterator[Noted | Warned]:
    yield from (Warned(note) for note in plan.dataset.notes)
    if plan.note:
        yield Noted(plan.note)
    if plan.config.optim.compile != "off" and plan.place.device.type == "cpu":
        yield Warned(
            "compiling for a CPU takes ten minutes and more, and a stop is heard after the "
            "first update: optim.compile is for GPUs."
        )


def _networks(plan: Plan, shared_base: SharedBase | None, watch: MemoryWatch) -> Networks:
    """The shared base's networks, or the run's own. Raises OutOfMemory when there is not even room
    for the base.
    """
    if shared_base:
        parts = shared_base.parts()
        return Networks(parts, plan.place.device, staying=set(parts.networks) - {"vae"})
    watch.check_base()
    parts = loader.load(plan.files, plan.place, waiting=True, reading=plan.reading)
    return Networks(parts, plan.place.device)


def _class_pictures(
    plan: Plan, parts: Parts, world: ProcessGroup, *, draw: bool
) -> Generator[Noted, None, list[Example]]:
    """The user's class pictures and those that are missing, drawn by the base where wanted."""
    prior, preview = plan.config.prior, plan.config.preview
    found = list(plan.given_priors)
    missing = prior.images - len(found)
    if missing <= 0 or not draw:
        return found
    folder = class_images.own_folder(plan.config.run_folder)
    yield Noted(f"drawing {missing} class pictures of {prior.prompt!r}")
    drawn = class_images.drawn(
        parts,
        prior,
        folder,
        missing,
        world=world,
        seed=plan.config.optim.seed,
        steps=preview.steps,
        guidance=preview.guidance,
    )
    for count in drawn:
        yield Noted(f"{count} of {missing} class pictures are drawn")
    return [*found, *read_dataset(folder).examples[:missing]]


def drop_unneeded(plan: Plan, data: EncodedData, networks: Networks, words: Words) -> None:
    """Let go of what is not needed any more: the VAE where nothing will be drawn, text encoders
    whose every caption is encoded.
    """
    config = plan.config
    if config.preview.every == 0:
        networks.drop("vae")
    if plan.trains_text:
        return
    captions, parts = sorted(_captions(plan, data)), networks.parts
    if parts.text_states is not None:
        parts.text_states.prepare(parts, captions)
    else:
        words(captions)
    networks.drop(*networks.parts.family.text_encoders)


def _captions(plan: Plan, data: EncodedData) -> set[str]:
    """Every text that will be asked for."""
    config = plan.config
    said = [caption for several in data.captions for caption in several]
    texts = {*(one.trained for one in said), "", plan.files.family.empty, config.prior.prompt}
    texts |= {example.caption for example in plan.dataset.class_examples}
    texts |= {one.whole for one in said}  # a run that began with these goes on with them
    if config.prior.frozen_weight:
        texts |= {one.plain for one in said}
    if config.preview.every:
        prompts = prompts_of(config, data.first_captions)
        texts |= {text for p in prompts for text in (p.text, p.negative)}
    return texts


def without_notes(steps: Generator[object, None, Trainer]) -> Trainer:
    """Run a set-up to its end and return the trainer."""
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            return ended.value
