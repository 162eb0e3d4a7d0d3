"""Base models that can be fetched from the hub with one click: what each is, what it takes, and on
which cards it is trained.

Bytes are those of its weights in the precision that is fetched, rounded; memory is predicted by
`python -m benchmarks.fits` for one picture at the base's own size, rank 16, gradient checkpointing,
never measured for the transformers.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownBase:
    """model: its hub id; size: GB to fetch; licence: what it allows, in a few words; card: GB of
    the smallest card that trains it at its own size, and storage: how the base is kept there;
    advice: "" where there is nothing to be said.
    """

    model: str
    title: str
    family: str
    size: float
    licence: str
    card: int
    storage: str
    advice: str = ""


OWN_SIZE = {"sd1": 512}  # px; every other family 1024
SMALL_FIRMS = "free below a yearly revenue that it names"
GATED = "Its licence has to be accepted on its page first."
COMMERCIAL, NOT_COMMERCIAL = "commercial use allowed", "not for commercial use"
KNOWN = (
    KnownBase(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "Stable Diffusion 1.5",
        "sd1",
        2.1,
        f"OpenRAIL-M, {COMMERCIAL} with limits on use",
        4,
        "bfloat16",
        "The smallest and fastest, with the most styles there are.",
    ),
    KnownBase(
        "stabilityai/stable-diffusion-xl-base-1.0",
        "Stable Diffusion XL",
        "sdxl",
        6.9,
        f"OpenRAIL++-M, {COMMERCIAL} with limits on use",
        8,
        "int8",
        "Sharper than 1.5 and still light.",
    ),
    KnownBase(
        "black-forest-labs/FLUX.2-klein-base-4B",
        "FLUX.2 klein 4B base",
        "flux2-klein",
        16.0,
        f"Apache 2.0, {COMMERCIAL}",
        8,
        "int8",
        "Train here; draw with the distilled FLUX.2 klein 4B as well.",
    ),
    KnownBase(
        "stabilityai/stable-diffusion-3.5-medium",
        "Stable Diffusion 3.5 medium",
        "sd3",
        16.2,
        f"Stability Community licence, {SMALL_FIRMS}",
        8,
        "bfloat16",
        GATED,
    ),
    KnownBase(
        "Tongyi-MAI/Z-Image",
        "Z-Image",
        "z-image",
        20.5,
        f"Apache 2.0, {COMMERCIAL}",
        12,
        "int8",
        "Train here; draw with Z-Image Turbo as well.",
    ),
    KnownBase(
        "Tongyi-MAI/Z-Image-Turbo",
        "Z-Image Turbo",
        "z-image",
        20.5,
        f"Apache 2.0, {COMMERCIAL}",
        12,
        "int8",
        "Draws in 8 steps. Distilled: training it directly undoes some of that, so keep it short.",
    ),
    KnownBase(
        "lodestones/Chroma1-HD",
        "Chroma1 HD",
        "chroma",
        27.5,
        f"Apache 2.0, {COMMERCIAL}",
        16,
        "int8",
        "FLUX.1 schnell trained on, and drawn with guidance again.",
    ),
    KnownBase(
        "stabilityai/stable-diffusion-3.5-large",
        "Stable Diffusion 3.5 large",
        "sd3",
        27.4,
        f"Stability Community licence, {SMALL_FIRMS}",
        16,
        "int8",
        GATED,
    ),
    KnownBase(
        "black-forest-labs/FLUX.1-dev",
        "FLUX.1 dev",
        "flux",
        33.6,
        f"FLUX.1 dev licence, {NOT_COMMERCIAL}",
        24,
        "int8",
        GATED,
    ),
    KnownBase(
        "black-forest-labs/FLUX.2-klein-base-9B",
        "FLUX.2 klein 9B base",
        "flux2-klein",
        34.5,
        f"FLUX licence, {NOT_COMMERCIAL}",
        16,
        "int8",
        GATED,
    ),
    KnownBase(
        "Qwen/Qwen-Image",
        "Qwen-Image",
        "qwen-image",
        57.7,
        f"Apache 2.0, {COMMERCIAL}",
        24,
        "nf4",
        "The largest; writes words into pictures.",
    ),
)
