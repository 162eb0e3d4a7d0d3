"""Tests of studio.datasets.caption_edits: what the same edit makes of many captions."""

from __future__ import annotations

import pytest

from studio.datasets.caption_edits import EDITS, edited, tidied
from training.data.captions import captioned
from training.errors import ConfigError


@pytest.mark.parametrize(
    ("kind", "words", "other", "before", "after"),
    [
        ("Add to the start", "ink", "", "a cat", "ink, a cat"),
        ("Add to the start", "ink", "", "", "ink"),
        ("Add to the start", "a", "", "apple", "a, apple"),
        ("Add to the end", "on white", "", "a cat", "a cat, on white"),
        ("Find and replace", "cat", "dog", "a Cat, a cat's house", "a dog, a dog's house"),
        ("Find and replace", "(a+)", r"\1", "x (a+) y", r"x \1 y"),
        ("Find and replace", "red ", "", "a red cat", "a cat"),
        ("Remove a tag", "Masterpiece, 8k", "", "a cat, masterpiece, 8K, sun", "a cat, sun"),
        ("Remove a tag", "cat", "", "cat, catfish, a cat", "catfish, a cat"),
        ("Set the trigger word", "zorp", "", "a cat", "zorp, a cat"),
        ("Set the trigger word", "zorp", "inky", "inky, a cat", "zorp, a cat"),
        ("Set the trigger word", "zorp", "", "a cat, zorp style", None),
    ],
)
def test_an_edit(kind: str, words: str, other: str, before: str, after: str | None) -> None:
    assert edited({"x": before}, kind, words, other) == ({} if after is None else {"x": after})


@pytest.mark.parametrize("kind", [kind for kind in EDITS if kind != "Find and replace"])
def test_an_edit_done_twice_is_done_once(kind: str) -> None:
    captions = {"a": "a cat", "b": "", "c": "zorp, a dog", "d": "a house, zorp"}
    assert edited(captions | edited(captions, kind, "zorp"), kind, "zorp") == {}


def test_the_trigger_is_where_training_does_not_put_it_again() -> None:
    [caption] = edited({"x": "a cat"}, "Set the trigger word", "zorp").values()
    assert captioned(caption, "zorp") == caption


@pytest.mark.parametrize(
    ("kind", "words"), [("Add to the start", " "), ("Find and replace", ""), ("Paint it", "x")]
)
def test_nothing_to_do_is_reported(kind: str, words: str) -> None:
    with pytest.raises(ConfigError):
        edited({"x": "a"}, kind, words)


def test_tidy_keeps_the_order_and_the_first_of_each_tag() -> None:
    assert tidied(" a cat,, A  Cat , sun,") == "a cat, sun"
