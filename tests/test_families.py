"""Every family that is trained:

told from its files, trained, resumed, exported, drawn, and loaded in the stock pipeline.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from studio.library.generator import loaded_style
from tests.tiny import tiny_base, tiny_xl
from tests.trainers import ready
from training.config.loading import from_mapping
from training.config.schema import RunConfig
from training.diffusion.sampling import draw
from training.errors import ModelError
from training.events import Finished, Stepped
from training.models import base_files, loader
from training.models.family import Parts
from training.prompt import Prompt
from training.runtime.device import DeviceSpec
from training.style_files.reading import read_style
from training.trainer import setup
from training.trainer.loop import train
from training.trainer.plan import planned

# Every family with what tells it, and the prefixes of its layers in a style file
MAKERS: dict[str, Callable[[Path], Path]] = {
    "mini": tiny_base,
    "sd1": lambda folder: tiny_base(folder, width=768),
    "sd2": lambda folder: tiny_base(folder, width=1024, linear_projection=True),
    "sd2-v": lambda folder: tiny_base(
        folder, width=1024, linear_projection=True, prediction_type="v_prediction"
    ),
    "sdxl": tiny_xl,
}
PREFIXES = {"sdxl": {"lora_unet_", "lora_te1_", "lora_te2_"}}
FLOAT32 = DeviceSpec(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="session", params=MAKERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base of every family; read only."""
    return MAKERS[request.param](tmp_path_factory.mktemp("family") / request.param)


@pytest.fixture
def config(folder: Path, tmp_path: Path) -> RunConfig:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for i, size in enumerate([(40, 40), (64, 40), (40, 40)]):
        Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(
            pictures / f"{i}.png"
        )
        (pictures / f"{i}.txt").write_text(f"thing {i}")
    return from_mapping(
        {
            "base": {"model": str(folder), "dtype": "float32", "device": "cpu"},
            "data": {"folder": str(pictures), "trigger": "sks"},
            "adapter": {"rank": 4, "alpha": 4.0},
            "optim": {
                "steps": 6,
                "batch_size": 2,
                "unet_lr": 2e-2,
                "text_encoder_lr": 2e-2,
                "schedule": "constant",
                "warmup": 0.0,
            },
            "preview": {"every": 3, "steps": 2},
            "report": {"minutes": 0.0},
            "save": {"folder": str(tmp_path / "runs"), "name": "s", "every": 0},
        }
    )


def renamed(config: RunConfig, name: str, **optim: Any) -> RunConfig:
    return config.model_copy(
        update={
            "save": config.save.model_copy(update={"name": name}),
            "optim": config.optim.model_copy(update=optim),
        }
    )


def weights(config: RunConfig) -> dict[str, np.ndarray]:
    style = read_style(config.run_folder / f"{config.save.name}.safetensors")
    return {
        f"{name}.{side}": getattr(lora, side)
        for name, lora in style.modules.items()
        for side in ("down", "up")
    }


def stock(folder: Path) -> Any:
    """diffusers' own pipeline of whatever lies there."""
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def by_stock(pipe: Any, prompt: Prompt, side: int) -> Image.Image:
    g = torch.Generator().manual_seed(prompt.seed)
    words = {
        "prompt": prompt.text,
        "negative_prompt": prompt.negative,
        "guidance_scale": prompt.guidance,
    }
    return pipe(
        **words, num_inference_steps=prompt.steps, generator=g, height=side, width=side
    ).images[0]


def levels_apart(a: Image.Image, b: Image.Image) -> int:
    return int(np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).max())


def loaded(folder: Path) -> Parts:
    return loader.load(base_files.find(str(folder)), FLOAT32)


def test_the_family_is_known_by_the_files(folder: Path, tmp_path: Path) -> None:
    unnamed = tmp_path / "some-model"
    shutil.copytree(folder, unnamed)
    assert base_files.find(str(unnamed)).family.name == folder.name.removesuffix("-v")


@pytest.mark.parametrize("negative", ["", "a style"])
def test_our_picture_is_the_stock_pipelines(folder: Path, negative: str) -> None:
    prompt, parts = (
        Prompt("an icon of a cat", negative, steps=4, guidance=4.0, seed=3),
        loaded(folder),
    )
    (ours,) = draw(parts, [prompt])
    assert levels_apart(ours, by_stock(stock(folder), prompt, parts.size)) <= 1


def test_a_style_is_trained_resumed_exported_and_drawn_elsewhere(
    config: RunConfig, folder: Path
) -> None:
    stopped = renamed(config, "stopped")
    events = list(train(config))
    assert [type(e) for e in events].count(Finished) == 1
    seen: list[Any] = []
    for event in train(stopped, lambda: sum(isinstance(e, Stepped) for e in seen) >= 3):
        seen.append(event)
    list(train(stopped))
    straight, resumed = weights(config), weights(stopped)
    assert straight.keys() == resumed.keys() and all(
        np.array_equal(straight[k], resumed[k]) for k in straight
    )
    wanted = PREFIXES.get(folder.name, {"lora_unet_", "lora_te_"})
    assert {next(p for p in sorted(wanted) if name.startswith(p)) for name in straight} == wanted
    path, parts = config.run_folder / "s.safetensors", loaded(folder)
    prompt = Prompt("thing 1, sks style", steps=4, guidance=3.0, seed=5)
    (plain,), (ours,) = (
        draw(parts, [prompt]),
        draw(parts, [prompt], rows=[[loaded_style(path, parts)]]),
    )
    pipe = stock(folder)
    pipe.load_lora_weights(str(path.parent), weight_name=path.name, use_safetensors=True)
    assert (
        levels_apart(ours, by_stock(pipe, prompt, parts.size)) <= 2
    )  # of 255; float16 weights in the file
    assert levels_apart(ours, plain) > 8


def test_frozen_text_encoders_are_let_go_and_nothing_changes(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words that were kept are the words that would be said again, in training and in previews."""
    lean, full = (
        renamed(config, "lean", text_encoder_lr=0.0),
        renamed(config, "full", text_encoder_lr=0.0),
    )
    run = ready(planned(lean), trial=True)
    assert not set(run.parts.family.text_encoders) & set(run.parts.networks)
    list(train(lean))
    monkeypatch.setattr(setup, "drop_unneeded", lambda *given: None)
    list(train(full))
    a, b = weights(lean), weights(full)
    assert all(np.array_equal(a[k], b[k]) for k in a)
    for name in sorted(path.name for path in (full.run_folder / "previews").iterdir()):
        with (
            Image.open(lean.run_folder / "previews" / name) as ours,
            Image.open(full.run_folder / "previews" / name) as theirs,
        ):
            assert (
                levels_apart(ours, theirs) <= 1
            )  # captions are encoded together there, one by one here


def test_a_gradient_reaches_every_text_encoder(folder: Path) -> None:
    parts = loaded(folder)
    for part in parts.family.text_encoders:
        parts.networks[part].requires_grad_(True)
    words = parts.family.encode_text(parts, ["a cat"])
    noisy = torch.zeros(1, 4, 8, 8)
    parts.family.predict(parts, noisy, torch.tensor([500]), words).square().mean().backward()
    for part in parts.family.text_encoders:
        grad = parts.networks[part].get_input_embeddings().weight.grad
        assert grad is not None and grad.abs().max() > 0


# --- what is refused ---


def spoilt(folder: Path, tmp_path: Path, part: str, **keys: Any) -> Path:
    copied = tmp_path / "spoilt"
    shutil.copytree(folder, copied)
    path = copied / part
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
    return copied


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "refiner": (
        "model_index.json",
        {"text_encoder": [None, None], "_class_name": "StableDiffusionXLImg2ImgPipeline"},
        "is a Stable Diffusion XL refiner",
    ),
    "inpainting": ("unet/config.json", {"in_channels": 9}, "an inpainting model"),
    "editing": ("unet/config.json", {"in_channels": 8}, "an editing model"),
    "depth": ("unet/config.json", {"in_channels": 5}, "an inpainting, depth or upscaling model"),
    "unclip": (
        "unet/config.json",
        {"class_embed_type": "projection"},
        "wants more than pictures and words",
    ),
    "image prompts": (
        "unet/config.json",
        {"addition_embed_type": "image"},
        "wants more than pictures and words",
    ),
    "another pipeline": ("model_index.json", {"_class_name": "SanaPipeline"}, "is a SanaPipeline"),
    "normalised latents": (
        "vae/config.json",
        {"latents_mean": [0.0] * 4},
        "has a mean for every channel",
    ),
}


@pytest.mark.parametrize(("part", "keys", "named"), REFUSED.values(), ids=REFUSED)
def test_relatives_are_refused_with_the_reason(
    part: str, keys: dict[str, Any], named: str, xl_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=named):
        base_files.find(str(spoilt(xl_folder, tmp_path, part, **keys)))


def test_a_sampler_without_betas_is_refused(xl_folder: Path, tmp_path: Path) -> None:
    spoilt_base = spoilt(
        xl_folder, tmp_path, "model_index.json", scheduler=["diffusers", "EDMEulerScheduler"]
    )
    with pytest.raises(ModelError, match="no noise schedule of betas"):
        loader.load(base_files.find(str(spoilt_base)), FLOAT32)


@pytest.fixture(scope="session")
def xl_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    return tiny_xl(tmp_path_factory.mktemp("xl") / "xl")
