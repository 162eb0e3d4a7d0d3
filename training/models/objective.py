"""What a denoiser learns: noise objectives, as pure tensor functions. Knows nothing of models.

`Table` is of bases with a table of betas (Stable Diffusion 1, 2, XL), `Flow` of flow matching; both
answer the same questions, so that who trains, draws or measures does not ask which it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "flow"]


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


def debiased_weights(prediction_type: str, alpha_bar: Tensor) -> Tensor:
    """Weights [B] of debiased estimation (Yu et al. 2024, arXiv 2310.08442):
    1 / sqrt(SNR) for epsilon, 1 / (SNR + 1) for v, with an SNR of at most 1000 as in sd-scripts
    (custom_train_functions.py: apply_debiased_estimation).
    """
    a = alpha_bar.clamp(min=1e-12)
    snr = (a / (1 - a)).clamp(max=1000)
    return snr.rsqrt() if prediction_type == "epsilon" else 1 / (snr + 1)


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


@dataclass(frozen=True)
class Table:
    """A table of cumulative alphas, [T], float32; a level is its index, 0 with the least noise."""

    alphas_cumprod: Tensor
    prediction: Prediction

    def level(self, u: float, tokens: int = 0, bias: float = 0.0) -> float:
        """The timestep for u uniform in [0, 1): T u^(2^-bias), whose density is uniform at bias 0,
        rises linearly with noise at 1, and at -1 falls as t^(-1/2). tokens: not asked.
        """
        return int(u**2.0**-bias * len(self.alphas_cumprod))

    def share(self, share: float, tokens: int = 0) -> float:
        """The timestep before which a share in [0, 1) of all draws lies."""
        return int(share * len(self.alphas_cumprod))

    def levels(self, values: Sequence[float]) -> Tensor:
        """Levels as the denoiser hears them: timesteps, [B]."""
        return torch.tensor(values, dtype=torch.int64)

    def noised(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """Return x_t; see noised."""
        return noised(latents, noise, self.alphas_cumprod[levels])

    def target(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """What the denoiser should say; see target."""
        return target(self.prediction, latents, noise, self.alphas_cumprod[levels])

    def denoised(self, noisy: Tensor, said: Tensor, levels: Tensor) -> Tensor:
        """The x_0 that a prediction stands for."""
        return denoised(self.prediction, noisy, said, self.alphas_cumprod[levels])

    def weights(self, levels: Tensor, gamma: float, debiased: bool = False) -> Tensor:
        """Min-SNR weights [B], or those of debiased estimation; see loss_weights."""
        if debiased:
            return debiased_weights(self.prediction, self.alphas_cumprod[levels])
        return loss_weights(self.prediction, self.alphas_cumprod[levels], gamma)


def shifted(level: float, mu: float) -> float:
    """A noise level in [0, 1] moved towards noise: e^mu s / (1 + (e^mu - 1) s) (Esser et al. 2024,
    arXiv 2403.03206, eq. 23, with e^mu for the root of m / n). What trainers call shift is e^mu.
    """
    factor = math.exp(mu)
    return factor * level / (1 + (factor - 1) * level)


@dataclass(frozen=True)
class Shift:
    """mu as a straight line over the tokens of a picture, through two points (tokens, mu); the same
    for every size where both have the same mu.
    """

    few: tuple[int, float]
    many: tuple[int, float]

    def at(self, tokens: int) -> float:
        """mu for a picture of so many tokens."""
        (x1, y1), (x2, y2) = self.few, self.many
        return y1 + (y2 - y1) * (tokens - x1) / (x2 - x1)


def constant_shift(factor: float) -> Shift:
    """The same shift, e^mu, for pictures of all sizes."""
    return Shift((0, math.log(factor)), (1, math.log(factor)))


@dataclass(frozen=True)
class Flow:
    """x_s = (1 - s) x_0 + s noise; the denoiser says noise - x_0 (Lipman et al. 2023, arXiv
    2210.02747; Liu et al. 2023, arXiv 2209.03003). A level s is 0 for the picture, 1 for noise.

    shift: how drawn levels are moved, by the picture's size.
    """

    shift: Shift
    prediction: Prediction = "flow"

    LEAST = 1e-3  # level: of a picture without noise there is nothing to learn

    def level(self, u: float, tokens: int = 0, bias: float = 0.0) -> float:
        """The level for u uniform in [0, 1): logit-normal with mean 0 and deviation 1 (Esser et al.
        2024, section 3.1), moved by mu of so many tokens plus bias, which above 0 means more noise.
        """
        z = math.sqrt(2) * torch.erfinv(torch.tensor(2 * u - 1, dtype=torch.float64)).item()
        logit = max(-30.0, min(30.0, z))
        found = shifted(1 / (1 + math.exp(-logit)), self.shift.at(tokens) + bias)
        return min(1.0, max(self.LEAST, found))

    def share(self, share: float, tokens: int = 0) -> float:
        """The level below which a share in (0, 1) of all draws lies: a quantile."""
        return self.level(share, tokens)

    def levels(self, values: Sequence[float]) -> Tensor:
        """Levels as they are passed to `predict`, [B], float32."""
        return torch.tensor(values, dtype=torch.float32)

    def noised(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """Return x_s. latents, noise: [B, C, h, w]; levels: [B]."""
        s = _wide(levels, latents)
        return (1 - s) * latents + s * noise

    def target(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """What the denoiser should say: the velocity from the picture to the noise."""
        return noise - latents

    def denoised(self, noisy: Tensor, said: Tensor, levels: Tensor) -> Tensor:
        """The x_0 that a prediction stands for."""
        return noisy - _wide(levels, noisy) * said

    def weights(self, levels: Tensor, gamma: float, debiased: bool = False) -> Tensor:
        """Ones: levels count by how often they are drawn. gamma and debiased are of tables."""
        return torch.ones_like(levels)


Objective = Table | Flow
