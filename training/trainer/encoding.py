"""The pictures of a run and their class pictures as latents, before the first update."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from training.data import checks, masks, repetitions
from training.data.augmentation import Augmentation
from training.data.buckets import Bucket, buckets, finer_buckets, nearest
from training.data.caption_variants import Variation
from training.data.captions import captioned
from training.data.dataset import Example
from training.data.pictures import open_picture, pixels
from training.data.repetitions import Look, look_of
from training.errors import DataError
from training.events import Noted, Warned
from training.models.family import Parts
from training.runtime.device import device_record
from training.runtime.distributed import ProcessGroup
from training.trainer.batches import Caption, EncodedData, latent_key
from training.trainer.caption_reader import caption_reader
from training.trainer.latent_cache import LatentStore
from training.trainer.latents import Latents
from training.trainer.plan import Plan

MOST_LOOKED_AT = 500  # pictures among which a training looks for near copies


def chosen_buckets(plan: Plan, parts: Parts) -> list[Bucket]:
    """The sizes that pictures are cropped to."""
    data = plan.config.data
    side = data.resolution or parts.size
    if not data.buckets:
        return [Bucket(side, side)]
    choose = finer_buckets if data.finer_buckets else buckets
    return choose(side, parts.multiple)


def remarks(plan: Plan, parts: Parts, choices: Sequence[Bucket]) -> Iterator[Warned]:
    """Say what is worth a look in the pictures and captions, as the page does."""
    examples = plan.dataset.examples
    shapes = {e.name: nearest(e.width, e.height, choices) for e in examples}
    sizes = {e.name: (e.width, e.height) for e in examples}
    found = list(checks.small(sizes, shapes))
    found += checks.lonely(shapes, plan.config.optim.batch_size)
    if reader := caption_reader(parts, plan.config):
        for trigger, template in dict.fromkeys((e.trigger, e.template) for e in examples):
            captions = {
                e.name: max(e.all_written, key=reader.count)
                for e in examples
                if (e.trigger, e.template) == (trigger, template)
            }
            found += checks.too_long(captions, trigger, template, reader)
    found += repetitions.remarks({e.name: e.plain for e in examples}, _looks(examples))
    yield from (Warned(text) for text in checks.summarised(found))


def _looks(examples: Sequence[Example]) -> dict[str, Look]:
    """What every picture looks like; none of a set that is too large to be opened once more."""
    if len(examples) > MOST_LOOKED_AT:
        return {}
    return {e.name: look_of(open_picture(e.path)) for e in examples}


def cuts(plan: Plan, choices: Sequence[Bucket]) -> Iterator[Noted]:
    """Name the pictures of which a crop leaves out much."""
    sizes = {e.name: (e.width, e.height) for e in plan.dataset.examples}
    shapes = {name: nearest(*size, choices) for name, size in sizes.items()}
    yield from (Noted(text) for text in checks.summarised(checks.cut(sizes, shapes)))


def trained_captions(plan: Plan, parts: Parts) -> list[tuple[Caption, ...]]:
    """All that may be said of every picture, with room for the trigger."""
    config, data, reader = plan.config, plan.config.data, caption_reader(parts, plan.config)
    variation = Variation(
        data.tags == "shuffled",
        data.keep_tags,
        data.tag_dropout,
        data.wildcards,
        data.variants,
        config.optim.seed,
    )

    def caption(plain: str, e: Example) -> Caption:
        whole = trained = captioned(plain, e.trigger, e.template)
        if reader is not None:
            trained = checks.trained_caption(plain, e.trigger, e.template, reader)
        return Caption(trained, whole, plain)

    return [
        tuple(caption(plain, e) for plain in variation.of(e.all_written, e.identity, e.trigger))
        for e in plan.dataset.examples
    ]


def encode(
    plan: Plan,
    parts: Parts,
    world: ProcessGroup,
    choices: Sequence[Bucket],
    prior_examples: list[Example],
) -> EncodedData:
    """Encode every picture in its bucket, and mirrored where wanted; class pictures go round the
    buckets that are in use. Raises DataError for a picture that was changed meanwhile.
    """
    examples = list(plan.dataset.examples)
    store = _store(plan, parts)
    bucket_of = [nearest(e.width, e.height, choices) for e in examples]
    used = sorted(set(bucket_of))
    prior_of: dict[Bucket, list[int]] = {bucket: [] for bucket in used}
    # As often as they are seen; those of prior.folder once
    again = [i for i, e in enumerate(prior_examples) for _ in range(e.repeats if e.is_class else 1)]
    for i in range(max(len(again), len(used)) if again else 0):
        prior_of[used[i % len(used)]].append(again[i % len(again)])
    captions = trained_captions(plan, parts)
    change, unchanged = _augmentation(plan), Augmentation()
    data = EncodedData(
        examples, captions, prior_examples, bucket_of, prior_of, Latents(store), change.count
    )
    wanted = [(e, bucket, change) for e, bucket in zip(examples, bucket_of, strict=True)]
    wanted += [(prior_examples[i], b, unchanged) for b, found in prior_of.items() for i in found]
    for i in world.share(len(wanted)):
        example, bucket, how = wanted[i]
        _add(data.latents, example, bucket, plan, parts, how)
    data.latents.share(world)
    if store and world.writes:
        store.tidy()
    return data


def _store(plan: Plan, parts: Parts) -> LatentStore | None:
    """Where latents are kept for later runs, if they are."""
    room = int(plan.config.save.latents * 2**30)
    if not (room and parts.vae_hash):
        return None
    made_by = {"vae": parts.vae_hash, **parts.space.record, **device_record(plan.place)}
    return LatentStore(made_by, room)


def _augmentation(plan: Plan) -> Augmentation:
    data = plan.config.data
    return Augmentation(
        data.augment_turn,
        data.augment_crop,
        data.augment_colour,
        data.augment_versions,
        plan.config.optim.seed,
    )


def _add(
    latents: Latents,
    example: Example,
    bucket: Bucket,
    plan: Plan,
    parts: Parts,
    change: Augmentation,
) -> None:
    """Encode a picture in all its versions."""
    data = plan.config.data
    picture = open_picture(example.path, data.background)
    if hashlib.sha256(example.path.read_bytes()).hexdigest() != example.digest:
        raise DataError(
            f"{example.path} was changed while the training was being prepared. Start it again."
        )
    mask = masks.read_mask(example.mask) if example.mask else None
    for version in range(change.count):
        shown = change.of(picture, example.identity, version)
        counts = change.of(mask, example.identity, version, is_mask=True) if mask else None
        for mirrored in (False, True) if data.flip else (False,):
            cropped = pixels(shown, bucket, mirrored, example.place)
            key = latent_key(example, bucket, mirrored, version)
            latents.add(key, cropped, parts)
            if counts is not None:
                latents.weigh(key, _weights(counts, example, bucket, mirrored, plan, parts))


def _weights(
    mask: Image.Image, example: Example, bucket: Bucket, mirrored: bool, plan: Plan, parts: Parts
) -> np.ndarray:
    """How much each pixel of the latents counts. Raises DataError where none would."""
    size, outside = (example.width, example.height), np.float32(plan.config.data.mask_outside)
    inside = masks.weights(mask, size, bucket, parts.pixel_step, mirrored, example.place)
    if not (outside or inside.any()):
        raise DataError(
            f"{example.path} is cropped to {bucket.width}x{bucket.height} px, where its mask is "
            "all black, so nothing would count. Move the crop, or set data.mask_outside above 0."
        )
    return outside + (1 - outside) * inside
