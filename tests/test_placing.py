"""What of a base lies in a GPU's memory, and when.

The GPU is pretended: the CPU by the name "cpu:0", apart from "cpu".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests import trainers
from tests.test_training import changed, config, equal, pictures
from tests.tiny import tiny_xl
from training.config.schema import RunConfig
from training.events import Previewed
from training.models import loader
from training.runtime import memory
from training.runtime.device import DeviceSpec
from training.trainer import memory_watch, networks, plan
from training.trainer.engine import update
from training.trainer.latents import Latents, Words
from training.trainer.loop import train
from training.trainer.plan import planned
from training.trainer.trainer import Trainer

__all__ = ["config", "pictures"]  # fixtures
GPU = torch.device("cpu:0")


class Shelf:
    """Which networks were sent to the device and back, in order, and how many were there at
    once.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there: set[str] = set()
        self.moves: list[str] = []
        move = nn.Module.to

        def to(network: Any, where: Any = None, *args: Any, **kwargs: Any) -> Any:
            if getattr(network, "config", None) is not None and isinstance(
                where, str | torch.device
            ):
                kind = type(network).__name__
                if torch.device(where) == GPU and kind not in self.there:
                    self.moves.append(f"+{kind}")
                    self.there.add(kind)
                elif torch.device(where) == torch.device("cpu") and kind in self.there:
                    self.moves.append(f"-{kind}")
                    self.there.discard(kind)
            return move(network, where, *args, **kwargs)

        monkeypatch.setattr(nn.Module, "to", to)
        for module in (memory_watch, networks):
            monkeypatch.setattr(module, "has_own_memory", lambda device: device == GPU)
        monkeypatch.setattr(plan, "choose", lambda device, dtype: DeviceSpec(GPU, torch.float32))


def gone_through(config: RunConfig, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """A run that is ready; what encodes finds its network on the device, and says so."""
    encode, say = Latents.add, Words.__call__

    def add(latents: Latents, *args: Any) -> None:
        assert shelf.there == {"AutoencoderKL"}
        encode(latents, *args)

    def words(kept: Words, captions: Any) -> Any:
        if not kept._kept:
            assert shelf.there and all(kind.startswith("CLIP") for kind in shelf.there)
        return say(kept, captions)

    monkeypatch.setattr(Latents, "add", add)
    monkeypatch.setattr(Words, "__call__", words)
    ready = trainers.ready(planned(config))
    return ready


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_frozen_text_encoder_and_the_vae_are_gone_before_the_unet_comes(
    family: str, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = {"base__model": str(tiny_xl(tmp_path / "xl"))} if family == "sdxl" else {}
    shelf = Shelf(monkeypatch)
    ready = gone_through(changed(config, optim__text_encoder_lr=0.0, **base), shelf, monkeypatch)
    assert (
        shelf.moves[:2] == ["+AutoencoderKL", "-AutoencoderKL"]
        and shelf.moves[-1] == "+UNet2DConditionModel"
    )
    encoders = [move for move in shelf.moves[2:-1] if move.startswith("+CLIP")]
    assert len(encoders) == len(ready.parts.family.text_encoders)
    assert set(ready.parts.networks) == {"unet"}
    update(ready)


def test_a_text_encoder_that_is_trained_comes_with_the_unet(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(monkeypatch)
    ready = gone_through(config, shelf, monkeypatch)
    assert sorted(shelf.moves[2:]) == ["+CLIPTextModel", "+UNet2DConditionModel"]
    update(ready)


def test_the_vae_comes_for_the_previews_only(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(config, preview__every=3)
    plain = changed(config, save__name="plain")
    list(train(plain))
    shelf, drawn = Shelf(monkeypatch), 0
    for event in train(config):
        if isinstance(event, Previewed):
            drawn += 1
            assert "AutoencoderKL" not in shelf.there
    assert drawn == 3 and shelf.moves.count("+AutoencoderKL") == drawn + 1 == shelf.moves.count(
        "-AutoencoderKL"
    )
    assert equal(config, plain)


def test_a_gpu_must_hold_the_unet_alone_and_a_cpu_everything(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that are not needed at once need not fit at once."""
    asked: list[set[str]] = []
    count = loader.weight_count
    monkeypatch.setattr(
        loader,
        "weight_count",
        lambda files, parts: asked.append(set(parts)) or count(files, parts),
    )
    trainers.ready(planned(config), trial=True)
    assert set().union(*asked) == {"unet", "vae", "text_encoder"}
    asked.clear()
    Shelf(monkeypatch)
    trainers.ready(planned(config), trial=True)
    assert asked == [{"unet"}]
    assert memory.free(GPU) > 0
