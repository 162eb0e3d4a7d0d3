"""A run goes on wherever its pictures, base and style have moved to: what is there decides."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from safetensors.torch import save_file

from tests import crashes
from tests.test_transformer_file import published
from training.cli.train_arguments import config_from, sweep_from
from training.config.loading import from_mapping, read_toml
from training.config.schema import RunConfig
from training.errors import StudioError
from training.events import Event, Started, Stepped
from training.models import base_files
from training.runtime import cpu_threads
from training.trainer import microbatching, resume, schedule
from training.trainer.loop import train
from training.trainer.microbatching import MicrobatchPlan


@pytest.fixture
def config(tmp_path: Path, base_folder: Path) -> RunConfig:
    """Four updates of a style that begins as another, everything in a folder of its own."""
    crashes.pictures(tmp_path)
    shutil.copytree(base_folder, tmp_path / "base")
    quiet: dict[str, Any] = {"preview": {"every": 0}, "save": {"every": 0}}
    made = crashes.run_toml(tmp_path, tmp_path / "base", "first", **quiet)
    tables = read_toml(made)
    tables["optim"] |= {"steps": 4, "accumulate": 1}
    tables["save"] |= {"folder": str(tmp_path / "runs"), "name": "first"}
    first = from_mapping(tables)
    for _ in train(with_(first, optim__steps=1)):
        pass
    shutil.copyfile(first.run_folder / "first.safetensors", tmp_path / "start.safetensors")
    return with_(first, adapter__start=str(tmp_path / "start.safetensors"), save__name="s")


def with_(config: RunConfig, **keys: Any) -> RunConfig:
    """The config with `section__name=value` replaced."""
    tables = config.model_dump()
    for key, value in keys.items():
        section, name = key.split("__")
        tables[section][name] = value
    return from_mapping(tables)


def begun(config: RunConfig) -> None:
    made: list[Event] = []

    def enough() -> bool:
        return len([event for event in made if isinstance(event, Stepped)]) >= 2

    for event in train(config, enough):
        made.append(event)


def pictures_moved(config: RunConfig) -> RunConfig:
    old = Path(config.data.folder)
    return with_(config, data__folder=str(old.rename(old.with_name("drawings"))))


def base_moved(config: RunConfig) -> RunConfig:
    old = Path(config.base.model)
    return with_(config, base__model=str(old.rename(old.with_name("my base"))))


def start_moved(config: RunConfig) -> RunConfig:
    old = Path(config.adapter.start)
    return with_(config, adapter__start=str(old.rename(old.with_name("before.safetensors"))))


def all_moved(config: RunConfig) -> RunConfig:
    return start_moved(base_moved(pictures_moved(config)))


@pytest.mark.parametrize("move", [pictures_moved, base_moved, start_moved, all_moved])
def test_a_run_goes_on_to_the_bit_when_things_were_moved(
    move: Callable[[RunConfig], RunConfig], config: RunConfig
) -> None:
    straight = with_(config, save__name="straight")
    list(train(straight))
    begun(config)
    events = list(train(move(config)))
    assert [e.step for e in events if isinstance(e, Started)] == [2]
    found, wanted = crashes.learnt(config.run_folder), crashes.learnt(straight.run_folder)
    assert found == {
        name.replace("straight", "s") if name.startswith("word") else name: value
        for name, value in wanted.items()
    }


def another_picture(config: RunConfig) -> RunConfig:
    moved = pictures_moved(config)
    shutil.copyfile(Path(moved.data.folder, "1.png"), Path(moved.data.folder, "0.png"))
    return moved


def another_vae(config: RunConfig) -> RunConfig:
    moved = base_moved(config)
    _change(Path(moved.base.model) / "vae")
    return moved


def another_text_encoder(config: RunConfig) -> RunConfig:
    moved = base_moved(config)
    _change(Path(moved.base.model) / "text_encoder")
    return moved


def another_start(config: RunConfig) -> RunConfig:
    moved = start_moved(config)
    shutil.copyfile(config.run_folder / "s.safetensors", moved.adapter.start)
    return moved


def _change(folder: Path) -> None:
    """Turn one bit of the weights."""
    (file,) = folder.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("move", "word"),
    [
        (another_picture, "0.png"),
        (another_vae, "weights of the base (vae)"),
        (another_text_encoder, "weights of the base (text_encoder)"),
        (another_start, "adapter.start"),
    ],
)
def test_other_content_in_another_place_is_refused_by_name(
    move: Callable[[RunConfig], RunConfig], word: str, config: RunConfig
) -> None:
    begun(config)
    with pytest.raises(StudioError) as refused:
        list(train(move(config)))
    assert word in str(refused.value) and "data.folder" not in str(refused.value)


def test_records_of_earlier_versions_go_on() -> None:
    """They hold only the UNet's hash, and a start as it was typed."""
    settings = {"base.model": "/a/base", "adapter.start": "ink.safetensors", "optim.steps": 4}
    then = {"settings": settings, "base": "u"}
    now = {"settings": settings | {"adapter.start": "/x/ink.safetensors"}, "base": "u"}
    now |= {"base_parts": {"vae": "v"}, "start": "s"}
    assert not resume.changed_base(then, now) and not resume.changed_start(then, now)
    now["settings"] = settings | {"base.model": "/b/base", "adapter.start": "/x/oil.safetensors"}
    assert "base.model" in resume.changed_base(then, now)[0]
    assert "oil" in resume.changed_start(then, now)[0]
    assert resume.changed_base(then, now | {"base": "w"}) == ["the weights of the base"]


def test_a_place_that_is_emptied_or_filled_is_a_change() -> None:
    then = {"adapter.start": "", "prior.folder": "/a", "data.folder": "/a"}
    now = {"adapter.start": "/b", "prior.folder": "", "data.folder": "/b"}
    found = resume.changed_settings(then, now)
    assert [line.split(":")[0] for line in found] == ["adapter.start", "prior.folder"]


def test_what_was_recorded_beside_the_checkpoints_counts_after_a_move(tmp_path: Path) -> None:
    then = {"data.folder": "/a", "optim.steps": 4}
    for now, kept in ((then, True), (then | {"data.folder": "/b"}, True), ({"x": 1}, False)):
        microbatching.write(tmp_path, then, {1: MicrobatchPlan(splits=2)})
        assert bool(microbatching.read(tmp_path, now)) == kept
        record = {"settings": then, "threads": [[0, 2]]}
        (tmp_path / cpu_threads.FILE).write_text(json.dumps(record))
        assert bool(cpu_threads._read(tmp_path, now)) == kept


def test_a_sweep_keeps_its_schedule_after_a_move(config: RunConfig) -> None:
    config.run_folder.mkdir(parents=True, exist_ok=True)
    for name in (
        schedule._settings,
        schedule._settings_with_rest,
        schedule._settings_with_places,
    ):
        kept = schedule.JointSchedule({0: 0}, {0: name(config)})
        schedule.write(kept, [config])
        assert schedule.found([config], [0]) == kept
    schedule.write(schedule.founded([config], {0: 0}), [config])
    assert schedule.found([pictures_moved(config)], [0]) is not None
    assert schedule.found([with_(config, optim__steps=9)], [0]) is None


# --- paths in files ---


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder that holds everything of a training, named as seen from its run.toml."""
    folder = tmp_path / "project"
    (folder / "pictures").mkdir(parents=True)
    tables = {
        "data": {"folder": "pictures", "trigger": "ink"},
        "prior": {"folder": "../priors"},
        "adapter": {"start": "./ink.safetensors"},
        "report": {"held_out": "held"},
    }
    (folder / "run.toml").write_text(tomli_w.dumps(tables))
    (folder / "grid.toml").write_text(
        tomli_w.dumps(tables | {"grid": {"adapter": {"start": ["a.safetensors", "b.safetensors"]}}})
    )
    return folder


def test_every_path_that_is_read_is_relative_to_its_file(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    config, _ = config_from([str(project / "run.toml")])
    assert config.data.folder == str(project / "pictures")
    assert config.prior.folder == str(project.parent / "priors")
    assert config.adapter.start == str(project / "ink.safetensors")
    assert config.report.held_out == str(project / "held")


def test_flags_are_relative_to_where_the_command_runs(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.parent)
    config, _ = config_from([str(project / "run.toml"), "--adapter.start", "oil.safetensors"])
    assert config.adapter.start == str(project.parent / "oil.safetensors")


def test_a_sweeps_values_are_relative_to_its_file_and_name_its_styles_as_before(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    configs, _ = sweep_from(["--sweep", str(project / "grid.toml")])
    assert [c.adapter.start for c in configs] == [
        str(project / f"{name}.safetensors") for name in "ab"
    ]
    assert {c.data.folder for c in configs} == {str(project / "pictures")}
    assert [c.save.name for c in configs] == [
        "my-style-start-a.safetensors",
        "my-style-start-b.safetensors",
    ]


def test_the_run_toml_of_a_run_means_the_same_from_elsewhere(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tables = config.model_dump()
    tables["adapter"]["start"], tables["data"]["folder"] = "start.safetensors", "pictures"
    (tmp_path / "own.toml").write_text(tomli_w.dumps(tables))
    own, _ = config_from([str(tmp_path / "own.toml"), "--save.folder", "out"])
    begun(own)
    monkeypatch.chdir("/")
    again, _ = config_from([str(tmp_path / "out" / "s" / "run.toml")])
    assert again.run_folder == tmp_path / "out" / "s"
    assert again.adapter.start == str(tmp_path / "start.safetensors")
    assert [e.step for e in train(again) if isinstance(e, Started)] == [2]


# --- what supplies the rest of a single file ---


@pytest.fixture
def of_a_file(
    flow_base: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> RunConfig:
    """Four updates on a single file, whose text encoder and VAE come from a folder."""
    monkeypatch.setenv("STYLE_STUDIO_CACHE", str(tmp_path / "cache"))
    crashes.pictures(tmp_path)
    shutil.copytree(flow_base("z-image"), tmp_path / "rest")
    save_file(published("z-image", tmp_path / "rest"), tmp_path / "z.safetensors")
    return from_mapping(
        {
            "base": {
                "model": str(tmp_path / "z.safetensors"),
                "rest": str(tmp_path / "rest"),
                "dtype": "float32",
                "device": "cpu",
            },
            "data": {"folder": str(tmp_path / "pictures"), "trigger": "sks"},
            "adapter": {"rank": 2, "alpha": 2.0},
            "optim": {"steps": 4, "batch_size": 1, "accumulate": 1, "warmup": 0.0},
            "preview": {"every": 0},
            "report": {"minutes": 0.0},
            "save": {"folder": str(tmp_path / "runs"), "name": "s", "every": 0},
        }
    )


def rest_moved(config: RunConfig) -> RunConfig:
    old = Path(config.base.rest)
    return with_(config, base__rest=str(old.rename(old.with_name("the rest"))))


def rest_unnamed(config: RunConfig) -> RunConfig:
    """The file is enough once it was put together."""
    return with_(config, base__rest="")


@pytest.mark.parametrize("move", [rest_moved, rest_unnamed])
def test_a_run_on_a_file_goes_on_to_the_bit_wherever_its_rest_lies(
    move: Callable[[RunConfig], RunConfig], of_a_file: RunConfig
) -> None:
    straight = with_(of_a_file, save__name="straight")
    list(train(straight))
    begun(of_a_file)
    events = list(train(move(of_a_file)))
    assert [e.step for e in events if isinstance(e, Started)] == [2]
    assert crashes.learnt(of_a_file.run_folder) == crashes.learnt(straight.run_folder)


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
@pytest.mark.parametrize("is_named", [True, False])
def test_a_rest_of_other_content_is_refused_by_name(
    part: str, is_named: bool, of_a_file: RunConfig
) -> None:
    begun(of_a_file)
    moved = rest_moved(of_a_file)
    _change(Path(moved.base.rest) / part)
    if not is_named:  # the file is put together with what came last
        base_files.find(moved.base.model, moved.base.rest)
        moved = rest_unnamed(moved)
    with pytest.raises(StudioError, match=rf"weights of the base \({part}\)"):
        list(train(moved))
