"""That a GPU is told to give the same bits every time, as far as a machine without one can
see it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.test_together import bits, elsewhere, style
from training.events import Stepped
from training.runtime.device import repeatable
from training.trainer import joint as together_module
from training.trainer import loop as loop_module
from training.trainer.joint import together
from training.trainer.loop import train

GPU, CPU = torch.device("cuda"), torch.device("cpu")


def chosen() -> tuple[bool, ...]:
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    return (
        torch.are_deterministic_algorithms_enabled(),
        cudnn.deterministic,
        cudnn.benchmark,
        cuda.cudnn_sdp_enabled(),
    )


@pytest.fixture(autouse=True)
def workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cuBLAS reads is as it was afterwards."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")


def test_a_gpu_is_set_to_repeat_itself_and_later_left_as_it_was() -> None:
    before = chosen()
    with repeatable(True, GPU):
        assert chosen() == (True, True, False, False)
        assert (
            not torch.is_deterministic_algorithms_warn_only_enabled()
        )  # only then is fused attention's backward one that repeats itself
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert chosen() == before
    with pytest.raises(ZeroDivisionError), repeatable(True, GPU):
        raise ZeroDivisionError
    assert chosen() == before


def test_a_workspace_that_repeats_itself_is_the_users_to_choose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with repeatable(True, GPU):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.mark.parametrize(("wanted", "device"), [(True, CPU), (False, GPU)])
def test_otherwise_nothing_is_changed(wanted: bool, device: torch.device) -> None:
    before = chosen()
    with repeatable(wanted, device):
        assert chosen() == before and not os.environ["CUBLAS_WORKSPACE_CONFIG"]


@pytest.mark.parametrize("many", [False, True], ids=["alone", "together"])
def test_the_setting_reaches_torch_and_what_is_learnt_is_the_same(
    many: bool, base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every operation of a training has a form that repeats itself:

    torch would refuse it otherwise, as far as it runs on a CPU.
    """
    keys = dict(
        optim__text_encoder_lr=1e-3, adapter__targets=["attention", "convolutions"], optim__steps=2
    )
    stream: Callable[..., Iterator] = (
        (lambda *configs: (event for _, event in together(configs, at_once=2))) if many else train
    )
    plain = [style(name, base_folder, tmp_path, **keys) for name in ("a", "b")[: 1 + many]]
    list(stream(*plain))

    def as_on_a_gpu(wanted, device):
        return repeatable(wanted, GPU)

    for module in (loop_module, together_module):
        monkeypatch.setattr(module, "repeatable", as_on_a_gpu)
    wanted = [
        elsewhere(style(name, base_folder, tmp_path, optim__deterministic=True, **keys), "again")
        for name in ("a", "b")[: 1 + many]
    ]
    seen = [
        torch.are_deterministic_algorithms_enabled()
        for event in stream(*wanted)
        if isinstance(event, Stepped)
    ]
    assert seen and all(seen) and not torch.are_deterministic_algorithms_enabled()
    assert [bits(config) for config in wanted] == [bits(config) for config in plain]
