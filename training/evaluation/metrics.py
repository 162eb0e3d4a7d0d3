"""How near a picture is to a style, to what was asked, and to the pictures it was learnt from; with
what the base itself holds.

Nothing is downloaded: the VAE's encoder tells hands apart, the denoiser tells things apart. Knows
nothing of runs or files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from training.models.family import Parts
from training.runtime.rng import seeded_generator

AT_ONCE = 16  # pictures or rows in one pass of a network
# of a layer at most whose products of channels are taken; wider ones give means and deviations only
CHANNELS = 96
# share of the identity in the covariance; with some ten pictures of hundreds of features most of it
# is noise
SHRINKAGE = 0.3
# Shares of the noise levels of a training at which the base is asked what it sees: neither all
# noise nor all picture
NOISE_SHARES = (0.35, 0.5, 0.65)
BANDS = ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))  # of timesteps, little noise first


def tensors(pictures: Sequence[Image.Image], side: int) -> Tensor:
    """Pictures -> [N, 3, side, side] in [-1, 1], on white, fitted by their shorter side and cropped
    to the middle.
    """
    values = []
    for picture in pictures:
        scale = side / min(picture.size)
        width, height = (max(side, round(length * scale)) for length in picture.size)
        whole = picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        left, top = (width - side) // 2, (height - side) // 2
        values.append(np.asarray(whole.crop((left, top, left + side, top + side))))
    return torch.from_numpy(np.stack(values)).permute(0, 3, 1, 2).float() / 127.5 - 1


@contextmanager
def _listening(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """The latest outputs of the layers, in the order in which they come."""
    heard: list[Tensor] = []

    def take(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        heard.append(first.float())

    hooks = [layer.register_forward_hook(take) for layer in layers]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def style_features(parts: Parts, x: Tensor) -> Tensor:
    """Features of how pictures are drawn, whatever they show: [N, 3, H, W] -> [N, D].

    Of every level of the VAE's encoder the channels' means and deviations, and of the first ones
    the products of channels (the Gram matrix of Gatys et al. 2016, section 2.2, without its mean).
    """
    vae = parts.vae
    layers = [vae.encoder.conv_in, *vae.encoder.down_blocks]
    found = []
    for some in x.split(AT_ONCE):
        with _listening(layers) as heard:
            vae.encode(parts.space.pixels(some.to(vae.device, vae.dtype)))
            found.append(torch.cat([_statistics(h) for h in heard], 1).cpu())
    return torch.cat(found)


def _statistics(h: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, 2 C] or, of few channels, [N, 2 C + C (C - 1) / 2]."""
    flat = h.flatten(2)
    mean, deviation = flat.mean(2), flat.std(2)
    moments = [mean, deviation]
    count = flat.shape[1]
    if count <= CHANNELS:
        unit = (flat - mean.unsqueeze(2)) / (deviation.unsqueeze(2) + 1e-4)
        gram = unit @ unit.transpose(1, 2) / flat.shape[2]
        above = torch.triu_indices(count, count, 1)
        moments.append(gram[:, above[0], above[1]] / count**0.5)
    return torch.cat(moments, 1)


@torch.no_grad()
def encoded(parts: Parts, x: Tensor) -> Tensor:
    """[N, 3, H, W] -> latents [N, C, h, w] as the denoiser takes them, float32, on the CPU."""
    vae = parts.vae
    found = []
    for some in x.split(AT_ONCE):
        pixels = parts.space.pixels(some.to(vae.device, vae.dtype))
        mean = vae.encode(pixels).latent_dist.mean.float().cpu()
        found.append(parts.space.scaled(mean))
    return torch.cat(found)


def predicted(parts: Parts, noisy: Tensor, t: Tensor, words: Any) -> Tensor:
    """What the denoiser says to noisy latents [B, C, h, w] at levels [B], in float32 on the CPU."""
    device, dtype = parts.denoiser.device, parts.denoiser.dtype
    noisy = noisy.to(device, dtype, memory_format=parts.memory_format)
    return parts.family.predict(parts, noisy, t.to(device), words).float().cpu()


@torch.no_grad()
def retrieval_ranks(parts: Parts, x: Tensor, prompts: Sequence[str], seed: int = 0) -> Tensor:
    """The base's denoising loss of every picture under every prompt, [N, prompts]: the diffusion
    classifier of Li et al. 2023 (arXiv 2303.16203, eq. 8), with the same noise for all, so that
    only words differ."""
    latents, objective = encoded(parts, x), parts.objective
    words = [parts.encode_text([p]) for p in prompts]
    losses = torch.zeros(len(latents), len(prompts))
    for i, latent in enumerate(latents):
        for k, share in enumerate(NOISE_SHARES):
            t = objective.levels([objective.share(share, parts.tokens(*latent.shape[1:]))])
            noise = torch.randn((1, *latent.shape), generator=seeded_generator(seed, k))
            noisy = objective.noised(latent[None], noise, t)
            wanted = objective.target(latent[None], noise, t)
            for at in range(0, len(prompts), AT_ONCE):
                some = words[at : at + AT_ONCE]
                said = predicted(
                    parts,
                    noisy.expand(len(some), -1, -1, -1),
                    t.expand(len(some)),
                    parts.family.gather(some),
                )
                losses[i, at : at + len(some)] += (said - wanted).square().flatten(1).mean(1)
    return losses / len(NOISE_SHARES)


class StyleDiscriminant:
    """Tells one hand from another: 0 is the base's, 1 the style's. Made from features [n, D] of
    true pictures and of the base's own.

    Fisher's linear discriminant with a shrunken covariance (Friedman 1989), in the space the
    samples span, so that D may be large.
    """

    def __init__(self, style: Tensor, base: Tensor) -> None:
        every = torch.cat([style, base]).double()
        self.centre, self.scale = every.mean(0), every.std(0) + 1e-6
        s, b = self._scaled(style), self._scaled(base)
        within = torch.cat([s - s.mean(0), b - b.mean(0)])
        away = s.mean(0) - b.mean(0)
        # (X'X/n + c I)^-1 d by the Woodbury identity: n is small where D is large
        n = len(within)
        c = SHRINKAGE * within.square().sum() / n / within.shape[0]
        inner = torch.linalg.solve(within @ within.T / n + c * torch.eye(n), within @ away / n)
        self.direction = (away - within.T @ inner) / c
        self.zero = b.mean(0) @ self.direction
        self.one = s.mean(0) @ self.direction

    def _scaled(self, features: Tensor) -> Tensor:
        return (features.double() - self.centre) / self.scale

    def __call__(self, features: Tensor) -> Tensor:
        """[N, D] -> [N], unbounded: beyond 1 is more of it than the true pictures have."""
        return (
            (self._scaled(features) @ self.direction - self.zero) / (self.one - self.zero)
        ).float()


def taken(likeness: Tensor) -> Tensor:
    """The chance that a picture would be taken for one of the style's rather than one of the
    base's, (0, 1).

    A logistic curve around the middle; its width was fitted to what a classifier of true pictures
    said of 5,400 drawings in five styles.
    """
    return torch.sigmoid((likeness - 0.5) / 0.12)


def left_out(make: Callable[[Tensor], StyleDiscriminant], style: Tensor) -> Tensor:
    """What each true picture scores when it is not among those that decide:

    what a perfect drawing could reach. [n]
    """
    rows = torch.arange(len(style))
    return torch.cat([make(style[rows != i])(style[i : i + 1]) for i in rows])


def distances(x: Tensor, others: Tensor) -> Tensor:
    """How far pictures lie apart, [N, 3, H, W] and [M, 3, H, W] -> [N, M]: root mean square over
    small grey copies that were brought to the same mean and contrast, the nearer of a picture and
    its mirror image."""
    a, b = _small(x), _small(others)
    return (
        torch.minimum(
            torch.cdist(a.flatten(1), b.flatten(1)), torch.cdist(a.flip(2).flatten(1), b.flatten(1))
        )
        / a.shape[1]
    )


def _small(x: Tensor) -> Tensor:
    grey = nn.functional.interpolate(x.mean(1, keepdim=True), size=(16, 16), mode="area")[:, 0]
    grey = grey - grey.mean((1, 2), keepdim=True)
    return grey / (grey.square().mean((1, 2), keepdim=True).sqrt() + 0.05)


def own_distance(x: Tensor, share: float) -> float:
    """The distance below which `share` of the pictures have a neighbour among themselves; 0 for a
    single picture.
    """
    if len(x) < 2:
        return 0.0
    apart = distances(x, x)
    apart.fill_diagonal_(float("inf"))
    return torch.quantile(apart.amin(1), share).item()


def unrecognisable(x: Tensor) -> Tensor:
    """Pictures [N, 3, H, W] of which only six by six colours are left, run into each other: nobody
    would name what they show.
    """
    few = nn.functional.interpolate(x, size=(6, 6), mode="area")
    return nn.functional.interpolate(few, size=x.shape[2:], mode="bicubic").clamp(-1, 1)


def content_kept(parts: Parts, x: Tensor, prompts: Sequence[str], seed: int = 0) -> float:
    """How surely the base tells the N pictures [N, 3, H, W] to be what was asked, see right_among;
    the first N prompts are the right ones.
    """
    return right_among(retrieval_ranks(parts, x, prompts, seed))


def right_among(losses: Tensor) -> float:
    """Mean reciprocal rank of the right words, [N, words] -> (0, 1]; word i is picture i's. 1:
    every picture fits best to its own words; 0.5: some others fit better.

    What counts is how much better words fit a picture than they fit all N: in a hand that the base
    does not know some words fit whatever is shown, and hide the right ones (centring against hubs,
    Suzuki et al. 2013). Words that fit alike share their ranks: N pictures that are all the same,
    or a single one, tell nothing.
    """
    losses = losses - losses.mean(0)
    right = losses.diagonal()[:, None]
    ranks = 0.5 + (losses < right).sum(1) + (losses == right).sum(1) / 2
    return (1 / ranks).mean().item()


class StyleClassifier:
    """What share of some pictures would be taken for the style's.

    Features tell: learnt from the style's own pictures (true) and those of the base.
    """

    def __init__(self, seen: Callable[[Tensor], Tensor], true: Tensor, base: Tensor) -> None:
        self.seen = seen
        style, plain = seen(true), seen(base)
        discriminant = partial(StyleDiscriminant, base=plain)
        self.likeness = discriminant(style)
        self.reachable = 1.0
        if len(true) > 2:
            self.reachable = left_out(discriminant, style).clamp(0, 1).mean().item()

    def __call__(self, x: Tensor) -> float:
        """[N, 3, H, W] -> a share; a true picture's own likeness counts as whole."""
        return taken(self.likeness(self.seen(x)) / max(self.reachable, 0.1)).mean().item()
