"""How much memory there is, how much this process takes at worst, and a CPU that says in time when
that would be too much. Knows no models.
"""

from __future__ import annotations

import gc
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from training.runtime.device import GIB, library_of
from training.system import memory

# seconds between two looks at a CPU's memory: what is gone sooner can hardly have been filled with
# more than some 10 MB
LOOKS = 0.002
# Share of the free memory that is left to others, and to what one update needs more than another
SPARE = 0.1
# Limit, use and what of the use is only cache, in the folder of a control group: version 2 and
# version 1
GROUPS = {
    "": ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": (
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
}


def free(device: torch.device, system: Path = Path("/")) -> float:
    """What may still be taken, in GiB: of a GPU, or of the machine as far as this process's control
    groups let it.

    system: the folder in which proc and sys lie.
    """
    if library := library_of(device):
        return library.mem_get_info(device)[0] / GIB
    if device.type == "mps":  # it shares the machine's memory, of which Metal recommends a part
        left = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        return max(0, min(left, _available(system))) / GIB
    return max(0, min([_available(system), *_left_in_groups(system)])) / GIB


def _available(system: Path) -> int:
    try:
        meminfo = _text(system / "proc/meminfo")
    except OSError:  # no Linux
        meminfo = ""
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", meminfo, re.MULTILINE)
    return int(found[1]) * 1024 if found else psutil.virtual_memory().available


def _left_in_groups(system: Path) -> Iterator[int]:
    """Bytes below the limit of every control group that holds this process; a container sees its
    own as the root.
    """
    try:
        info = _text(system / "proc/self/cgroup").splitlines()
    except OSError:
        return
    for line in info:
        _, controllers, path = line.split(":", 2)
        for controller in {*controllers.split(",")} & GROUPS.keys():
            root, *names, cache = GROUPS[controller]
            group = system / root / ("" if ".." in path else path.strip("/"))
            for folder in [group, *group.parents][
                : len(group.parts) - len((system / root).parts) + 1
            ]:
                try:
                    limit, used = (int(_text(folder / name)) for name in names)
                    found = re.search(
                        rf"^{cache} (\d+)$",
                        _text(folder / "memory.stat"),
                        re.MULTILINE,
                    )
                except (OSError, ValueError):  # not there, or "max"
                    continue
                yield limit - used + (int(found[1]) if found else 0)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def taken(device: torch.device) -> float:
    """What this process holds now, in GiB; of a CPU without what only mirrors files, which the
    system takes back when it needs room.
    """
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() / GIB
    library = library_of(device)
    return library.memory_reserved(device) / GIB if library else _own(psutil.Process())


def _own(process: psutil.Process) -> float:
    info = process.memory_info()
    return (info.rss - getattr(info, "shared", 0)) / GIB


def mapped(networks: Iterable[nn.Module]) -> float:
    """GiB of weights that are used as they lie in a file:

    free memory to the system, but read again at every update if it takes them back.
    """
    try:
        lines = _text(Path("/proc/self/maps")).splitlines()
    except OSError:
        return 0.0
    places = [
        [int(place, 16) for place in line.split(" ", 1)[0].split("-")]
        for line in lines
        if line.endswith(".safetensors")
    ]
    weights = {p.data_ptr(): p.nbytes for network in networks for p in network.parameters()}
    return (
        sum(size for at, size in weights.items() if any(begin <= at < end for begin, end in places))
        / GIB
    )


def give_back(device: torch.device) -> None:
    """Let go of what was freed but kept for later, so that what is measured next begins where this
    began.
    """
    gc.collect()
    if library := library_of(device):
        library.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
    else:
        memory.trim()


class Watch:
    """The largest memory seen, in GiB."""

    peak = 0.0


@contextmanager
def watched(device: torch.device, most: float, beside: float = 0.0) -> Iterator[Watch]:
    """See how much this process takes at worst while inside, in GiB. Raises OutOfMemoryError
    inside, or at the end, where it is more than `most`.

    beside: what a CPU needs that `taken` does not count, see `mapped`.

    On a CPU nothing raises that by itself: the system ends the process. So every module of a
    network asks before it computes. The peak is sampled here and not taken from ru_maxrss, which
    never falls: with give_back before it, a second try in this process is measured as honestly as
    in one of its own, which would have to load the base again.
    """
    if library := library_of(device):
        yield from _watched_gpu(library, device, most)
    elif device.type == "mps":
        with _apple_errors():
            yield from _sampled(most, lambda: taken(device))
    elif device.type == "cpu":
        process = psutil.Process()
        yield from _sampled(most, lambda: _own(process) + beside)
    else:
        yield Watch()


def _watched_gpu(library: Any, device: torch.device, most: float) -> Iterator[Watch]:
    watch, whole = Watch(), library.mem_get_info(device)[1] / GIB
    library.reset_peak_memory_stats(device)
    library.set_per_process_memory_fraction(
        min(1.0, most / whole), device
    )  # else some drivers move what is too much to the host, silently
    try:
        yield watch
    finally:
        library.set_per_process_memory_fraction(1.0, device)
        # reserved, not allocated: no one else can have it
        watch.peak = library.max_memory_reserved(device) / GIB


@contextmanager
def _apple_errors() -> Iterator[None]:
    """Raise the error that other devices raise where the Metal backend has no room."""
    try:
        yield
    except RuntimeError as error:
        if "MPS backend out of memory" in str(error):
            raise torch.OutOfMemoryError(str(error)) from error
        raise


def _sampled(most: float, size: Callable[[], float]) -> Iterator[Watch]:
    """size: what is taken now, in GiB."""
    watch, ended = Watch(), threading.Event()

    def look() -> None:
        watch.peak = max(watch.peak, size())

    def ask(*_: object) -> None:
        look()
        if watch.peak > most:
            raise torch.OutOfMemoryError(
                f"{watch.peak:.2f} GiB are taken, of {most:.2f} that may be"
            )

    def look_on() -> None:
        while not ended.wait(LOOKS):
            look()

    looking = threading.Thread(target=look_on, daemon=True)
    looking.start()
    asking = nn.modules.module.register_module_forward_pre_hook(ask)
    try:
        yield watch
        ask()
    finally:
        asking.remove()
        ended.set()
        looking.join()
