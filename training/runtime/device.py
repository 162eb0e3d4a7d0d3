"""Where the work runs and in what precision:

device, dtype, attention, memory. The first module that imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.errors import ConfigError, OutOfMemory
from training.runtime import cpu_threads
from training.system import memory

REPEATABLE = (
    ":4096:8",
    ":16:8",
)  # workspaces with which cuBLAS gives the same bits every time, as its documentation has it
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
GIB = 1024**3


@dataclass(frozen=True)
class DeviceSpec:
    """A device, the precision of the frozen weights on it, and how they are kept there: "" in that
    precision, else as training.modules.stored names it.
    """

    device: torch.device
    dtype: torch.dtype
    storage: str = ""

    @property
    def name(self) -> str:
        library = library_of(self.device)
        if library:
            return library.get_device_name(self.device)
        return "mps (Apple GPU)" if self.device.type == "mps" else self.device.type

    @property
    def precision(self) -> str:
        return str(self.dtype).removeprefix("torch.")


def library_of(device: torch.device) -> Any:
    """torch's module for a device with memory of its own, None for other devices: torch.cuda (also
    of AMD's ROCm) or torch.xpu (Intel), which have the same functions.
    """
    return {"cuda": torch.cuda, "xpu": torch.xpu}.get(device.type)


def devices() -> dict[str, int]:
    """How many devices of each kind torch finds, those that are preferred first."""
    return {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "xpu": torch.xpu.device_count() if torch.xpu.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }


def choose(device: str = "auto", dtype: str = "auto") -> DeviceSpec:
    """Turn settings into a place. Raises ConfigError for a device that is not here."""
    here = devices()
    if device == "auto":
        device = next(kind for kind, count in here.items() if count)
    kind, _, index = device.partition(":")
    if int(index or 0) >= here[kind]:
        raise ConfigError(
            f"base.device is {device}, which this machine or this build of torch does not "
            "have. Set it to auto or cpu; `style-studio doctor` says what is missing."
        )
    return DeviceSpec(
        torch.device(device),
        _best_dtype(torch.device(device)) if dtype == "auto" else DTYPES[dtype],
    )


def _best_dtype(device: torch.device) -> torch.dtype:
    if library := library_of(device):
        has_units = library.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_units else torch.float16
    if device.type == "cpu":
        return torch.bfloat16 if has_bfloat16_units() else torch.float32
    return torch.float32


def has_bfloat16_units() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16, AMX, or Arm's BF16); emulated
    it is slower than float32.
    """
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        return False
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    if any(getattr(torch.cpu, probe)() for probe in probes if hasattr(torch.cpu, probe)):
        return True
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("bf16") or capabilities.get("avx512_bf16"))


def device_record(place: DeviceSpec) -> dict[str, str | int]:
    """What decides how sums are rounded:

    equal answers and equal settings give equal bits on a CPU.
    """
    cpu = torch.backends.cpu.get_cpu_capability()
    return {
        "torch": torch.__version__,
        "device": place.name,
        "precision": place.precision,
        "threads": cpu_threads.most(),
        "instructions": cpu,
    }


@contextmanager
def repeatable(wanted: bool, device: torch.device) -> Iterator[None]:
    """While inside, a GPU gives the same bits for the same work; a CPU is left as it is, for it
    does so anyway.

    Torch chooses algorithms that do, and raises RuntimeError for an operation without one. A UNet
    has none: fused attention has such a backward (but cuDNN's, which is not asked), and the
    backward of doubling by nearest neighbours adds up in a fixed order as it is.
    """
    if not wanted or device.type != "cuda":
        yield
        return
    if os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in REPEATABLE:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = REPEATABLE[
            0
        ]  # read at the first product on the device
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    kept: Any = torch.utils.deterministic  # a module that takes its attribute by a class of its own
    before = (
        torch.are_deterministic_algorithms_enabled(),
        cudnn.deterministic,
        cudnn.benchmark,
        cuda.cudnn_sdp_enabled(),
    )
    filled = kept.fill_uninitialized_memory
    try:
        _choose_algorithms(True, True, False, False)
        kept.fill_uninitialized_memory = False  # nothing is read here before it is written
        yield
    finally:
        _choose_algorithms(*before)
        kept.fill_uninitialized_memory = filled


def _choose_algorithms(
    deterministic: bool, in_cudnn: bool, benchmark: bool, cudnn_attention: bool
) -> None:
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = in_cudnn, benchmark
    torch.backends.cuda.enable_cudnn_sdp(cudnn_attention)


def has_own_memory(device: torch.device) -> bool:
    """Whether what lies in the machine's memory takes none of the device's."""
    return library_of(device) is not None


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device.

    A GPU is not waited for: neither until it has the copy, nor until it has done what it was given
    before.
    """
    return (
        tensor.pin_memory().to(device, non_blocking=True)
        if has_own_memory(device)
        else tensor.to(device)
    )


def finished(device: torch.device) -> None:
    """Wait until the device has done what it was given, as timing needs."""
    if library := library_of(device):
        library.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory(device: torch.device) -> float:
    """Largest memory so far in GiB: the device's for a GPU, the process's own for a CPU. For an
    Apple GPU, whose peak torch does not keep, what it holds now.
    """
    if library := library_of(device):
        return library.max_memory_reserved(device) / GIB
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() / GIB
    return memory.peak() / GIB


def memory_full(error: torch.OutOfMemoryError) -> OutOfMemory:
    """The same, with what helps."""
    return OutOfMemory(
        f"the device's memory is full ({str(error).splitlines()[0]}). Lower optim.batch_size "
        "and raise optim.accumulate by as much, "
        "turn on optim.checkpointing, or lower data.resolution."
    )
