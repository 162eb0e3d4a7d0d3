"""A run that goes on from a style begins as exactly that style, and says so when it cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from studio.library import continue_from, library
from tests.trainers import ready
from training.config.loading import from_mapping
from training.config.schema import RunConfig
from training.errors import StyleFileError
from training.events import Previewed
from training.storage.paths import Workspace
from training.style_files.matching import match
from training.style_files.reading import Lora, read_style
from training.style_files.writing import write_style
from training.trainer.loop import train
from training.trainer.plan import planned


@pytest.fixture
def config(base_folder: Path, tmp_path: Path) -> RunConfig:
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(
            tmp_path / "pictures" / f"{i}.png"
        )
    return from_mapping(
        {
            "base": {"model": str(base_folder), "dtype": "float32", "device": "cpu"},
            "data": {"folder": str(tmp_path / "pictures"), "trigger": "sks"},
            "adapter": {"rank": 2, "alpha": 3.0, "targets": ["attention", "convolutions"]},
            "optim": {
                "steps": 4,
                "batch_size": 1,
                "unet_lr": 1e-2,
                "text_encoder_lr": 1e-2,
                "schedule": "constant",
                "warmup": 0.0,
            },
            "preview": {"every": 4, "steps": 2, "prompts": ["a cat"]},
            "report": {"minutes": 0.0},
            "save": {"folder": str(tmp_path / "runs"), "name": "first", "every": 0},
        }
    )


def changed(config: RunConfig, **keys: object) -> RunConfig:
    tables = config.model_dump()
    for key, value in keys.items():
        section, name = key.split("__")
        tables[section][name] = value
    return from_mapping(tables)


@pytest.fixture
def style(config: RunConfig) -> Path:
    list(train(config))
    return config.run_folder / "first.safetensors"


@pytest.mark.parametrize(("rank", "alpha"), [(2, 3.0), (2, 1.0), (5, 8.0)])
def test_it_begins_as_that_style(config: RunConfig, style: Path, rank: int, alpha: float) -> None:
    """Also with another rank and alpha; its first preview is the style's last one, but for the
    file's float16.
    """
    on = changed(
        config,
        adapter__start=str(style),
        adapter__rank=rank,
        adapter__alpha=alpha,
        save__name="second",
    )
    run = ready(planned(on), trial=True)
    wanted = match(read_style(style), run.attached.names)
    assert wanted.keys() <= run.adapters.keys()
    for key, lora in wanted.items():
        down, up = (m.detach().double().flatten(1).numpy() for m in run.adapters[key])
        delta = lora.delta().reshape(up.shape[0], -1)
        assert np.abs(up @ down * alpha / rank - delta).max() <= 1e-6 * max(
            np.abs(delta).max(), 1e-9
        )
    events = list(train(on))
    first = next(e for e in events if isinstance(e, Previewed))
    before = np.asarray(Image.open(config.run_folder / "previews" / "step-0000004-0.png"), int)
    now = np.asarray(Image.open(on.run_folder / first.paths[0]), int)
    assert first.step == 0 and np.abs(before - now).max() <= 3
    untouched = np.asarray(Image.open(config.run_folder / "previews" / "step-0000000-0.png"), int)
    assert np.abs(before - untouched).max() > 3  # the style does something, so this is worth saying


def test_what_would_be_lost_is_refused(config: RunConfig, style: Path) -> None:
    on = changed(config, adapter__start=str(style), save__name="second")
    with pytest.raises(StyleFileError, match="has rank 2, this run 1"):
        planned(changed(on, adapter__rank=1))
    for less in ({"adapter__targets": ["attention"]}, {"optim__text_encoder_lr": 0.0}):
        with pytest.raises(StyleFileError, match="would be lost"):
            ready(planned(changed(on, **less)), trial=True)
    with pytest.raises(StyleFileError):
        planned(changed(on, adapter__start=str(style.parent / "gone.safetensors")))


def test_a_style_of_another_base_is_refused(config: RunConfig, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    lora = Lora(np.ones((2, 7), np.float32), np.ones((7, 2), np.float32), 2.0)
    write_style(
        other, {"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": lora}, {}
    )
    with pytest.raises(StyleFileError, match="Choose the base it was made for"):
        ready(planned(changed(config, adapter__start=str(other))), trial=True)


def test_no_path_and_no_prompt_is_published(config: RunConfig, style: Path, tmp_path: Path) -> None:
    (tmp_path / "held").mkdir()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "held" / "x.png")
    on = changed(
        config,
        adapter__start=str(style),
        save__name="second",
        report__held_out=str(tmp_path / "held"),
        report__prompts=["my secret"],
    )
    list(train(on))
    content = (on.run_folder / "second.safetensors").read_bytes()
    assert str(tmp_path).encode() not in content and b"my secret" not in content


def test_the_shelf_offers_settings_that_fit(tmp_path: Path, config: RunConfig, style: Path) -> None:
    workspace = Workspace(tmp_path)
    own = next(s for s in library.styles(workspace) if s.path == style.resolve())
    on = continue_from.config_for(workspace, own)
    assert (
        on.adapter.start == str(own.path) and on.save.name == "first-2" and on.optim == config.optim
    )
    (workspace.styles()).mkdir()
    (workspace.styles() / "brought.safetensors").write_bytes(style.read_bytes())
    brought = next(s for s in library.styles(workspace) if s.id == "file:brought")
    fits = continue_from.config_for(workspace, brought)
    assert (
        set(fits.adapter.targets) == {"attention", "convolutions"}
        and fits.adapter.rank == 2
        and fits.optim.text_encoder_lr > 0
    )
