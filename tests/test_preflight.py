"""The list before Start: every line tells the truth, and what it offers puts it right."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from studio.datasets import history, store
from studio.library import forecasts
from studio.page.tabs.train import preflight
from studio.page.tabs.train.before import Before
from studio.page.tabs.train.form import values_of
from studio.page.tabs.train.preflight import Line
from studio.processes import plan, plan_worker
from studio.processes.plan import Memory
from training.config.loading import from_mapping, to_toml
from training.config.schema import RunConfig
from training.errors import DataError
from training.events import Stepped, to_line
from training.storage.paths import Workspace


def drawn(file: Path, place: int, side: int = 160) -> None:
    """A picture like no other: a disc of its own place and colour."""
    picture = Image.new("RGB", (side, side), "white")
    box = [(place * 29) % 90, (place * 53) % 90]
    ends = [box[0] + 40 + place * 5, box[1] + 30]
    ImageDraw.Draw(picture).ellipse([*box, *ends], fill=(place * 60 % 256, 90, 200 - place * 20))
    picture.save(file)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path / "workspace")
    folder = store.make(made, "ink")
    for place, name in enumerate(("red ball", "blue cup", "gold fish", "green hat")):
        drawn(folder / f"{name}.png", place)
        (folder / f"{name}.txt").write_text(f"a {name}\n")
    return made


class Form:
    """The form's values, and the list as it stands with them."""

    def __init__(self, workspace: Workspace, **changes: object) -> None:
        config = from_mapping({"data": {"trigger": "inkwash"}, "save": {"name": "ink wash 2"}})
        self.values: dict[str, Any] = values_of(config)
        self.values |= {key.replace("__", "."): value for key, value in changes.items()}
        self.before = Before(workspace, tuple(self.values))

    def lines(self) -> dict[str, Line]:
        return {line.kind: line for line in self.before.lines("ink", *self.values.values())}

    def put_right(self, kind: str) -> None:
        """Press a line's button."""
        assert self.lines()[kind].fix
        self.values |= self.before.put_right(kind, "ink", *self.values.values())


def test_a_good_dataset_has_nothing_to_do(workspace: Workspace) -> None:
    found = Form(workspace).lines()
    assert [*found] == ["trigger", "captions", "copies", "size", "time", "memory"]
    assert all(line.good for line in found.values()), found
    assert preflight.questions([*found.values()]) == []
    assert Form(workspace).before.lines("nothing", *Form(workspace).values.values()) == ()


def broken_up(kind: str, folder: Path, form: Form) -> None:
    """Spoil what a line of the list looks at."""
    if kind == "trigger":
        form.values["data.trigger"] = ""
    elif kind == "captions":
        (folder / "red ball.txt").unlink()
        (folder / "blue cup.txt").write_text("a cup, a cup\n")
    elif kind == "copies":
        (folder / "copy.png").write_bytes((folder / "red ball.png").read_bytes())
        (folder / "copy.txt").write_text("the ball again")
    elif kind == "size":
        (folder / "page.png").write_text("<html>not found</html>")
        (folder / "page.txt").write_text("a page")
    elif kind == "side":
        form.values["data.resolution"] = 512


@pytest.mark.parametrize("kind", ["trigger", "captions", "copies", "size", "side"])
def test_every_line_is_put_right_by_its_button(workspace: Workspace, kind: str) -> None:
    folder, form = workspace.datasets() / "ink", Form(workspace)
    before = sorted(store.captions(folder).items())
    broken_up(kind, folder, form)
    line = "size" if kind == "side" else kind
    assert not form.lines()[line].good
    assert f'data-act="{line}"' in preflight.shown([*form.lines().values()])
    form.put_right(line)
    assert form.lines()[line].good, form.lines()[line]
    if kind == "trigger":
        assert form.values["data.trigger"] == "inkwash"
    if kind in ("captions", "copies", "size"):  # one act, taken back as one
        history.undo(folder)
        assert not form.lines()[line].good and sorted(store.captions(folder).items()) != before
        with pytest.raises(DataError):
            history.undo(folder)


def test_small_pictures_are_left_out_or_trained_smaller(workspace: Workspace) -> None:
    folder, form = workspace.datasets() / "ink", Form(workspace)
    for place in range(4, 8):
        drawn(folder / f"more {place}.png", place)
        (folder / f"more {place}.txt").write_text(f"a thing {place}")
    drawn(folder / "tiny.png", 9, side=40)
    (folder / "tiny.txt").write_text("a tiny thing")
    assert form.lines()["size"].fix == "Leave it out"
    form.put_right("size")
    assert "tiny.png" not in store.pictures(folder) and form.lines()["size"].good
    for name in store.pictures(folder):
        drawn(folder / name, len(name), side=96)
    form.put_right("size")
    assert form.values["data.resolution"] == 96 and form.lines()["size"].good


def test_what_only_its_owner_can_do_leads_there(workspace: Workspace) -> None:
    folder, form = workspace.datasets() / "ink", Form(workspace)
    drawn(folder / "IMG_0001.png", 6)
    line = form.lines()["captions"]
    assert line.opens == "Dataset" and "1 picture has no caption" in line.question
    assert line.question in preflight.questions([line])
    with pytest.raises(DataError):
        form.put_right("captions")
    form.values |= {"data.trigger": "", "save.name": "7"}
    assert form.lines()["trigger"].opens == "data-trigger"


def run_with(workspace: Workspace, seconds: float, **changes: dict[str, Any]) -> RunConfig:
    """A run as it was left by a training of such a pace."""
    config = from_mapping({"save": {"name": "earlier"}, **changes})
    run = workspace.runs() / "earlier"
    run.mkdir(parents=True, exist_ok=True)
    (run / "run.toml").write_text(to_toml(config))
    steps = [Stepped(i, 0.1, 1e-4, 1.0, seconds, 0.0) for i in range(1, 9)]
    (run / "events.jsonl").write_text("".join(to_line(step) + "\n" for step in steps))
    return config


def test_time_is_that_of_an_earlier_run_and_halved_where_it_is_long(workspace: Workspace) -> None:
    form = Form(workspace, optim__steps=1200, optim__batch_size=4)
    assert form.lines()["time"].presses == "measure"
    run_with(workspace, 30.0, optim={"batch_size": 2, "steps": 8})
    line = form.lines()["time"]  # twice the pictures: a minute a step
    assert "20 h" in line.words and "earlier" in line.words and not line.good
    form.put_right("time")
    assert form.values["optim.steps"] == 600
    run_with(workspace, 1.0, optim={"batch_size": 4, "steps": 8})
    assert "10 min" in form.lines()["time"].words and form.lines()["time"].good
    form.values["base.model"] = "other/base"
    assert forecasts.pace(workspace, "other/base") is None


@pytest.mark.parametrize(
    ("storage", "memory", "good", "changes"),
    [
        ("auto", Memory(3.0, 8.0, "", 128), True, {}),
        ("bfloat16", Memory(12.0, 8.0, "int8", 128), False, {"base.storage": "auto"}),
        ("auto", Memory(12.0, 8.0, "int8", 96), False, {"data.resolution": 96}),
        ("auto", Memory(12.0, 8.0, None, 0), False, {}),
    ],
)
def test_memory_that_is_short_is_asked_about_and_put_right(
    workspace: Workspace, storage: str, memory: Memory, good: bool, changes: dict[str, Any]
) -> None:
    of = preflight.wanted("ink", {"base.model": "mini", "base.storage": storage})
    line = preflight.lines(workspace, of, None, memory)[-1]
    assert line.kind == "memory" and line.good is good and dict(line.changes) == changes
    assert bool(line.question) is not good
    if not good and not changes:
        assert line.opens == "Settings"


def test_memory_is_asked_for_once_and_only_where_it_may_be_short(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def memory(config: RunConfig) -> Memory:
        asked.append(config.base.model)
        return Memory(3.0, 2.0, None, 0)

    monkeypatch.setattr(plan, "memory", memory)
    form = Form(workspace)
    assert form.before.with_memory("ink", *form.values.values()) is None  # more than enough
    monkeypatch.setattr(forecasts, "BESIDE", 1e6)
    assert "memory" not in form.lines()
    found = form.before.with_memory("ink", *form.values.values())
    assert found and found[-1].kind == "memory" and not found[-1].good
    assert form.before.with_memory("ink", *form.values.values()) is None and asked == ["mini"]
    assert not form.lines()["memory"].good
    form.values["adapter.rank"] = 64  # another question
    form.before.with_memory("ink", *form.values.values())
    assert len(asked) == 2
    form.values |= {"base.model": "not/here", "optim.steps": 0}
    assert form.before.with_memory("ink", *form.values.values()) is None


def test_the_prediction_is_made_by_a_process_of_its_own(
    tmp_path: Path,
    base_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = from_mapping({"base": {"model": str(base_folder), "device": "cpu"}})
    (tmp_path / "run.toml").write_text(to_toml(config))
    monkeypatch.setattr(sys, "argv", ["plan_worker", str(tmp_path / "run.toml"), "--memory"])
    assert plan_worker.main() == 0
    answer = Memory(**json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert 0 < answer.needed < answer.room and answer.storage == "" and answer.side > 0
    gone = replace(answer, needed=1.0)
    assert gone.room == answer.room
