"""Settings <-> controls of the page: label, help, unit, range and choices come from the settings'
own declaration.

Knows gradio and the settings; knows nothing of tabs, runs or files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from studio.page import words
from training.config import tables
from training.config.schema import RunConfig
from training.config.settings import Setting, settings
from training.errors import ConfigError

EXACT = 2**53  # a browser's numbers are exact up to here: larger settings are written as text


def label(setting: Setting) -> str:
    """What the control is called."""
    return words.LABELS.get(setting.key) or setting.name.replace("_", " ").capitalize()


def explained(setting: Setting) -> str:
    """The line under the label, with the range of a number; the declaration's own sentence where
    the page has no words of its own for a setting.
    """
    own = words.HINTS.get(setting.key)
    sentence = own or in_words(setting.help[0].upper() + setting.help[1:])
    if setting.kind in (int, float) and setting.high is not None and setting.high < 1000:
        sentence += f" ({setting.low:g} to {setting.high:g})"
    return sentence


def control(setting: Setting) -> Component:
    """The control of one setting, showing its default."""
    shared = {
        "label": label(setting),
        "info": explained(setting),
        "elem_id": setting.key.replace(".", "-"),
        "interactive": True,
        "scale": 1,
        "min_width": 160,
    }
    value = shown(setting, setting.default)
    if setting.kind is bool:
        return gr.Checkbox(value, **shared)
    if setting.kind is list and setting.choices:
        return gr.CheckboxGroup(list(setting.choices), value=value, **shared)
    if setting.kind is list:
        each = '{folder = "drawings", repeats = 2}' if setting.table else "one per line"
        return gr.Textbox(value, lines=3, max_lines=16, placeholder=each, **shared)
    if setting.choices:
        return gr.Dropdown(list(setting.choices), value=value, **shared)
    if setting.kind in (int, float) and not written(setting):
        # No minimum or maximum here: from_mapping complains of every wrong value at once, and by
        # name.
        return gr.Number(value, precision=0 if setting.kind is int else None, **shared)
    return gr.Textbox(value, max_lines=1, **shared)


def controls(chosen: Iterable[Setting]) -> dict[str, Component]:
    """Controls in the current layout, by the setting's key."""
    return {setting.key: control(setting) for setting in chosen}


def written(setting: Setting) -> bool:
    """Whether a number is shown as text, because a browser could not hold it exactly."""
    return setting.kind is int and setting.high is not None and setting.high > EXACT


def shown(setting: Setting, value: Any) -> Any:
    """A setting's value as its control holds it."""
    if setting.kind is list and not setting.choices:
        return "\n".join(tables.written(one) if setting.table else one for one in value)
    if written(setting):
        return str(value)
    return list(value) if setting.kind is list else value


def meant(setting: Setting, found: Any) -> Any:
    """A control's value as the setting wants it; what cannot be understood is passed on for
    from_mapping to complain about.
    """
    if setting.kind is list and not setting.choices:
        lines = [line.strip() for line in (found or "").splitlines() if line.strip()]
        return [tables.parsed(line) for line in lines] if setting.table else lines
    if setting.kind is list:
        return [choice for choice in setting.choices if choice in (found or ())]
    if setting.kind is int and isinstance(found, str):
        digits = found.strip()
        return int(digits) if digits.isascii() and digits.isdigit() else found
    if setting.kind is float and type(found) is int:
        return float(found)
    return found.strip() if isinstance(found, str) else found


def to_mapping(keys: Sequence[str], found: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """The controls' values as the sections that training.config.loading.from_mapping checks."""
    by_key = {s.key: s for s in settings()}
    mapping: dict[str, dict[str, Any]] = {}
    for key, value in zip(keys, found, strict=True):
        setting = by_key[key]
        mapping.setdefault(setting.section, {})[setting.name] = meant(setting, value)
    return mapping


def from_config(config: RunConfig, keys: Sequence[str]) -> list[Any]:
    """The values the controls of these keys show for a config."""
    by_key = {s.key: s for s in settings()}
    return [
        shown(by_key[key], getattr(getattr(config, by_key[key].section), by_key[key].name))
        for key in keys
    ]


def complaints(error: ConfigError) -> list[tuple[str, list[str]]]:
    """Every complaint of an error in a user's words, with the elem_ids of the controls it names."""
    head, *rest = str(error).split("\n")
    lines = [line.removeprefix("  - ") for line in rest] or [head]
    return [(in_words(line), _ids_in(line)) for line in lines]


def _ids_in(line: str) -> list[str]:
    found = [s.key for s in settings() if re.search(rf"(?<![\w./]){s.key}(?![\w/])", line)]
    return [key.replace(".", "-") for key in found]


def in_words(complaint: str) -> str:
    """A complaint with the labels a user sees in place of the settings' keys."""
    labels = {s.key: f"“{label(s)}”" for s in settings()}
    complaint = re.sub(
        r"(?<![\w./])[a-z_]+\.[a-z_]+(?![\w/])",
        lambda found: labels.get(found[0], found[0]),
        complaint,
    )
    return complaint.replace(" is None:", " is empty:")
