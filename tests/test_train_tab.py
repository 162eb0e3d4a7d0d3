"""Tests of studio.tabs.train without a browser: what a preset puts into the form, and how a report is framed."""

from __future__ import annotations

from pathlib import Path

import pytest

from studio import forms
from studio.tabs import framed
from studio.tabs.train import _preset_values
from training.config import from_mapping, settings
from training.presets import PRESETS, settings_of

KEYS = tuple(s.key for s in settings())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fills_the_form_with_what_the_command_would_use(name: str) -> None:
    values = dict(zip(KEYS, _preset_values(KEYS, name, "long", "gentle", "mini"), strict=True))
    defaults = {s.key: forms.shown(s, s.default) for s in settings()}
    given = {key: defaults[key] if isinstance(value, dict) else value for key, value in values.items()}  # a dict is Gradio's "leave it"
    config = from_mapping(forms.to_mapping(KEYS, list(given.values())))
    for key, wanted in settings_of(name, length="long", strength="gentle").items():
        section, field = key.split(".")
        assert getattr(getattr(config, section), field) == wanted, key


def test_names_pictures_and_base_stay_when_a_preset_is_chosen() -> None:
    values = dict(zip(KEYS, _preset_values(KEYS, "style", "normal", "normal", "mini"), strict=True))
    assert all(isinstance(values[key], dict) for key in ("save.name", "data.trigger", "base.model", "preview.prompts"))


def test_a_preset_clears_what_another_one_chose() -> None:
    values = dict(zip(KEYS, _preset_values(KEYS, "style", "normal", "normal", "mini"), strict=True))
    assert values["data.flip"] is True and "data.flip" in PRESETS["subject"].chosen


def test_a_report_cannot_break_out_of_its_frame(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert framed(page) == ""
    page.write_text('<p title="x">"></iframe><script>alert(1)</script>')
    inside = framed(page)
    assert inside.count("<iframe") == 1 and inside.count("</iframe>") == 1 and "<script" not in inside and " sandbox " in inside
