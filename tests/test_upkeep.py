"""Tests of studio.system.storage, preferences and sample_project:

what the page as a whole knows of its workspace.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from studio.datasets import store
from studio.library import comparisons, import_export, library, preferences, sample_project
from studio.processes import process
from studio.processes.process import Process
from studio.system import storage
from tests.test_library import finished_run, style_file
from training.data.dataset import read_dataset
from training.errors import BusyError
from training.storage.paths import Workspace


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("STYLE_STUDIO_CACHE", str(tmp_path / "cache"))
    return Workspace(tmp_path / "workspace")


def test_a_new_workspace_gets_the_example_once(workspace: Workspace) -> None:
    sample_project.settle(workspace)
    assert store.names(workspace) == ["linocut"] and sample_project.is_example(workspace, "linocut")
    folder = store.folder(workspace, "linocut")
    assert len(store.pictures(folder)) == 24 and all(store.captions(folder).values())
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    sample_project.settle(workspace)  # who took it away does not want it back
    assert store.names(workspace) == [] and not sample_project.is_example(workspace, "linocut")


def test_a_new_workspace_may_begin_with_a_finished_example_or_empty(
    workspace: Workspace, tmp_path: Path
) -> None:
    empty = Workspace(tmp_path / "empty")
    sample_project.settle(empty, "empty")
    assert not empty.root.exists()
    sample_project.settle(workspace, "example")
    (style,) = library.styles(workspace)
    assert (style.id, style.trigger) == ("run:linocut", "linocut") and library.checkpoints(
        workspace, style.id
    )
    assert (
        len(import_export.pictures(workspace, style)) >= 5
        and process.state(workspace.runs() / "linocut") == "finished"
    )
    assert (workspace.runs() / "linocut" / "report" / "report.html").is_file()
    (name,) = comparisons.names(workspace)
    folder = comparisons.folder(workspace, name)
    request = comparisons.read_spec(folder)
    assert all(
        comparisons.cell(folder, r, c).is_file()
        for r in range(len(request.rows))
        for c in range(len(request.columns))
    )
    assert comparisons.command(workspace, request, folder)  # it can be drawn again
    assert {one.id for one in library.styles(workspace)} >= {id for id, _ in request.styles}
    text = "".join(
        f.read_text()
        for f in (workspace.runs() / "linocut").rglob("*")
        if f.suffix in (".jsonl", ".json", ".html")
    )
    assert "/tmp" not in text and "/home" not in text
    finished_run(workspace, "mine")
    os.utime(workspace.runs() / "mine" / "events.jsonl")
    assert library.runs(workspace)[0] == "mine"


def test_the_example_can_be_trained_as_it_lies_there(workspace: Workspace) -> None:
    sample_project.settle(workspace)
    config = sample_project.config(workspace)
    assert (
        len(
            read_dataset(
                Path(config.data.folder), trigger=config.data.trigger, template=config.data.template
            ).examples
        )
        == 24
    )
    assert config.run_folder == workspace.runs() / "linocut"
    finished_run(workspace, "linocut")
    assert sample_project.config(workspace).save.name == "linocut-2"


def test_the_chosen_base_is_offered_first(workspace: Workspace) -> None:
    finished_run(workspace, "ink")
    assert library.bases(workspace)[0] == "./bases/one" and preferences.base(workspace) is None
    preferences.choose_base(workspace, "mini")
    assert library.bases(workspace) == ["mini", "./bases/one"]
    (workspace.root / "settings.json").write_text("[3")
    assert library.bases(workspace)[0] == "./bases/one"


def test_bases_in_the_workspace_are_found(workspace: Workspace) -> None:
    made = workspace.root / "models" / "one"
    made.mkdir(parents=True)
    (made / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (made.parent / "two.safetensors").write_bytes(b"12345")
    (made.parent / "notes.txt").touch()
    found = {Path(base.setting).name: (base.kind, base.size) for base in storage.bases(workspace)}
    assert found["one"] == ("StableDiffusionPipeline", (made / "model_index.json").stat().st_size)
    assert found["two.safetensors"] == ("single file", 5)
    assert found["mini"][0] == "built in" and "notes.txt" not in found


def test_sizes_add_up_and_links_do_not_count(workspace: Workspace) -> None:
    style_file(workspace.styles() / "oil.safetensors")
    size = (workspace.styles() / "oil.safetensors").stat().st_size
    (workspace.styles() / "link.bin").symlink_to(workspace.styles() / "oil.safetensors")
    assert storage.sizes(workspace)["styles"] == size
    import_export.take_away(workspace, "file:oil")
    assert storage.sizes(workspace)["trash"] > size
    storage.clear_trash(workspace)
    assert storage.sizes(workspace)["trash"] == 0 and import_export.last_taken(workspace) is None


def test_the_cache_stays_while_something_is_trained(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (storage.unpacked() / "one").mkdir(parents=True)
    run = finished_run(workspace, "ink")
    import psutil

    process._write(run, Process(os.getpid(), psutil.Process().create_time(), ("me",)))
    with pytest.raises(BusyError, match="ink"):
        storage.clear_cache(workspace)
    assert storage.unpacked().is_dir()
    (run / "process.json").unlink()
    storage.clear_cache(workspace)
    assert not storage.unpacked().exists()


def test_the_device_is_described_by_a_process_of_its_own(workspace: Workspace) -> None:
    device = storage.device()
    assert device["precision"] in ("float32", "bfloat16", "float16")
    assert "GiB" in device["memory"]


def test_a_file_that_goes_meanwhile_has_no_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training renames its temporary files while the Settings tab counts."""
    (tmp_path / "stays").write_bytes(b"12345")
    (tmp_path / "goes").write_bytes(b"67")
    walk = os.walk

    def and_then_one_goes(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        for found in [*walk(folder)]:
            (tmp_path / "goes").unlink(missing_ok=True)
            yield found

    monkeypatch.setattr(storage.os, "walk", and_then_one_goes)
    assert storage.size_of(tmp_path) == 5
