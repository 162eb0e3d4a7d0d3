"""Tests of training.config.presets:

starting points that are whole, that flags win over, and whose knobs turn what they say.
"""

from __future__ import annotations

import pytest

from training.cli.train_arguments import config_from
from training.config.loading import from_mapping, with_overrides
from training.config.presets import LENGTHS, PRESETS, STRENGTHS, settings_of
from training.config.settings import settings
from training.errors import ConfigError

KEYS = {s.key for s in settings()}


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("model", ["mini", "owner/name"])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("strength", STRENGTHS)
def test_every_preset_is_a_valid_run_at_every_knob(
    name: str, model: str, length: str, strength: str
) -> None:
    values = settings_of(name, model=model, length=length, strength=strength)
    assert set(values) <= KEYS
    config = from_mapping(with_overrides({"base": {"model": model}}, values))
    normal = settings_of(name, model=model)
    assert (config.optim.steps > normal["optim.steps"]) == (LENGTHS[length] > 1)
    assert (config.optim.unet_lr > normal["optim.unet_lr"]) == (STRENGTHS[strength] > 1)


def test_flags_win_over_a_preset() -> None:
    config, _ = config_from(
        ["--preset", "quick look", "--adapter.rank", "32", "--data.trigger", "sks"]
    )
    assert (config.adapter.rank, config.data.trigger) == (32, "sks")
    assert config.optim.steps == settings_of("quick look")["optim.steps"]


def test_the_built_in_base_has_values_of_its_own() -> None:
    own, other = (
        config_from(["--preset", "style", "--base.model", model])[0]
        for model in ("mini", "owner/name")
    )
    assert own.adapter.targets == ["convolutions"] and "attention" in other.adapter.targets


@pytest.mark.parametrize(
    "words",
    [["--preset", "styel"], ["--preset", "style", "--length", "longer"], ["--strength", "strong"]],
)
def test_what_is_no_preset_is_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"preset|length"):
        config_from(words)
