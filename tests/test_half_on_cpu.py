"""float16 on a CPU, which earlier torch had no kernels for: it trains and draws."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from studio.compare import main as compare
from tests import crashes
from training.cli.train_arguments import config_from
from training.events import Finished, Stepped
from training.trainer.loop import train


@pytest.mark.parametrize(
    "sections",
    [
        {"optim": {"checkpointing": "off"}},
        {"optim": {"checkpointing": "on"}},
        {"optim": {"text_encoder_lr": 1e-4}},
        {"adapter": {"method": "lokr"}},
    ],
    ids=["off", "on", "text encoder", "lokr"],
)
def test_a_style_is_trained_and_drawn_in_float16(
    sections: dict[str, dict[str, Any]], base_folder: Path, tmp_path: Path
) -> None:
    crashes.pictures(tmp_path)
    optim = {"steps": 2, "batch_size": 2} | sections.get("optim", {})
    made = crashes.run_toml(tmp_path, base_folder, "half", **sections | {"optim": optim})
    config, _ = config_from([str(made), "--base.dtype", "float16"])
    events = list(train(config))
    losses = [event.loss for event in events if isinstance(event, Stepped)]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    assert isinstance(events[-1], Finished)
    style, out = config.run_folder / "half.safetensors", tmp_path / "grid.png"
    arguments = ["--base", str(base_folder), "--style", str(style), "--prompt", "a cat"]
    arguments += ["--steps", "1", "--dtype", "float16", "--device", "cpu", "--out", str(out)]
    assert compare(arguments) == 0 and out.is_file()
