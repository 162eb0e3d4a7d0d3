"""A Python whose torch finds the device that PRETENDED_DEVICE names (cuda, rocm, xpu or mps): with
this folder on PYTHONPATH a process and all that it starts have it, where they ask for devices.

What is computed there is computed by the CPU. Nothing else of such a machine is here.
"""

from __future__ import annotations

import os
import sys
from typing import Any

GIB = 2**30
ASKER = "studio.system.device_worker"  # the only process of the page that loads torch
NAMES = {
    "cuda": "NVIDIA GeForce RTX 4070",
    "rocm": "AMD Radeon RX 7900 XTX",
    "xpu": "Intel Arc B580 Graphics",
}
BUILDS = {"cuda": ("cuda", "13.0"), "rocm": ("hip", "7.1"), "xpu": ("xpu", "20250301")}


class Card:
    """What is asked of torch.cuda and torch.xpu."""

    def __init__(self, name: str) -> None:
        self.name = name

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        return True

    def get_device_name(self, place: object) -> str:
        return self.name

    def mem_get_info(self, place: object) -> tuple[int, int]:
        return 11 * GIB, 12 * GIB

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def pretend(kind: str) -> None:
    import torch

    ones = torch.ones
    torch.ones = lambda *size, device=None, dtype=None: ones(*size)
    if kind == "mps":
        torch.backends.mps.is_available = torch.backends.mps.is_built = lambda: True
        torch.mps.recommended_max_memory = lambda: 24 * GIB
        return
    setattr(torch, "xpu" if kind == "xpu" else "cuda", Card(NAMES[kind]))
    torch.version.cuda = None
    setattr(torch.version, *BUILDS[kind])


if (kind := os.environ.get("PRETENDED_DEVICE")) and ASKER in sys.orig_argv:
    pretend(kind)
