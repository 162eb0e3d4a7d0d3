"""What the user should know of a style file that is read, though not all of it: sentences. Knows
numpy, not torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from training.style_files.metadata import read_as


def of_long_metadata(left_out: Mapping[str, int]) -> tuple[str, ...]:
    """left_out: metadata -> its bytes."""
    if not left_out:
        return ()
    shown = ", ".join(f"{name} ({size / 1e6:.1f} MB)" for name, size in list(left_out.items())[:5])
    more = f" and {len(left_out) - 5} more" if len(left_out) > 5 else ""
    return (
        f"Its metadata is too long to be read whole: {shown}{more} is left out. `style-file scrub` "
        "writes the style without it.",
    )


def of_norms(differences: Sequence[np.ndarray]) -> tuple[str, ...]:
    """differences: of the weights and biases of norms, whose weights are about 1."""
    if not differences:
        return ()
    count = f"changes of {len(differences)} weights and biases of norms"
    values = np.concatenate([array.ravel() for array in differences]).astype(np.float64)
    if not values.any():
        return (f"It holds {count}, which are all zero and left out.",)
    if not np.isfinite(values).all():
        return (f"It holds {count} that are not finite (NaN or infinity); they are left out.",)
    size = float(np.sqrt(np.mean(values**2)))
    return (
        f"It holds {count}, by {size:.2g} on average where the weights are about 1. They are left "
        "out: it may look a little different here than in programs that add them.",
    )


def of_clip_skip(metadata: Mapping[str, str], families: Sequence[str]) -> tuple[str, ...]:
    """families: of the base by the weights and by the metadata, the sure one first, "" for
    unknown. On SDXL the number means nothing: all programs take the last layer but one.
    """
    family = next(filter(None, families), "")
    layers, _ = read_as(metadata)
    if not layers or family not in ("", "mini", "sd1", "sd2"):
        return ()
    return (
        f"It was trained with clip skip {layers} and is drawn with it where the base has so many "
        "layers.",
    )
