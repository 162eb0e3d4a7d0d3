"""Patterns over layer names: what they fit, ranks of their own, and what is said of wrong ones."""

from __future__ import annotations

import pytest

from training.config.layer_patterns import complaints, fits, kept, parsed_ranks, ranks_of
from training.config.loading import from_mapping
from training.errors import ConfigError

NAMES = [
    "down_blocks.0.resnets.0.conv1",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q",
    "up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_out.0",
    "up_blocks.11.attentions.1.proj_in",
]


@pytest.mark.parametrize(
    ("pattern", "places"),
    [
        ("attn2", [2, 3]),
        ("attn", []),  # whole parts between dots
        ("attn*", [1, 2, 3]),
        ("up_blocks.1", [2, 3]),  # not up_blocks.11
        ("up_blocks.*.attentions.1", [3, 4]),
        ("to_out.0", [3]),
        ("conv?", [0]),
        (NAMES[4], [4]),
        (".attn1.", [1]),
        ("[ad]ttn1", [1]),
        ("(a+)+$", []),  # no expression
    ],
)
def test_a_pattern_fits_parts_of_a_name(pattern: str, places: list[int]) -> None:
    assert [i for i, name in enumerate(NAMES) if fits(name, pattern)] == places


def test_only_and_without() -> None:
    assert kept(NAMES, [], []) == NAMES
    assert kept(NAMES, ["up_blocks.*"], ["to_out.0"]) == [NAMES[2], NAMES[4]]
    assert kept(NAMES, ["attn1", "conv*"], []) == NAMES[:2]


def test_the_last_rank_that_fits_counts() -> None:
    ranks = parsed_ranks(["attn* = 8", "up_blocks.1=2", "conv1=512"])
    assert list(ranks_of(NAMES, ranks, 16).values()) == [512, 8, 2, 2, 16]


@pytest.mark.parametrize("text", ["attn2", "attn2=", "=4", "attn2=0", "attn2=513", "attn2=-1"])
def test_wrong_ranks_are_refused_with_the_settings(text: str) -> None:
    with pytest.raises(ConfigError, match=r"adapter\.ranks holds '.*expected"):
        from_mapping({"adapter": {"ranks": [text]}})


def test_a_pattern_that_fits_nothing_is_named_with_what_is_near() -> None:
    (said,) = complaints(NAMES, [], ["atn2"], [])
    assert "adapter.without" in said and "'atn2'" in said and "attn2" in said
    assert not list(complaints(NAMES, ["attn2"], ["to_q"], ["conv1=4"]))
    assert "leave no layer" in [*complaints(NAMES, ["attn2"], ["up_blocks.1"], [])][-1]
    assert "adapter.ranks holds 'x'" in next(complaints(NAMES, [], [], ["x=4"]))
