"""Pictures from a base: the sampling loop for previews and comparisons. The only place that turns a
Prompt into a picture.

Latents stay in float32 while the networks run in the base's precision; noise is drawn on the CPU,
so it is the same everywhere.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from training.adapters.inference import ActiveStyle, apply_styles, read_by
from training.diffusion.from_picture import Begun, Start
from training.errors import ConfigError, DataError
from training.models.family import Conditioning, Parts
from training.modules.compile import as_written
from training.prompt import Prompt
from training.runtime import cpu_threads
from training.samplers import FLOW_SAMPLERS, OWN, SAMPLERS, named

DECODE_AT_ONCE = 8  # pictures of the base's own size; more at once cost memory and win nothing


@torch.no_grad()
def draw(
    parts: Parts,
    prompts: Sequence[Prompt],
    *,
    rows: Sequence[Sequence[ActiveStyle]] = (),
    start: Start | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    encode: Callable[[Sequence[str]], Conditioning] | None = None,
) -> list[Image.Image]:
    """Draw one picture a prompt, all in one denoising loop. rows: the styles of each picture,
    none for the base as it is; start: the picture that all of them begin with.

    Prompts of one call share steps, guidance, size and sampler; each has its own text, negative and
    seed. on_progress(step, steps) is called after every denoising step. encode: says texts, when
    the text encoders are gone. Raises DataError when a size does not fit the base, ConfigError when
    the sampler does not.
    """
    steps, guidance, sampler = _shared(prompts)
    count = len(prompts)
    family, two_rows = parts.family, parts.family.guided == "two rows" and guidance > 1
    tokens = [[token for active in row for token in active.words] for row in rows]
    reader = read_by(parts, rows) if rows else parts
    encode = encode or (lambda texts: reader.encode_text(texts, tokens))
    negatives = [p.negative or family.empty for p in prompts] if two_rows else []
    if parts.text_states is not None:  # before the denoiser is there
        encode([*negatives, *(p.text for p in prompts)])
    latents = noise(parts, prompts if start is None else [_sized(p, start) for p in prompts])
    scheduler = schedule(parts, sampler, steps, latents)
    begun = Begun(parts, scheduler, prompts, start, latents) if start is not None else None
    networks = {name: parts.networks[name] for name in family.adapted if name in parts.networks}
    with as_written(parts.denoiser), apply_styles(networks, rows) if rows else nullcontext():
        words = encode([p.text for p in prompts])
        if two_rows:
            words = family.gather([encode(negatives), words])
        heard = (guidance,) if family.guided == "number" else ()
        extra = _step_arguments(scheduler, prompts)
        latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
        timesteps, skipped = scheduler.timesteps, 0
        if begun is not None:
            latents, timesteps, skipped = begun.latents, begun.timesteps, begun.skipped
        for i, t in enumerate(timesteps):
            cpu_threads.follow()
            noisy = _denoiser_input(parts, scheduler, latents, t, two_rows)
            level = t if family.flow is None else flow_level(scheduler, skipped + i, t)
            level = level.expand(len(noisy))
            said = family.predict(parts, noisy, level, words, *heard).to(latents.dtype)
            if two_rows:  # Ho and Salimans 2022, eq. 6
                without, with_words = said.split(count)
                said = without + guidance * (with_words - without)
                said = family.steer(said, with_words) if family.steer else said
            latents = scheduler.step(said, t, latents, return_dict=False, **extra)[0]
            latents = begun.masked(latents, i) if begun else latents
            if on_progress:
                on_progress(i + 1, begun.steps if begun else steps)
    pictures = decoded(parts, latents)
    return begun.finished(pictures) if begun else pictures


def _shared(prompts: Sequence[Prompt]) -> tuple[int, float, str]:
    """Steps, guidance and sampler of prompts that are drawn together."""
    shared = {(p.steps, p.guidance, p.extent, p.sampler) for p in prompts}
    if len(shared) != 1:
        raise ValueError("prompts drawn together must share steps, guidance, size and sampler")
    steps, guidance, _, sampler = shared.pop()
    return steps, guidance, sampler


def _sized(prompt: Prompt, start: Start) -> Prompt:
    """The prompt in the size of the picture that it begins with."""
    width, height = start.size
    return replace(prompt, size=width, height=height)


def _denoiser_input(
    parts: Parts, scheduler: Any, latents: Tensor, t: Tensor, two_rows: bool
) -> Tensor:
    """The latents of this step in the denoiser's precision, twice where guidance has two rows."""
    noisy = torch.cat([latents] * 2) if two_rows else latents
    if hasattr(scheduler, "scale_model_input"):  # those of flows have nothing to scale
        noisy = scheduler.scale_model_input(noisy, t)
    return noisy.to(parts.denoiser.dtype, memory_format=parts.memory_format)


def schedule(parts: Parts, sampler: str, steps: int, latents: Tensor) -> Any:
    """A sampler that is ready for so many steps with latents [B, C, h, w].

    Raises ConfigError as scheduler_of does.
    """
    if parts.family.flow is None:
        scheduler = scheduler_of(parts, sampler)
        scheduler.set_timesteps(steps, device=latents.device)
        return scheduler
    own, tokens = parts.scheduler.config, parts.tokens(*latents.shape[2:])
    mu = math.log(own.shift)
    if own.use_dynamic_shifting:
        flow, drawn_at = parts.family.flow, parts.family.drawn_at
        mu = drawn_at(tokens, steps) if drawn_at else flow.shift.at(tokens)
    scheduler = scheduler_of(parts, sampler, mu)
    if named(sampler) != OWN:
        scheduler.set_timesteps(steps, device=latents.device)
    elif parts.family.own_levels:
        scheduler.set_timesteps(steps, device=latents.device)
    else:
        moved = {"mu": mu} if own.use_dynamic_shifting else {}
        sigmas = np.linspace(1.0, 1 / steps, steps)
        scheduler.set_timesteps(sigmas=sigmas, device=latents.device, **moved)
    return scheduler


def flow_level(scheduler: Any, i: int, t: Tensor) -> Tensor:
    """The level of step i. Samplers that round their timesteps keep the level in sigmas."""
    sigmas = scheduler.sigmas
    exact = len(sigmas) == len(scheduler.timesteps) + 1
    return sigmas[i].to(t.device) if exact else t / 1000


def scheduler_of(parts: Parts, sampler: str, mu: float = 0.0) -> Any:
    """A fresh sampler of that name, in any way to write it, with the base's noise schedule and
    prediction. mu: by which a flow's levels are shifted, where it is not the base's own sampler.

    Raises ConfigError when there is none of that name or when it cannot follow that schedule.
    """
    own = parts.scheduler
    sampler = named(sampler)
    if parts.family.flow is not None and sampler != OWN:
        return _flow_sampler(parts, sampler, mu)
    if sampler == OWN:
        return type(own).from_config(own.config)
    import diffusers

    chosen = SAMPLERS[sampler]
    kind = getattr(diffusers, chosen.kind)
    if (
        own.config.get("rescale_betas_zero_snr")
        and "rescale_betas_zero_snr" not in inspect.signature(kind.__init__).parameters
    ):
        raise ConfigError(
            f"the sampler {sampler} cannot begin with noise alone, as {parts.title} was "
            "trained to. Choose DDIM, Euler, DPM++ 2M or UniPC."
        )
    return kind.from_config(own.config, **chosen.options)


def _flow_sampler(parts: Parts, sampler: str, mu: float) -> Any:
    """One of the samplers that follow a flow without bias (tests/test_flow_samplers.py)."""
    import diffusers

    if sampler not in FLOW_SAMPLERS:
        raise ConfigError(
            f"the sampler {sampler} cannot follow a flow, as {parts.title} is one. Choose base, "
            f"{', '.join(FLOW_SAMPLERS)}."
        )
    chosen = FLOW_SAMPLERS[sampler]
    return getattr(diffusers, chosen.kind)(**chosen.options, **{chosen.shift: math.exp(mu)})


def noise(parts: Parts, prompts: Sequence[Prompt]) -> Tensor:
    """First latents [B, C, h, w], each from its own seed, in float32 or better."""
    width = prompts[0].size or parts.size
    height = prompts[0].height or width
    if width % parts.multiple or height % parts.multiple:
        shown = f"{width}" if width == height else f"{width} x {height}"
        raise DataError(
            f"pictures of {shown} px cannot be drawn with {parts.title}: a multiple of "
            f"{parts.multiple} px was expected."
        )
    shape = (1, parts.space.channels, height // parts.pixel_step, width // parts.pixel_step)
    drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(p.seed)) for p in prompts]
    return torch.cat(drawn).to(
        parts.denoiser.device, torch.promote_types(parts.denoiser.dtype, torch.float32)
    )


def _step_arguments(scheduler: Any, prompts: Sequence[Prompt]) -> Mapping[str, Any]:
    """Samplers that add noise of their own get a generator a row, apart from the one of the first
    noise.
    """
    if "generator" not in inspect.signature(scheduler.step).parameters:
        return {}
    return {"generator": [torch.Generator().manual_seed(p.seed + 1) for p in prompts]}


@torch.no_grad()
def decoded(parts: Parts, latents: Tensor) -> list[Image.Image]:
    """Latents [B, C, h, w] -> pictures, a few at a time."""
    vae, space = parts.vae, parts.space
    pictures = []
    for some in latents.split(DECODE_AT_ONCE):
        made = vae.decode(space.unscaled(some, vae.dtype), return_dict=False)[0]
        pixels = space.picture(made).float().clamp(-1, 1)
        values = ((pixels + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        pictures += [Image.fromarray(picture) for picture in values]
    return pictures
