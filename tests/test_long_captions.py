"""Captions longer than the text encoder, and clip skip: read as A1111, ComfyUI and diffusers do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from studio.library.generator import loaded_style
from tests.test_training import changed
from tests.tiny import tiny_base, tiny_xl
from training.adapters.inference import ActiveStyle, read_by
from training.config.loading import from_mapping
from training.config.schema import RunConfig
from training.diffusion.sampling import draw
from training.errors import ConfigError
from training.models import base_files, loader
from training.models.family import Parts, Reading
from training.models.textual_inversion import first_token
from training.prompt import Prompt
from training.runtime.device import DeviceSpec
from training.style_files.metadata import read_as
from training.style_files.reading import read_style
from training.trainer.caption_reader import caption_reader
from training.trainer.joint import checked
from training.trainer.loop import train

FLOAT = DeviceSpec(torch.device("cpu"), torch.float32)
LONG = "cat icon style on paper with an umbrella and more than seventy seven tokens " * 3


@pytest.fixture(scope="module", params=[tiny_base, tiny_xl], ids=["one encoder", "two encoders"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return request.param(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def parts(folder: Path) -> Parts:
    return loader.load(base_files.find(str(folder)), FLOAT)


def reading(parts: Parts, *readings: Reading) -> Parts:
    return replace(parts, readings=readings)


def encoded(parts: Parts, *captions: str, **more: Any) -> Any:
    with torch.no_grad():
        return parts.family.encode_text(parts, captions, **more)


def states_of(said: Any) -> torch.Tensor:
    return said if isinstance(said, torch.Tensor) else said.states


def in_pieces_of_75(parts: Parts, caption: str) -> torch.Tensor:
    """The same by A1111's description: 75 tokens between a begin and an end, encoded alone."""
    sides = []
    for name, tokenizer in zip(parts.family.text_encoders, parts.tokenizers.values(), strict=True):
        ids = tokenizer(caption, add_special_tokens=False).input_ids
        found = []
        for at in range(0, len(ids), 75):
            piece = [tokenizer.bos_token_id, *ids[at : at + 75], tokenizer.eos_token_id]
            piece += [tokenizer.pad_token_id] * (77 - len(piece))
            with torch.no_grad():
                said = parts.networks[name](torch.tensor([piece]), output_hidden_states=True)
            two = len(parts.family.text_encoders) > 1
            found.append(said.hidden_states[-2] if two else said.last_hidden_state)
        sides.append(torch.cat(found, 1))
    return torch.cat(sides, -1)


def test_a_long_caption_is_read_in_pieces_of_75(parts: Parts) -> None:
    said = encoded(reading(parts, Reading(0, 3)), LONG)
    wanted = in_pieces_of_75(parts, LONG)
    assert wanted.shape[1] == 77 * 3
    torch.testing.assert_close(states_of(said), wanted, rtol=1e-5, atol=1e-6)
    if said is not states_of(said):
        first = encoded(parts, LONG)
        torch.testing.assert_close(said.pooled, first.pooled, rtol=1e-5, atol=1e-6)
    two = encoded(reading(parts, Reading(0, 2)), LONG)
    torch.testing.assert_close(states_of(two), wanted[:, : 2 * 77], rtol=1e-5, atol=1e-6)


def test_a_short_caption_is_read_as_ever(parts: Parts) -> None:
    for caption in ("", "cat", "an icon of a cat, style"):
        now, before = encoded(reading(parts, Reading(0, 3)), caption), encoded(parts, caption)
        assert torch.equal(states_of(now), states_of(before))


def test_what_is_beside_a_caption_changes_nothing_it_says(parts: Parts) -> None:
    """A row of 77 states beside one of 231 gets what it would get alone."""
    wide = reading(parts, Reading(0, 3))
    both = encoded(wide, "cat", LONG)
    assert states_of(both).shape[1] == 77 * 3
    gathered = parts.family.gather([encoded(wide, "cat"), encoded(wide, LONG)])
    torch.testing.assert_close(states_of(gathered), states_of(both), rtol=1e-5, atol=1e-6)
    noisy = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pair = parts.family.predict(
            parts, noisy.expand(2, -1, -1, -1), torch.tensor([500] * 2), gathered
        )
        for row, caption in enumerate(("cat", LONG)):
            alone = parts.family.predict(parts, noisy, torch.tensor([500]), encoded(wide, caption))
            torch.testing.assert_close(pair[row : row + 1], alone, rtol=1e-4, atol=1e-5)
        assert (pair[0] - pair[1]).abs().max() > 1e-4


def test_a_learnt_word_counts_in_a_later_piece(parts: Parts) -> None:
    token = first_token(parts, "sks", 3, "cat", 0)
    wide = reading(parts, Reading(0, 3))
    caption = LONG + "sks"
    with_word = states_of(encoded(wide, caption, tokens=[(token,)]))
    doubled = replace(token, vectors={part: v.detach() * 2 for part, v in token.vectors.items()})
    other = states_of(encoded(wide, caption, tokens=[(doubled,)]))
    assert torch.equal(with_word[:, :154], other[:, :154])
    assert not torch.equal(with_word[:, 154:], other[:, 154:])


# --- clip skip ---


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("sd") / "base")


@pytest.fixture(scope="module")
def sd_parts(sd: Path) -> Parts:
    return loader.load(base_files.find(str(sd)), FLOAT)


def test_clip_skip_takes_an_earlier_layer_with_the_last_norm(sd_parts: Parts) -> None:
    """https://github.com/AUTOMATIC1111/stable-diffusion-webui, modules/sd_hijack_clip.py:
    hidden_states[-n], then final_layer_norm."""
    encoder = sd_parts.networks["text_encoder"]
    ids = sd_parts.tokenizers["tokenizer"](["cat"], padding="max_length", return_tensors="pt")
    with torch.no_grad():
        hidden = encoder(ids.input_ids, output_hidden_states=True).hidden_states
        wanted = encoder.final_layer_norm(hidden[-2])
    skipped = encoded(reading(sd_parts, Reading(2)), "cat")
    assert torch.equal(skipped, wanted)
    assert torch.equal(encoded(reading(sd_parts, Reading(1)), "cat"), encoded(sd_parts, "cat"))
    assert not torch.equal(skipped, encoded(sd_parts, "cat"))


def test_each_row_has_a_clip_skip_of_its_own(sd_parts: Parts) -> None:
    rows = encoded(reading(sd_parts, Reading(0), Reading(2)), "cat", "cat")
    assert torch.allclose(rows[:1], encoded(sd_parts, "cat"), atol=1e-6)
    assert torch.allclose(rows[1:], encoded(reading(sd_parts, Reading(2)), "cat"), atol=1e-6)


@pytest.mark.parametrize("clip_skip", [3, 12])
def test_a_clip_skip_that_the_base_has_no_layer_for_is_refused(sd: Path, clip_skip: int) -> None:
    with pytest.raises(ConfigError, match=r"base\.clip_skip is .* or 1 to 2 was expected"):
        loader.check_reading(base_files.find(str(sd)), clip_skip)
    loader.check_reading(base_files.find(str(sd)), 2)


def test_sdxl_knows_only_its_own(tmp_path: Path) -> None:
    files = base_files.find(str(tiny_xl(tmp_path / "xl")))
    loader.check_reading(files, 2)
    with pytest.raises(ConfigError, match=r"0 \(the base's own\) or 2 was expected"):
        loader.check_reading(files, 1)


# --- in a run ---


def request(model: Path, root: Path, name: str = "s", **tables: Any) -> RunConfig:
    pictures = root / "pictures"
    if not pictures.exists():
        pictures.mkdir()
        for i in range(3):
            Image.new("RGB", (40, 40), (80 * i, 120, 255 - 80 * i)).save(pictures / f"{i}.png")
            (pictures / f"{i}.txt").write_text(LONG if i else "cat")
    given: dict[str, Any] = {
        "base": {"model": str(model), "dtype": "float32", "device": "cpu"}
        | {"clip_skip": 2, "text_pieces": 3},
        "data": {"folder": str(pictures), "trigger": "sks", "resolution": 32},
        "adapter": {"rank": 2, "alpha": 2.0},
        "optim": {"steps": 4, "batch_size": 2, "unet_lr": 1e-2, "text_encoder_lr": 1e-2},
        "preview": {"every": 0},
        "report": {"minutes": 0.0},
        "save": {"folder": str(root / "runs"), "name": name, "every": 2},
    }
    return from_mapping({k: v | tables.get(k, {}) for k, v in given.items()})


def weights(config: RunConfig) -> dict[str, np.ndarray]:
    style = read_style(config.run_folder / f"{config.save.name}.safetensors")
    return {name: lora.delta() for name, lora in style.modules.items()}


@pytest.mark.parametrize("text_lr", [0.0, 1e-2])
def test_a_run_learns_from_long_captions_and_resumes_to_the_bit(
    sd: Path, tmp_path: Path, text_lr: float
) -> None:
    optim = {"text_encoder_lr": text_lr}
    straight = request(sd, tmp_path, "straight", optim=optim)
    list(train(straight))
    halved = request(sd, tmp_path, "halved", optim=optim)
    seen = iter(range(10))
    list(train(halved, stop=lambda: next(seen) > 1))
    list(train(halved))
    first, second = weights(straight), weights(halved)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    short = request(sd, tmp_path, "short", optim=optim, base={"text_pieces": 1})
    list(train(short))
    assert any(not np.array_equal(first[name], w) for name, w in weights(short).items())


def test_the_style_says_how_captions_were_read_and_is_drawn_so(sd: Path, tmp_path: Path) -> None:
    config = request(sd, tmp_path)
    list(train(config))
    style = read_style(config.run_folder / "s.safetensors")
    assert style.metadata["ss_clip_skip"] == style.metadata["modelspec.encoder_layer"] == "2"
    assert style.metadata["ss_max_token_length"] == "225" and style.reading == (2, 3)
    parts = loader.load(base_files.find(str(sd)), FLOAT)
    active = loaded_style(config.run_folder / "s.safetensors", parts)
    assert active.reading == Reading(2, 3)
    prompt = Prompt(LONG + "cat", steps=2, guidance=2.0)
    silent = replace(active, reading=Reading())

    def drawn(base: Parts, style: ActiveStyle) -> list[np.ndarray]:
        made = draw(base, [prompt, prompt], rows=[[style], []])
        return [np.array(one, int) for one in made]

    of_style, of_base = drawn(parts, active)
    assert np.abs(of_style - drawn(reading(parts, Reading(2, 3)), silent)[0]).max() <= 1
    # The base's own column reads as much of the prompt, in the base's own way
    assert np.abs(of_base - drawn(reading(parts, Reading(0, 3)), silent)[1]).max() <= 1
    assert np.abs(of_style - drawn(parts, silent)[0]).max() > 1


def test_a_style_of_strength_0_reads_nothing(sd_parts: Parts) -> None:
    off = ActiveStyle({}, 0.0, reading=Reading(2, 3))
    assert read_by(sd_parts, [[off]]).readings == (Reading(0, 1),)


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ({}, (0, 1)),
        ({"ss_clip_skip": "None", "ss_max_token_length": "None"}, (0, 1)),
        ({"ss_clip_skip": "2", "ss_max_token_length": "225"}, (2, 3)),
        ({"modelspec.encoder_layer": "2", "ss_max_token_length": "150"}, (2, 2)),
        ({"ss_clip_skip": "999999", "ss_max_token_length": "-1"}, (0, 1)),
        ({"ss_clip_skip": "x", "ss_max_token_length": "999"}, (0, 3)),
    ],
)
def test_what_files_of_other_programs_say(metadata: dict[str, str], found: tuple[int, int]) -> None:
    assert read_as(metadata) == found


def test_a_layer_that_a_base_lacks_is_not_looked_for(sd: Path, tmp_path: Path) -> None:
    config = request(sd, tmp_path, base={"clip_skip": 0})
    list(train(config))
    path = config.run_folder / "s.safetensors"
    from safetensors.numpy import load_file, save_file

    save_file(load_file(path), path, {"ss_clip_skip": "12"})
    parts = loader.load(base_files.find(str(sd)), FLOAT)
    assert loaded_style(path, parts).reading.clip_skip == 0


def test_styles_that_are_read_differently_are_not_trained_together(
    sd: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"base\.clip_skip"):
        checked([request(sd, tmp_path, "a"), request(sd, tmp_path, "b", base={"clip_skip": 0})])


def test_the_trigger_has_its_room_in_the_longest_caption(sd: Path, tmp_path: Path) -> None:
    parts = loader.load(base_files.find(str(sd)), FLOAT)
    config = request(sd, tmp_path)
    reader = caption_reader(parts, config)
    assert reader and reader.most == 225
    assert caption_reader(parts, changed(config, base__text_pieces=1)).most == 75
