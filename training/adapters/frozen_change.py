"""A frozen low-rank change of a base, active until it is left out: y = W x + b + B A x.

It stays beside the weights: added to them it would be rounded with them, and could not be taken
away again to the bit. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.modules.torch_patches import replace_forward
from training.style_files.lora import Lora

PLACE = "frozen_change"  # the attribute of a network and of its layers


class Switch:
    """Whether the change of a network is active."""

    on = True


class FrozenChange:
    """The change of one layer, a linear or convolution. Its matrices are buffers of the layer, with
    which they go from device to device.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, lora: Lora, switch: Switch) -> None:
        weight = layer.weight
        up, down = (torch.from_numpy(np.ascontiguousarray(matrix)) for matrix in lora.flat())
        down = down.view(lora.rank, *weight.shape[1:]).to(weight)
        up = up.view(len(up), lora.rank, *(1 for _ in weight.shape[2:])).to(weight)
        layer.register_buffer("change_down", down, persistent=False)
        layer.register_buffer("change_up", up, persistent=False)
        self.layer, self.switch, self.unchanged = layer, switch, layer.forward
        replace_forward(layer, lambda x: self(x, self.unchanged(x)))

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y, the layer's answer to x, with the change."""
        layer = self.layer
        if not self.switch.on:
            return y
        down, up = layer.get_buffer("change_down"), layer.get_buffer("change_up")
        if isinstance(layer, nn.Linear):
            return y + F.linear(F.linear(x, down), up)
        h = F.conv2d(x, down, None, layer.stride, layer.padding, layer.dilation)
        return y + F.conv2d(h, up)


def put_on(network: nn.Module, changes: Mapping[str, Lora]) -> None:
    """Let a network answer with these changes of its modules, once; adapters come after."""
    if PLACE in vars(network):  # a base that several styles share
        return
    vars(network)[PLACE] = switch = Switch()
    for name, lora in changes.items():
        layer = network.get_submodule(name)
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            raise TypeError(f"{name} is no linear or convolution")
        vars(layer)[PLACE] = FrozenChange(layer, lora, switch)


def of(layer: nn.Module) -> FrozenChange | None:
    """The change of a layer, None where it has none."""
    return vars(layer).get(PLACE)


@contextmanager
def left_out(network: nn.Module) -> Iterator[None]:
    """While inside, the network answers without its change."""
    switch = vars(network).get(PLACE, Switch())
    before, switch.on = switch.on, False
    try:
        yield
    finally:
        switch.on = before
