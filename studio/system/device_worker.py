"""What a training would run on, as one JSON object:

`python -m studio.system.device_worker`; with --kind only which kind `auto` is. Loads torch,
therefore a process of its own.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec

import psutil

from training.runtime.device import GIB, DeviceSpec, choose, device_record, library_of


def _multiplied(place: DeviceSpec) -> str:
    """Whether the device can do in its precision what a training asks of it."""
    import torch

    x = torch.ones(1, 8, 8, 8, device=place.device, dtype=place.dtype)
    try:
        convolved = torch.nn.functional.conv2d(x, x.expand(8, -1, -1, -1)[:, :, :3, :3], padding=1)
        y = torch.nn.functional.scaled_dot_product_attention(convolved, x, x)
        return "works" if bool(y.isfinite().all()) else "gives figures that are not finite"
    except RuntimeError as error:
        return f"fails: {str(error).splitlines()[0]}"


def _build() -> str:
    """What this torch was made for."""
    import torch

    if torch.backends.mps.is_built():
        return "Metal"
    names = {"cuda": "CUDA", "hip": "ROCm", "xpu": "XPU"}
    found = {name: getattr(torch.version, key, None) for key, name in names.items()}
    return ", ".join(f"{name} {version}" for name, version in found.items() if version) or "CPU"


def main() -> int:
    import torch

    place = choose()
    if sys.argv[1:] == ["--kind"]:
        sys.stdout.write(json.dumps({"kind": place.device.type}) + "\n")
        return 0
    facts = {key: str(value) for key, value in device_record(place).items()}
    memory = psutil.virtual_memory()
    facts["memory"] = f"{memory.available / GIB:.1f} GiB free of {memory.total / GIB:.1f} GiB"
    facts["attention"] = "scaled_dot_product_attention of torch" + (
        ", xformers" if find_spec("xformers") else ""
    )
    facts["a first product"] = _multiplied(place)
    facts["build"] = _build()
    if library := library_of(place.device):
        free, whole = library.mem_get_info(place.device)
        facts["memory of the device"] = f"{free / GIB:.1f} GiB free of {whole / GIB:.1f} GiB"
    elif place.device.type == "mps":
        most = torch.mps.recommended_max_memory() / GIB
        facts["memory of the device"] = f"{most:.1f} GiB of the machine's, as Metal recommends"
    sys.stdout.write(json.dumps(facts) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
