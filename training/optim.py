"""AdamW over flat buffers, the learning rate's course, clipping, an average. Knows nothing of models.

All weights of a group lie in one buffer and their gradients in another, so an update is a handful of operations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Group:
    """Weights that share a learning rate."""

    parameters: Sequence[nn.Parameter]
    lr: float


def course(schedule: str, step: int, steps: int, warmup: float) -> float:
    """The share of the full learning rate at update `step` (0, 1, ...): a linear warm-up, then cosine or linear to 0, or constant."""
    rising = max(1, round(steps * warmup))
    if warmup and step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(1, steps - rising) if warmup else step / steps
    return {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[schedule]


class Optimiser:
    """AdamW (Loshchilov and Hutter 2019) in float32; moments 0.9 and 0.999."""

    def __init__(self, groups: Mapping[str, Group], *, weight_decay: float, clip: float, ema: float) -> None:
        self.names = list(groups)
        self.flats = {name: _flattened(group.parameters) for name, group in groups.items()}
        self.lrs = {name: group.lr for name, group in groups.items()}
        self.clip, self.ema = clip, ema
        self.averages = {name: flat.detach().clone() for name, flat in self.flats.items()} if ema else {}
        params = [{"params": [self.flats[name]], "lr": self.lrs[name]} for name in self.names]
        self.adamw = torch.optim.AdamW(params, weight_decay=weight_decay, fused=True)

    def norm(self) -> Tensor:
        """Norm of all gradients together, float32 scalar on the device."""
        return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(flat.grad) for flat in self.flats.values()]))

    @torch.no_grad()
    def update(self, norm: Tensor, share: float) -> None:
        """Make the update with `share` of each learning rate; gradients are clipped to `clip` by their common norm, then cleared."""
        if self.clip:
            for flat in self.flats.values():
                flat.grad.mul_((self.clip / (norm + 1e-6)).clamp(max=1.0))
        for group, name in zip(self.adamw.param_groups, self.names, strict=True):
            group["lr"] = self.lrs[name] * share
        self.adamw.step()
        self.clear()
        for name, average in self.averages.items():
            average.lerp_(self.flats[name], 1 - self.ema)

    def clear(self) -> None:
        for flat in self.flats.values():
            flat.grad.zero_()

    def swap_average(self) -> None:
        """Exchange the weights and their average in place; nothing happens without one. Twice is as never."""
        for name, average in self.averages.items():
            kept = self.flats[name].detach().clone()
            self.flats[name].data.copy_(average)
            average.copy_(kept)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that must survive, by name."""
        found = {}
        for name, flat in self.flats.items():
            state = self.adamw.state.get(flat) or {"exp_avg": torch.zeros_like(flat), "exp_avg_sq": torch.zeros_like(flat), "step": torch.tensor(0.0)}
            found |= {f"{name}.weights": flat.detach(), f"{name}.first": state["exp_avg"], f"{name}.second": state["exp_avg_sq"]}
            found[f"{name}.updates"] = state["step"].reshape(1)
            if name in self.averages:
                found[f"{name}.average"] = self.averages[name]
        return found

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what tensors() gave. Raises KeyError or RuntimeError when it is of another run."""
        for name, flat in self.flats.items():
            flat.data.copy_(tensors[f"{name}.weights"])
            moments = {"exp_avg": tensors[f"{name}.first"].to(flat.device), "exp_avg_sq": tensors[f"{name}.second"].to(flat.device)}
            self.adamw.state[flat] = {"step": tensors[f"{name}.updates"].reshape(()).to(flat.device), **moments}
            if name in self.averages:
                self.averages[name].copy_(tensors[f"{name}.average"])


def _flattened(parameters: Sequence[nn.Parameter]) -> nn.Parameter:
    """One parameter whose memory the given ones (and their gradients) are views of."""
    flat = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
    flat.grad = torch.zeros_like(flat)
    at = 0
    for p in parameters:
        part = slice(at, at + p.numel())
        p.data, p.grad = flat.data[part].view(p.shape), flat.grad[part].view(p.shape)
        at += p.numel()
    return flat
