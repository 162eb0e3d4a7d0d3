"""Previews by another base of the same family than the one that is trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from studio.library.generator import loaded_style
from tests import trainers
from tests.test_flow_families import FLOAT32
from tests.test_training import changed, config, equal, pictures
from training.config.schema import RunConfig
from training.diffusion.sampling import draw
from training.errors import ConfigError, ModelError
from training.models import base_files, loader
from training.prompt import Prompt
from training.runtime.distributed import ProcessGroup
from training.trainer import loop
from training.trainer.networks import move_frozen
from training.trainer.plan import planned

__all__ = ("config", "pictures")  # fixtures


@pytest.fixture
def flow(config: RunConfig, flow_base: Callable[[str], Path]) -> RunConfig:
    keys = {"optim__steps": 2, "optim__unet_lr": 0.05, "preview__every": 2, "save__name": "flow"}
    return changed(config, base__model=str(flow_base("z-image")), data__resolution=32, **keys)


def test_previews_are_drawn_by_another_base_of_the_family(
    flow: RunConfig, flow_base: Callable[[str], Path], tmp_path: Path
) -> None:
    """Those of the finished style on that base, while the same is learnt."""
    turbo = tmp_path / "turbo"
    shutil.copytree(flow_base("z-image"), turbo)
    (weights,) = (turbo / "transformer").glob("*.safetensors")
    content = {name: tensor * 1.25 for name, tensor in load_file(weights).items()}
    save_file(content, weights, {"format": "pt"})
    other = changed(flow, preview__model=str(turbo), save__name="other")
    for run in (flow, other):
        list(loop.train(run))
    assert equal(flow, other)

    parts = loader.load(base_files.find(str(turbo)), FLOAT32)
    active = loaded_style(other.run_folder / "other.safetensors", parts)
    drawn = other.run_folder / "previews" / "step-0000002-0.png"
    with Image.open(drawn) as image:
        prompt, found = Prompt.from_json(image.text["style_studio"]), np.asarray(image, np.int16)
    (wanted,) = draw(parts, [prompt], rows=[[active]])
    assert np.abs(found - np.asarray(wanted, np.int16)).max() <= 2  # a style file has 16 bits
    (plain,) = draw(parts, [prompt])
    assert np.abs(found - np.asarray(plain, np.int16)).max() > 4
    # No word of where it lies
    recipe = (other.run_folder / "other.safetensors").read_bytes()
    assert b"turbo" not in recipe


def test_bases_that_cannot_draw_a_style_are_refused(
    config: RunConfig, flow: RunConfig, flow_base: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"preview\.model is a FLUX\.1, the base .* a Z-Image"):
        planned(changed(flow, preview__model=str(flow_base("flux"))))
    with pytest.raises(ConfigError, match="trains its text encoders as well"):
        planned(changed(config, preview__model=config.base.model))
    (tmp_path / "one.safetensors").touch()
    with pytest.raises(ModelError, match=r"preview\.model is .*, a file: a diffusers folder"):
        planned(changed(flow, preview__model=str(tmp_path / "one.safetensors")))
    with pytest.raises(ModelError, match=r"preview\.model is .*nowhere: no such folder"):
        planned(changed(flow, preview__model=str(tmp_path / "nowhere")))
    wide = tmp_path / "wide"
    shutil.copytree(flow_base("z-image"), wide)
    path = wide / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cap_feat_dim": 64}))
    with pytest.raises(ConfigError, match="is of another size than the base that is trained"):
        planned(changed(flow, preview__model=str(wide)))
    divided = ProcessGroup(shards=True)
    with pytest.raises(ConfigError, match=r"preview\.model does not go with a base that is div"):
        list(loop.train(changed(flow, preview__model=str(flow_base("z-image"))), world=divided))


def test_what_is_trained_stays_in_the_optimisers_buffers_when_the_base_makes_room(
    flow: RunConfig,
) -> None:
    trainer = trainers.ready(planned(changed(flow, base__storage="int8")))
    denoiser = trainer.parts.denoiser
    trained = [p for pair in trainer.adapters.values() for p in pair]
    places = [p.data_ptr() for p in trained]
    move_frozen(denoiser, torch.device("meta"))
    assert [p.data_ptr() for p in trained] == places
    assert all(p.is_meta != p.requires_grad for p in denoiser.parameters())
    assert all(buffer.is_meta for buffer in denoiser.buffers())
