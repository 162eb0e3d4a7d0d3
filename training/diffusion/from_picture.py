"""Drawing that begins with a picture instead of noise alone (SDEdit, Meng et al. 2022), everywhere
or where a mask says.

The picture's latents get the noise of a level on the way, and the sampler goes on from there: the
fewer levels are left, the more of the picture stays. Equal seeds give what diffusers' pipelines of
the same name give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor

from training.data.buckets import Bucket, finer_buckets, nearest
from training.data.pictures import open_picture, pixels
from training.errors import DataError
from training.models.family import Parts
from training.prompt import Prompt

SOFT_EDGE = 64  # px of a picture's side for each px by which a mask's edge is softened


@dataclass(frozen=True)
class Start:
    """What a drawing begins with. pixels: uint8 [H, W, 3], of the size that is drawn; strength: the
    share of the noise levels that is gone through, above 0 (nearly the picture) to 1; mask: uint8
    [H, W], above 127 where it is drawn anew, None for everywhere.
    """

    pixels: np.ndarray
    strength: float = 0.6
    mask: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in px."""
        return self.pixels.shape[1], self.pixels.shape[0]


def steps_left(steps: int, strength: float, *, flow: bool = False) -> int:
    """How many of so many denoising steps are made from a picture, at least one. A share of a step
    is left out, with a flow made whole: so count diffusers' pipelines of both kinds.
    """
    if flow:
        return max(1, steps - int(max(steps - steps * strength, 0)))
    return min(max(1, int(steps * strength)), steps)


def start_from(
    image: Path, strength: float, *, side: int, multiple: int, mask: Path | None = None
) -> Start:
    """The start that a picture file gives: cropped to the nearest shape of about side x side px
    whose sides are multiples of `multiple`. mask: a picture of the same shape, white where it is
    drawn anew.

    Raises DataError that names the file.
    """
    picture = open_picture(image)
    bucket = nearest(*picture.size, finer_buckets(side, multiple))
    return Start(
        pixels(picture, bucket), strength, _mask(mask, picture.size, bucket) if mask else None
    )


def _mask(path: Path, size: tuple[int, int], bucket: Bucket) -> np.ndarray:
    found = open_picture(path, "black").convert("L")
    if abs(found.width * size[1] - found.height * size[0]) > 0.03 * size[0] * found.height:
        raise DataError(
            f"{path.name} is {found.width} x {found.height} px and the picture {size[0]} x "
            f"{size[1]}: a mask of the same shape was expected. Crop it like the picture."
        )
    made = pixels(found.resize(size).convert("RGB"), bucket)[..., 0]
    if not (made > 127).any():
        raise DataError(
            f"{path.name} has no white part, so nothing would be drawn anew. Paint white what is "
            "to change, or leave the mask out."
        )
    return made


class Begun:
    """A drawing on its way from a picture. latents: those of the first level [B, C, h, w];
    timesteps: those that are left; skipped: how many are not made.
    """

    def __init__(
        self, parts: Parts, scheduler: Any, prompts: Sequence[Prompt], start: Start, like: Tensor
    ) -> None:
        """like: latents of that size, for their device and precision."""
        self.start, self._scheduler = start, scheduler
        self._flow = parts.family.flow
        steps = prompts[0].steps
        self.steps = steps_left(steps, start.strength, flow=self._flow is not None)
        self.skipped = (steps - self.steps) * scheduler.order
        self.timesteps = scheduler.timesteps[self.skipped :]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(self.skipped)
        made = [_latents(parts, start.pixels, prompt.seed) for prompt in prompts]
        self._picture, self._noise = (torch.cat(some).to(like) for some in zip(*made, strict=True))
        self._anew = None if start.mask is None else latent_mask(start.mask, like)
        self.latents = self._noisy(0)

    def _noisy(self, step: int) -> Tensor:
        """The picture's latents at the noise level that a step begins with."""
        if self._flow is not None:  # samplers keep the exact level here, and round their timesteps
            level = self._scheduler.sigmas[self.skipped + step].to(self._picture)
            return self._flow.noised(self._picture, self._noise, level)
        levels = self.timesteps[step : step + 1].expand(len(self._picture))
        return self._scheduler.add_noise(self._picture, self._noise, levels)

    def masked(self, latents: Tensor, step: int) -> Tensor:
        """After a step: the latents outside of the mask are the picture's at the next level."""
        if self._anew is None:
            return latents
        last = step + 1 == len(self.timesteps)
        outside = self._picture if last else self._noisy(step + 1)
        return torch.where(self._anew, latents, outside)

    def finished(self, pictures: Sequence[Image.Image]) -> list[Image.Image]:
        """The pictures with the first one's own pixels outside of the mask, whose edge is softened
        inwards.
        """
        mask = self.start.mask
        if mask is None:
            return list(pictures)
        hard = Image.fromarray(np.where(mask > 127, 255, 0).astype(np.uint8))
        soft = hard.filter(ImageFilter.GaussianBlur(max(hard.size) / SOFT_EDGE))
        inside = Image.fromarray(np.minimum(np.asarray(soft), np.asarray(hard)))
        original = Image.fromarray(self.start.pixels)
        return [Image.composite(picture, original, inside) for picture in pictures]


def latent_mask(mask: np.ndarray, latents: Tensor) -> Tensor:
    """Bool [1, 1, h, w]: where a mask [H, W] touches a latent."""
    high = torch.from_numpy((mask > 127).astype(np.float32))[None, None]
    return (F.adaptive_max_pool2d(high, latents.shape[-2:]) > 0).to(latents.device)


@torch.no_grad()
def _latents(parts: Parts, pixels: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
    """A picture's latents [1, C, h, w], sampled from what the VAE says, and noise of that size:
    both from one generator, in the order of diffusers.
    """
    vae, space = parts.vae, parts.space
    generator = torch.Generator().manual_seed(seed)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(vae.device, vae.dtype) / 127.5 - 1
    found = vae.encode(space.pixels(x)).latent_dist
    mean, deviation = found.mean.float().cpu(), found.std.float().cpu()
    sampled = space.scaled(mean + deviation * torch.randn(mean.shape, generator=generator))
    return sampled, torch.randn(sampled.shape, generator=generator)
