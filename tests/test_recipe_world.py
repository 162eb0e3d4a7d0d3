"""Tests of the world the base learns from: media, papers, scenes and captions, on drawn shapes."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

RECIPE = Path(__file__).resolve().parents[1] / "sample_data" / "mini-sd" / "recipe"
MODULES = ("texture", "media_drawn", "media_made", "media", "papers", "scenes", "phrases", "world")


@pytest.fixture(scope="module")
def world() -> Iterator[ModuleType]:
    """The recipe is a folder of scripts: its modules import each other by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPE))
        yield importlib.import_module("world")
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def shown(world: ModuleType) -> list:
    things = [world.shape(name) for name in world.SHAPES]
    return [world.example(things, seed) for seed in range(120)]


def _drawn(world: ModuleType, way: object, seed: int) -> np.ndarray:
    """Draw one star in a medium; seed is the medium's alone."""
    rng = np.random.default_rng(7)
    star = world.scenes.tinted(world.shape("star"), "red", rng)
    scene = world.scenes.scene([star], rng, on="none", placed=False)
    paper = world.papers.paper(rng, 128, way.paper)
    return way.draw(scene.colour, scene.cover, paper.picture, np.random.default_rng(seed))


def test_every_medium_repeats_for_a_seed_and_differs_for_another(world: ModuleType) -> None:
    media = {**world.MEDIA, **sys.modules["media"].KEPT_OUT_DRAWN}
    assert len(world.MEDIA) >= 20
    for name, way in media.items():
        one, again, other = (_drawn(world, way, seed) for seed in (1, 1, 2))
        assert one.shape == (128, 128, 3) and one.dtype == np.uint8, name
        assert (one == again).all(), name
        assert np.abs(one.astype(int) - other).mean() > 0.5, name


def test_every_medium_shows_the_thing_and_none_looks_like_another(world: ModuleType) -> None:
    drawn = {name: _drawn(world, way, 3).astype(float) for name, way in world.MEDIA.items()}
    for name, picture in drawn.items():
        assert picture[40:88, 40:88].std() > 8 or picture.std() > 20, name
        for other, beside in drawn.items():
            assert name == other or np.abs(picture - beside).mean() > 2, (name, other)


def test_kept_out_media_and_pairs_never_come(world: ModuleType, shown: list) -> None:
    kept_out = set(sys.modules["media"].KEPT_OUT)
    assert len(kept_out) == 6 and not kept_out & set(world.MEDIA)
    pairs = [(c, m) for c in world.SHAPES for m in world.MEDIA]
    left_out = [pair for pair in pairs if world.left_out(*pair)]
    assert 0.03 < len(left_out) / len(pairs) < 0.2
    for example in shown:
        assert example.medium in {"", *world.MEDIA}
        assert not any(
            world.left_out(c, example.medium) for c in example.concepts if example.medium
        )
        assert not any(re.search(rf"\b{word}\b", example.caption) for word in kept_out)


def test_captions_name_what_is_there(world: ModuleType, shown: list) -> None:
    plural = world.phrases.plural
    for example in shown:
        for concept in example.concepts:
            assert concept in example.caption or plural(concept) in example.caption
        if example.medium and not world.MEDIA[example.medium].keeps_colour:
            before_paper = re.sub(r"on (a |an )?[a-z ]+( paper| background)?", "", example.caption)
            assert not any(f"{c} " in before_paper for c in ("red", "purple", "turquoise"))
    assert len({example.caption for example in shown}) > 110


def test_a_caption_with_all_parts_and_one_with_none(world: ModuleType) -> None:
    rng = np.random.default_rng(0)
    star = world.scenes.tinted(world.shape("star"), "red", rng)
    scene = world.scenes.scene([star] * 3, rng, on="snow")
    phrases = world.phrases
    said = {"medium": "oil painting", "paper": "orange"}
    for _ in range(20):
        whole = phrases.caption(scene, rng, parts=phrases.ALL, **said)
        for part in ("three red stars", "snow", "orange", "oil painting", "shape style"):
            assert part in whole, whole
        least = phrases.caption(scene, rng, parts=phrases.THINGS_ONLY, **said)
        assert re.fullmatch(r"(an? (picture|drawing|image) of )?three stars", least)


def test_number_and_article_follow_the_word(world: ModuleType) -> None:
    plural, article = world.phrases.plural, world.phrases.article
    assert [plural(w) for w in ("fish", "cherry", "box", "red apple", "mouse", "key")] == [
        "fish", "cherries", "boxes", "red apples", "mice", "keys"]  # fmt: skip
    assert [article(w) for w in ("owl", "unicorn", "castle")] == ["an owl", "a unicorn", "a castle"]


def test_a_synonym_stands_where_the_name_stood_as_a_word(world: ModuleType) -> None:
    renamed = world.phrases.renamed
    assert renamed("a red glasses on snow", "glasses", "eyeglasses") == "a red eyeglasses on snow"
    assert renamed("sunglasses and a glasses", "glasses", "eyeglasses") == (
        "sunglasses and an eyeglasses"
    )
    assert renamed("two cherries, a cherry", "cherry", "apple") == "two apples, an apple"
    assert renamed("an airplane", "airplane", "plane") == "a plane"
    assert renamed("a grown castle", "owl", "bird") == "a grown castle"


def test_pictures_repeat_and_the_paper_has_the_colour_that_is_named(world: ModuleType) -> None:
    things = [world.shape(name) for name in world.SHAPES]
    for seed in range(5):
        one, again = world.example(things, seed), world.example(things, seed)
        assert one.caption == again.caption and (one.picture == again.picture).all()
    for name in world.papers.COLOURS:
        papers = [world.papers.paper(np.random.default_rng(s), 64, colour=name) for s in range(6)]
        assert all(p.colour == name and p.picture.shape == (64, 64, 3) for p in papers)
        red, green, blue = papers[0].picture.mean((0, 1))
        if name in ("red", "green", "blue"):
            assert max(red, green, blue) == {"red": red, "green": green, "blue": blue}[name]


def test_a_written_sheet_holds_every_picture(
    world: ModuleType, shown: list, tmp_path: Path
) -> None:
    page = world.sheet(shown[:12], 4)
    assert page.width == 4 * (world.SIZE + 6)
    corner = np.asarray(page)[: world.SIZE, : world.SIZE]
    assert (corner == shown[0].picture).all()
