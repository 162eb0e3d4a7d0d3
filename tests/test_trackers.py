"""Trackers are told what a run does, and can neither slow nor stop it."""

from __future__ import annotations

import json
import threading
import tomllib
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.tiny import tiny_training
from training import events
from training.cli import trackers
from training.config.loading import from_mapping
from training.config.schema import RunConfig
from training.errors import ConfigError
from training.train_style import main


def config(tmp_path: Path, *names: str) -> RunConfig:
    save = {"folder": str(tmp_path), "name": "s", "track": list(names)}
    return from_mapping({"data": {"folder": "pictures"}, "save": save})


def a_run(steps: int = 3) -> list[events.Event]:
    """Events of a run; none of it is trained."""
    made: list[events.Event] = [events.Started(0, steps, 3, 10, 100, "cpu", "float32")]
    made += [events.Stepped(n, 1 / n, 0.1, 0.2, 0.3, 0.0) for n in range(1, steps + 1)]
    return [*made, events.Finished(steps, "s.safetensors", False, 1.0)]


class Tracker:
    """One of accelerate's kind that keeps what it gets."""

    name = "kept"
    requires_logging_directory = False
    last: Tracker

    def __init__(self, name: str) -> None:
        type(self).last = self
        self.values, self.settings, self.ended = [], {}, False

    def store_init_configuration(self, values: dict) -> None:
        self.settings = values

    def log(self, values: dict, step: int) -> None:
        self.values.append((values, step))

    def finish(self) -> None:
        self.ended = True


def pretended(monkeypatch: pytest.MonkeyPatch, kind: type[Tracker]) -> None:
    from accelerate import tracking

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", kind)


def test_a_training_is_in_tensorboards_files(base_folder: Path, tmp_path: Path) -> None:
    given = [
        *tiny_training(base_folder, tmp_path, steps=4), "--preview.every", "2",
        "--preview.steps", "1", "--report.most", "4", "--save.every", "2",
        "--save.track", "tensorboard",
    ]  # fmt: skip
    assert main(given) == 0
    run = tmp_path / "runs" / "s"
    recorded = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    losses = {e["step"]: e["loss"] for e in recorded if e["event"] == "stepped"}
    found = EventAccumulator(str(run / trackers.FOLDER / "s"), {"images": 0, "scalars": 0})
    found.Reload()
    shown = {e.step: e.value for e in found.Scalars("train/loss")}
    assert shown == pytest.approx(losses)
    (tag, *_) = found.Tags()["images"]
    assert tag.startswith("preview/") and [e.step for e in found.Images(tag)] == [0, 2, 4]
    assert [e.step for e in found.Scalars("report/style")] == [2, 4]


def test_settings_go_along_without_folders(tmp_path: Path) -> None:
    values = trackers.flat(config(tmp_path))
    assert values["adapter.rank"] == 16 and not any(
        str(tmp_path) in str(v) for v in values.values()
    )
    assert all(isinstance(v, bool | int | float | str) for v in values.values())


def test_events_pass_as_they_were_and_reach_the_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretended(monkeypatch, Tracker)
    assert list(trackers.tracked(a_run(), config(tmp_path, "wandb"))) == a_run()
    assert [step for _, step in Tracker.last.values] == [1, 2, 3] and Tracker.last.ended


def test_a_tracker_that_fails_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Tracker):
        def log(self, values: dict, step: int) -> None:
            raise RuntimeError("no route to the tracker")

    pretended(monkeypatch, Failing)
    found = list(trackers.tracked(a_run(), config(tmp_path, "wandb")))
    (warned,) = (e for e in found if isinstance(e, events.Warned))
    assert "no route" in warned.message and [e for e in found if e is not warned] == a_run()


def test_a_tracker_that_cannot_be_started_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Absent(Tracker):
        def __init__(self, name: str) -> None:
            raise OSError("nobody is logged in")

    pretended(monkeypatch, Absent)
    found = list(trackers.tracked(a_run(), config(tmp_path, "wandb")))
    assert [type(e) for e in found][-2:] == [events.Warned, events.Finished]


def test_a_tracker_that_hangs_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every event passes while it hangs; the end waits for as long as it says."""
    free = threading.Event()

    class Hanging(Tracker):
        def log(self, values: dict, step: int) -> None:
            free.wait()

    pretended(monkeypatch, Hanging)
    monkeypatch.setattr(trackers, "PATIENCE", 0.2)
    monkeypatch.setattr(trackers, "WAITING", 4)
    found = list(trackers.tracked(a_run(50), config(tmp_path, "wandb")))
    free.set()
    (warned,) = (e for e in found if isinstance(e, events.Warned))
    assert "too slow" in warned.message and [e for e in found if e is not warned] == a_run(50)


def test_a_run_that_is_left_early_still_ends_its_trackers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretended(monkeypatch, Tracker)
    stream = trackers.tracked(a_run(), config(tmp_path, "wandb"))
    next(stream)
    stream.close()
    assert Tracker.last.ended


def test_of_several_styles_each_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretended(monkeypatch, Tracker)
    both = [config(tmp_path, "wandb"), config(tmp_path)]
    mixed = [(n, event) for event in a_run() for n in (0, 1)]
    assert list(trackers.tracked_many(mixed, both)) == mixed
    assert [step for _, step in Tracker.last.values] == [1, 2, 3]


def test_a_tracker_that_is_not_installed_is_refused_before_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(trackers.PACKAGES, "aim", "no_such_package")
    with pytest.raises(ConfigError, match="pip install no_such_package"):
        trackers.check(["aim"])
    given = ["--data.folder", str(tmp_path), "--save.folder", str(tmp_path / "runs")]
    assert main([*given, "--save.track", "aim"]) == 2
    assert "no_such_package" in capsys.readouterr().err and not (tmp_path / "runs").exists()


def test_without_trackers_no_thread_is_started(tmp_path: Path) -> None:
    before = threading.active_count()
    stream = trackers.tracked(a_run(), config(tmp_path))
    assert list(stream) == a_run() and threading.active_count() == before


def test_an_unknown_tracker_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="track"):
        config(tmp_path, "abacus")


def test_the_extra_brings_trackers_that_are_known() -> None:
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    extra = tomllib.loads(text)["project"]["optional-dependencies"]["track"]
    names = {requirement.split(">")[0] for requirement in extra}
    assert names and names <= set(trackers.PACKAGES.values())
