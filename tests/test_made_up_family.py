"""A family that nothing outside of this file knows: trained, exported, read back and drawn with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from studio.library.generator import loaded_style
from tests.tiny import tiny_base
from training.config.loading import from_mapping
from training.config.schema import RunConfig
from training.diffusion.sampling import draw
from training.models import base_files, loader
from training.models.family import Family, Parts
from training.prompt import Prompt
from training.runtime.device import DeviceSpec
from training.style_files import family_spec
from training.style_files.family_spec import UNET_GROUPS
from training.style_files.reading import read_style
from training.style_files.writing import converted
from training.trainer.loop import train

WIDTH = 40  # of the text states
SPEC = replace(
    family_spec.SD1,
    name="madeup",
    title="Made Up",
    short_title="Made Up",
    style_phrase="a Made Up style",
    pipelines=("MadeUpPipeline",),
    groups=UNET_GROUPS | {"attention": ("to_q", "to_v")},
    prefixes={"unet": "lora_painter_", "text_encoder": "lora_reader_"},
    reads_sgm=False,
    architecture="made-up-v1",
    version="made_up_v1",
    version_v="",
    claims=("made-up", "made_up"),
    webui_version="MU",
    text_width=WIDTH,
    vector_widths=(WIDTH,),
    checkpoint_encoders={},
)


def encode_text(parts: Parts, captions: Sequence[str], tokens: Sequence[object] = ()) -> Tensor:
    """Return the text encoder's states, twice as large as any other family would have them."""
    ids = parts.tokenizers["tokenizer"](
        list(captions), padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    return 2 * parts.networks["text_encoder"](ids)[0]


def predict(parts: Parts, noisy: Tensor, timesteps: Tensor, conditioning: Tensor) -> Tensor:
    return parts.denoiser(noisy, timesteps, conditioning, return_dict=False)[0]


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny base of the family, which is registered while a test runs."""
    family = Family(SPEC, encode_text=encode_text, predict=predict, gather=torch.cat)
    monkeypatch.setitem(family_spec.SPECS, SPEC.name, SPEC)
    monkeypatch.setitem(base_files.FAMILIES, SPEC.name, family)
    folder = tiny_base(tmp_path / "base", width=WIDTH)
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "MadeUpPipeline"}))
    return folder


@pytest.fixture
def config(base: Path, tmp_path: Path) -> RunConfig:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for i in range(2):
        pixels = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"{i}.png")
        (pictures / f"{i}.txt").write_text(f"thing {i}")
    return from_mapping(
        {
            "base": {"model": str(base), "dtype": "float32", "device": "cpu"},
            "data": {"folder": str(pictures), "trigger": "sks"},
            "adapter": {"rank": 4, "alpha": 4.0, "targets": ["attention"]},
            "optim": {
                "steps": 4,
                "batch_size": 2,
                "unet_lr": 2e-2,
                "text_encoder_lr": 2e-2,
                "schedule": "constant",
                "warmup": 0.0,
            },
            "preview": {"every": 0},
            "report": {"minutes": 0.0},
            "save": {"folder": str(tmp_path / "runs"), "name": "s", "every": 0},
        }
    )


def test_it_is_trained_exported_read_back_and_drawn_with(config: RunConfig, base: Path) -> None:
    list(train(config))
    path = config.run_folder / "s.safetensors"
    style = read_style(path)
    assert style.family == "madeup" and not style.warnings
    assert style.metadata["modelspec.architecture"] == "made-up-v1/lora"
    assert style.metadata["ss_base_model_version"] == "made_up_v1"
    of_unet = [name for name in style.modules if name.startswith("lora_painter_")]
    of_text = [name for name in style.modules if name.startswith("lora_reader_")]
    assert of_unet and of_text and len(of_unet) + len(of_text) == len(style.modules)
    assert all(name.endswith(("to_q", "to_v")) for name in of_unet)
    assert converted(style, "kohya", "madeup").keys() == style.modules.keys()

    files = base_files.find(str(base))
    assert files.family.spec is SPEC
    parts = loader.load(files, DeviceSpec(torch.device("cpu"), torch.float32))
    prompt = Prompt("thing 1, sks style", steps=4, guidance=3.0, seed=5)
    (plain,) = draw(parts, [prompt])
    (styled,) = draw(parts, [prompt], rows=[[loaded_style(path, parts)]])
    apart = np.abs(np.asarray(plain, np.int16) - np.asarray(styled, np.int16)).max()
    assert apart > 8
