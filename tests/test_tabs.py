"""The tabs' handlers without a browser: what an event answers, by component."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import gradio as gr
import pytest
import tomli_w
from jinja2 import UndefinedError
from PIL import Image

from studio import grid_events
from studio.datasets import store
from studio.library import comparisons, sweeps
from studio.library.cards import Card, write_card
from studio.library.comparisons import ComparisonSpec
from studio.page import app, templates
from studio.page.tabs import compare, pictures, settings, styles, train
from studio.page.tabs.compare import form as compare_form
from studio.page.tabs.compare.form import StyleValues
from studio.page.tabs.pictures import rendering
from studio.page.tabs.styles import rendering as styles_rendering
from studio.page.tabs.train import rendering as train_rendering
from studio.page.tabs.train import several
from studio.page.views import charts
from studio.page.views import styles as styles_view
from studio.processes import process
from studio.processes import queue as queue_module
from studio.processes.queue import Queue
from studio.server import gradio_patches
from tests.test_jobs import until
from tests.test_library import finished_run, style_file
from training import events
from training.config.loading import from_mapping, to_toml
from training.errors import ConfigError
from training.storage.paths import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


def tab(workspace: Workspace, module: ModuleType) -> tuple[Any, Any]:
    """A tab's components and its handlers, no page around them."""
    with gr.Blocks():
        parts = module.components()
    return parts, module.Handlers(workspace, parts)


# --- the page ---


def test_what_is_picked_while_another_pick_is_answered_is_not_passed_over(
    workspace: Workspace,
) -> None:
    """Gradio's own rule, "once", drops it; "always_last" sends the first one's event data again."""
    page, picks, fields = app.build(workspace), 0, 0
    for fn in page.fns.values():
        kinds = {event for at, event in fn.targets if at in page.blocks}
        lists = {event for at, event in fn.targets if isinstance(page.blocks.get(at), gr.HTML)}
        if lists & {"select", "input"}:
            assert fn.trigger_mode == "multiple", fn.name
            picks += 1
        elif "upload" in kinds:
            assert fn.trigger_mode == "multiple", fn.name
        elif "input" in kinds and "tick" not in kinds:
            assert fn.trigger_mode in ("always_last", "multiple"), fn.name
            fields += 1
    assert picks >= 6 and fields >= 8


def test_building_the_page_starts_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where trainings wait: they go on when the page is served."""
    config = from_mapping(
        {
            "base": {"device": "cpu"},
            "save": {"name": "ink", "folder": str(workspace.runs())},
        }
    )
    queue = Queue(workspace, None)
    queue.add(config)
    started: list[Any] = []
    monkeypatch.setattr(queue_module.subprocess, "Popen", lambda *args, **_: started.append(args))
    app.build(workspace)
    assert started == []
    assert [job.state for job in queue.jobs()] == ["waiting"]


# --- Pictures ---


@pytest.fixture
def drawings(workspace: Workspace, tmp_path: Path) -> Path:
    """A dataset of two pictures, one with a caption."""
    folder = store.make(workspace, "ink")
    for name in ("a", "b"):
        Image.new("RGB", (64, 48), "red" if name == "a" else "blue").save(tmp_path / f"{name}.png")
    store.add(folder, [tmp_path / "a.png", tmp_path / "b.png"])
    store.write_caption(folder, "a.png", "a red <square>")
    return folder


def test_a_dataset_is_shown_picture_by_picture(workspace: Workspace, drawings: Path) -> None:
    parts, handlers = tab(workspace, pictures)
    shown = handlers.show_dataset(None, "", "mini")
    assert set(shown) == {parts.dataset, *parts.everything}
    assert shown[parts.dataset].value == "ink"
    assert "1 without a caption" in shown[parts.summary]
    assert shown[parts.picture.of] == "ink/a.png"
    after = handlers.next("ink", "ink/a.png", "mini")
    assert set(after) == set(parts.picture.shown) and after[parts.picture.of] == "ink/b.png"
    again = handlers.next("ink", "ink/b.png", "mini")
    assert again[parts.picture.of] == "ink/a.png"
    assert again[parts.picture.caption].value == "a red <square>"


def test_a_dataset_that_is_made_meanwhile_is_in_the_answer(
    workspace: Workspace, drawings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what is dropped on it is lost: the list of an older answer does not know its name."""
    parts, handlers = tab(workspace, pictures)
    reading = rendering.dataset

    def slowly(*given: Any) -> rendering.Dataset:
        found = reading(*given)
        if "nested" not in store.names(workspace):
            handlers.make_dataset("nested")
        return found

    monkeypatch.setattr(rendering, "dataset", slowly)
    shown = handlers.show_dataset(None, "", "mini")
    assert shown[parts.dataset].value == "nested"
    assert [value for _, value in shown[parts.dataset].choices] == ["ink", "nested"]


@pytest.mark.parametrize("act", ["open", "make", "duplicate", "upload"])
def test_a_late_answer_does_not_put_the_page_back(
    act: str, workspace: Workspace, drawings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what is dropped next goes to the dataset that was shown before."""
    store.make(workspace, "other")
    parts, handlers = tab(workspace, pictures)
    window, reading = gr.Request(session_hash="w"), rendering.dataset
    acts = {
        "open": lambda: handlers.open_dataset("other", "mini", window),
        "make": lambda: handlers.make_dataset("nested", window),
        "duplicate": lambda: handlers.duplicate_dataset("ink", window),
        "upload": lambda: handlers.upload("other", [], "mini", window),
    }
    to_do = [acts[act]]

    def slowly(*given: Any) -> rendering.Dataset:
        found = reading(*given)
        if to_do:
            to_do.pop()()
        return found

    monkeypatch.setattr(rendering, "dataset", slowly)
    shown = handlers.show_dataset("ink", "ink/a.png", "mini", window)
    assert shown[parts.dataset].value == {"make": "nested", "duplicate": "ink copy"}.get(
        act, "other"
    )
    assert not shown[parts.picture.of].startswith("ink/")
    # what another window does is its own business
    to_do.append(acts["open"])
    shown = handlers.show_dataset("ink", "ink/b.png", "mini", gr.Request(session_hash="x"))
    assert shown[parts.dataset].value == "ink" and shown[parts.picture.of] == "ink/b.png"


def test_a_dataset_is_known_by_its_folder_not_by_the_list_that_was_sent(
    workspace: Workspace, drawings: Path
) -> None:
    gradio_patches.pass_forgotten_choices()
    parts, handlers = tab(workspace, pictures)
    sent = type(parts.dataset)(**parts.dataset.constructor_args | {"choices": ["ink"]})
    assert sent.preprocess("made-meanwhile") == "made-meanwhile"
    with pytest.raises(gr.Error, match="There is no dataset named"):
        handlers.upload("../ink", [], "mini")


def test_no_list_that_answers_fill_is_asked_whether_a_choice_is_in_it(
    workspace: Workspace, drawings: Path
) -> None:
    """As gradio makes them anew for a page when an answer has other choices."""
    gradio_patches.pass_forgotten_choices()
    later = [
        block
        for block in app.build(workspace).blocks.values()
        if isinstance(block, gr.Dropdown | gr.CheckboxGroup) and not block.choices
    ]
    assert len(later) >= 8
    for block in later:
        sent = type(block)(**block.constructor_args | {"choices": ["older"]})
        several = isinstance(block, gr.CheckboxGroup) or block.multiselect
        chosen = ["new"] if several else "new"
        assert sent.preprocess(chosen) == chosen, block.elem_id


def test_a_caption_is_saved_with_its_picture_and_counted(
    workspace: Workspace, drawings: Path
) -> None:
    parts, handlers = tab(workspace, pictures)
    answer = handlers.captions.save("ink/b.png", "a blue square", "mini")
    picture = parts.picture
    saved = {parts.summary, picture.tokens, picture.before, picture.kept, *picture.conflict.shown}
    assert set(answer) == saved and not answer[picture.conflict.row].visible
    assert "all captioned" in answer[parts.summary]
    assert store.caption(drawings, "b.png") == "a blue square"


def test_two_windows_do_not_overwrite_each_others_caption(
    workspace: Workspace, drawings: Path
) -> None:
    """The second one is asked; letters that follow each other quickly are one window's own."""
    parts, handlers = tab(workspace, pictures)
    picture, of = parts.picture, "ink/b.png"
    here, there = (gr.Request(session_hash=window) for window in ("here", "there"))
    before = handlers.next("ink", "ink/a.png", "mini")[picture.before]
    for text in ("a", "a b", "a bl"):  # sent before the first answer came
        answer = handlers.captions.save(of, text, "mini", before, here)
        assert answer[picture.before] == text
    asked = handlers.captions.save(of, "something else", "mini", before, there)
    assert asked[picture.conflict.row].visible and "“a bl”" in asked[picture.conflict.words]
    assert store.caption(drawings, "b.png") == "a bl"
    theirs = handlers.take_theirs(of, "mini")
    assert theirs[picture.caption].value == "a bl" and not theirs[picture.conflict.row].visible
    mine = handlers.captions.save_mine(of, "something else", "mini", there)
    assert store.caption(drawings, "b.png") == "something else"
    assert not mine[picture.conflict.row].visible
    again = handlers.captions.save(of, "a blue", "mini", "a bl", here)
    assert again[picture.conflict.row].visible


def test_what_was_typed_while_the_server_was_gone_is_saved(
    workspace: Workspace, drawings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    monkeypatch.setattr(gr, "Warning", lambda words, **_: warned.append(words))
    parts, handlers = tab(workspace, pictures)
    picture = parts.picture

    windows = iter(range(99))  # each time the page was loaded anew

    def kept(of: str, text: str, before: str, *mine: str) -> dict[Any, Any]:
        event = gr.EventData(None, {"of": of, "text": text, "before": before, "mine": [*mine]})
        window = gr.Request(session_hash=str(next(windows)))
        return handlers.captions.save_kept("ink/b.png", event, window)

    answer = kept("ink/b.png", "a blue square", "")
    assert store.caption(drawings, "b.png") == "a blue square"
    assert (
        answer[picture.caption] == "a blue square" and 'data-of="ink/b.png"' in answer[picture.kept]
    )
    kept("ink/a.png", "a square", "a red <square>")
    assert store.caption(drawings, "a.png") == "a square" and warned == []
    kept("ink/a.png", "a square, a", "a red <square>", "a ", "a square ")  # one of them is there
    assert store.caption(drawings, "a.png") == "a square, a" and warned == []
    kept("ink/a.png", "a square", "a square, a")
    late = kept("ink/a.png", "typed <late>", "a red <square>", "typed")
    assert store.caption(drawings, "a.png") == "a square" and picture.caption not in late
    assert "typed &lt;late&gt;" in warned[0] and 'data-of="ink/a.png"' in late[picture.kept]
    for of in ("ink/gone.png", "gone/a.png", "../x/a.png", ""):
        assert set(kept(of, "x", "")) == {picture.kept}


def test_a_picture_that_was_taken_out_comes_back(workspace: Workspace, drawings: Path) -> None:
    parts, handlers = tab(workspace, pictures)
    without = handlers.remove("ink/a.png", "mini")
    assert set(without) == set(parts.changed) and without[parts.undo].visible
    assert without[parts.snackbar.row].visible and "a.png" in without[parts.snackbar.words]
    assert without[parts.picture.of] == "ink/b.png" and store.pictures(drawings) == ["b.png"]
    back = handlers.undo("ink", "ink/b.png", "mini")
    assert "2 pictures" in back[parts.summary] and store.pictures(drawings) == ["a.png", "b.png"]


def test_a_bulk_edit_keeps_the_name_that_was_the_caption(
    workspace: Workspace, tmp_path: Path
) -> None:
    """And shows before and after for everything that it changes."""
    folder = store.make(workspace, "ink")
    for colour in ("red", "blue", "gold"):
        Image.new("RGB", (64, 48), colour).save(tmp_path / f"{colour} cat.png")
    store.add(folder, sorted(tmp_path.glob("*.png")))
    store.write_caption(folder, "gold cat.png", "")  # left empty on purpose
    _, handlers = tab(workspace, pictures)
    shown = handlers.several.explain_edit("ink", "Add to the start", "on paper", "")
    for before, after in (("blue cat", "on paper, blue cat"), ("red cat", "on paper, red cat")):
        assert f"<td>{before}</td><td><b>{after}</b></td>" in shown
    assert "3 captions will change" in shown
    handlers.several.edit_all("ink", "", "mini", "Add to the start", "on paper", "")
    assert store.captions(folder) == {
        "blue cat.png": "on paper, blue cat",
        "gold cat.png": "on paper",
        "red cat.png": "on paper, red cat",
    }
    unchanged = handlers.several.explain_edit("ink", "Remove a tag", "blue cat", "")
    assert "1 caption will change" in unchanged and "2 unchanged" in unchanged
    handlers.undo("ink", "", "mini")
    assert not (folder / "red cat.txt").exists()


def test_a_dataset_is_renamed_copied_deleted_and_brought_back(
    workspace: Workspace, drawings: Path
) -> None:
    parts, handlers = tab(workspace, pictures)
    renamed = handlers.rename_dataset("ink", "Ink 🖋")
    assert renamed[parts.dataset].choices == [("Ink 🖋", "ink")]
    assert renamed[parts.dataset].value == "ink"
    copy = handlers.duplicate_dataset("ink").value
    assert store.captions(workspace.datasets() / copy) == store.captions(drawings)
    gone = handlers.delete_dataset("ink", "mini")
    assert set(gone) == {parts.dataset, parts.in_view, *parts.changed}
    assert gone[parts.dataset].value == copy and "Ink 🖋" in gone[parts.snackbar.words]
    undoes = gone[parts.snackbar.undoes]
    back = handlers.undo_last(undoes, copy, "", "mini")
    assert back[parts.dataset].value == "ink" and not back[parts.snackbar.row].visible
    assert "2 pictures" in back[parts.summary] and store.pictures(drawings) == ["a.png", "b.png"]


def test_a_fix_for_all_of_a_kind_is_one_change(workspace: Workspace, drawings: Path) -> None:
    for number in range(4):
        Image.linear_gradient("L").rotate(45 * number).resize((20, 20)).save(
            drawings / f"tiny {'abcd'[number]}.png"
        )
    _, handlers = tab(workspace, pictures)
    shown = handlers.check("ink", "mini")
    assert "6 pictures are too small" in shown and shown.count("Remove all") == 1
    every = gr.EventData(None, {"kind": "small", "fix": "take_out", "on": None})
    handlers.fix("ink", "", "mini", every)
    assert store.pictures(drawings) == []
    handlers.undo("ink", "", "mini")
    assert len(store.pictures(drawings)) == 6
    with pytest.raises(gr.Error, match="fixed or changed already"):
        handlers.fix("ink", "", "mini", gr.EventData(None, {"kind": "odd", "fix": "x", "on": None}))


def test_a_dataset_of_a_bad_name_is_an_error_on_the_page(workspace: Workspace) -> None:
    _, handlers = tab(workspace, pictures)
    with pytest.raises(gr.Error):
        handlers.make_dataset("../outside")


# --- Train ---


def test_the_form_is_filled_by_component(workspace: Workspace) -> None:
    parts, handlers = tab(workspace, train)
    filled = handlers.first_values()
    assert set(filled) == set(parts.form.outputs)
    assert filled[parts.form.fields["base.model"]] == "mini"
    chosen = handlers.choose_preset("quick look", "normal", "normal", "mini")
    assert set(chosen) < set(parts.form.fields.values())


def test_a_late_answer_leaves_the_dataset_that_was_chosen_meanwhile(workspace: Workspace) -> None:
    """Nothing was chosen when the tab was opened, and nothing is chosen by itself."""
    parts, handlers = tab(workspace, train)
    for answer in (handlers.first_values(), handlers.open_tab(None, None)):
        assert "value" not in answer[parts.form.dataset].constructor_args
    store.make(workspace, "ink")
    assert handlers.open_tab(None, None)[parts.form.dataset].value == "ink"
    listed = handlers.open_tab(None, "ink")[parts.form.dataset].constructor_args
    assert listed["choices"] == ["ink"] and "value" not in listed


def test_a_training_without_pictures_is_refused_before_the_queue(workspace: Workspace) -> None:
    parts, handlers = tab(workspace, train)
    store.make(workspace, "empty")
    values = handlers.first_values()
    with pytest.raises(gr.Error, match="has no pictures yet"):
        handlers.start("empty", *(values[field] for field in parts.form.fields.values()))
    assert Queue(workspace, None).jobs() == []


def started(workspace: Workspace, dataset: str, **changed: Any) -> tuple[Any, dict[Any, Any]]:
    """Press Start with the first form and some settings changed, no worker to take the job."""
    parts, handlers = tab(workspace, train)
    handlers.queue = Queue(workspace, None)
    first = handlers.first_values()
    filled = {key: first[field] for key, field in parts.form.fields.items()}
    return parts, handlers.start(dataset, *(filled | changed).values())


def test_train_takes_the_dataset_that_is_in_view(workspace: Workspace, drawings: Path) -> None:
    """Not the one that was changed last."""
    store.make(workspace, "newest")
    pictures_parts, of_pictures = tab(workspace, pictures)
    train_parts, of_train = tab(workspace, train)
    in_view = of_pictures.open_dataset("ink", "mini")[pictures_parts.in_view]
    assert of_train.follow_pictures(in_view).value == "ink"
    assert of_train.follow_pictures("gone") == gr.skip()
    made = of_pictures.upload("ink", [], "mini")
    assert made[pictures_parts.in_view] == "ink"
    other = library_run(workspace, "newest")
    assert other.is_dir()
    dataset = of_train.first_values()[train_parts.form.dataset]
    assert dataset.value == store.newest(workspace)  # as Pictures does, whatever was trained last


def library_run(workspace: Workspace, dataset: str) -> Path:
    """A run of another dataset."""
    run = finished_run(workspace, "ink")
    data = {"folder": str(workspace.datasets() / dataset), "trigger": "zorp"}
    save = {"folder": str(workspace.runs()), "name": "ink"}
    (run / "run.toml").write_text(to_toml(from_mapping({"data": data, "save": save})))
    return run


def test_start_asks_where_there_is_no_trigger_word(workspace: Workspace, drawings: Path) -> None:
    parts, answer = started(workspace, "ink", **{"base.device": "cpu"})
    assert Queue(workspace, None).jobs() == []
    assert answer[parts.asking.row].visible
    assert answer[parts.asking.words] == "Start without a trigger word?"


def test_start_goes_on_with_a_trigger_word_or_when_confirmed(
    workspace: Workspace, drawings: Path
) -> None:
    parts, answer = started(workspace, "ink", **{"data.trigger": "zorp", "base.device": "cpu"})
    assert [job.run for job in Queue(workspace, None).jobs()] == ["my-style"]
    assert not answer[parts.asking.row].visible and parts.view.run in answer
    parts, handlers = tab(workspace, train)
    handlers.queue = Queue(workspace, None)
    values = handlers.first_values()
    fields = {key: values[field] for key, field in parts.form.fields.items()}
    anyway = fields | {"save.name": "second", "base.device": "cpu"}
    handlers.start_anyway("ink", *anyway.values())
    assert {job.run for job in Queue(workspace, None).jobs()} == {"my-style", "second"}


def test_what_is_found_in_the_pictures_is_said_beside_start(
    workspace: Workspace, drawings: Path
) -> None:
    """Before Start is pressed; a picture that training would refuse makes it ask."""
    parts, handlers = tab(workspace, train)
    first = handlers.first_values()
    filled = {key: first[field] for key, field in parts.form.fields.items()}

    def check(trigger: str) -> str:
        return handlers.check("ink", *(filled | {"data.trigger": trigger}).values())

    words = check("zorp")
    assert "1 picture without a caption" in words
    assert check("").count('<li class="look">') == words.count('<li class="look">') + 1
    for name in ("a.png", "b.png"):
        store.write_caption(drawings, name, f"a square, {name[0]}")
    Image.new("RGB", (300, 300), "green").save(drawings / "a.png")
    Image.radial_gradient("L").resize((300, 300)).save(drawings / "b.png")
    assert '<li class="look">' not in check("zorp")
    (drawings / "b.png").write_bytes(b"no picture")
    assert "1 picture that cannot be read" in check("zorp")
    parts, answer = started(workspace, "ink", **{"data.trigger": "zorp"})
    assert answer[parts.asking.row].visible and Queue(workspace, None).jobs() == []


def test_a_wrong_setting_is_named_beside_start_and_its_field_marked(
    workspace: Workspace, drawings: Path
) -> None:
    wrong = {"optim.steps": 0, "optim.batch_size": None, "base.model": "/no/such/base"}
    parts, answer = started(workspace, "ink", **wrong)
    words = answer[parts.wrong]
    assert "“Steps” is 0: a whole number from 1 to 1,000,000 was expected" in words
    assert 'data-fields="optim-steps"' in words and 'data-fields="optim-batch_size"' in words
    assert Queue(workspace, None).jobs() == []
    parts, answer = started(workspace, "ink", **{"base.model": "/no/such/base"})
    assert "There is no base" in answer[parts.wrong]
    assert 'data-fields="base-model"' in answer[parts.wrong]
    assert Queue(workspace, None).jobs() == []


def test_after_the_last_step_a_run_says_what_it_does() -> None:
    """And no time that is left: for minutes it would be none."""
    seen: list[Any] = [
        events.Started(0, 2, 4, 1, 1, "cpu", "float32"),
        events.Stepped(1, 0.5, 1e-4, 1.0, 0.1, 7.0),
    ]
    assert "Time left" in charts.status("ink", "running", charts.progress(seen))
    seen.append(events.Stepped(2, 0.5, 1e-4, 1.0, 0.1, 0.0))
    saving = charts.status("ink", "running", charts.progress(seen))
    assert "Time left" not in saving and "Saving the style" in saving
    seen.append(events.Noted("report: ink-000002.safetensors at strength 1"))
    reporting = charts.status("ink", "running", charts.progress(seen))
    assert "Time left" not in reporting and "Writing the report" in reporting
    assert "Finished" in charts.status("ink", "finished", charts.progress(seen))


@pytest.fixture
def judged(workspace: Workspace) -> Path:
    """A finished run of 9 steps whose report recommends step 5."""
    run = library_run(workspace, "ink")
    style_file(run / "steps" / "ink-000005.safetensors", best="yes")
    (run / "report").mkdir()
    best = {"step": 5, "strength": 0.85, "file": "ink-000005.safetensors"}
    (run / "report" / "report.json").write_text(json.dumps({"best": best}))
    said = [events.Started(0, 9, 1, 1, 1, "cpu", "float32"), events.Stepped(9, 1, 1, 1, 1, 0)]
    said += [events.Previewed(9, ("p.png",), ("a cat, zorp style",))]
    (run / "events.jsonl").unlink()
    for event in (*said, events.Finished(9, "ink.safetensors", False, 1.0)):
        events.append(run / "events.jsonl", event)
    return run


def test_the_recommended_checkpoint_is_downloaded_and_used(
    workspace: Workspace, judged: Path
) -> None:
    """And the last one can be had, and used again."""
    parts, handlers = tab(workspace, train)
    view, style = parts.view, judged / "ink.safetensors"
    last, best = style.read_bytes(), (judged / "steps" / "ink-000005.safetensors").read_bytes()

    def offers() -> tuple[bytes, bytes, str]:
        shown = handlers.look("ink", {})
        assert "step 5 (recommended)" in shown[view.style]["label"]
        assert "step 9" in shown[view.last]["label"] and shown[view.compare]["visible"]
        files = [Path(shown[part]["value"]).read_bytes() for part in (view.style, view.last)]
        return files[0], files[1], shown[view.use]["value"]

    assert offers() == (best, last, "Use step 5")
    handlers.use_recommended("ink")
    assert style.read_bytes() == best
    assert offers() == (best, last, "Use step 9 again")
    handlers.use_recommended("ink")
    assert style.read_bytes() == last


def test_a_finished_run_says_what_is_recommended_and_is_trained_further(
    workspace: Workspace, judged: Path
) -> None:
    parts, handlers = tab(workspace, train)
    shown = handlers.look("ink", {})
    assert "Step 5 is recommended, at strength 0.85" in shown[parts.view.verdict]
    assert shown[parts.view.go_on]["visible"] and shown[parts.view.chip] == ""
    filled = handlers.go_on("ink")
    assert filled[parts.form.fields["adapter.start"]] == str(judged / "ink.safetensors")
    (judged / "report" / "report.json").unlink()
    assert handlers.look("ink", {})[parts.view.verdict] == ""


def test_the_run_that_is_going_is_shown_in_every_place() -> None:
    seen: list[Any] = [events.Started(0, 8, 4, 1, 1, "cpu", "float32")]
    assert "0 % · Starting" in train_rendering.chip("ink", "starting", charts.progress(seen))
    seen.append(events.Stepped(2, 0.5, 1e-4, 1.0, 0.1, 65.0))
    chip = train_rendering.chip("<ink>", "running", charts.progress(seen))
    assert "25 % · 1 min 05 s left" in chip and "<ink>" not in chip and 'data-open="Train"' in chip


@pytest.mark.parametrize("report", ["", "[]", '{"best": {}}', '{"best": {"step": 5}}', "outside"])
def test_without_a_report_the_last_one_is_downloaded(
    workspace: Workspace, judged: Path, report: str
) -> None:
    if report == "outside":
        report = '{"best": {"step": 5, "strength": 1, "file": "../ink.safetensors"}}'
    (judged / "report" / "report.json").write_text(report)
    parts, handlers = tab(workspace, train)
    shown = handlers.look("ink", {})
    assert Path(shown[parts.view.style]["value"]).name == "ink.safetensors"
    assert not shown[parts.view.use]["visible"] and not shown[parts.view.last]["visible"]
    with pytest.raises(gr.Error, match="no report"):
        handlers.use_recommended("ink")


def test_a_finished_run_is_compared_as_it_is_recommended(
    workspace: Workspace, judged: Path
) -> None:
    """The base is not drawn with the trigger word."""
    tab(workspace, train)[1].compare("ink")
    parts, handlers = tab(workspace, compare)
    first = parts.form.styles[0]
    answer = handlers.open_tab("run:ink", "run:ink", *[None] * 5)
    assert answer[first.picker].value == "step:ink:5" and answer[first.strengths] == "0.85"
    assert answer[parts.offered] == ""
    suggested = json.loads(handlers.suggest("step:ink:5", "mini"))
    assert suggested["prompts"] == "a cat" and suggested["base"] == "mini"
    again = handlers.open_tab("", "step:ink:5", *[None] * 5)
    assert first.strengths not in again and again[first.picker].value == "step:ink:5"


def test_a_look_sends_what_the_page_does_not_have(workspace: Workspace) -> None:
    finished_run(workspace, "ink")
    parts, handlers = tab(workspace, train)
    first = handlers.look("ink", {})
    assert set(first) == {*parts.view.followed.values(), parts.view.sent}
    assert set(handlers.look("ink", first[parts.view.sent])) == {parts.view.sent}


# --- Compare ---


SPEC = ComparisonSpec(
    "mini", (("run:ink", 1.0), ("run:gone", 0.5)), ("a <cat>",), (1, 2), 9, 4.0, 0
)


def values(**changed: Any) -> compare_form.FormValues:
    """A form that can be drawn."""
    whole = {
        "base": "mini",
        "prompts": "a cat\n\n a dog ",
        "seeds": "1, 2",
        "steps": 9,
        "guidance": 4.0,
        "size": 0,
        "styles": (StyleValues("run:ink", "0.5, 1"), StyleValues()),
    }
    return compare_form.FormValues(**whole | changed)


def test_the_form_says_what_to_draw() -> None:
    spec = compare_form.spec_from(values())
    assert spec.styles == (("run:ink", 0.5), ("run:ink", 1.0)) and spec.mix == ()
    assert (spec.prompts, spec.seeds) == (("a cat", "a dog"), (1, 2))
    back = compare_form.values_of(spec, {"run:ink"})
    assert compare_form.spec_from(back) == spec


def test_styles_with_a_weight_are_one_more_column() -> None:
    mixed = (StyleValues("run:ink", "", 0.7), StyleValues("run:oil", "1", 0.5))
    spec = compare_form.spec_from(values(styles=mixed))
    assert spec.styles == (("run:oil", 1.0),)
    assert spec.mix == (("run:ink", 0.7), ("run:oil", 0.5))
    with pytest.raises(ConfigError, match="A mix needs two styles"):
        compare_form.spec_from(values(styles=mixed[:1]))


def test_all_that_is_wrong_in_the_form_is_said_at_once() -> None:
    wrong = values(
        base="-x",
        prompts=" ",
        seeds="1.5",
        steps=None,
        guidance=0,
        size=63,
        styles=(StyleValues("run:ink", "much"),),
    )
    with pytest.raises(ConfigError) as error:
        compare_form.spec_from(wrong)
    assert len(str(error.value).splitlines()) == 7


@pytest.fixture
def compared(workspace: Workspace) -> Path:
    """A comparison's folder with what was asked for, its process not begun."""
    finished_run(workspace, "ink")
    folder = workspace.comparisons() / "one"
    folder.mkdir(parents=True)
    (folder / "wish.json").write_text(json.dumps(asdict(SPEC)))
    process.write_ended(folder)
    return folder


def test_a_drawn_comparison_is_shown(workspace: Workspace, compared: Path) -> None:
    parts, handlers = tab(workspace, compare)
    cells = [comparisons.cell(compared, row, column) for row in (0, 1) for column in (0, 1, 2)]
    for path in (compared / "grid.png", *cells):
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32)).save(path)
    shown = handlers.look("one", "")
    view = parts.view
    assert set(shown) == set(view.followed.values())
    assert shown[view.status] == "" and shown[view.follower] == ""
    assert "a &lt;cat&gt;, seed 2" in shown[view.grid] and "<cat>" not in shown[view.grid]
    assert shown[view.grid].count("<td data-column") == len(cells)
    assert shown[view.download]["visible"] and not shown[view.stop]["visible"]
    assert 'data-at="one" aria-current=true' in shown[view.past]
    found = handlers.find("one", "dog")
    assert "No results for “dog”" in found


def test_a_comparison_that_failed_shows_the_end_of_its_log(
    workspace: Workspace, compared: Path
) -> None:
    parts, handlers = tab(workspace, compare)
    (compared / "terminal.log").write_text("one <line>")
    shown = handlers.look("one", "")
    assert "could not be generated" in shown[parts.view.status]
    assert "one &lt;line&gt;" in shown[parts.view.status]


def test_how_far_a_drawing_is_comes_from_its_events(workspace: Workspace, compared: Path) -> None:
    """Never from what its process printed, and what is shown besides stays as it is."""
    parts, handlers = tab(workspace, compare)
    view, reported = parts.view, comparisons.events_file(compared)
    prints = "import time; print('drawn 8 of 9 denoising steps', flush=True); time.sleep(600)"
    process.start(compared, [sys.executable, "-c", prints])
    until(lambda: process.log_tail(compared))
    try:
        shown = handlers.look("one", "")
        assert set(shown) == {view.status, view.stop, view.follower}
        assert "Loading the base model" in shown[view.status] and shown[view.stop]["visible"]
        grid_events.append(reported, grid_events.Noted("a prompt is <long>"))
        assert "a prompt is &lt;long&gt;" in handlers.look("one", "")[view.status]
        grid_events.append(reported, grid_events.Drawn(3, 18))
        with reported.open("a") as file:
            file.write('{"event": "drawn", "done": 4')  # still being written
        status = handlers.look("one", "")[view.status]
        assert "3 of 18 sampling steps" in status and 'aria-valuenow="17"' in status
    finally:
        process.stop(compared, at_once=True)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "[]",
        "{",
        "null",
        '{"event": "drawn"}',
        '{"event": "drawn", "done": "1", "steps": 2}',
        '{"event": "drawn", "done": 3, "steps": 2}',
        '{"event": "ended", "done": 1, "steps": 2}',
    ],
)
def test_what_is_no_event_is_passed_over(tmp_path: Path, line: str) -> None:
    path = tmp_path / "events.jsonl"
    assert grid_events.last(path) is None
    path.write_text(line + "\n")
    assert grid_events.last(path) is None
    grid_events.append(path, grid_events.Drawn(1, 2))
    with path.open("a") as file:
        file.write(line + "\n")
    assert grid_events.last(path) == grid_events.Drawn(1, 2)


def test_the_form_takes_a_comparison_without_the_styles_that_are_gone(
    workspace: Workspace, compared: Path
) -> None:
    parts, handlers = tab(workspace, compare)
    answer, form = handlers.reuse("one"), parts.form
    assert set(answer) == set(form.outputs)
    assert (answer[form.prompts], answer[form.seeds], answer[form.count]) == ("a <cat>", "1, 2", 1)
    first, second, *_ = form.styles
    assert answer[first.picker].value == "run:ink" and answer[second.picker].value is None
    assert answer[first.strengths] == "1"
    assert [answer[row.columns[0]].visible for row in form.styles] == [True] + [False] * 5
    with pytest.raises(gr.Error, match=r"cannot be read any more\. Set them by hand"):
        handlers.reuse("none")


def test_a_row_is_added_until_all_are_shown(workspace: Workspace) -> None:
    parts, handlers = tab(workspace, compare)
    answer = handlers.add_row(1)
    assert answer[parts.form.count] == 2 and answer[parts.more].visible
    assert [answer[row.columns[1]].visible for row in parts.form.styles[:3]] == [True, True, False]
    last = handlers.add_row(len(parts.form.styles))
    assert last[parts.form.count] == len(parts.form.styles) and not last[parts.more].visible


def test_a_row_is_removed_and_those_below_move_up(workspace: Workspace) -> None:
    parts, handlers = tab(workspace, compare)
    form = parts.form
    found = [("run:a", "1", 0.0), ("run:b", "0.5", 0.3), ("run:c", "2", 0.7)]
    found += [(None, "1", 0.0)] * (len(form.styles) - len(found))
    flat = [value for row in found for value in row]
    answer = handlers.remove_row(1, 3, *flat)
    assert set(answer) == {parts.more, *form.rows, *form.shown_rows}
    first, second, third, *_ = form.styles
    assert [answer[row.picker].value for row in (first, second, third)] == ["run:a", "run:c", None]
    assert (answer[second.strengths], answer[second.weight]) == ("2", 0.7)
    assert answer[form.count] == 2 and not answer[third.columns[0]].visible
    assert answer[first.remove].visible and not answer[third.remove].visible
    alone = handlers.remove_row(0, 2, *[value for row in found[1:] for value in row], None, "1", 0)
    assert alone[form.count] == 1 and not alone[first.remove].visible


def test_the_weights_of_a_mix_are_named_as_their_styles(workspace: Workspace) -> None:
    finished_run(workspace, "ink")
    parts, handlers = tab(workspace, compare)
    named = handlers.name_weights("run:ink", None, *[None] * 4)
    labels = [named[row.weight].label for row in parts.form.styles[:2]]
    assert labels == ["ink", "Style 2"]


def test_on_the_first_visit_the_form_is_that_of_the_shown_grid(
    workspace: Workspace, compared: Path
) -> None:
    """Where it shows the style that stands first; another style comes with what is its own."""
    spec = replace(SPEC, styles=(("run:ink", 1.0), ("run:ink", 0.5)))
    (compared / "wish.json").write_text(json.dumps(asdict(spec)))
    parts, handlers = tab(workspace, compare)
    form, none = parts.form, [None] * 6
    shown = handlers.open_tab("", *none)
    assert (shown[form.seeds], shown[form.steps], shown[form.size]) == ("1, 2", 9, 0)
    assert shown[form.styles[0].strengths] == "1, 0.5"
    suggested = json.loads(handlers.suggest("run:ink", "mini"))
    assert (suggested["prompts"], suggested["guidance"]) == ("a <cat>", 4.0)
    again = handlers.open_tab("run:ink", "run:ink", *none[1:])
    assert form.seeds not in again  # what was typed since stays
    os.utime(finished_run(workspace, "oil") / "events.jsonl", (2**31, 2**31))  # the newest
    other = handlers.open_tab("run:ink", "run:ink", *none[1:])
    assert other[form.pickers[0]].value == "run:oil" and form.seeds not in other
    assert other[form.styles[0].strengths] == "1"


def test_a_grid_is_downloaded_under_the_name_of_what_it_shows(
    workspace: Workspace, compared: Path
) -> None:
    parts, handlers = tab(workspace, compare)
    Image.new("RGB", (32, 32)).save(compared / "grid.png")
    shown = handlers.look("one", "")
    file = Path(shown[parts.view.download]["value"])
    assert file.name.startswith("ink") and file.suffix == ".png"
    assert file.read_bytes() == (compared / "grid.png").read_bytes()


def test_a_blind_look_is_kept(workspace: Workspace, compared: Path) -> None:
    _, handlers = tab(workspace, compare)
    handlers.reveal("one", "", gr.EventData(None, {"of": "one", "picks": [2, None]}))
    assert comparisons.picks(compared) == [2, None]
    with pytest.raises(gr.Error, match="do not belong"):
        handlers.reveal("one", "", gr.EventData(None, {"of": "one", "picks": [3, 0]}))


# --- Styles, Settings ---


@pytest.mark.parametrize("act", ["choose", "bring", "delete", "bring_back"])
def test_a_late_answer_leaves_the_style_that_was_chosen_meanwhile(
    act: str, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what is typed next is saved onto the style that was shown before."""
    for name in ("fog", "ink", "oil"):
        finished_run(workspace, name)
    parts, handlers = tab(workspace, styles)
    window, elsewhere = gr.Request(session_hash="w"), gr.Request(session_hash="x")
    file = tmp_path / "new.safetensors"
    style_file(file)
    if act == "bring_back":
        handlers.bring([str(file)], "", elsewhere)
        handlers.delete("file:new", "", elsewhere)
    oil = gr.EventData(None, {"at": "run:oil"})
    acts = {
        "choose": lambda: handlers.choose("run:ink", "", oil, window),
        "bring": lambda: handlers.bring([str(file)], "run:ink", window),
        "delete": lambda: handlers.delete("run:ink", "", window),
        "bring_back": lambda: handlers.bring_back("run:ink", "", window),
    }
    looking, to_do, theirs = styles_rendering.one, [acts[act]], []

    def slowly(*given: Any, **named: Any) -> styles_rendering.Shown:
        found = looking(*given, **named)
        if to_do:
            theirs.append(to_do.pop()())
        return found

    monkeypatch.setattr(styles_rendering, "one", slowly)
    card = [None] * len(parts.card.fields)
    late = handlers.save_card("run:ink", "", window, *card)
    assert set(late) == {parts.listing}
    chosen = theirs[0][parts.chosen]
    assert chosen == {"choose": "run:oil", "delete": ""}.get(act, "file:new")
    # asked before that choice, and looked at only after it
    if act != "delete":
        assert set(handlers.open_tab("run:ink", "", window)) == {parts.listing}
    assert handlers.open_tab(chosen, "", window)[parts.chosen] == chosen or act == "delete"
    # what another window does is its own business
    to_do.append(acts["choose"])
    shown = handlers.open_tab("run:fog", "", gr.Request(session_hash="y"))
    assert shown[parts.chosen] == "run:fog"


def test_a_style_is_shown_and_its_card_is_left_while_it_is_typed(workspace: Workspace) -> None:
    finished_run(workspace, "ink")
    parts, handlers = tab(workspace, styles)
    first = handlers.open_tab("", "")
    assert set(first) == set(parts.everything) and first[parts.chosen] == "run:ink"
    again = handlers.open_tab("run:ink", "")
    assert set(parts.everything) - set(again) == set(parts.card.fields)


def test_styles_stand_in_folders_are_found_by_tag_and_compared_by_their_settings(
    workspace: Workspace,
) -> None:
    for name, words in (("ink", "ink, portraits"), ("oil", "portraits, <b>"), ("fog", "")):
        run = finished_run(workspace, name)
        write_card(run / f"{name}.safetensors", Card(folder="Clients" * bool(words), tags=words))
    parts, handlers = tab(workspace, styles)
    shown = handlers.open_tab("run:ink", "")
    listing = shown[parts.listing]
    assert [part.partition("<")[0] for part in listing.split('class="folder">')[1:]] == ["Clients"]
    assert listing.index("run:fog") < listing.index("Clients") < listing.index("run:oil")
    assert listing.index('data-tag="portraits"') < listing.index('data-tag="ink"')
    assert 'data-tag="&lt;b&gt;"' in listing and "<b>" not in listing
    found = handlers.find_tag("run:ink", gr.EventData(None, {"tag": "ink"}))
    assert found[parts.search] == "#ink" and "run:oil" not in found[parts.listing]
    assert 'data-tag="ink" aria-pressed="true"' in found[parts.listing]
    assert "run:oil" in handlers.find("run:ink", "CLIENTS portr")
    assert "No results" in handlers.find("run:ink", "#portr")
    ids = [id for _, id in shown[parts.recipes.other].choices]
    assert sorted(ids) == ["run:fog", "run:oil"]
    assert "ink and oil say nothing" in handlers.compare("run:ink", "run:oil")
    assert handlers.compare("run:ink", None) == ""
    with pytest.raises(gr.Error):
        handlers.compare("run:ink", "../other")


def test_settings_that_differ_stand_side_by_side_escaped() -> None:
    first = {"adapter": {"rank": 8, "targets": ["attention"]}, "optim": {"steps": 9}}
    other = {"adapter": {"rank": 16, "targets": ["attention"]}, "<i>": {"x": "<b>"}}
    shown = styles_view.differences(["ink", "<oil>"], [first, other])
    assert "<td>8</td><td>16</td>" in shown and "targets" not in shown
    assert "<td>9</td><td>–</td>" in shown
    assert "<b>" not in shown and "<i>" not in shown and "<oil>" not in shown
    assert "same settings" in styles_view.differences(["ink", "oil"], [first, first])
    silent = styles_view.differences(["ink", "oil"], [{}, first])
    assert "ink says nothing of the training settings" in silent


def test_a_style_is_shown_before_and_after_its_training(workspace: Workspace, judged: Path) -> None:
    """And without that where the run drew nothing before its first step."""
    parts, handlers = tab(workspace, styles)
    assert "hero" not in handlers.open_tab("run:ink", "")[parts.detail]
    (judged / "events.jsonl").unlink()
    for step in (0, 9):
        Image.new("RGB", (32, 32), "white").save(judged / f"{step}.png")
        events.append(judged / "events.jsonl", events.Previewed(step, (f"{step}.png",), ("a cat",)))
    shown = handlers.open_tab("run:ink", "")[parts.detail]
    assert shown.count('class="hero"') == 1 and 'aria-label="Before and after"' in shown
    (judged / "0.png").unlink()
    assert "hero" not in handlers.open_tab("run:ink", "")[parts.detail]


def test_a_style_is_tried_in_create(workspace: Workspace) -> None:
    finished_run(workspace, "ink")
    tab(workspace, styles)[1].use("run:ink")
    parts, handlers = tab(workspace, compare)
    answer = handlers.open_tab("", *[None] * 6)
    assert answer[parts.form.styles[0].picker].value == "run:ink"


def test_after_a_style_is_deleted_no_other_one_takes_its_place(workspace: Workspace) -> None:
    """A second click would delete that one; the line that undoes it says what was deleted."""
    for name in ("ink", "oil"):
        finished_run(workspace, name)
    parts, handlers = tab(workspace, styles)
    shown = handlers.choose("", "", gr.EventData(None, {"at": "run:ink"}))
    assert shown[parts.actions].visible
    gone = handlers.delete("run:ink", "")
    assert set(gone) == set(parts.changed)
    assert gone[parts.chosen] == "" and not gone[parts.actions].visible
    assert gone[parts.snackbar.row].visible and "“ink”" in gone[parts.snackbar.words]
    assert gone[parts.card.title] == ""
    back = handlers.bring_back("", "")
    assert back[parts.chosen] == "run:ink" and not back[parts.snackbar.row].visible


def test_the_trash_is_emptied_after_a_question(workspace: Workspace, drawings: Path) -> None:
    """It names what would be gone for good."""
    finished_run(workspace, "oil")
    parts, handlers = tab(workspace, settings)
    assert not handlers.ask_to_empty()[parts.asking.row].visible  # nothing there
    tab(workspace, styles)[1].delete("run:oil", "")
    tab(workspace, pictures)[1].delete_dataset("ink", "mini")
    asked = handlers.ask_to_empty()
    assert set(asked) == set(parts.asking.shown) and asked[parts.asking.row].visible
    assert "2 items" in asked[parts.asking.words] and "oil, ink" in asked[parts.asking.words]
    assert (workspace.root / "trash").is_dir()
    emptied = handlers.empty_trash()
    assert not emptied[parts.asking.row].visible and not (workspace.root / "trash").exists()


def test_a_joint_training_stands_in_the_queue_and_is_stopped_there(
    workspace: Workspace, drawings: Path
) -> None:
    config = from_mapping({"save": {"folder": str(workspace.runs()), "name": "both"}})
    tables, configs = sweeps.planned(workspace, config, ["ink"], {"adapter.rank": "2, 4"})
    folder = workspace.root / "sweeps" / "first"
    folder.mkdir(parents=True)
    (folder / "sweep.toml").write_text(tomli_w.dumps(tables))
    process.start(folder, [sys.executable, "-c", "import time; time.sleep(600)"])
    parts, handlers = tab(workspace, train)
    try:
        queue = handlers.look(None, {})[parts.view.queue]
        assert ", ".join(config.save.name for config in configs) in queue
        assert "Training in one batch" in queue
        handlers.act_on_job(None, gr.EventData(None, {"act": "stop_together", "id": 0}))
        until(lambda: not process.is_alive(folder))
        assert "Training in one batch" not in handlers.look(None, {})[parts.view.queue]
    finally:
        process.stop(folder, at_once=True)


def test_a_sweep_tells_how_it_ended_without_places_of_this_machine(
    workspace: Workspace, drawings: Path
) -> None:
    config = from_mapping({"save": {"folder": str(workspace.runs()), "name": "both"}})
    tables, _ = sweeps.planned(workspace, config, ["ink"], {"adapter.rank": "2, 4"})
    folder = workspace.root / "sweeps" / "first"
    folder.mkdir(parents=True)
    (folder / "sweep.toml").write_text(tomli_w.dumps(tables))
    (folder / "terminal.log").write_text(f"cannot write {workspace.root}/runs/<both>")
    shown = several.status_html(workspace, folder, False)
    assert "0 of 2 styles finished" in shown and "<details>" in shown
    assert str(workspace.root) not in shown and "runs/&lt;both&gt;" in shown
    assert "terminal" not in several.status_html(workspace, folder, True)


def test_a_training_that_saves_is_ended_after_a_question(workspace: Workspace) -> None:
    run = finished_run(workspace, "ink")
    (run / "events.jsonl").unlink()
    ignores = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True)"
    process.start(run, [sys.executable, "-c", f"{ignores}; time.sleep(600)"])
    events.append(run / "events.jsonl", events.Started(0, 9, 1, 1, 1, "cpu", "float32"))
    parts, handlers = tab(workspace, train)
    ending = parts.view.ending
    try:
        until(lambda: process.log_tail(run))
        assert not handlers.stop("ink")[ending.row].visible
        until(lambda: process.state(run) == "stopping")
        asked = handlers.stop("ink")
        assert asked[ending.row].visible and "without saving" in asked[ending.words]
        assert process.is_alive(run)
        assert not handlers.end_now("ink")[ending.row].visible
        until(lambda: not process.is_alive(run))
    finally:
        process.stop(run, at_once=True)


def test_a_base_that_is_not_there_cannot_be_chosen(workspace: Workspace) -> None:
    parts, handlers = tab(workspace, settings)
    followed = {parts.fetchable, parts.follower}
    assert set(handlers.show()) == {parts.base, parts.bases, parts.workspace, *followed}
    with pytest.raises(gr.Error, match="not on this machine any more"):
        handlers.choose_base("another")


# --- files of the page ---


def test_every_template_and_script_is_there_and_used() -> None:
    folder = Path(app.__file__).parent
    sources = [path.read_text(encoding="utf-8") for path in folder.rglob("*.py")]
    found = {path.stem: path.read_text("utf-8") for path in folder.glob("templates/*.html")}
    rendered = re.findall(r'\brender\(\s*"(\w+)"', "\n".join(sources))
    included = re.findall(r'{% from "(\w+)\.html"', "\n".join(found.values()))
    assert {*rendered, *included} == set(found)
    scripts = set(re.findall(r"""\bscript\(['"](\w+)['"]\)""", "\n".join(sources)))
    assert scripts == {path.stem for path in folder.glob("assets/*.js")} - {"page"}


def test_what_a_template_is_given_is_escaped() -> None:
    assert templates.note('<b>"x"') == '<p class="note">&lt;b&gt;&#34;x&#34;</p>'
    with pytest.raises(UndefinedError):
        templates.render("note")
