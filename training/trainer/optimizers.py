"""Optimisers of torch and of other packages, by name, over the matrices of the adapters.

Each group of weights has an optimiser of its own, so that a method that finds the learning rate
finds one for each part. Their state is kept in checkpoints under our names, tensor by tensor, so
that a resumed run has the bits of one that was never stopped. Knows nothing of models.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from training.errors import ConfigError
from training.trainer.optimizer import Group, Optimiser

ENTRY_POINTS = "style_studio.optimizers"  # group, by which packages offer optimisers of theirs
KINDS = {int: torch.int64, float: torch.float64, bool: torch.bool}  # of numbers in a state
Made = torch.optim.Optimizer


@dataclass(frozen=True)
class Method:
    """make(matrices, lr, weight_decay) -> the optimiser; module and package: what must be
    installed, "" for torch's own; averages: its weights in use are not those to be saved.
    """

    make: Callable[[Sequence[nn.Parameter], float, float], Made]
    module: str = ""
    package: str = ""
    averages: bool = False


def _module(name: str) -> Any:
    """A package that need not be there."""
    return importlib.import_module(name)


def _prodigy(matrices: Sequence[nn.Parameter], lr: float, decay: float) -> Made:
    """Mishchenko and Defazio 2024, arXiv 2306.06101, as its authors advise for adapters."""
    made = _module("prodigyopt").Prodigy(
        matrices,
        lr=lr,
        use_bias_correction=True,
        safeguard_warmup=True,
    )
    made.param_groups[0]["weight_decay"] = decay  # by its constructor it would print a line
    return made


def _schedule_free(matrices: Sequence[nn.Parameter], lr: float, decay: float) -> Made:
    """Defazio et al. 2024, arXiv 2405.15682."""
    made = _module("schedulefree").AdamWScheduleFree(matrices, lr=lr, weight_decay=decay)
    made.train()
    return made


def _adafactor(matrices: Sequence[nn.Parameter], lr: float, decay: float) -> Made:
    """Shazeer and Stern 2018, arXiv 1804.04235."""
    return torch.optim.Adafactor(matrices, lr=lr, weight_decay=decay)


def _lion(matrices: Sequence[nn.Parameter], lr: float, decay: float) -> Made:
    """Chen et al. 2023, arXiv 2302.06675."""
    return _module("lion_pytorch").Lion(matrices, lr=lr, weight_decay=decay)


def _came(matrices: Sequence[nn.Parameter], lr: float, decay: float) -> Made:
    """Luo et al. 2023, arXiv 2307.02047."""
    return _module("came_pytorch").CAME(matrices, lr=lr, weight_decay=decay)


def _adamw8bit(matrices: Sequence[nn.Parameter], lr: float, decay: float) -> Made:
    """Dettmers et al. 2022, arXiv 2110.02861."""
    return _module("bitsandbytes.optim").AdamW8bit(matrices, lr=lr, weight_decay=decay)


def _muon(matrices: Sequence[nn.Parameter], lr: float, decay: float) -> Made:
    """Jordan et al. 2024, at the size of AdamW's updates, so that a rate means the same (Liu et al.
    2025, arXiv 2502.16982).
    """
    return torch.optim.Muon(matrices, lr=lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw")


METHODS: Mapping[str, Method] = {
    "prodigy": Method(_prodigy, "prodigyopt", "prodigyopt"),
    "schedule-free": Method(_schedule_free, "schedulefree", "schedulefree", averages=True),
    "adafactor": Method(_adafactor),
    "lion": Method(_lion, "lion_pytorch", "lion-pytorch"),
    "came": Method(_came, "came_pytorch", "came-pytorch"),
    "adamw8bit": Method(_adamw8bit, "bitsandbytes", "bitsandbytes"),
    "muon": Method(_muon),
}


def check_package(name: str, other: str = "") -> None:
    """Raise ConfigError where what an optimiser needs is not installed. other: the name of another
    package's, for the method "other".
    """
    if name == "other":
        _of_another_package(other)
        return
    method = METHODS.get(name)
    if method and method.module and importlib.util.find_spec(method.module) is None:
        raise ConfigError(
            f"optim.method = {name} needs the package {method.package}, which is not installed: "
            "pip install 'style-studio[optim]', or set optim.method = adamw."
        )


def _of_another_package(name: str) -> Method:
    """What an installed package offers under a name. Raises ConfigError."""
    points = importlib.metadata.entry_points(group=ENTRY_POINTS)
    there = ", ".join(sorted({point.name for point in points})) or "none"
    point = next((point for point in points if point.name == name), None)
    if point is None or point.dist is None:
        raise ConfigError(
            f"optim.other is {name!r}: no installed package offers an optimiser of that name as an "
            f"entry point of the group {ENTRY_POINTS} (there: {there}). Install the package, or "
            "set optim.method = adamw."
        )
    try:
        make = point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"optim.other is {name!r}, which cannot be loaded from {point.dist.name} ({error!r}). "
            "Repair that package, or set optim.method = adamw."
        ) from error
    return Method(partial(_checked, name, make), package=point.dist.name)


def _checked(
    name: str,
    make: Callable[[Sequence[nn.Parameter], float, float], object],
    matrices: Sequence[nn.Parameter],
    lr: float,
    decay: float,
) -> Made:
    """Another package's optimiser, if it is one of all the matrices in one group."""
    found = make(matrices, lr, decay)
    if not isinstance(found, Made) or len(found.param_groups) != 1:
        raise ConfigError(
            f"optim.other is {name!r}, which made {type(found).__name__}: a torch.optim.Optimizer "
            "with one group of parameters was expected. Tell its authors, or set "
            "optim.method = adamw."
        )
    return found


def made(
    name: str,
    groups: Mapping[str, Group],
    *,
    weight_decay: float,
    clip: float,
    ema: float,
    other: str = "",
) -> Optimiser:
    """The optimiser of a name. Raises ConfigError where its package is not there."""
    if name == "adamw":
        return Optimiser(groups, weight_decay=weight_decay, clip=clip, ema=ema)
    check_package(name, other)
    return ByMatrix(name, groups, weight_decay=weight_decay, clip=clip, ema=ema, other=other)


class ByMatrix(Optimiser):
    """Another optimiser than AdamW. What lies in the flat buffers is shown to it as matrices
    [outputs or rank, all the rest], whose weights and gradients are views.
    """

    sized_as_weights = ("weights",)

    def __init__(
        self,
        method: str,
        groups: Mapping[str, Group],
        *,
        weight_decay: float,
        clip: float,
        ema: float,
        other: str = "",
    ) -> None:
        super().__init__(groups, weight_decay=weight_decay, clip=clip, ema=ema)
        self.method = f"other {other}" if method == "other" else method
        own = _of_another_package(other) if method == "other" else METHODS[method]
        package, make, self.averages_itself = own.package, own.make, own.averages
        self.version = f"{package or 'torch'} {importlib.metadata.version(package or 'torch')}"
        self.inner = {
            name: make(_matrices(group.parameters), group.lr, weight_decay)
            for name, group in groups.items()
        }
        self._first = {name: dict(one.param_groups[0]) for name, one in self.inner.items()}

    def _step(self, share: float) -> None:
        for name, inner in self.inner.items():
            inner.param_groups[0]["lr"] = self.lrs[name] * share
            inner.step()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """As Optimiser's; of a method that keeps an average of its own, that average."""
        if not self.averages_itself:
            with super().averaged():
                yield
            return
        kept = {name: flat.detach().clone() for name, flat in self.flats.items()}
        for inner in self.inner.values():
            inner.eval()  # type: ignore[attr-defined]
        try:
            yield
        finally:
            # Not by its train(), which would round
            for name, inner in self.inner.items():
                self.flats[name].data.copy_(kept[name])
                inner.param_groups[0]["train_mode"] = True

    def tensors(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, flat in self.flats.items():
            found[f"{name}.weights"] = flat.detach()
            found[f"{name}.method.{self.method}"] = torch.zeros(1)
            state = self.inner[name].state_dict()
            for place, entries in state["state"].items():
                found |= _named(f"{name}.state.{place}", entries)
            first = self._first[name]
            counts = {
                key: value
                for key, value in state["param_groups"][0].items()
                if key not in ("lr", "params") and value != first.get(key)
            }
            found |= _named(f"{name}.counts", counts)
            if name in self.averages:
                found[f"{name}.average"] = self.averages[name]
        return found

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        for name, flat in self.flats.items():
            flat.data.copy_(tensors[f"{name}.weights"])
            inner = self.inner[name]
            (group,) = inner.state_dict()["param_groups"]
            own = {key: value for key, value in self._first[name].items() if key in group}
            counts = _read(f"{name}.counts", tensors)
            state: dict[int, dict[str, Any]] = {}
            for place in range(len(group["params"])):
                if entries := _read(f"{name}.state.{place}", tensors):
                    state[place] = entries
            groups = [{**own, **counts, "lr": group["lr"], "params": group["params"]}]
            inner.load_state_dict({"state": state, "param_groups": groups})
            if name in self.averages:
                self.averages[name].copy_(
                    tensors.get(f"{name}.average", tensors[f"{name}.weights"])
                )
        self.clear()

    def fits(self, tensors: Mapping[str, Tensor]) -> bool:
        return super().fits(tensors) and all(
            f"{name}.method.{self.method}" in tensors for name in self.flats
        )


def _matrices(parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """The parameters as matrices, their gradients too: of the same memory."""
    found = []
    for parameter in parameters:
        if parameter.grad is None:
            raise ValueError("the weights must lie in a flat buffer, their gradients too")
        matrix = nn.Parameter(parameter.data.view(len(parameter), -1))
        matrix.grad = parameter.grad.view(len(parameter), -1)
        found.append(matrix)
    return found


def _named(prefix: str, entries: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors and numbers of a state by name; the kind of a number is part of its name."""
    found: dict[str, Tensor] = {}
    for key, value in entries.items():
        if isinstance(value, Mapping):  # how bitsandbytes wraps its own, and takes them unwrapped
            found |= _named(prefix, value)
        elif isinstance(value, Tensor):
            found[f"{prefix}.{key}.tensor"] = value.detach()
        elif type(value) in KINDS:
            kind = type(value).__name__
            found[f"{prefix}.{key}.{kind}"] = torch.tensor([value], dtype=KINDS[type(value)])
    return found


def _read(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What `_named` gave names, copied."""
    found: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if name.startswith(f"{prefix}."):
            key, kind = name.removeprefix(f"{prefix}.").rsplit(".", 1)
            found[key] = tensor.clone() if kind == "tensor" else tensor.item()
    return found
