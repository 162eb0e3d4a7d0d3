"""Compiled passes learn what passes as written learn; pictures are drawn as written."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.test_training import apart, changed, config, pictures
from training.config.schema import RunConfig
from training.errors import ConfigError
from training.events import Warned
from training.modules.compile import as_written, compile_passes
from training.trainer import attach
from training.trainer.joint import together
from training.trainer.loop import train

__all__ = ["config", "pictures"]  # fixtures


class Counting:
    """A backend that runs what torch traced as it is, and counts:

    the tracing is real, only no compiler is waited for.
    """

    def __init__(self) -> None:
        self.graphs = self.calls = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        self.graphs += 1

        def called(*given: Any) -> Any:
            self.calls += 1
            return graph.forward(*given)

        return called


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    torch.compiler.reset()
    found = Counting()
    monkeypatch.setattr(attach, "compile_passes", functools.partial(compile_passes, backend=found))
    return found


@pytest.mark.parametrize(("how", "checkpointing"), [("blocks", "off"), ("whole", "on")])
def test_a_compiled_run_learns_and_draws_the_same(
    how: str, checkpointing: str, config: RunConfig, counting: Counting
) -> None:
    plain = changed(config, optim__steps=3, preview__every=2, optim__checkpointing=checkpointing)
    list(train(plain))
    assert counting.graphs == 0
    fast = changed(plain, save__name="fast", optim__compile=how)
    events = list(train(fast))
    assert any(
        "optim.compile is for GPUs" in event.message
        for event in events
        if isinstance(event, Warned)
    )  # here it is a CPU
    assert 0 < counting.graphs < counting.calls
    assert apart(fast, plain) < 1e-5
    drawn = [sorted((c.run_folder / "previews").glob("*.png")) for c in (fast, plain)]
    assert len(drawn[0]) == len(drawn[1]) > 0
    for one, other in zip(*drawn, strict=True):
        assert (
            np.abs(
                np.asarray(Image.open(one), np.int16) - np.asarray(Image.open(other), np.int16)
            ).max()
            <= 1
        )


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).relu()


def test_nothing_is_compiled_while_pictures_are_drawn() -> None:
    torch.compiler.reset()
    counting, network = Counting(), Small()
    compile_passes(network, "whole", backend=counting)
    with as_written(network):
        network(torch.ones(1, 2))
    assert counting.graphs == 0
    network(torch.ones(1, 2))
    assert counting.graphs == counting.calls == 1


def test_styles_together_refuse_to_be_compiled_before_anything_begins(config: RunConfig) -> None:
    configs = [changed(config, save__name=name, optim__compile="blocks") for name in ("a", "b")]
    with pytest.raises(ConfigError, match=r"optim\.compile is for one style alone"):
        list(together(configs))
    assert not (configs[0].run_folder / "run.toml").exists()
