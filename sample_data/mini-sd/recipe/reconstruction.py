"""What comes back from an autoencoder, of pictures it has never seen, in figures and on a sheet.

Peak signal-to-noise ratios of the kept-out sample sets and of icons of kept-out packages. A
risograph's specks of bare paper may be smoothed away: its ratio is also measured against the
picture whose specks are healed, and the colour of its paper on paper alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from autoencoder import psnr
from diffusers import AutoencoderKL
from PIL import Image, ImageFilter
from risograph import LEVELS, PAPER
from torch import Tensor

SAMPLES = Path(__file__).resolve().parents[2]
SETS = ("linocut", "blueprint", "watercolour", "risograph")
KEPT_OUT_ICONS = "kept-out-icons.npy"  # in the pool: pool.py draws it
SPECK = 2  # pixels at most that a speck of grain is large
NEAR_PAPER = 2.5 * 255 / LEVELS / 2  # of 255: a paper pixel's distance from the paper's colour
AWAY = 7  # px; a paper pixel has only paper in a square of this side around it


def kept_out(name: str) -> Tensor:
    """Return a sample set's pictures, uint8 [N, 3, 128, 128]."""
    files = sorted((SAMPLES / name).glob("*.png"))
    pictures = [np.asarray(Image.open(f).convert("RGB").resize((128, 128))) for f in files]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def healed(picture: np.ndarray) -> np.ndarray:
    """Return uint8 [H, W, 3] with light specks of one or two pixels filled from around them.

    A speck is lighter than the median of its 3 x 3 square and has at most one neighbour of its own
    kind; lines of one pixel have two, borders more: those stay.
    """
    median = np.asarray(Image.fromarray(picture).filter(ImageFilter.MedianFilter(3)), np.int32)
    own = picture.astype(np.int32)
    lighter = (own - median).sum(-1) > 40
    padded = np.pad(own, ((1, 1), (1, 1), (0, 0)), "edge")
    alike = np.zeros(own.shape[:2], int)
    for y in range(3):
        for x in range(3):
            if (y, x) != (1, 1):
                there = padded[y : y + own.shape[0], x : x + own.shape[1]]
                alike += np.abs(there - own).sum(-1) < np.abs(there - median).sum(-1)
    speck = lighter & (alike < SPECK)
    return np.where(speck[..., None], median, own).astype(np.uint8)


def paper_of(pictures: Tensor) -> Tensor:
    """Tell where bare paper lies in risographs uint8 [N, 3, H, W], away from any ink: [N, H, W]."""
    colour = torch.tensor(PAPER, dtype=torch.float32).view(1, 3, 1, 1)
    inked = (pictures.float() - colour).abs().amax(1, keepdim=True) > NEAR_PAPER
    near = torch.nn.functional.max_pool2d(inked.float(), AWAY, 1, AWAY // 2)
    return near[:, 0] == 0


@torch.no_grad()
def returned(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Return what comes back of uint8 [N, 3, H, W] through the mean latents, rounded likewise."""
    device = next(vae.parameters()).device
    found = []
    for part in pictures.split(16):
        x = (part.to(device).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        found.append((y * 127.5 + 127.5).round().byte().cpu())
    return torch.cat(found)


def ratio(one: Tensor, other: Tensor) -> float:
    """Return the mean over pictures of their peak signal-to-noise ratios in dB."""
    error = (one.float() / 255 - other.float() / 255).square().mean((1, 2, 3))
    return (-10 * error.clamp(min=1e-10).log10()).mean().item()


def paper_shift(pictures: Tensor, back: Tensor) -> list[float]:
    """Return by how much of 255 the paper's mean colour moves, the worst picture of each channel.

    Pictures whose ink leaves fewer than 200 pixels of paper are not counted.
    """
    worst = torch.zeros(3)
    for picture, found, paper in zip(pictures, back, paper_of(pictures), strict=True):
        if paper.sum() >= 200:
            moved = (found.float() - picture.float())[:, paper].mean(1).abs()
            worst = torch.maximum(worst, moved)
    return [round(value, 2) for value in worst.tolist()]


def figures(vae: AutoencoderKL, pool: Path) -> str:
    """Return the figures of all that is kept out, in one line."""
    said = []
    if (pool / KEPT_OUT_ICONS).exists():
        icons = torch.from_numpy(np.load(pool / KEPT_OUT_ICONS)).permute(0, 3, 1, 2)
        said.append(f"icons {psnr(vae, icons):.2f} dB")
    for name in SETS:
        pictures = kept_out(name)
        back = returned(vae, pictures)
        said.append(f"{name} {ratio(pictures, back):.2f} dB")
        if name == "risograph":
            rows = pictures.permute(0, 2, 3, 1).numpy()
            whole = torch.from_numpy(np.stack([healed(p) for p in rows])).permute(0, 3, 1, 2)
            said.append(f"without specks {ratio(whole, back):.2f} dB")
            said.append(f"its paper off by at most {paper_shift(pictures, back)}")
    return "  ".join(said)


def sheet(vae: AutoencoderKL) -> Image.Image:
    """Draw six pictures of every set above what comes back of them."""
    rows = []
    for name in SETS:
        pictures = kept_out(name)[:6]
        rows += [torch.cat(list(pictures), 2), torch.cat(list(returned(vae, pictures)), 2)]
    return Image.fromarray(torch.cat(rows, 1).permute(1, 2, 0).numpy())
