"""Pictures from a base: the sampling loop for previews and comparisons. The only place that turns a
Prompt into a picture.

Latents stay in float32 while the networks run in the base's precision; noise is drawn on the CPU,
so it is the same everywhere.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from training.adapters.inference import ActiveStyle, apply_styles, read_by
from training.errors import ConfigError, DataError
from training.models.family import Conditioning, Parts
from training.modules.compile import as_written
from training.prompt import Prompt
from training.runtime import cpu_threads
from training.samplers import OWN, SAMPLERS, named

DECODE_AT_ONCE = 8  # pictures of the base's own size; more at once cost memory and win nothing


@torch.no_grad()
def draw(
    parts: Parts,
    prompts: Sequence[Prompt],
    *,
    rows: Sequence[Sequence[ActiveStyle]] = (),
    on_progress: Callable[[int, int], None] | None = None,
    encode: Callable[[Sequence[str]], Conditioning] | None = None,
) -> list[Image.Image]:
    """Draw one picture a prompt, all in one denoising loop. rows: the styles of each picture,
    none for the base as it is.

    Prompts of one call share steps, guidance, size and sampler; each has its own text, negative and
    seed. on_progress(step, steps) is called after every denoising step. encode: says texts, when
    the text encoders are gone. Raises DataError when a size does not fit the base, ConfigError when
    the sampler does not.
    """
    shared = {(p.steps, p.guidance, p.size, p.sampler) for p in prompts}
    if len(shared) != 1:
        raise ValueError("prompts drawn together must share steps, guidance, size and sampler")
    (steps, guidance, _, sampler), count = shared.pop(), len(prompts)
    scheduler = scheduler_of(parts, sampler)
    latents = noise(parts, prompts)
    tokens = [[token for active in row for token in active.words] for row in rows]
    reader = read_by(parts, rows) if rows else parts
    encode = encode or (lambda texts: parts.family.encode_text(reader, texts, tokens))
    networks = {
        name: parts.networks[name]
        for name in (parts.family.denoiser, *parts.family.text_encoders)
        if name in parts.networks
    }
    with as_written(parts.denoiser), apply_styles(networks, rows) if rows else nullcontext():
        words = encode([p.text for p in prompts])
        if guidance > 1:
            words = parts.family.gather([encode([p.negative for p in prompts]), words])
        scheduler.set_timesteps(steps, device=latents.device)
        extra = _step_arguments(scheduler, prompts)
        latents = latents * scheduler.init_noise_sigma
        for i, t in enumerate(scheduler.timesteps):
            cpu_threads.follow()
            noisy = scheduler.scale_model_input(
                torch.cat([latents] * 2) if guidance > 1 else latents, t
            )
            noisy = noisy.to(parts.denoiser.dtype, memory_format=torch.channels_last)
            said = parts.family.predict(parts, noisy, t.expand(len(noisy)), words).to(latents.dtype)
            if guidance > 1:  # Ho and Salimans 2022, eq. 6
                without, with_words = said.split(count)
                said = without + guidance * (with_words - without)
            latents = scheduler.step(said, t, latents, return_dict=False, **extra)[0]
            if on_progress:
                on_progress(i + 1, steps)
    return decoded(parts, latents)


def scheduler_of(parts: Parts, sampler: str) -> Any:
    """A fresh sampler of that name, in any way to write it, with the base's noise schedule and
    prediction.

    Raises ConfigError when there is none of that name or when it cannot follow that schedule.
    """
    own = parts.scheduler
    sampler = named(sampler)
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


def noise(parts: Parts, prompts: Sequence[Prompt]) -> Tensor:
    """First latents [B, C, h, w], each from its own seed, in float32 or better."""
    side = prompts[0].size or parts.size
    if side % parts.multiple:
        raise DataError(
            f"pictures of {side} px cannot be drawn with {parts.title}: a multiple of "
            f"{parts.multiple} px was expected."
        )
    shape = (
        1,
        parts.denoiser.config.in_channels,
        side // parts.pixel_step,
        side // parts.pixel_step,
    )
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
    vae = parts.vae
    pictures = []
    for some in latents.split(DECODE_AT_ONCE):
        z = (some / parts.latent_scale + parts.latent_shift).to(
            vae.dtype, memory_format=torch.channels_last
        )
        pixels = vae.decode(z, return_dict=False)[0].float().clamp(-1, 1)
        values = ((pixels + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        pictures += [Image.fromarray(picture) for picture in values]
    return pictures
