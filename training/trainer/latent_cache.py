"""Latents that stay on disk:

shared between runs and processes, named by all they were made of, bounded in size. What is lost is
made again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from training.errors import SpaceError
from training.storage.paths import keep_within, latents_folder, write_whole

FORMAT = 1  # of what is kept; another one is another place


def digest(pixels: np.ndarray) -> str:
    """Of a picture as the VAE sees it, uint8 [H, W, 3]:

    crop, bucket, mirror and background are all in it.
    """
    return hashlib.sha256(
        repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()
    ).hexdigest()


class LatentStore:
    """Mean and deviation of the VAE's posterior by digest of the pixels.

    made_by: the VAE's hash, its scale, and what of the machine decides how sums are rounded; what
    anything else made is not found here, so that a run with latents from here equals one without to
    the bit. most: bytes that all bases together may take.
    """

    def __init__(self, made_by: Mapping[str, Any], most: int) -> None:
        made_of = json.dumps({"format": FORMAT, **made_by}, sort_keys=True, default=str)
        self.folder, self.most = (
            latents_folder() / hashlib.sha256(made_of.encode()).hexdigest()[:32],
            most,
        )
        self.works = most > 0

    def get(self, name: str) -> tuple[Tensor, Tensor] | None:
        """[C, h, w] each, float32; None where there is none that is whole and finite."""
        path = self._path(name)
        try:
            found = load(path.read_bytes()) if self.works else {}
        except (OSError, SafetensorError, ValueError):
            return None
        mean, deviation = found.get("mean"), found.get("deviation")
        if mean is None or deviation is None or mean.dim() != 3 or mean.shape != deviation.shape:
            return None
        if not (
            mean.dtype == deviation.dtype == torch.float32
            and bool(mean.isfinite().all())
            and bool(deviation.isfinite().all())
        ):
            return None
        try:
            os.utime(path)  # used now: the oldest go first
        except OSError:
            pass  # another process may have taken it away
        return mean, deviation

    def put(self, name: str, mean: Tensor, deviation: Tensor) -> None:
        """Keep it, where the disk has room. Two processes that keep the same write the same."""
        if not self.works:
            return
        try:
            write_whole(
                self._path(name),
                save({"mean": mean.contiguous(), "deviation": deviation.contiguous()}),
            )
        except SpaceError:
            self.works = False  # nothing is lost: the latents are in memory

    def tidy(self) -> None:
        """Take the longest unused away until all is within bounds."""
        keep_within(latents_folder(), self.most)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"
