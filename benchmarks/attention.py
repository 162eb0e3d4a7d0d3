"""Which attention kernel is the quickest for the shapes of Stable Diffusion's UNets: python -m
benchmarks.attention [--device cuda] [--json FILE].

Every kernel that is there, forward and backward, in the precision the device trains in; on a CPU
also ours. It is the table that a run on a GPU makes for itself, shape by shape, at its first
update.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from benchmarks.shapes import machine
from training.modules.attention import OWN, Kernel, Table, _Attention, _LongAttention, kernels
from training.runtime.device import choose

# title -> batch, heads, queries, keys, width of a head (published configs: heads of 40 to 160 in
# 1.x, of 64 in 2.x and XL)
SHAPES = {
    "SD 1.5, 512 px, outermost, self": (1, 8, 4096, 4096, 40),
    "SD 1.5, 512 px, outermost, cross": (1, 8, 4096, 77, 40),
    "SD 1.5, 512 px, second, self": (1, 8, 1024, 1024, 80),
    "SD 1.5, 512 px, third, self": (1, 8, 256, 256, 160),
    "SDXL, 1024 px, second, self": (1, 10, 4096, 4096, 64),
    "SDXL, 1024 px, second, cross": (1, 10, 4096, 77, 64),
    "SDXL, 1024 px, third, self": (1, 20, 1024, 1024, 64),
    "SDXL, 1024 px, third, cross": (1, 20, 1024, 77, 64),
}


def ours(kind: type[torch.autograd.Function]) -> Kernel:
    def rows(x):
        return x.reshape(-1, *x.shape[2:])

    return lambda q, k, v: kind.apply(rows(q * q.shape[-1] ** -0.5), rows(k), rows(v)).view(q.shape)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--json", type=Path, help="also write every figure there")
    given = parser.parse_args()
    place = choose(given.device, "auto")
    ours_too = (
        {"in slices": ours(_Attention), "in blocks of keys": ours(_LongAttention)}
        if place.device.type == "cpu"
        else {}
    )
    table = Table(kernels() | ours_too)
    found = {}
    for title, (batch, heads, n, m, width) in SHAPES.items():

        def draw(length, b=batch, h=heads, w=width):
            return torch.randn(
                (b, h, length, w), device=place.device, dtype=place.dtype, requires_grad=True
            )

        table.best(draw(n), draw(m), draw(m))
        found[title] = list(table.seconds.values())[-1]
    names = [name for name in table.kernels if any(name in seconds for seconds in found.values())]
    print(
        json.dumps(machine(place))
        + "\n\n| ms, forward and backward | "
        + " | ".join(names)
        + " | quickest |\n|---"
        + "|---" * len(names)
        + "|---|"
    )
    for title, seconds in found.items():
        cells = [f"{seconds[name] * 1e3:.2f}" if name in seconds else "" for name in names]
        print(
            f"| {title} | {' | '.join(cells)} | "
            f"{min(seconds, key=lambda name: seconds[name]) if seconds else OWN} |"
        )
    if given.json:
        given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
