"""The host waits for the device once an update: when it reads the loss and the gradient's norm.

The device here is torch's "meta", which computes nothing: what would read from it raises, and every
copy to it is seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests import trainers
from tests.test_together import different
from tests.test_training import changed, config, pictures
from tests.tiny import tiny_xl
from training.adapters import lora_layers, multi_lora
from training.config.schema import RunConfig
from training.models import loader, textual_inversion
from training.runtime import device
from training.runtime.device import DeviceSpec
from training.trainer import batches
from training.trainer.engine import Engine, update
from training.trainer.plan import planned
from training.trainer.trainer import Trainer

__all__ = ["config", "pictures"]  # fixtures
META = torch.device("meta")


class Copies(TorchDispatchMode):
    """What goes from the host to the device, told by the operation, unless it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent, self.waited_for = 0, list[str]()
        self._sending = False

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        from_host = any(
            isinstance(x, Tensor) and x.device.type == "cpu"
            for x in [*args, *(kwargs or {}).values()]
        )
        if from_host and isinstance(found, Tensor) and found.device == META and not self._sending:
            self.waited_for.append(str(function))
        return found

    def send(self, tensor: Tensor, to: torch.device) -> Tensor:
        self.sent, self._sending = self.sent + 1, True
        try:
            return device.sent(tensor, to)
        finally:
            self._sending = False


class Constants(TorchFunctionMode):
    """Lists of Python's that become tensors on the device; dispatching does not show them."""

    def __init__(self, copies: Copies) -> None:
        super().__init__()
        self.copies = copies

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        if function in (torch.tensor, torch.as_tensor, Tensor.new_tensor) and found.device == META:
            self.copies.waited_for.append(function.__name__)
        return found


def moved(found: Any) -> Any:
    return (
        found.to(META) if isinstance(found, Tensor) else type(found)(*(x.to(META) for x in found))
    )


def move(ready: Trainer) -> None:
    """Put the networks, adapters and states of a run that is ready for updates on the meta
    device.
    """
    for network in ready.parts.networks.values():
        network.to(META)
    for token in ready.tokens:
        token.vectors.update({part: nn.Parameter(v.to(META)) for part, v in token.vectors.items()})
    ready.words._kept.update(
        {caption: moved(found) for caption, found in ready.words._kept.items()}
    )
    ready.place, ready.watch.updates_left = DeviceSpec(META, ready.place.dtype), 0


@contextmanager
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Copies]:
    copies = Copies()
    for module in (lora_layers, batches, textual_inversion):
        monkeypatch.setattr(module, "sent", copies.send)
    with Constants(copies), copies:
        yield copies


@contextmanager
def on_another_device(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Trainer, Copies]]:
    """A run that is ready for updates on the meta device."""
    ready = trainers.ready(planned(config))
    move(ready)
    with seen(monkeypatch) as copies:
        yield ready, copies


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize(
    "what", ["text encoder trained", "text encoder left alone", "a word of its own"]
)
def test_a_pass_waits_for_nothing(
    family: str, what: str, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if family == "sdxl":
        config = changed(config, base__model=str(tiny_xl(tmp_path / "xl")))
    config = changed(config, optim__noise_offset=0.1, optim__checkpointing="on", data__flip=True)
    if what == "text encoder left alone":
        config = changed(config, optim__text_encoder_lr=0.0)
    if what == "a word of its own":
        config = changed(config, adapter__tokens=2)
    with on_another_device(config, monkeypatch) as (ready, copies):
        for number in range(3):
            loss = ready.backward(ready.batches(number))
            assert loss.device == META
            with pytest.raises((RuntimeError, NotImplementedError)):
                loss.item()
        gradients = [p.grad for p in ready.parts.denoiser.parameters() if p.requires_grad]
        assert gradients and all(g is not None and g.device == META for g in gradients)
        assert copies.waited_for == []
        assert copies.sent >= 3 * 4  # noisy latents, what is wanted, timesteps, weights


def test_a_pass_of_many_styles_waits_for_nothing_but_its_first_time(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = [planned(each) for each in different(base_folder, tmp_path)]
    shared = multi_lora.SharedBase(loader.load(plans[0].files, plans[0].place))
    runs = [trainers.ready(plan, shared) for plan in plans]
    for ready in runs:
        move(ready)
    for layer in shared._layers.values():
        for index, each in layer.adapters.items():
            moved = (nn.Parameter(matrix.to(META)) for matrix in (each.down, each.up))
            layer.adapters[index] = lora_layers.Adapter(*moved, each.scale)
    with seen(monkeypatch) as copies:
        group = [ready.next_microbatch() for ready in runs]
        engine = Engine(shared)
        engine.losses(group)
        first = copies.sent
        losses = engine.losses(group)
    assert [loss.device for loss in losses] == [META] * len(runs)
    assert copies.waited_for == []
    assert copies.sent - first == 1  # ids of the captions whose encoder is trained
    layer = next(iter(shared._layers.values()))
    assert all(
        p.grad is not None and p.grad.device == META
        for each in layer.adapters.values()
        for p in (each.down, each.up)
    )


def test_what_is_not_sent_is_seen(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with on_another_device(config, monkeypatch) as (_, copies):
        there = torch.ones(2).to(META)
        torch.tensor([1.0, 2.0], device=META)
        there.new_tensor([1.0, 2.0])
        there[torch.tensor([1, 0])] = torch.ones(())  # an index and a value that the host holds
    assert (
        copies.waited_for[:3] == ["aten._to_copy.default", "tensor", "new_tensor"]
        and len(copies.waited_for) > 3
    )


def test_the_next_pass_is_made_before_the_loss_is_read(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = trainers.ready(planned(changed(config, optim__steps=3, optim__accumulate=2)))
    order = list[str]()
    make, norm = ready.batches, ready.optimiser.norm

    def batches(number: int) -> Any:
        order.append(f"made {number}")
        return make(number)

    def read() -> Tensor:
        order.append("read")
        return norm()

    monkeypatch.setattr(ready, "batches", batches)
    monkeypatch.setattr(ready.optimiser, "norm", read)
    for _ in range(3):
        update(ready)
    assert order == [
        "made 0",
        "made 1",
        "made 2",
        "read",
        "made 3",
        "made 4",
        "read",
        "made 5",
        "read",
    ]  # each once, and none beyond the end
