"""Tests of the built-in base: other programs load it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from training.storage.paths import builtin_base


def test_the_stock_pipeline_draws_without_further_arguments() -> None:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(builtin_base())
    pipe.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(0)
    picture = pipe("red apple", num_inference_steps=2, generator=noise).images[0]
    assert picture.size == (128, 128) and np.asarray(picture).std() > 5


def test_the_text_encoder_loads_in_full_precision_from_half_the_bytes() -> None:
    from safetensors import safe_open

    folder = Path(builtin_base()) / "text_encoder"
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.float16}
