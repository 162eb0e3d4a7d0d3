"""What a style file tells: what others look for, and nothing that is nobody else's business."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training import __version__
from training.config.loading import from_mapping
from training.config.schema import RunConfig
from training.errors import StyleFileError
from training.style_files.metadata import (
    GROUPS,
    Made,
    group_of,
    metadata_for,
    public,
    published,
    rewritten,
)
from training.style_files.reading import Lora, read_style
from training.style_files.writing import write_style


def made(**changed: Any) -> Made:
    known = {
        "family": "sd1",
        "base_name": "/home/ann/mini",
        "base_hash": "ab" * 32,
        "prediction": "epsilon",
        "resolution": 512,
    }
    return Made(
        **known
        | {"steps": 90, "pictures": 12, "started": 0.0, "finished": 60.0, "version": __version__}
        | changed
    )


def described(config: RunConfig, **changed: Any) -> dict[str, str]:
    return metadata_for(config, made(**changed), config.save.leave_out)


def test_metadata_says_what_others_look_for() -> None:
    config = from_mapping(
        {"data": {"trigger": "inkwash"}, "save": {"name": "Ink", "author": "Ann"}}
    )
    found = described(config)
    expected = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.title": "Ink",
        "modelspec.author": "Ann",
        "modelspec.trigger_phrase": "inkwash",
        "modelspec.usage_hint": "Prompt: what to draw, inkwash style",
        "modelspec.resolution": "512x512",
        "modelspec.date": "1970-01-01T00:01:00+00:00",
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "ss_network_dim": "16",
        "ss_network_alpha": "16.0",
        "ss_steps": "90",
        "ss_training_started_at": "0.0",
        "style_studio.format": "1",
    }
    assert {key: found[key] for key in expected} == expected
    assert all(type(value) is str and value for value in found.values())
    assert "modelspec.license" not in found


@pytest.mark.parametrize(
    ("family", "prediction"),
    [("sd1", "epsilon"), ("sd2", "v_prediction"), ("sd2", "epsilon"), ("sdxl", "epsilon")],
)
def test_family_and_prediction_come_back_from_the_metadata(
    tmp_path: Path, family: str, prediction: str
) -> None:
    path = tmp_path / "a.safetensors"
    write_style(
        path,
        {"lora_unet_a": Lora(np.ones((2, 3), np.float32), np.ones((4, 2), np.float32), 2.0)},
        described(RunConfig(), family=family, prediction=prediction),
    )
    style = read_style(path)
    assert (style.family, style.prediction, style.base) == (family, prediction, "mini")


def test_the_recipe_is_the_config_without_paths_and_captions() -> None:
    config = from_mapping(
        {
            "base": {
                "model": "/home/ann/models/sd15.safetensors",
                "rest": "/home/ann/parts",
            },
            "data": {"folder": "C:\\Users\\ann\\pictures", "trigger": "inkwash"},
            "preview": {"prompts": ["a secret garden"]},
            "prior": {"folder": "/home/ann/class", "images": 3, "prompt": "a picture"},
            "save": {"folder": "/home/ann/runs"},
            "optim": {"seed": 7},
        }
    )
    text = json.dumps(described(config))
    assert "/home" not in text and "ann" not in text and "secret" not in text
    recipe = from_mapping(json.loads(described(config)["style_studio.recipe"]))
    assert (recipe.base.model, recipe.data.folder, recipe.prior.folder) == (
        "sd15.safetensors",
        "",
        "",
    )
    assert recipe.optim == config.optim
    assert (
        json.loads(
            described(from_mapping({"base": {"model": "owner/name"}}))["style_studio.recipe"]
        )["base"]["model"]
        == "owner/name"
    )


def test_each_group_can_be_left_out_but_what_loading_needs() -> None:
    config = from_mapping(
        {"data": {"trigger": "inkwash"}, "save": {"name": "Ink", "author": "Ann", "licence": "CC0"}}
    )
    whole = described(config)
    assert {field.group for field in published(whole)} == set(GROUPS) - {
        "pictures",
        "hashes",
        "other",
    }
    for group in ("words", "author", "dates", "base", "program", "recipe", "training"):
        found = described(
            from_mapping(
                {"save": {"name": "Ink", "author": "Ann", "licence": "CC0", "leave_out": [group]}}
            )
        )
        assert group not in {field.group for field in published(found)}
        assert (
            found["ss_base_model_version"] == "sd_v1"
            and found["modelspec.architecture"] == whole["modelspec.architecture"]
        )
    with pytest.raises(StyleFileError, match="neither a group nor a key"):
        metadata_for(config, made(), ["nonsense"])


def test_what_a_foreign_file_tells_of_its_maker_is_not_carried_on() -> None:
    foreign = {
        "ss_tag_frequency": "{}",
        "ss_dataset_dirs": "{}",
        "ss_training_comment": "for my wife",
        "modelspec.thumbnail": "data:",
        "my.secret": "x",
        "ss_sd_model_name": "C:\\Users\\ann\\sd15.safetensors",
        "ss_vae_name": "/home/ann/vae.pt",
        "ss_base_model_version": "sd_v1",
        "modelspec.title": "Ink",
    }
    assert public(foreign) == {
        "ss_sd_model_name": "sd15.safetensors",
        "ss_vae_name": "vae.pt",
        "ss_base_model_version": "sd_v1",
        "modelspec.title": "Ink",
    }
    assert group_of("ss_tag_frequency") == "pictures" and group_of("anything\nelse") == "other"


def of_rank(rank: int) -> Lora:
    return Lora(np.ones((rank, 3), np.float32), np.ones((5, rank), np.float32), 4.0)


def test_a_rewritten_file_names_the_base_its_weights_show() -> None:
    lied = rewritten(
        {"ss_base_model_version": "sdxl_base_v1-0", "ss_network_dim": "8"},
        "sd1",
        [of_rank(4), of_rank(8)],
    )
    assert (lied["ss_base_model_version"], lied["ss_network_dim"], lied["ss_network_alpha"]) == (
        "sd_v1",
        "Dynamic",
        "4.0",
    )
    kept = {
        "ss_base_model_version": "sd_v2_v",
        "modelspec.architecture": "stable-diffusion-v2-768-v/lora",
        "ss_v2": "True",
    }
    assert kept.items() <= rewritten(kept, "sd2", [of_rank(4)]).items()
