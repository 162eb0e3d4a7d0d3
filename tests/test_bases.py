"""Tests of studio.datasets.base_info: it says without torch what the base itself says with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import diffusers
import pytest

from studio.datasets import base_info
from training.errors import ModelError
from training.models import base_files, loader
from training.models.family import Parts
from training.runtime import device
from training.storage.paths import builtin_base

CAPTIONS = [
    "",
    "a cat",
    "icon of a cat's style",
    "Ünïcode 水墨 and 123 things, don't",
    "x" * 300,
    "icon " * 100,
]


@pytest.fixture(params=["tokenizer.json", "vocab.json"])
def folder(request: pytest.FixtureRequest, base_folder: Path, parts: Parts, tmp_path: Path) -> Path:
    """The tiny base with its tokenizer in either of the two forms."""
    shutil.copytree(base_folder, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    words = tmp_path / "base" / "tokenizer"
    if request.param == "vocab.json":
        model = json.loads((words / "tokenizer.json").read_text(encoding="utf-8"))["model"]
        (words / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        (words / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
        (words / "tokenizer.json").unlink()
    return tmp_path / "base"


def test_tokens_are_the_bases_own(folder: Path, parts: Parts) -> None:
    known, tokenizer = base_info.known(str(folder)), parts.tokenizers["tokenizer"]
    for caption in CAPTIONS:
        count = len(tokenizer(caption, add_special_tokens=False).input_ids)
        tokens = known.tokens(caption)
        assert (tokens.count, tokens.most) == (count, tokenizer.model_max_length - 2), caption
        assert tokens.read + tokens.cut == caption
        assert bool(tokens.cut) == (count > tokens.most)
        if tokens.cut:
            assert known.tokens(tokens.read).count <= tokens.most


def test_sides_are_the_bases_own(base_folder: Path) -> None:
    known = base_info.known(str(base_folder))
    assert (known.side, known.multiple) == loader.sides(base_files.find(str(base_folder)))


@pytest.mark.skipif(
    not (builtin_base() / "model_index.json").is_file(),
    reason="the built-in base is not in this clone",
)
def test_the_built_in_base_is_known() -> None:
    known = base_info.known("mini")
    assert (known.side, known.multiple) == loader.sides(base_files.find("mini"))
    assert known.tokens("a red apple").count == 3


def test_a_base_that_is_not_here_has_the_usual_sides_and_no_tokens() -> None:
    known = base_info.known("nobody/has-this-base")
    assert (known.side, known.multiple, known.tokens("a cat")) == (512, 64, None)


@pytest.mark.parametrize("model", ["", "no such folder", "/etc/passwd/x", "a\0b", "x" * 5000])
def test_what_is_no_base_is_reported(model: str) -> None:
    with pytest.raises(ModelError):
        base_info.known(model)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("unet/config.json", "{"),
        ("tokenizer/tokenizer.json", "{}"),
        ("unet/config.json", '{"block_out_channels": 3}'),
    ],
)
def test_a_damaged_base_is_reported(
    base_folder: Path, tmp_path: Path, file: str, content: str
) -> None:
    shutil.copytree(base_folder, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "base" / file).write_text(content)
    with pytest.raises(ModelError, match="Download the base again"):
        base_info.known(str(tmp_path / "base"))


@pytest.mark.parametrize("part", ["text_encoder", "unet", "vae"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attn_implementation", "somebody/kernel"),
        ("_attn_implementation", "eager"),
        ("quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
        ("auto_map", {"AutoModel": "model.Model"}),
    ],
)
def test_a_config_that_chooses_code_is_refused(
    base_folder: Path, tmp_path: Path, part: str, key: str, value: object
) -> None:
    shutil.copytree(base_folder, tmp_path / "base")
    config = tmp_path / "base" / part / "config.json"
    found = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**found, "nested": {key: value}}), encoding="utf-8")
    place = device.choose("cpu", "float32")
    files = base_files.find(str(tmp_path / "base"))
    with pytest.raises(ModelError, match=f"{part}/config.json sets {key}"):
        loader.load_part(files, part, place)
    if part != "vae":
        with pytest.raises(ModelError, match=f"{part}/config.json sets {key}"):
            loader.base_shapes(str(tmp_path / "base"))
    config.write_text(json.dumps({**found, key: None}), encoding="utf-8")
    loader.load_part(files, part, place)


def test_a_sampler_that_needs_scipy_is_solved_by_euler(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As diffusers has it where scipy is not installed: a class that is no scheduler."""
    folder = shutil.copytree(base_folder, tmp_path / "base")
    for name, change in (
        ("model_index.json", {"scheduler": ["diffusers", "LMSDiscreteScheduler"]}),
        ("scheduler/scheduler_config.json", {"_class_name": "LMSDiscreteScheduler"}),
    ):
        found = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(found | change), encoding="utf-8")
    dummy = type("LMSDiscreteScheduler", (), {})
    monkeypatch.setattr(diffusers, "LMSDiscreteScheduler", dummy)
    scheduler = loader._scheduler(base_files.find(str(folder)))
    assert type(scheduler) is diffusers.EulerDiscreteScheduler
    assert scheduler.config.beta_schedule == "scaled_linear"
