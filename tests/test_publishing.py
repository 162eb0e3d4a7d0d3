"""Tests of studio.library.publishing: a file tells what was shown, and nothing else."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from studio.library.cards import Card
from studio.library.publishing import made, private_fields, published_fields
from tests.test_library import style_file
from training.errors import StyleFileError
from training.style_files.metadata import group_of
from training.style_files.reading import read_style, style_from_bytes

SAID = {
    "modelspec.architecture": "stable-diffusion-v1/lora",
    "ss_base_model_version": "sd_v1",
    "modelspec.author": "Jane",
    "modelspec.title": "Ink",
    "modelspec.description": "old words",
    "modelspec.date": "2026-01-01",
    "ss_sd_model_name": "/home/jane/models/one.safetensors",
    "ss_tag_frequency": '{"jane": 1}',
    "ss_seed": "7",
    "style_studio.recipe": "{}",
    "own.key": "strange",
}
TENSORS = {
    "lora_down.weight": np.ones((4, 320), np.float32),
    "lora_up.weight": np.ones((320, 4), np.float32),
    "alpha": np.array(4, np.float32),
}
LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture
def style(tmp_path: Path) -> Path:
    save_file(
        {f"{LAYER}.{name}": array for name, array in TENSORS.items()},
        tmp_path / "ink.safetensors",
        SAID,
    )
    return tmp_path / "ink.safetensors"


@pytest.mark.parametrize("form", ["kohya", "diffusers", "zip"])
@pytest.mark.parametrize(
    "keep",
    [[], ["modelspec.author", "training"], ["modelspec.title", "modelspec.description", "recipe"]],
)
def test_a_file_tells_exactly_what_was_shown(style: Path, form: str, keep: list[str]) -> None:
    card = Card(notes="a note")
    shown = {t.key: t.value for t in published_fields(read_style(style), card, keep)}
    name, content = made(style, card, form, keep)
    if form == "zip":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            content = archive.read("Ink.safetensors")
    again = style_from_bytes(content, name)
    assert {
        key: value for key, value in again.metadata.items() if group_of(key) != "hashes"
    } == shown
    assert np.allclose(
        sum(lora.delta().sum() for lora in again.modules.values()),
        read_style(style).modules[LAYER].delta().sum(),
    )


def test_what_the_page_does_not_know_and_pictures_never_leave(style: Path) -> None:
    fields = private_fields(read_style(style), Card())
    assert not {"own.key", "ss_tag_frequency"} & {f.key for f in fields}
    _, content = made(style, Card(), "kohya", [f.key for f in fields])
    assert b"strange" not in content and b"/home/jane" not in content and b'"jane' not in content


def test_with_nothing_kept_only_the_kind_of_base_is_published(style: Path) -> None:
    assert {
        t.group for t in published_fields(read_style(style), Card("Mine", "CC0", "me", "note"), [])
    } == {"kind"}


def test_the_card_wins_over_the_file_and_notes_stay_unless_asked(style: Path) -> None:
    fields = {
        f.key: f for f in private_fields(read_style(style), Card("Mine", "CC0", "me", "a note"))
    }
    assert (
        fields["modelspec.title"].text,
        fields["modelspec.license"].text,
        fields["modelspec.author"].text,
    ) == ("Mine", "CC0", "me")
    assert not fields["modelspec.description"].at_first
    assert all(f.at_first for key, f in fields.items() if key != "modelspec.description")
    name, _ = made(style, Card("Mine: ../ <b>"), "kohya", [])
    assert name == "Mine- - -b.safetensors"


def test_a_zip_holds_a_card_and_a_clean_picture(style: Path, tmp_path: Path) -> None:
    picture = tmp_path / "p.png"
    Image.new("RGB", (900, 600), "red").save(picture)
    name, content = made(style, Card("Mine"), "zip", ["modelspec.title"], picture)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert name == "Mine.zip" and archive.namelist() == [
            "Mine.safetensors",
            "Mine.json",
            "Mine.png",
        ]
        assert json.loads(archive.read("Mine.json"))["sd version"] == "SD1"
        assert Image.open(io.BytesIO(archive.read("Mine.png"))).size == (512, 341)


def test_a_style_for_an_unknown_base_is_not_rewritten(tmp_path: Path) -> None:
    style_file(tmp_path / "odd.safetensors")
    with pytest.raises(StyleFileError, match="kind of base"):
        made(tmp_path / "odd.safetensors", Card(), "kohya", [])
