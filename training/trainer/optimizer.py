"""AdamW over flat buffers, the learning rate's course, clipping, an average. Knows nothing of
models.

All weights of a group lie in one buffer and their gradients in another, so an update is a handful
of operations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Group:
    """Weights that share a learning rate."""

    parameters: Sequence[nn.Parameter]
    lr: float


def course(schedule: str, step: int, steps: int, warmup: float, cycles: int = 1) -> float:
    """The share of the full learning rate at update `step` (0, 1, ...): a linear warm-up, then
    cosine, linear or rex (Chen et al. 2021, arXiv 2107.04197, eq. 2) to 0, so many cosines, or
    constant.
    """
    rising = max(1, round(steps * warmup))
    if warmup and step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(1, steps - rising) if warmup else step / steps
    if schedule == "restarts":
        done = cycles * done % 1
    return {
        "constant": 1.0,
        "linear": 1 - done,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        "restarts": (1 + math.cos(math.pi * done)) / 2,
        "rex": (1 - done) / (1 - done / 2),
    }[schedule]


def gradient_of(flat: nn.Parameter) -> Tensor:
    """The gradient of a group's flat buffer, which is there from the start."""
    return cast(Tensor, flat.grad)


class Optimiser:
    """AdamW (Loshchilov and Hutter 2019) in float32; moments 0.9 and 0.999."""

    sized_as_weights = ("weights", "first", "second")  # of what `tensors` gives of a group

    def __init__(
        self, groups: Mapping[str, Group], *, weight_decay: float, clip: float, ema: float
    ) -> None:
        self.names = list(groups)
        self.flats = {name: _flattened(group.parameters) for name, group in groups.items()}
        self.lrs = {name: group.lr for name, group in groups.items()}
        self.clip, self.ema = clip, ema
        self.averages = (
            {name: flat.detach().clone() for name, flat in self.flats.items()} if ema else {}
        )
        params = [{"params": [self.flats[name]], "lr": self.lrs[name]} for name in self.names]
        self.adamw = torch.optim.AdamW(params, weight_decay=weight_decay, fused=True)
        self.version = ""  # of the package that makes the updates, where it is not torch's AdamW

    def gradients(self) -> list[Tensor]:
        """One flat gradient a group, to be changed in place."""
        return [gradient_of(flat) for flat in self.flats.values()]

    def norm(self) -> Tensor:
        """Norm of all gradients together, float32 scalar on the device."""
        return torch.linalg.vector_norm(
            torch.stack([torch.linalg.vector_norm(flat.grad) for flat in self.flats.values()])
        )

    @torch.no_grad()
    def update(self, norm: Tensor, share: float) -> None:
        """Make the update with `share` of each learning rate; gradients are clipped to `clip` by
        their common norm, then cleared.
        """
        if self.clip:
            for flat in self.flats.values():
                gradient_of(flat).mul_((self.clip / (norm + 1e-6)).clamp(max=1.0))
        self._step(share)
        self.clear()
        for name, average in self.averages.items():
            average.lerp_(self.flats[name], 1 - self.ema)

    def _step(self, share: float) -> None:
        for group, name in zip(self.adamw.param_groups, self.names, strict=True):
            group["lr"] = self.lrs[name] * share
        self.adamw.step()

    def clear(self) -> None:
        for flat in self.flats.values():
            gradient_of(flat).zero_()

    @contextmanager
    @torch.no_grad()
    def untouched(self) -> Iterator[None]:
        """Gradients that are added while inside are gone afterwards; those of before are there."""
        before = [gradient.clone() for gradient in self.gradients()]
        try:
            yield
        finally:
            for gradient, kept in zip(self.gradients(), before, strict=True):
                gradient.copy_(kept)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """While inside, the weights are their average, if there is one; afterwards they are as
        before to the bit, whatever happened.
        """
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, average in self.averages.items():
            kept = self.flats[name].detach().clone()
            self.flats[name].data.copy_(average)
            average.copy_(kept)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that must survive, by name."""
        found = {}
        for name, flat in self.flats.items():
            state = self.adamw.state.get(flat) or {
                "exp_avg": torch.zeros_like(flat),
                "exp_avg_sq": torch.zeros_like(flat),
                "step": torch.tensor(0.0),
            }
            found |= {
                f"{name}.weights": flat.detach(),
                f"{name}.first": state["exp_avg"],
                f"{name}.second": state["exp_avg_sq"],
            }
            found[f"{name}.updates"] = state["step"].reshape(1)
            if name in self.averages:
                found[f"{name}.average"] = self.averages[name]
        return found

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what tensors() gave, by copy. Raises KeyError or RuntimeError when it is of
        adapters of another shape.

        An average that was not kept then begins at the weights.
        """
        for name, flat in self.flats.items():
            own = {
                what: tensors[f"{name}.{what}"].to(flat.device, copy=True)
                for what in ("updates", "first", "second")
            }
            flat.data.copy_(tensors[f"{name}.weights"])
            self.adamw.state[flat] = {
                "step": own["updates"].reshape(()),
                "exp_avg": own["first"],
                "exp_avg_sq": own["second"],
            }
            if name in self.averages:
                self.averages[name].copy_(
                    tensors.get(f"{name}.average", tensors[f"{name}.weights"])
                )
        self.clear()

    def fits(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether these are of adapters of the same parts and sizes, so that restore can
        take them.
        """
        kept = {name for name in tensors if name.endswith(".weights")}
        return kept == {f"{name}.weights" for name in self.flats} and all(
            f"{name}.{what}" in tensors and tensors[f"{name}.{what}"].shape == flat.shape
            for name, flat in self.flats.items()
            for what in self.sized_as_weights
        )


def _flattened(parameters: Sequence[nn.Parameter]) -> nn.Parameter:
    """One parameter whose memory the given ones (and their gradients) are views of."""
    flat = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
    gradient = torch.zeros_like(flat)
    flat.grad = gradient
    at = 0
    for p in parameters:
        part = slice(at, at + p.numel())
        p.data, p.grad = flat.data[part].view(p.shape), gradient[part].view(p.shape)
        at += p.numel()
    return flat
