"""What need not be computed again at every update: latents of pictures, states of captions."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from torch import Tensor

from training.models.family import Conditioning, Parts
from training.runtime.distributed import ProcessGroup
from training.trainer.latent_cache import LatentStore, digest


class Latents:
    """Mean and deviation of the VAE's posterior for every picture as it is cropped, so that a new
    sample costs nothing.

    store: where they stay for other runs, and come from when another run made them.
    """

    def __init__(self, store: LatentStore | None = None) -> None:
        self._kept: dict[Hashable, tuple[Tensor, Tensor]] = {}
        self._weights: dict[Hashable, Tensor] = {}
        self._store = store

    @torch.no_grad()
    def add(self, key: Hashable, pixels: np.ndarray, parts: Parts) -> None:
        """Encode one picture, uint8 [H, W, 3]; alone, so that what it gets does not depend on
        others.
        """
        if key in self._kept:
            return
        name = digest(pixels) if self._store else ""
        found = self._store.get(name) if self._store else None
        self._kept[key] = found or posterior(parts, pixels)
        if self._store and not found:
            self._store.put(name, *self._kept[key])

    def weigh(self, key: Hashable, weights: np.ndarray) -> None:
        """Let the pixels of a picture's latents count so much, float32 [h, w]; one without weights
        counts as a whole. They are scaled to a mean of 1, so a small part is learnt as strongly as
        a large one.
        """
        self._weights[key] = torch.from_numpy(weights / weights.mean(dtype=np.float64)).float()

    def weights(self, keys: Sequence[Hashable]) -> Tensor | None:
        """Weights [B, 1, h, w] of latents of one shape; None where all of them count as a whole."""
        if not any(key in self._weights for key in keys):
            return None
        whole = torch.ones(self.shape(keys[0])[-2:])
        return torch.stack([self._weights.get(key, whole) for key in keys]).unsqueeze(1)

    def share(self, world: ProcessGroup) -> None:
        """Have what every process of a training has encoded."""
        for kept, weights in world.gathered((self._kept, self._weights)):
            self._kept.update(kept)
            self._weights.update(weights)

    def shape(self, key: Hashable) -> tuple[int, ...]:
        return tuple(self._kept[key][0].shape)

    def sample(self, key: Hashable, noise: Tensor) -> Tensor:
        """Scaled latents [C, h, w], float32, sampled with the given noise (Kingma and Welling 2014,
        eq. 10).
        """
        mean, deviation = self._kept[key]
        return mean + deviation * noise


@torch.no_grad()
def posterior(parts: Parts, pixels: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and deviation [C, h, w] in the denoiser's scale, float32, on the CPU, of uint8 [H, W,
    3].
    """
    vae, space = parts.vae, parts.space
    x = (
        torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0).to(vae.device).to(vae.dtype) / 127.5
        - 1
    )
    found = vae.encode(space.pixels(x)).latent_dist
    mean, deviation = found.mean.float().cpu(), found.std.float().cpu()
    return space.scaled(mean)[0], space.deviation(deviation)[0]


class Words:
    """States of captions, for a text encoder that is not trained."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._kept: dict[str, Conditioning] = {}

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> Conditioning:
        if self._parts.text_states is not None:  # which keeps them
            return self._parts.encode_text(captions)
        for caption in captions:
            if caption not in self._kept:
                self._kept[caption] = self._parts.encode_text([caption])
        return self._parts.family.gather([self._kept[caption] for caption in captions])
