"""The denoiser's passes as compiled code, for long runs on a GPU, where a small step is bound by
launches. Knows torch, and blocks by name.

Compiled is what is trained with; pictures are drawn, in other sizes of batches, by the code as it
is written (`as_written`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from training.modules.torch_patches import allow_shapes, is_compiled

BLOCKS = (
    "BasicTransformerBlock",
    "ResnetBlock2D",
)  # of diffusers' UNets: what they are made of, many times over
SHAPES = 256  # sizes of blocks and pictures that are compiled before torch gives up


def compile_passes(network: nn.Module, how: str, *, backend: str = "inductor") -> None:
    """Have a network compile itself at its first pass, anew for every size of pictures.

    how: "blocks", its repeated blocks one by one, each kind and size once; "whole", all of it at
    once, on a GPU as CUDA graphs, which have one launch a pass; "off". backend: of torch.compile.
    """
    if how == "off":
        return
    allow_shapes(SHAPES)
    if how == "whole":
        network.compile(
            dynamic=False,
            backend=backend,
            **({"mode": "reduce-overhead"} if backend == "inductor" else {}),
        )
        return
    for block in network.modules():
        if type(block).__name__ in BLOCKS:
            block.compile(dynamic=False, backend=backend)


def as_written(network: nn.Module) -> AbstractContextManager[object]:
    """While inside, nothing of the network runs compiled."""
    if not any(is_compiled(module) for module in network.modules()):
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def begin_pass(network: nn.Module) -> None:
    """Tell CUDA graphs that what the last pass answered is not needed any more."""
    if is_compiled(network):
        torch.compiler.cudagraph_mark_step_begin()
