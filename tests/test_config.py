"""The settings: declared once, checked all at once, the same in TOML, flags and docs."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest

from training.config.input_sections import Folder
from training.config.loading import (
    changes,
    from_mapping,
    nearest,
    read_toml,
    to_toml,
    with_overrides,
)
from training.config.schema import RunConfig
from training.config.settings import Setting, markdown_table, settings
from training.errors import ConfigError

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
EVERY = list(settings())
NUMBERS = [s for s in EVERY if s.kind in (int, float)]
BY_KEY = {s.key: s for s in EVERY}


def of(key: str, value: Any) -> dict[str, Any]:
    section, name = key.split(".")
    return {section: {name: value}}


def value(config: RunConfig, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def complaint(found: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        from_mapping(found)
    return str(caught.value)


# --- the declaration ---


@pytest.mark.parametrize("s", EVERY, ids=lambda s: s.key)
def test_every_setting_says_what_it_is(s: Setting) -> None:
    assert s.help and not s.help.endswith(".") and "|" not in s.help
    assert isinstance(s.unit, str) and isinstance(s.advanced, bool)
    assert isinstance(s.default, s.kind)
    assert s.choices == () or set([s.default] if s.kind is str else s.default) <= set(s.choices)


@pytest.mark.parametrize("s", NUMBERS, ids=lambda s: s.key)
def test_every_number_has_a_lower_bound_that_its_default_keeps(s: Setting) -> None:
    assert s.low is not None and s.low <= s.default
    assert s.high is None or s.default <= s.high
    assert s.key in complaint(of(s.key, s.kind(s.low - 1)))
    if s.high is not None:
        assert s.key in complaint(of(s.key, s.kind(s.high + 1)))


@pytest.mark.parametrize("s", EVERY, ids=lambda s: s.key)
def test_a_value_of_another_type_is_refused_by_name(s: Setting) -> None:
    others = {
        str: [1, True, ["a"]],
        int: ["1", 1.0, True, 1.5],
        float: ["1", True],
        bool: ["on", 1, 0],
        list: ["attention", 1, [1]],
    }
    for other in others[s.kind]:
        if not (other is True and "on" in s.choices):
            assert s.key in complaint(of(s.key, other))
    assert s.key in complaint(of(s.key, {"deeper": 1}))


def test_true_and_false_stand_for_on_and_off_where_there_is_auto_beside_them() -> None:
    found = [from_mapping(of("optim.checkpointing", given)) for given in (True, False, "on", "off")]
    assert [config.optim.checkpointing for config in found] == ["on", "off"] * 2
    assert (
        changes(*found[:2]) == []
        and changes(found[0], from_mapping(of("optim.steps", 7)))[0][0] == "optim.steps"
    )


def test_equal_settings_are_equal_and_cannot_be_changed() -> None:
    assert from_mapping({}) == RunConfig() and from_mapping(of("optim.steps", 7)) != RunConfig()
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().optim.steps = 7
    assert RunConfig().adapter.targets is not RunConfig().adapter.targets  # lists are nobody else's


def test_the_first_screen_is_short() -> None:
    assert 3 <= sum(not s.advanced for s in EVERY) <= 10


# --- reading ---


def unusual(s: Setting) -> Any:
    """A lawful value that is not the default."""
    if s.choices:
        return [s.choices[-1]] if s.kind is list else s.choices[-1]
    words = {
        "base.device": "cuda:1",
        "data.template": "{trigger}: {caption}",
        "prior.prompt": 'an "icon"\n\\ü',
        "save.name": "häkel stil (2)",
    }
    if s.table:
        return [{"folder": 'ü "x"', "weight": 0.5, "trigger": "tusche"}, {"kind": "class"}]
    if s.key == "adapter.ranks":
        return ["a=4", "ü*{}=1"]
    if s.kind is str:
        return words.get(s.key, "näme # [x] = 'y' \"z\" \t\u2028")
    return {
        int: s.high or 123_456_789,
        float: (s.low or 0) + 0.125,
        bool: not s.default,
        list: ["a", "", "ü\n{}"],
    }[s.kind]


def test_toml_brings_every_setting_back() -> None:
    tables: dict[str, Any] = {}
    for s in EVERY:
        tables = with_overrides(tables, {s.key: unusual(s)})
    tables["data"]["trigger"] = "tusche"  # a learnt word can have no other letters
    tables["save"]["webhook"] = "https://example.org/hook?a=%20"  # nor an address
    of_lora = ("adapter.ranks", "adapter.scale", "optim.up_ratio")  # which LoKr has not
    configs = [
        from_mapping(with_overrides(tables, {"adapter.method": "lora"})),
        from_mapping(with_overrides(tables, {key: BY_KEY[key].default for key in of_lora})),
    ]
    single = [s for s in EVERY if len(s.choices) == 1]  # nothing else can be chosen
    for s in EVERY:
        assert s in single or any(value(config, s.key) != s.default for config in configs), s.key
    for config in configs:
        assert from_mapping(tomllib.loads(to_toml(config))) == config
    assert from_mapping(tomllib.loads(to_toml(RunConfig()))) == RunConfig()


def test_toml_holds_every_setting() -> None:
    tables = tomllib.loads(to_toml(RunConfig()))
    assert {f"{section}.{name}" for section, values in tables.items() for name in values} == set(
        BY_KEY
    )


@pytest.mark.parametrize("s", [s for s in NUMBERS if s.kind is float], ids=lambda s: s.key)
def test_a_whole_number_stands_for_a_float(s: Setting) -> None:
    whole = math.ceil(s.low) if s.low == math.ceil(s.low) else 1
    # Above 0, not from 0 on; and without either learning rate nothing is trained
    whole += s.key in ("adapter.alpha", "optim.unet_lr", "optim.huber", "report.weakest")
    found = value(from_mapping(of(s.key, whole)), s.key)
    assert found == whole and type(found) is float


@pytest.mark.parametrize(
    "bad",
    [math.nan, math.inf, -math.inf, 10**400, -(10**400), 10**6000],
    ids=("nan", "inf", "-inf", "1e400", "-1e400", "1e6000"),
)
def test_only_finite_numbers(bad: float) -> None:
    for key in ("optim.unet_lr", "adapter.alpha", "optim.seed", "optim.steps"):
        assert key in complaint(of(key, bad))


def test_everything_wrong_is_reported_at_once() -> None:
    found = {
        "optim": {"stepps": 5, "batch_size": 0, "unet_lr": "fast", "seed": True},
        "adaptor": {"rank": 8},
        "data": 5,
        "adapter": {"targets": ["attention", "everything"]},
        "lr": 1e-4,
    }
    message = complaint(found)
    wrong = (
        "optim.stepps",
        "optim.batch_size",
        "optim.unet_lr",
        "optim.seed",
        "adaptor",
        "data is 5",
        "adapter.targets.1",
        "lr is not",
    )
    assert all(word in message for word in wrong) and "8 settings are wrong" in message
    assert "did you mean optim.steps?" in message and "did you mean adapter?" in message


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("optim.stepps", "optim.steps"),
        ("optim.rank", "adapter.rank"),
        ("training.batch_size", "optim.batch_size"),
        ("save.nmae", "save.name"),
    ],
)
def test_the_nearest_known_name(typed: str, meant: str) -> None:
    assert nearest(typed, list(BY_KEY)) == f", did you mean {meant}?"


def test_nothing_near_points_to_the_help() -> None:
    assert "--help" in nearest("zzz.qqq", list(BY_KEY))


def test_a_long_wrong_value_is_cut() -> None:
    assert len(complaint(of("optim.steps", "9" * 100_000))) < 1000


# --- what no single field can know ---


@pytest.mark.parametrize(
    "template",
    [
        "{caption.__class__}",
        "{caption[0]}",
        "{caption:9999999999}",
        "{caption!r}",
        "{0}",
        "{}",
        "{caption} {style}",
        "{caption",
        "}{caption}",
        "{caption:{trigger}}",
    ],
)
def test_a_template_fills_in_names_and_nothing_else(template: str) -> None:
    assert "only {caption} and {trigger}" in complaint(of("data.template", template))


@pytest.mark.parametrize("template", ["a picture", "{{caption}}", "{trigger}", ""])
def test_a_template_must_hold_the_caption(template: str) -> None:
    assert "must contain {caption}" in complaint(of("data.template", template))


def test_a_trigger_must_have_a_place() -> None:
    assert "no {trigger}" in complaint(
        {"data": {"trigger": "sks", "template": "{caption} {{trigger}}"}}
    )
    assert from_mapping({"data": {"template": "{caption}"}}).data.trigger == ""


@pytest.mark.parametrize(
    ("found", "named"),
    [
        (
            {"optim": {"unet_lr": 0, "text_encoder_lr": 0}},
            "optim.unet_lr and optim.text_encoder_lr",
        ),
        ({"prior": {"images": 10}}, "prior.prompt"),
        ({"save": {"name": "../x"}}, "save.name"),
        ({"save": {"name": "a/b"}}, "save.name"),
        ({"base": {"model": "a\0b"}}, "base.model"),
        ({"data": {"folder": "a\0b"}}, "data.folder"),
        ({"data": {"folder": "~nobody-of-that-name/x"}}, "data.folder"),
        ({"save": {"folder": "~nobody-of-that-name"}}, "save.folder"),
        ({"data": {"folder": "caf\udce9"}}, "data.folder"),
        ({"base": {"device": "cuda:x"}}, "base.device"),
        ({"base": {"model": ""}}, "base.model"),
    ],
)
def test_settings_that_cannot_be_together_are_refused_by_name(
    found: dict[str, Any], named: str
) -> None:
    message = complaint(found)
    assert named in message
    message.encode()  # can be shown anywhere


# --- files and overrides ---


def test_overrides_win_and_leave_the_originals_alone() -> None:
    found = {"optim": {"steps": 5, "seed": 1}}
    merged = with_overrides(found, {"optim.steps": 7, "adapter.rank": 4})
    assert merged == {"optim": {"steps": 7, "seed": 1}, "adapter": {"rank": 4}} and found == {
        "optim": {"steps": 5, "seed": 1}
    }
    assert "optim is 3, a section" in complaint(
        with_overrides({"optim": 3}, {"optim.steps": 7})
    )  # not hidden by a flag


@pytest.mark.parametrize(
    "content",
    [
        b"[optim\nsteps = 1",
        b"\xff\xfe\x00",
        b"a = " + b"9" * 5000,
        b"a = " + b"[" * 20_000,
        b"a = 1\na = 2",
        b"\x00",
    ],
    ids=range(6),
)
def test_what_is_not_toml_is_reported_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"run\.toml is not TOML"):
        read_toml(path)


def test_the_run_folder_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    config = from_mapping({"save": {"folder": "link", "name": "s"}})
    assert (
        config.run_folder == tmp_path.resolve() / "real" / "s"
    )  # as it is once links are followed, which is how paths in it are checked


# --- docs/settings.md ---


def test_the_table_has_a_row_for_every_setting() -> None:
    rows = markdown_table().splitlines()[2:]
    keys = [row.split("`")[1] for row in rows]
    assert [key for key in keys if "[]" not in key] == list(BY_KEY)
    in_tables = {f"data.folders[].{name}" for name in Folder.model_fields}
    assert {key for key in keys if "[]" in key} == in_tables
    assert all(row.count(" | ") == 3 or "| |" in row for row in rows)


def test_every_default_that_is_a_choice_carries_its_reason() -> None:
    """What is empty or off because nothing was given needs none."""
    given = [s for s in settings() if s.default not in ("", [], 0, 0.0) or s.kind is bool]
    nobodys = {"save.folder"}
    assert [s.key for s in given if not s.why and s.key not in nobodys] == []
    assert all(len(s.why) <= 110 and not s.why.endswith(".") for s in settings())


def test_the_readme_lists_the_settings_as_they_are() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert (
        text.split("<!-- settings -->")[1].split("<!-- /settings -->")[0].strip()
        == markdown_table()
    )
