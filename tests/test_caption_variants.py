"""Several captions a picture, and what chance does to them."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny import tiny_base
from training.config.loading import from_mapping
from training.config.schema import RunConfig
from training.data.caption_lists import LARGEST_CAPTION
from training.data.caption_variants import Variation, resolved
from training.data.dataset import read_dataset
from training.errors import DataError
from training.runtime.rng import ROW, drawn, seeded_generator
from training.style_files.reading import read_style
from training.trainer import setup
from training.trainer.loop import train
from training.trainer.plan import planned
from training.trainer.resume import pictures_record

TAGS = "one, two, three, four, five, sks style"


def tags_of(caption: str) -> list[str]:
    return caption.split(", ")


# --- chance ---


def test_without_chance_a_caption_is_said_as_it_is_written() -> None:
    assert Variation().of([TAGS], "a") == (TAGS,)
    assert Variation().of(["first", "second, {x|y}"], "a") == ("first", "second, {x|y}")
    assert Variation(shuffled=True).of(["one tag alone"], "a") == ("one tag alone",)


def test_shuffled_tags_are_the_same_tags_and_the_first_ones_stay() -> None:
    found = Variation(shuffled=True, keep=2, count=64).of([TAGS], "a")
    assert all(Counter(tags_of(one)) == Counter(tags_of(TAGS)) for one in found)
    assert all(tags_of(one)[:2] == ["one", "two"] for one in found)
    # Every other tag comes to every other place
    for place in range(2, 6):
        assert {tags_of(one)[place] for one in found} == set(tags_of(TAGS)[2:])


def test_a_share_of_tags_is_left_out_but_never_the_kept_ones_nor_the_trigger() -> None:
    captions = [f"first, {k}a, {k}b, {k}c, SKS style" for k in range(200)]
    found = Variation(keep=1, dropout=0.25, count=4).of(captions, "a", "sks")
    assert all(tags_of(one)[0] == "first" and tags_of(one)[-1] == "SKS style" for one in found)
    left = sum(len(tags_of(one)) - 2 for one in found) / len(found) / 3
    assert abs(left - 0.75) < 0.03
    assert Variation(keep=0, dropout=1.0).of(["a, b"], "a") == ("",)


def test_every_alternative_is_said() -> None:
    found = Variation(wildcards=True, count=64).of(["a {red|dark {blue|green}|} {hat}"], "a")
    assert set(found) == {"a red {hat}", "a dark blue {hat}", "a dark green {hat}", "a {hat}"}
    assert resolved("{a|b} {c|d}") == "a c"


@pytest.mark.parametrize("piece", ["|", "{a", "{a|", "{a|b}", "{|"])
def test_no_caption_takes_long_to_read(piece: str) -> None:
    text = "{" + piece * (LARGEST_CAPTION // len(piece))
    began = time.thread_time()
    resolved(text)
    assert time.thread_time() - began < 0.1


def test_a_variant_depends_on_seed_picture_and_caption_alone() -> None:
    made = Variation(shuffled=True, seed=3)
    assert made.of([TAGS], "a") == made.of([TAGS], "a") == made.of([TAGS, "x"], "a")[:8]
    assert made.of([TAGS], "a") != made.of([TAGS], "b")
    assert made.of([TAGS], "a") != Variation(shuffled=True, seed=4).of([TAGS], "a")


def test_the_draw_of_a_caption_comes_after_all_that_was_drawn_before() -> None:
    """The bits of earlier versions: noise, timestep, mirror and dropout are what they were."""
    shape = (4, 8, 8)
    g = seeded_generator(5, ROW, 7, 1)
    u = torch.rand(3, generator=g, dtype=torch.float64).tolist()
    noise, latent_noise = torch.randn(shape, generator=g), torch.randn(shape, generator=g)
    found = drawn(5, 7, 1, shape=shape, flip=True, caption_dropout=0.5, noise_offset=0.0)
    assert torch.equal(found.noise, noise) and torch.equal(found.latent_noise, latent_noise)
    assert (found.u, found.mirrored) == (u[0], u[1] < 0.5)
    assert found.choice == torch.rand(1, generator=g, dtype=torch.float64).item()


# --- files ---


def picture(folder: Path, name: str, shade: int = 90) -> None:
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (40, 40), (shade, 120, 255 - shade)).save(folder / f"{name}.png")


def test_every_line_is_a_caption_where_that_is_wanted(tmp_path: Path) -> None:
    picture(tmp_path, "a")
    (tmp_path / "a.txt").write_text("a cat\n\n  a small   cat\n")
    whole = read_dataset(tmp_path, trigger="ink")
    assert whole.examples[0].all_written == ("a cat a small cat",)
    assert any("set data.captions = lines" in note for note in whole.notes)
    lines = read_dataset(tmp_path, trigger="ink", lines=True)
    assert lines.examples[0].written == ("a cat", "a small cat") and not lines.notes
    assert lines.examples[0].caption == "a cat, ink style"


def test_a_list_of_captions_always_is_several(tmp_path: Path) -> None:
    picture(tmp_path, "a"), picture(tmp_path, "b")
    entries = [
        {"file_name": "a.png", "text": ["a cat", "small"]},
        {"file_name": "b.png", "text": "b"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, entries)))
    found = [e.written for e in read_dataset(tmp_path).examples]
    assert found == [("a cat", "small"), ("b",)]
    for wrong in ([], ["a", 3], {"a": 1}):
        (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": wrong}))
        with pytest.raises(DataError, match="or a list of several"):
            read_dataset(tmp_path)


def test_another_line_is_another_caption(tmp_path: Path) -> None:
    picture(tmp_path, "a")
    records = []
    for text in ("a cat", "a cat\nsmall", "a cat\nlarge"):
        (tmp_path / "a.txt").write_text(text)
        records.append(pictures_record(read_dataset(tmp_path, lines=True).examples))
    assert len({str(record) for record in records}) == 3
    (tmp_path / "a.txt").write_text("a cat")
    assert pictures_record(read_dataset(tmp_path).examples) == records[0]


# --- in a run ---


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "base")


def request(model: Path, root: Path, name: str, **data: Any) -> RunConfig:
    folder = root / "pictures"
    for i in range(3):
        picture(folder, str(i), 80 * i)
        (folder / f"{i}.txt").write_text("cat, icon, {on|under}, style\nsmall, icon, cat")
    return from_mapping(
        {
            "base": {"model": str(model), "dtype": "float32", "device": "cpu"},
            "data": {"folder": str(folder), "trigger": "sks", "resolution": 32, **data},
            "adapter": {"rank": 2, "alpha": 2.0},
            "optim": {"steps": 6, "batch_size": 2, "unet_lr": 1e-2, "text_encoder_lr": 0.0},
            "preview": {"every": 0},
            "report": {"minutes": 0.0},
            "prior": {"frozen_weight": 0.1},
            "save": {"folder": str(root / "runs"), "name": name, "every": 2},
        }
    )


CHANCE = {"captions": "lines", "tags": "shuffled", "tag_dropout": 0.3, "wildcards": True}


def test_a_run_says_all_captions_and_resumes_to_the_bit(base: Path, tmp_path: Path) -> None:
    straight, halved = (request(base, tmp_path, name, **CHANCE) for name in ("straight", "halved"))
    list(train(straight))
    seen = iter(range(10))
    list(train(halved, stop=lambda: next(seen) > 2))
    list(train(halved))
    first, second = (
        read_style(config.run_folder / f"{config.save.name}.safetensors").modules
        for config in (straight, halved)
    )
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name].delta(), second[name].delta()) for name in first)


def test_a_batch_says_one_of_the_captions_and_the_trigger_with_it(
    base: Path, tmp_path: Path
) -> None:
    config = request(base, tmp_path, "s", **CHANCE, caption_dropout=0.0)
    trainer = setup.without_notes(setup.set_up(planned(config), trial=True))
    known = {one.trained: one for said in trainer.data.captions for one in said}
    assert all(len(said) == 16 for said in trainer.data.captions)
    heard: Counter[str] = Counter()
    for number in range(150):
        made, plain = trainer.maker.batch(number, trainer.place)
        assert [known[caption].plain for caption in made.captions] == plain
        heard.update(made.captions)
    assert all(caption.endswith(", sks style") and "{" not in caption for caption in heard)
    assert len(heard) > 0.8 * len(known)
