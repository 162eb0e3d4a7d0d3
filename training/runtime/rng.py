"""Examples to batches: which pictures, which noise, at which update. Every answer is a function of
(seed, position) alone.

So a resumed run needs no state of any random generator, and what one row gets does not depend on
the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ORDER, ROW, FIRST_WEIGHTS, FIRST_TOKENS = (
    1,
    2,
    3,
    4,
)  # purposes: what a stream of random numbers is for


def seeded_generator(seed: int, *key: int) -> torch.Generator:
    """A generator of its own for every key (purpose, step, row, ...), on the CPU."""
    words = np.random.SeedSequence([seed, *key]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))


@dataclass(frozen=True)
class Draw:
    """What chance gives one row of one pass."""

    noise: Tensor  # [C, h, w], float32
    latent_noise: Tensor  # [C, h, w], to sample from the VAE's posterior
    u: float  # uniform in [0, 1): how much noise, of which the base's objective makes a level
    mirrored: bool
    wordless: bool  # the caption is dropped
    choice: float = 0.0  # in [0, 1): which of several captions is said
    version: float = 0.0  # in [0, 1): which version of the picture is shown


def drawn(
    seed: int,
    step: int,
    row: int,
    *,
    shape: tuple[int, ...],
    flip: bool,
    caption_dropout: float,
    noise_offset: float,
    multires: float = 0.0,
    multires_levels: int = 6,
) -> Draw:
    """The chance of row `row` of update `step`; shape: [C, h, w] of the latents."""
    g = seeded_generator(seed, ROW, step, row)
    u = torch.rand(3, generator=g, dtype=torch.float64).tolist()
    noise = torch.randn(shape, generator=g)
    if noise_offset:  # https://www.crosslabs.org/blog/diffusion-with-offset-noise
        noise = noise + noise_offset * torch.randn((shape[0], 1, 1), generator=g)
    latent_noise = torch.randn(shape, generator=g)
    # After all that earlier versions drew
    choice, version = (
        torch.rand(1, generator=g, dtype=torch.float64).item(),
        torch.rand(1, generator=g, dtype=torch.float64).item(),
    )
    if multires:
        noise = pyramid(noise, multires, multires_levels, g)
    return Draw(
        noise,
        latent_noise,
        u[0],
        flip and u[1] < 0.5,
        u[2] < caption_dropout,
        choice,
        version,
    )


def pyramid(noise: Tensor, discount: float, levels: int, g: torch.Generator) -> Tensor:
    """Noise with coarser noise added to it, and the whole divided by its deviation. noise:
    [C, h, w]; level i (0, 1, ...) is smaller by r^i, r uniform in [2, 4), and counts discount^i;
    the last one is that of which a side is one pixel.

    Multi-resolution noise as in sd-scripts (custom_train_functions.py: pyramid_noise_like), where
    it is drawn for a whole batch.
    """
    channels, height, width = noise.shape
    for i in range(levels):
        r = 2 + 2 * torch.rand(1, generator=g, dtype=torch.float64).item()
        size = max(1, int(height / r**i)), max(1, int(width / r**i))
        coarse = torch.randn((1, channels, *size), generator=g)
        noise = noise + F.interpolate(coarse, (height, width), mode="bilinear")[0] * discount**i
        if 1 in size:
            break
    return noise / noise.std()


class Order:
    """The endless order of the style's pictures in passes of equal size and bucket.

    groups: for every bucket the indices of its examples. A bucket whose pictures do not fill its
    last pass begins again.
    """

    def __init__(self, groups: Sequence[Sequence[int]], *, batch_size: int, seed: int) -> None:
        self.groups = [tuple(group) for group in groups if group]
        self.batch_size, self.seed = batch_size, seed
        self.passes = sum(-(-len(group) // batch_size) for group in self.groups)  # in an epoch
        self._epoch, self._made = -1, []

    def rows(self, number: int) -> tuple[int, ...]:
        """The examples of pass `number` (0, 1, ...): batch_size indices of one bucket."""
        epoch, place = divmod(number, self.passes)
        if epoch != self._epoch:
            self._epoch, self._made = epoch, self._shuffled(epoch)
        return self._made[place]

    def _shuffled(self, epoch: int) -> list[tuple[int, ...]]:
        g = seeded_generator(self.seed, ORDER, epoch)
        made = []
        for group in self.groups:
            order = [group[i] for i in torch.randperm(len(group), generator=g).tolist()]
            whole = -(-len(order) // self.batch_size) * self.batch_size
            order = [order[i % len(order)] for i in range(whole)]
            made += [
                tuple(order[i : i + self.batch_size]) for i in range(0, whole, self.batch_size)
            ]
        return [made[i] for i in torch.randperm(len(made), generator=g).tolist()]
