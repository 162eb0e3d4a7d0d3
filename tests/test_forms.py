"""Tests of studio.page.forms:

every setting has a control that says what it is, and nothing is lost on the way through one.
"""

from __future__ import annotations

import dataclasses
import json
import re

import gradio as gr
import pytest

from studio.page import forms, words
from training.config.loading import from_mapping
from training.config.schema import RunConfig
from training.config.settings import settings
from training.errors import ConfigError

EVERY = tuple(s.key for s in settings())
UNUSUAL = {
    "base": {"model": "./bases/sd 1.5", "dtype": "bfloat16"},
    "data": {
        "folder": "pictures",
        "folders": [{"folder": 'the "other"', "weight": 0.5}, {"folder": "c", "kind": "class"}],
        "trigger": "føø",
        "resolution": 512,
        "buckets": False,
        "caption_dropout": 0.07,
    },
    "prior": {"prompt": "an icon", "images": 12, "weight": 0.3},
    "adapter": {"rank": 8, "alpha": 2.5, "targets": ["projections", "convolutions"]},
    "optim": {"steps": 2, "unet_lr": 3e-5, "min_snr": 0.0, "seed": 2**63 - 1, "ema": 0.999},
    "preview": {"every": 0, "prompts": ["a cat", "a dog, “sitting”"], "seed": 2**53 + 1},
    "save": {"name": "Tusche (2)"},
}


def through_the_page(config: RunConfig) -> RunConfig:
    """What the form gives back when its controls are filled and left as they are:

    out to the browser as JSON, and in again.
    """
    with gr.Blocks(analytics_enabled=False):
        controls = forms.controls(settings())
    sent = [
        control.postprocess(value)
        for control, value in zip(controls.values(), forms.from_config(config, EVERY), strict=True)
    ]
    received = [
        float(v) if type(v) is int else v for v in json.loads(json.dumps(sent))
    ]  # a browser knows no whole numbers
    found = [
        control.preprocess(value)
        for control, value in zip(controls.values(), received, strict=True)
    ]
    return from_mapping(forms.to_mapping(EVERY, found))


def test_every_setting_has_a_control_with_its_label_and_sentence() -> None:
    with gr.Blocks(analytics_enabled=False):
        controls = forms.controls(settings())
    assert list(controls) == list(EVERY)
    for setting in settings():
        assert controls[setting.key].label == forms.label(setting)
        assert controls[setting.key].info.startswith(forms.explained(setting))
        assert forms.explained(setting).startswith(words.HINTS.get(setting.key, ""))


def test_hints_are_short_and_name_no_keys_and_no_figures_of_ours() -> None:
    assert set(words.HINTS) <= set(EVERY)
    for hint in words.HINTS.values():
        assert 4 < len(hint) <= 84 and not hint[0].islower() and not hint.endswith(".")
        assert not re.search(r"\w\.\w|\bpoints\b|linocut|\bet al\b", hint), hint


def test_a_setting_without_a_hint_has_its_own_sentence() -> None:
    setting = dataclasses.replace(
        next(iter(settings())), name="other", help="what another one does"
    )
    assert forms.explained(setting) == "What another one does"


def test_labels_are_of_settings_and_differ_within_a_section() -> None:
    assert set(words.LABELS) <= set(EVERY)
    assert set(words.SECTIONS) == set(RunConfig.model_fields)
    for section in words.SECTIONS:
        labels = [forms.label(s) for s in settings() if s.section == section]
        assert len(labels) == len(set(labels))


@pytest.mark.parametrize(
    "config", [RunConfig(), from_mapping(UNUSUAL)], ids=["defaults", "unusual"]
)
def test_values_come_back_equal(config: RunConfig) -> None:
    assert through_the_page(config) == config


def test_choices_are_the_settings_own() -> None:
    with gr.Blocks(analytics_enabled=False):
        controls = forms.controls(settings())
    for setting in settings():
        if setting.choices:
            assert [value for _, value in controls[setting.key].choices] == list(setting.choices)


def test_a_wrong_value_is_named_by_its_label() -> None:
    values = forms.from_config(RunConfig(), EVERY)
    values[EVERY.index("optim.steps")] = 0
    values[EVERY.index("optim.batch_size")] = None
    values[EVERY.index("optim.seed")] = "lots"
    with pytest.raises(ConfigError) as complaint:
        from_mapping(forms.to_mapping(EVERY, values), "the form")
    said = forms.in_words(str(complaint.value))
    assert "“Steps” is 0" in said
    assert "“Batch size” is empty" in said
    assert "“Seed” is 'lots'" in said
    assert "optim." not in said


def test_only_keys_become_labels() -> None:
    said = "runs/optim.steps and notes.txt stay, data.folder does not"
    assert forms.in_words(said) == "runs/optim.steps and notes.txt stay, “Picture folder” does not"
