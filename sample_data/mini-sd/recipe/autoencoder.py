"""The autoencoder: 128 px pictures to 8 channels of 16 x 16 latents and back.

Knows nothing of captions.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from pace import Stage, mixed
from torch import Tensor

from training.modules.group_norm import use_fast_group_norm

CROP = 64  # px; the network is convolutional, so it learns on crops and works on whole pictures
BATCH = 24  # crops a stream and step
KL_WEIGHT = 1e-6  # 1e-3 starved a channel: reds came out orange


def new() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 96, 128),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=16,
        sample_size=128,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def crops(pictures: Tensor, rng: torch.Generator) -> Tensor:
    """Return [BATCH, 3, CROP, CROP] in [-1, 1]: crops and halved pictures, mirrored, with colours
    exchanged, inverted or taken away, so that styles no set has (black on white, blueprint) come
    through as well."""

    def roll():
        return torch.rand((), generator=rng).item()

    rows = torch.randint(0, len(pictures), (BATCH,), generator=rng)
    x = pictures[rows]
    if roll() < 0.75:
        i, j = torch.randint(0, x.shape[-1] - CROP + 1, (2,), generator=rng).tolist()
        x = x[..., i : i + CROP, j : j + CROP].float()
    else:
        x = F.avg_pool2d(x.float(), 2)
    x = x / 127.5 - 1
    if roll() < 0.5:
        x = x.flip(3)
    quarter = BATCH // 6
    x[:quarter] = x[:quarter, torch.randperm(3, generator=rng)]
    x[quarter : 2 * quarter] = -x[quarter : 2 * quarter]
    grey = x[2 * quarter : 3 * quarter].mean(1, keepdim=True)
    x[2 * quarter : 3 * quarter] = (grey * (8 if roll() < 0.5 else 1)).clamp(-1, 1)
    return x.contiguous(memory_format=torch.channels_last)


def loss_of(vae: AutoencoderKL, x: Tensor) -> Tensor:
    """L1 + L2 + L1 of edges (fine lines) + L1 of 8 px means (colours) + KL."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=mixed(x.device.type)):
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
    error = y.float() - x
    edges = (error[..., 1:] - error[..., :-1]).abs().mean() + (
        error[..., 1:, :] - error[..., :-1, :]
    ).abs().mean()
    colour = F.avg_pool2d(error, 8).abs().mean()
    kl = (
        0.5
        * (
            posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()
        ).mean()
    )
    return (
        error.abs().mean() + 2 * error.square().mean() + 0.5 * edges + 0.5 * colour + KL_WEIGHT * kl
    )


@torch.no_grad()
def encoded(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] -> mean latents [N, C, H/8, W/8], unscaled."""
    device = next(vae.parameters()).device
    means = []
    for part in pictures.split(64):
        x = (part.to(device).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        means.append(vae.encode(x).latent_dist.mean.cpu())
    return torch.cat(means)


@torch.no_grad()
def normalised(vae: AutoencoderKL, pictures: Tensor, wanted: Tensor | float = 1.0) -> None:
    """Fold each channel's mean and deviation into the two 1x1 convolutions, so that every latent
    channel has mean 0 and the wanted deviation ([C] or one), and the scaling factor is 1."""
    z = encoded(vae, pictures)
    mean, deviation = z.mean((0, 2, 3)), z.std((0, 2, 3)) / wanted
    mean, deviation = (
        mean.to(vae.quant_conv.weight.device),
        deviation.to(vae.quant_conv.weight.device),
    )
    quant, post, n = vae.quant_conv, vae.post_quant_conv, len(mean)
    post.bias += (post.weight * mean.view(1, n, 1, 1)).sum((1, 2, 3))
    post.weight *= deviation.view(1, n, 1, 1)
    quant.weight[:n] /= deviation.view(n, 1, 1, 1)
    quant.bias[:n] = (quant.bias[:n] - mean) / deviation
    quant.bias[n:] -= 2 * deviation.log()


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: Tensor) -> float:
    """Mean peak signal-to-noise ratio in dB over uint8 [N, 3, H, W], decoded from the mean latents,
    rounded as a file is.
    """
    values = []
    for part in pictures.split(32):
        x = part.to(next(vae.parameters()).device).float() / 127.5 - 1
        y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        error = ((y * 127.5 + 127.5).round() / 255 - (x + 1) / 2).square().mean((1, 2, 3))
        values.append(-10 * error.clamp(min=1e-10).log10())
    return torch.cat(values).mean().item()


def train(pictures: Tensor, held_out: Tensor, folder: Path, *, steps: int, device: str) -> None:
    """Train to `steps`, going on from folder's state; folder/model holds the averaged, normalised
    autoencoder.
    """
    torch.manual_seed(1)
    vae = new().to(device, memory_format=torch.channels_last)
    use_fast_group_norm(vae)
    stage = Stage(vae.parameters(), folder, steps=steps, lr=1.5e-3, average=400)

    def keep() -> None:
        before = {k: v.clone() for k, v in vae.state_dict().items()}
        print(
            f"PSNR of {len(held_out)} held-out pictures: {psnr(vae, held_out):.2f} dB", flush=True
        )
        normalised(vae, pictures[:: max(1, len(pictures) // 512)])
        vae.save_pretrained(folder / "model")
        vae.load_state_dict(before)

    stage.run(lambda rng: loss_of(vae, crops(pictures, rng).to(device)), every=300, keep=keep)
