"""Ways to compute a linear layer with a LoRA on it, forward and backward: python -m
benchmarks.adapter_layer [--device cuda] [--rounds 20].

separate   three products and autograd's own sums, as peft does it
fused      one autograd function for all of them, as training/adapters/low_rank.py does it (ours)
merged     the low-rank product added to the weight first, then one product; the adapter's gradients
by way of the whole weight's shared     queries, keys and values of self-attention in one function,
their three x A^T as one product; beside "fused" done three times

Each row is one layer of Stable Diffusion at 512 px in the precision the device trains in, rank 16;
medians of interleaved rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.shapes import machine
from training.adapters.low_rank import LowRank
from training.runtime.device import choose, finished

RANK = 16
# title -> positions, in, out
LAYERS = {
    "SD 1.5, outermost, to_q": (4096, 320, 320),
    "SD 1.5, outermost, ff.net.0.proj": (4096, 320, 2560),
    "SD 1.5, second, to_q": (1024, 640, 640),
    "SD 1.5, third, to_q": (256, 1280, 1280),
    "SD 1.5, third, ff.net.2": (256, 5120, 1280),
    "SDXL, third, to_q": (1024, 1280, 1280),
}
COLUMNS = ("separate", "fused", "merged", "three", "shared")


def separate(x: Tensor, weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
    return F.linear(x, weight) + F.linear(F.linear(x, down.to(x.dtype)), up.to(x.dtype))


def fused(x: Tensor, weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
    return LowRank.apply(x, weight, None, down, up, 1.0)


def merged(x: Tensor, weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
    return F.linear(x, weight + (up @ down).to(x.dtype))


class _Shared(torch.autograd.Function):
    """Three frozen products of one x, and on each its own low-rank one; x A^T of all three
    at once.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        weights, downs, ups = given[:3], given[3:6], [up.to(x.dtype) for up in given[6:]]
        a = torch.cat([down.to(x.dtype) for down in downs])
        h = x @ a.t()
        ctx.save_for_backward(x, *weights, a, h, *ups)
        return tuple(
            F.linear(x, w).addmm_(part, up.t())
            for w, part, up in zip(weights, h.split(RANK, 1), ups, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, q, k, v, a, h, *ups = ctx.saved_tensors
        to_h = torch.cat([g @ up for g, up in zip(grads, ups, strict=True)], 1)
        to_x = to_h @ a
        for g, w in zip(grads, (q, k, v), strict=True):
            to_x.addmm_(g, w)
        to_a = (to_h.t() @ x).float().split(RANK)
        to_b = [(g.t() @ part).float() for g, part in zip(grads, h.split(RANK, 1), strict=True)]
        return to_x, None, None, None, *to_a, *to_b


def timed(
    device: torch.device, rounds: int, ways: dict[str, Callable[[], Tensor]]
) -> dict[str, float]:
    """Median milliseconds of each, forward and backward, after one round that does not count."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            finished(device)
            began = time.perf_counter()
            way().backward()
            finished(device)
            took[name].append((time.perf_counter() - began) * 1e3)
    return {name: statistics.median(seconds[1:]) for name, seconds in took.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    place = choose(given.device, "auto")
    print(
        json.dumps(machine(place))
        + (
            "\n\n| ms, forward and backward | separate | fused | merged | three fused | shared "
            "|\n|---"
        )
        + "|---" * 5
        + "|"
    )
    for title, (n, into, out) in LAYERS.items():

        def draw(*shape):
            return torch.randn(shape, device=place.device)

        x = draw(n, into).to(place.dtype).requires_grad_()
        weights = [(draw(out, into) * into**-0.5).to(place.dtype) for _ in range(3)]
        downs, ups = (
            [draw(*shape).requires_grad_() for _ in range(3)]
            for shape in ((RANK, into), (out, RANK))
        )

        def one(way, x=x, w=weights, a=downs, b=ups):
            return lambda: way(x, w[0], a[0], b[0]).float().sum()

        ways = {way.__name__: one(way) for way in (separate, fused, merged)}
        if title.endswith("to_q"):

            def three(x=x, w=weights, a=downs, b=ups):
                return sum(fused(x, *each).float().sum() for each in zip(w, a, b, strict=True))

            ways |= {
                "three": three,
                "shared": lambda x=x, w=weights, a=downs, b=ups: sum(
                    y.float().sum() for y in _Shared.apply(x, *w, *a, *b)
                ),
            }
        seconds = timed(place.device, given.rounds, ways)
        print(
            f"| {title} | "
            f"{' | '.join(f'{seconds[name]:.2f}' if name in seconds else '' for name in COLUMNS)} "
            "|"
        )


if __name__ == "__main__":
    main()
