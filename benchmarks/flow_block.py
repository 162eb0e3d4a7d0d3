"""A FLUX.1 transformer of true widths with one block of each kind and random weights: two updates
of its adapters with gradient checkpointing, in bfloat16 and in int8. CPU seconds, so that other
work on the machine hardly counts: `python -m benchmarks.flow_block [--px 256] [--rank 16]`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from benchmarks import shapes
from benchmarks.fits import learnt
from benchmarks.flow_shapes import FLOWS
from training.adapters import lora_layers
from training.modules.stored import store_weights
from training.runtime.device import DeviceSpec
from training.trainer.optimizer import Group, Optimiser

BLOCKS = {"num_layers": 1, "num_single_layers": 1}
PLACE = DeviceSpec(torch.device("cpu"), torch.bfloat16)


@contextmanager
def timed(blocks: dict[str, nn.Module]) -> Iterator[dict[str, list[float]]]:
    """While inside, CPU seconds of every forward of these blocks."""
    spent: dict[str, list[float]] = {name: [] for name in blocks}
    began: dict[str, float] = {}

    def before(name: str) -> Any:
        return lambda *given: began.update({name: time.process_time()})

    def after(name: str) -> Any:
        return lambda *given: spent[name].append(time.process_time() - began[name])

    hooks = [block.register_forward_pre_hook(before(name)) for name, block in blocks.items()]
    hooks += [block.register_forward_hook(after(name)) for name, block in blocks.items()]
    try:
        yield spent
    finally:
        for hook in hooks:
            hook.remove()


def updates(storage: str, px: int, rank: int) -> str:
    """Two updates, as a line of a table."""
    shape = FLOWS["flux"].with_blocks(BLOCKS)
    with torch.device("meta"):
        network: Any = shape.denoiser()
    network = shapes.filled(network, PLACE)
    if storage != "bfloat16":
        store_weights(network, storage)
    groups = shape.family.groups
    modules = lora_layers.chosen_modules(network, groups, [*groups])
    lora_layers.attach(network, modules, rank=rank, alpha=float(rank), seed=0)
    lora_layers.set_gradient_checkpointing(network, True)
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimiser = Optimiser({"transformer": Group(parameters, 1e-4)}, weight_decay=0, clip=1, ema=0)
    double, single = network.transformer_blocks[0], network.single_transformer_blocks[0]
    blocks = {"double": double, "single": single}
    seconds: list[float] = []
    with timed(blocks) as spent:
        for _ in range(2):
            began = time.process_time()
            learnt(shape.predicted(network, 1, px, torch.bfloat16), optimiser)
            seconds.append(time.process_time() - began)
    if not all(bool(matrix.isfinite().all()) for matrix in parameters):
        raise ArithmeticError("the adapters are not finite any more")
    forward = " | ".join(f"{min(spent[name]):.1f}" for name in blocks)
    return f"| {storage} | {seconds[0]:.1f}, {seconds[1]:.1f} | {forward} |"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--px", type=int, default=256)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--storage", nargs="+", default=["int8", "bfloat16"])
    given = parser.parse_args(argv)
    print("| storage | each update, CPU s | double block, forward | single block, forward |")
    print("|---|---|---|---|")
    for storage in given.storage:
        print(updates(storage, given.px, given.rank), flush=True)


if __name__ == "__main__":
    main()
