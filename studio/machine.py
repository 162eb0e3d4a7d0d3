"""What a training would run on, as one JSON object: `python -m studio.machine`. Loads torch, therefore a process of its own."""

from __future__ import annotations

import json
import sys

import psutil

from training.device import GIB, choose, told_of


def main() -> int:
    place = choose()
    told = {key: str(value) for key, value in told_of(place).items()}
    memory = psutil.virtual_memory()
    told["memory"] = f"{memory.available / GIB:.1f} GiB free of {memory.total / GIB:.1f} GiB"
    if place.device.type == "cuda":
        import torch

        free, whole = torch.cuda.mem_get_info(place.device)
        told["memory of the device"] = f"{free / GIB:.1f} GiB free of {whole / GIB:.1f} GiB"
    sys.stdout.write(json.dumps(told) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
