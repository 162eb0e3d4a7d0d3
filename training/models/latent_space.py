"""Between what a VAE says and what a denoiser takes: scale and shift, statistics of channels,
squares folded into channels, a time axis of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LatentSpace:
    """x = (folded(z) - shift) * scale. shift, scale: of all latents, or [C, 1, 1] of each channel;
    channels: C, of the denoiser's latents; patch: side of the squares of z that are folded into
    channels; frames: z has a time axis, as VAEs of films have.
    """

    channels: int = 4
    shift: Tensor | float = 0.0
    scale: Tensor | float = 1.0
    patch: int = 1
    frames: bool = False

    def _folded(self, z: Tensor) -> Tensor:
        z = z[:, :, 0] if self.frames else z
        return F.pixel_unshuffle(z, self.patch) if self.patch > 1 else z

    def scaled(self, mean: Tensor) -> Tensor:
        """A VAE's latents [B, c, (1,) h, w] as the denoiser takes them, [B, C, h', w']."""
        return (self._folded(mean) - self.shift) * self.scale

    def deviation(self, deviation: Tensor) -> Tensor:
        """The same of their standard deviations, which no shift moves."""
        return self._folded(deviation) * self.scale

    def unscaled(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """[B, C, h', w'] -> what the VAE decodes, in its precision."""
        shift, scale = (
            value.to(x) if isinstance(value, Tensor) else value
            for value in (self.shift, self.scale)
        )
        z = x / scale + shift
        z = F.pixel_shuffle(z, self.patch) if self.patch > 1 else z
        if self.frames:
            return z[:, :, None].to(dtype)
        return z.to(dtype, memory_format=torch.channels_last)

    def pixels(self, x: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] as the VAE's encoder takes them."""
        return x[:, :, None] if self.frames else x.to(memory_format=torch.channels_last)

    def picture(self, decoded: Tensor) -> Tensor:
        """What the VAE decoded, [B, 3, (1,) H, W], as pictures [B, 3, H, W]."""
        return decoded[:, :, 0] if self.frames else decoded

    @property
    def record(self) -> dict[str, Any]:
        """What of it decides the latents of a picture, beside the VAE's own weights."""
        plain = {
            name: value.flatten().tolist() if isinstance(value, Tensor) else value
            for name, value in (("scale", self.scale), ("shift", self.shift))
        }
        folded = {"patch": self.patch, "frames": self.frames}
        return plain | (folded if self.patch > 1 or self.frames else {})


def space_of(vae: Any) -> LatentSpace:
    """What a VAE's own config says. It knows three kinds: one scale and shift; a mean and a
    deviation of each channel (Qwen-Image); those of a batch norm over squares of 2 x 2 (FLUX.2).
    """
    config = vae.config
    norm = getattr(vae, "bn", None)
    if norm is not None:
        mean = norm.running_mean.detach().float().cpu()
        variance = norm.running_var.detach().float().cpu()
        scale = (variance + config.batch_norm_eps).rsqrt()
        patch = config.patch_size[0]
        return LatentSpace(len(mean), mean.view(-1, 1, 1), scale.view(-1, 1, 1), patch)
    if config.get("latents_std") is not None:
        mean, deviation = (
            torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return LatentSpace(config.z_dim, mean, 1 / deviation, frames=True)
    return LatentSpace(config.latent_channels, config.shift_factor or 0.0, config.scaling_factor)


def packed(x: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h/2 w/2, 4 C], every row a square of 2 x 2, in the order of
    pixel_unshuffle: channel, row, column.
    """
    return F.pixel_unshuffle(x, 2).flatten(2).transpose(1, 2)


def unpacked(rows: Tensor, height: int, width: int) -> Tensor:
    """The inverse. height, width: of the latents."""
    squares = rows.transpose(1, 2).unflatten(2, (height // 2, width // 2))
    return F.pixel_shuffle(squares, 2)


def position_ids(height: int, width: int, axes: int, like: Tensor) -> Tensor:
    """Ids [height width, axes] of the places of a grid, made on the device: the second axis counts
    rows, the third columns.
    """
    ids = torch.zeros(height, width, axes, device=like.device)
    ids[..., 1] += torch.arange(height, device=like.device)[:, None]
    ids[..., 2] += torch.arange(width, device=like.device)[None, :]
    return ids.flatten(0, 1)
