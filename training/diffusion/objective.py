"""Noise objectives, as pure tensor functions. Knows nothing of models."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *(1 for _ in like.shape[1:]))


def noised(latents: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return x_t. latents, noise:

    [B, C, h, w]; alpha_bar: [B], cumulative, in [0, 1). Ho et al. 2020, eq. 4.
    """
    a = _wide(alpha_bar, latents)
    return a.sqrt() * latents + (1 - a).sqrt() * noise


def target(prediction_type: str, latents: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """What the model should say:

    the noise, or the velocity (Salimans and Ho 2022, appendix D). Shapes as in noised.
    """
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        a = _wide(alpha_bar, latents)
        return a.sqrt() * noise - (1 - a).sqrt() * latents
    raise ValueError(f"prediction type {prediction_type!r}: epsilon or v_prediction was expected")


def denoised(prediction_type: str, noisy: Tensor, said: Tensor, alpha_bar: Tensor) -> Tensor:
    """The x_0 that a prediction stands for; the inverse of target.

    alpha_bar above 0 for epsilon.
    """
    a = _wide(alpha_bar, noisy)
    if prediction_type == "epsilon":
        return (noisy - (1 - a).sqrt() * said) / a.sqrt()
    return a.sqrt() * noisy - (1 - a).sqrt() * said


def loss_weights(prediction_type: str, alpha_bar: Tensor, gamma: float) -> Tensor:
    """Min-SNR weights [B] (arXiv 2303.09556, section 3.4):

    min(SNR, gamma) / SNR for epsilon, / (SNR + 1) for v; ones for gamma 0.
    """
    if gamma == 0:
        return torch.ones_like(alpha_bar)
    # min(snr, gamma) / snr and / (snr + 1), written with alpha_bar so that SNR 0 and infinity need
    # no special case
    bounded = torch.minimum(alpha_bar, gamma * (1 - alpha_bar))
    return bounded / alpha_bar.clamp(min=1e-12) if prediction_type == "epsilon" else bounded


@dataclass(frozen=True)
class Loss:
    """What is made of an error e: mse e^2, huber 2 c (sqrt(e^2 + c^2) - c), smooth_l1
    2 (sqrt(e^2 + c^2) - c): squares of errors far below c (smooth_l1: over c), absolute values of
    those far above. The pseudo-Huber loss of Charbonnier et al. 1997, scaled as in sd-scripts.
    """

    name: str = "mse"
    c: float = 0.1

    def of(self, errors: Tensor) -> Tensor:
        if self.name == "mse":
            return errors.square()
        # e^2 / (sqrt(e^2 + c^2) + c), which loses no digits where e is small
        squared = errors.square()
        found = 2 * squared / ((squared + self.c**2).sqrt() + self.c)
        return found * self.c if self.name == "huber" else found


MSE = Loss()


def weighted_loss(
    said: Tensor,
    wanted: Tensor,
    weights: Tensor,
    *,
    rows: int,
    masks: Tensor | None = None,
    kind: Loss = MSE,
) -> Tensor:
    """Sum of each row's mean loss times its weight, over `rows` style pictures.

    said, wanted: [B, C, h, w]; weights: [B]; masks: [B, 1, h, w], how much each pixel counts, 1 on
    average, where not all count alike.
    """
    errors = kind.of(said.float() - wanted.float())
    errors = errors if masks is None else errors * masks
    return (errors.flatten(1).mean(1) * weights).sum() / rows
