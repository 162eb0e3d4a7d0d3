"""What an update takes beside weights and adapters: found by `python -m benchmarks.fits` for the
true size of each family, one picture at a time, with gradient checkpointing.
"""

from __future__ import annotations

from typing import NamedTuple

from training.models.family import Family

GIB = 1024**3


class Measured(NamedTuple):
    """GiB in 16 bits: of a denoiser's weights, and of an update on pictures of 512 and 1024 px."""

    weights: float
    small: float
    large: float


MEASURED: dict[str, tuple[Measured, ...]] = {
    "sd1": (Measured(1.6, 0.29, 1.14),),
    "sd2": (Measured(1.6, 0.29, 1.14),),
    "sdxl": (Measured(4.8, 0.2, 0.79),),
    "z-image": (Measured(11.5, 0.57, 2.17),),
    "flux2-klein": (Measured(7.2, 0.57, 1.72), Measured(16.9, 0.85, 2.54)),
    "flux": (Measured(22.2, 0.75, 2.25),),
    "chroma": (Measured(16.6, 0.53, 2.01),),
    "sd3": (Measured(4.2, 0.14, 0.63), Measured(15.0, 0.39, 1.31)),
    "qwen-image": (Measured(38.1, 0.55, 2.1),),
    "krea2": (Measured(23.9, 0.75, 2.84),),
}
UNKNOWN = 0.25  # of the weights' bytes: of a family that was not measured, at 1024 px


def update_memory(family: Family, side: int, *, itemsize: int, weights: float) -> float:
    """Bytes of an update of one picture of side x side px. itemsize: bytes of a number; weights:
    bytes of the denoiser's. Of a family's sizes the nearest counts.
    """
    area = side * side / 1024**2
    known = MEASURED.get(family.name)
    if known is None:
        return UNKNOWN * weights * area
    own = weights / itemsize * 2 / GIB
    found = min(known, key=lambda one: abs(one.weights - own))
    # A line through both, in the number of pixels
    share = found.small + (found.large - found.small) * (area - 0.25) / 0.75
    return max(0.0, share) * GIB * itemsize / 2
