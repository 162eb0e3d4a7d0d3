"""Tests of studio.page.tabs.train without a browser:

what a preset puts into the form, and how a report is framed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from studio.page import forms
from studio.page.handlers import framed
from studio.page.tabs.train.form import (
    OF_THE_BASE,
    first_values,
    preset_values,
    values_by_base,
    values_of,
)
from studio.page.tabs.train.queue_actions import act
from studio.page.views import previews
from studio.page.views import queue as line_view
from studio.page.views.plan import plan_table
from studio.processes import plan
from studio.processes.queue import Job, Queue
from training.config.loading import from_mapping, to_toml
from training.config.presets import PRESETS, settings_of
from training.config.settings import settings
from training.errors import StudioError
from training.storage.paths import Workspace

KEYS = tuple(s.key for s in settings())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fills_the_form_with_what_the_command_would_use(name: str) -> None:
    values = preset_values(name, "long", "gentle", "mini")
    defaults = {s.key: forms.shown(s, s.default) for s in settings()}
    given = {key: values.get(key, defaults[key]) for key in KEYS}
    config = from_mapping(forms.to_mapping(KEYS, list(given.values())))
    for key, wanted in settings_of(name, length="long", strength="gentle").items():
        section, field = key.split(".")
        assert getattr(getattr(config, section), field) == wanted, key


def test_names_pictures_and_base_stay_when_a_preset_is_chosen() -> None:
    values = preset_values("style", "normal", "normal", "mini")
    assert values.keys().isdisjoint(("save.name", "data.trigger", "base.model", "preview.prompts"))


def test_a_preset_clears_what_another_one_chose() -> None:
    values = preset_values("style", "normal", "normal", "")
    assert values["data.flip"] is True and PRESETS["subject"].chosen["data.flip"] is False


def test_the_first_form_is_the_first_preset_and_later_ones_the_newest_run(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    preset, config = first_values(workspace)
    assert from_mapping(forms.to_mapping(KEYS, [*values_of(config).values()])) == config
    assert preset == "style" and config.base.model == "mini"
    assert {
        key: getattr(getattr(config, key.split(".")[0]), key.split(".")[1])
        for key in settings_of("style")
    } == settings_of("style")
    (tmp_path / "runs" / "own").mkdir(parents=True)
    own = config.model_copy(update={"optim": config.optim.model_copy(update={"steps": 7})})
    (tmp_path / "runs" / "own" / "run.toml").write_text(to_toml(own))
    preset, config = first_values(workspace)
    assert preset is None and config.optim.steps == 7


def test_what_presets_choose_by_the_base_is_shown_on_the_page() -> None:
    table = values_by_base()
    for name in PRESETS:
        for model, found in zip(("mini", "sd"), table[name]["long"]["gentle"], strict=True):
            wanted = settings_of(name, model=model, length="long", strength="gentle")
            assert {
                key: value for key, value in zip(OF_THE_BASE, found, strict=True) if key in wanted
            } == {key: wanted[key] for key in OF_THE_BASE if key in wanted}
    assert table["style"]["normal"]["normal"][0] != table["style"]["normal"]["normal"][1]


def test_a_report_cannot_break_out_of_its_frame(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert framed(page) == ""
    page.write_text('<p title="x">"></iframe><script>alert(1)</script>')
    inside = framed(page)
    assert (
        inside.count("<iframe") == 1
        and inside.count("</iframe>") == 1
        and "<script" not in inside
        and " sandbox " in inside
    )


def waiting(workspace: Workspace, *names: str) -> Queue:
    """A line without workers, so that all of it waits."""
    queue = Queue(workspace, worker=None)
    for name in names:
        queue.add(from_mapping({"save": {"folder": str(workspace.runs()), "name": name}}))
    return queue


def line_of(queue: Queue) -> list[str]:
    return [job.run for job in queue.jobs() if job.state == "waiting"]


def test_the_line_is_put_in_order_with_its_buttons(tmp_path: Path) -> None:
    queue = waiting(Workspace(tmp_path), "a", "b", "c")
    a, b, c = (job.id for job in queue.jobs())
    act(queue, "up", c)
    assert line_of(queue) == ["a", "c", "b"]
    act(queue, "down", a)
    assert line_of(queue) == ["c", "a", "b"]
    act(queue, "up", c)  # already the first
    assert line_of(queue) == ["c", "a", "b"]
    act(queue, "pause", a)
    assert line_of(queue) == ["c", "b"]
    act(queue, "go_on", a)
    act(queue, "cancel", b)
    act(queue, "remove", b)
    assert {job.run: job.state for job in queue.jobs()} == {"a": "waiting", "c": "waiting"}


@pytest.mark.parametrize(
    ("action", "id"),
    [
        ("remove", 1),
        ("jobs", 1),
        ("__init__", 1),
        ("pause", 99),
        ("pause", "1"),
        (None, 1),
        ("pause", True),
        ("pause", None),
    ],
)
def test_only_what_a_button_offers_can_be_asked_for(
    tmp_path: Path, action: object, id: object
) -> None:
    queue = waiting(Workspace(tmp_path), "a")
    with pytest.raises(StudioError):
        act(queue, action, id)
    assert line_of(queue) == ["a"]


def test_the_line_escapes_what_it_tells_and_forgets_old_ends(tmp_path: Path) -> None:
    queue = waiting(Workspace(tmp_path), *(f"run {i}" for i in range(9)))
    for job in queue.jobs():
        queue.cancel(job.id)
    assert line_view.queue_html(queue.jobs()).count("<li") == line_view.MOST_ENDED
    bad = Job(
        **{**vars(queue.jobs()[0]), "state": "failed", "message": "<script>alert(1)</script>"}
    )
    assert "<script" not in line_view.queue_html([bad]) and "Try again" in line_view.queue_html(
        [bad]
    )
    assert line_view.queue_html([]) == ""


def test_the_strip_begins_before_the_first_update_and_keeps_it() -> None:
    looks = [previews.Look(step, "a <b>", f"s{step}", f"l{step}") for step in range(0, 1000, 10)]
    shown = previews.preview_strip(looks)
    assert (
        shown.index(">start<") < shown.index(">610<") < shown.index(">990<")
        and ">600<" not in shown
    )
    assert shown.count("<td><button") == previews.MOST and "<b>" not in shown
    assert previews.preview_strip([]) == ""


def test_the_plan_is_measured_and_what_is_wrong_is_reported(
    tmp_path: Path, base_folder: Path
) -> None:
    from tests.test_page import drawn_pictures

    drawn_pictures(tmp_path / "pictures")
    (tmp_path / "pictures" / "page.png").unlink()
    wanted = {
        "base": {"model": str(base_folder), "device": "cpu"},
        "data": {"folder": str(tmp_path / "pictures")},
        "optim": {"steps": 8},
    }
    config = from_mapping(wanted | {"save": {"folder": str(tmp_path / "runs"), "name": "x"}})
    shown = plan_table(plan.measured(config))
    assert "4" in shown and "GiB" in shown and "8 of 4 pictures" in shown
    assert not (tmp_path / "runs").exists()
    with pytest.raises(StudioError, match="not there"):
        plan.measured(
            config.model_copy(
                update={"data": config.data.model_copy(update={"folder": str(tmp_path / "gone")})}
            )
        )
