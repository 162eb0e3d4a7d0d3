"""Tests of the built-in base and its recipe: other programs load it, the sample styles repeat."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image, ImageDraw

from training.storage.paths import builtin_base

SAMPLES = Path(__file__).resolve().parents[1] / "sample_data"


def recipe(name: str) -> ModuleType:
    """A module of the recipe, which is a folder of scripts and no package."""
    path = SAMPLES / "mini-sd" / "recipe" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_a_risograph_print_repeats_by_its_name_and_differs_for_another() -> None:
    thing = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(thing).ellipse((24, 24, 100, 100), fill=(220, 60, 60))
    risograph = recipe("risograph").risograph
    one, again, other = (np.asarray(risograph(thing, name)) for name in ("a", "a", "b"))
    assert one.shape == (128, 128, 3) and one.dtype == np.uint8
    assert (one == again).all() and (one != other).any()
    paper = one[:8].reshape(-1, 3)
    assert (np.abs(paper.astype(int) - recipe("risograph").PAPER) <= 6).all()


def test_the_risograph_set_has_twenty_captioned_pictures_and_a_licence() -> None:
    folder = SAMPLES / "risograph"
    pictures = sorted(folder.glob("*.png"))
    assert len(pictures) == 20 and (folder / "LICENSE.md").exists()
    for path in pictures:
        assert path.with_suffix(".txt").read_text().strip() == path.stem.replace("-", " ")
        with Image.open(path) as picture:
            assert picture.size == (128, 128)
