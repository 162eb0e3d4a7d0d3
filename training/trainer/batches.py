"""Encoded pictures to batches: the rows of a microbatch, with their noise, captions and weights.

Everything but the pictures is a function of (seed, position), so a microbatch can be made again at
any time, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from training.config.schema import RunConfig
from training.data.buckets import Bucket
from training.data.dataset import Example
from training.models.family import Parts
from training.runtime.device import DeviceSpec, sent
from training.runtime.distributed import ProcessGroup
from training.runtime.rng import Draw, Order, drawn
from training.trainer.latents import Latents


@dataclass(frozen=True)
class Batch:
    """Rows that want one forward and backward, and their part in a loss over `rows` style
    pictures.
    """

    noisy: Tensor  # [B, C, h, w], in the base's precision
    wanted: Tensor  # [B, C, h, w]
    t: Tensor  # [B], levels of the base's objective: timesteps, or shares of noise
    weights: Tensor  # [B]
    captions: list[str]
    rows: int
    # [B, 1, h, w], how much each pixel counts, 1 on average; None: all alike
    masks: Tensor | None = None

    def part(self, some: slice) -> Batch:
        return Batch(
            self.noisy[some],
            self.wanted[some],
            self.t[some],
            self.weights[some],
            self.captions[some],
            self.rows,
            None if self.masks is None else self.masks[some],
        )

    def in_parts(self, at_once: int) -> Iterator[Batch]:
        """Its rows, so many at once."""
        for first in range(0, len(self.t), at_once):
            yield self.part(slice(first, first + at_once))


class Caption(NamedTuple):
    """trained: with the trigger, shortened where it would not be read else; whole: with the
    trigger, not shortened; plain: without the trigger.
    """

    trained: str
    whole: str
    plain: str


def latent_key(
    example: Example, bucket: Bucket, mirrored: bool = False, version: int = 0
) -> tuple[str, Bucket, bool, int]:
    """Under what the latents of a picture are kept."""
    return example.identity, bucket, mirrored, version


@dataclass(frozen=True)
class EncodedData:
    """The pictures of a run as latents, in their buckets.

    captions: all that may be said of every example; bucket_of: of every example; prior_of: the
    class pictures that each bucket's passes take, by their places in prior_examples.
    """

    examples: list[Example]
    captions: list[tuple[Caption, ...]]
    prior_examples: list[Example]
    bucket_of: list[Bucket]
    prior_of: dict[Bucket, list[int]]
    latents: Latents
    versions: int = 1  # of each example

    @property
    def are_shortened(self) -> bool:
        """Whether a caption is another one than in its file, so that the trigger has room."""
        return any(one.trained != one.whole for said in self.captions for one in said)

    @property
    def first_captions(self) -> list[str]:
        """One of every example, as it is trained."""
        return [said[0].trained for said in self.captions]

    @property
    def with_whole_captions(self) -> EncodedData:
        """The same with captions as they are in their files, whatever is read of them."""
        whole = [tuple(c._replace(trained=c.whole) for c in said) for said in self.captions]
        return replace(self, captions=whole)

    @property
    def groups(self) -> list[list[int]]:
        """For every bucket in use the indices of its examples, each as often as it is seen in a
        pass over all.
        """
        again = [
            (i, bucket)
            for i, (example, bucket) in enumerate(zip(self.examples, self.bucket_of, strict=True))
            for _ in range(example.repeats)
        ]
        return [[i for i, bucket in again if bucket == own] for own in self.prior_of]


class BatchMaker:
    """Makes the rows of a microbatch: of several processes each makes its share, with the chance
    of their places in the whole, so that how many processes there are changes no row.
    """

    def __init__(
        self, config: RunConfig, data: EncodedData, parts: Parts, world: ProcessGroup
    ) -> None:
        self.config, self.data, self.parts, self.world = config, data, parts, world
        optim = config.optim
        self.order = Order(data.groups, batch_size=optim.batch_size, seed=optim.seed)

    def batch(self, number: int, place: DeviceSpec) -> tuple[Batch, list[str]]:
        """Return the batch of microbatch `number` on the device, and its style pictures' captions
        without the trigger.
        """
        optim, data = self.config.optim, self.data
        rows = self.order.rows(number)
        bucket = data.bucket_of[rows[0]]
        picked = [(data.examples[i], data.captions[i], data.examples[i].weight) for i in rows]
        picked += self._class_pictures(number, bucket, len(rows))
        style = self.world.share(len(rows))
        prior = (len(rows) + j for j in self.world.share(len(picked) - len(rows)))
        own = [*style, *prior]
        shape = data.latents.shape(latent_key(picked[own[0]][0], bucket))
        draws = [self._draw(number, j, len(rows), shape) for j in own]
        picked = [picked[j] for j in own]
        # Class pictures are shown as they are
        versions = [data.versions if j < len(rows) else 1 for j in own]
        keys = [
            latent_key(e, bucket, d.mirrored, int(d.version * count))
            for (e, _, _), d, count in zip(picked, draws, versions, strict=True)
        ]
        x0 = torch.stack(
            [data.latents.sample(k, d.latent_noise) for k, d in zip(keys, draws, strict=True)]
        )
        noise, objective = torch.stack([d.noise for d in draws]), self.parts.objective
        tokens = self.parts.tokens(*shape[1:])
        t = objective.levels([objective.level(d.u, tokens, optim.timestep_bias) for d in draws])
        shares = torch.tensor([weight for _, _, weight in picked])
        debiased = optim.weighting == "debiased"
        weights = objective.weights(t, optim.min_snr, debiased) * shares
        noisy = objective.noised(x0, noise, t)
        noisy = noisy.to(place.dtype, memory_format=self.parts.memory_format)
        wanted = objective.target(x0, noise, t)
        said = [
            several[int(d.choice * len(several))]
            for (_, several, _), d in zip(picked, draws, strict=True)
        ]
        captions = ["" if d.wordless else one.trained for one, d in zip(said, draws, strict=True)]
        noisy, wanted, t, weights = (
            sent(tensor, place.device) for tensor in (noisy, wanted, t, weights)
        )
        masks = data.latents.weights(keys)
        masks = None if masks is None else sent(masks, place.device)
        batch = Batch(noisy, wanted, t, weights, captions, len(rows), masks)
        return batch, [one.plain for one in said[: len(style)]]

    def _class_pictures(
        self, number: int, bucket: Bucket, count: int
    ) -> Sequence[tuple[Example, tuple[Caption, ...], float]]:
        """As many class pictures as style pictures, in turn, with their caption and weight: those
        of data.folders have captions of their own, the others prior.prompt.
        """
        data, prior = self.data, self.config.prior
        if not data.prior_examples:
            return []
        near = data.prior_of[bucket]
        places = (near[(number * count + j) % len(near)] for j in range(count))
        picked = [data.prior_examples[i] for i in places]
        said = [example.caption if example.is_class else prior.prompt for example in picked]
        return [
            (example, (Caption(text, text, text),), prior.weight * example.weight)
            for example, text in zip(picked, said, strict=True)
        ]

    def _draw(self, number: int, row: int, rows: int, shape: tuple[int, ...]) -> Draw:
        """What chance gives a row of microbatch `number`; those from `rows` on are class
        pictures, whose captions are never dropped.
        """
        optim, data = self.config.optim, self.config.data
        step, k = divmod(number, optim.accumulate)
        return drawn(
            optim.seed,
            step,
            k * 2 * rows + row,
            shape=shape,
            flip=data.flip,
            caption_dropout=data.caption_dropout if row < rows else 0.0,
            noise_offset=optim.noise_offset,
            multires=optim.multires,
            multires_levels=optim.multires_levels,
        )
