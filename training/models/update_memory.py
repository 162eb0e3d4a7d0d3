"""What an update takes beside weights and adapters: found by `python -m benchmarks.fits` for the
true size of each family, one picture at a time, with gradient checkpointing.
"""

from __future__ import annotations

from training.models.family import Family

GIB = 1024**3
# GiB in 16 bits, of pictures of 512 and 1024 px
MEASURED = {
    "sd1": (0.29, 1.14),
    "sd2": (0.29, 1.14),
    "sdxl": (0.2, 0.79),
}
UNKNOWN = 0.25  # of the weights' bytes: of a family that was not measured, at 1024 px


def update_memory(family: Family, side: int, *, itemsize: int, weights: float) -> float:
    """Bytes of an update of one picture of side x side px. itemsize: bytes of a number; weights:
    bytes of the denoiser's.
    """
    area = side * side / 1024**2
    measured = MEASURED.get(family.name)
    if measured is None:
        return UNKNOWN * weights * area
    small, large = measured
    # A line through both, in the number of pixels
    return max(0.0, small + (large - small) * (area - 0.25) / 0.75) * GIB * itemsize / 2
