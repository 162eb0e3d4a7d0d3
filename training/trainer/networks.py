"""The one owner of where a run's networks are: on the device, beside it, or dropped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from training.models.family import Parts
from training.runtime import memory
from training.runtime.device import has_own_memory


class Networks:
    """The networks of a base. What updates do not need waits beside a GPU, not in its memory.

    staying: parts that are on the device until they are dropped.
    """

    def __init__(self, parts: Parts, device: torch.device, staying: Iterable[str] = ()) -> None:
        self.parts, self.device, self.staying = parts, device, set(staying)

    @contextmanager
    def at_hand(self, *names: str) -> Iterator[None]:
        """While inside, these networks are on the device."""
        there = self.parts.networks
        for name in names:
            there[name].to(self.device)
        try:
            yield
        finally:
            if has_own_memory(self.device):
                for name in {*names} & {*there} - self.staying:
                    there[name].to("cpu")
                memory.give_back(self.device)

    @contextmanager
    def aside(self, name: str) -> Iterator[None]:
        """While inside, the frozen weights of a network wait beside a GPU. What is trained stays
        where it is: the optimiser's buffers hold it.
        """
        network = self.parts.networks[name]
        if not has_own_memory(self.device):
            yield
            return
        move_frozen(network, torch.device("cpu"))
        memory.give_back(self.device)
        try:
            yield
        finally:
            memory.give_back(self.device)
            move_frozen(network, self.device)

    def keep(self, names: Iterable[str]) -> None:
        """Have these networks on the device from now on, as far as they are still there."""
        self.staying = {*names} & {*self.parts.networks}
        for name in self.staying:
            self.parts.networks[name].to(self.device)

    def drop(self, *names: str) -> None:
        """Let go of networks that will not be needed again."""
        for name in names:
            self.parts.networks.pop(name, None)


@torch.no_grad()
def move_frozen(network: nn.Module, device: torch.device) -> None:
    """Send the weights of a network that are not trained, and its buffers, to a device."""
    for module in network.modules():
        weights, buffers = vars(module)["_parameters"], vars(module)["_buffers"]
        for name, weight in weights.items():
            if weight is not None and not weight.requires_grad:
                weights[name] = nn.Parameter(weight.to(device), requires_grad=False)
        buffers.update({name: b.to(device) for name, b in buffers.items() if b is not None})
