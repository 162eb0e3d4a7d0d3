"""Tests of studio.datasets.collection: datasets are named with any sign, copied, deleted and
brought back, and nothing that refers to them breaks.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from studio.datasets import collection, history, store
from studio.library import import_export
from studio.processes.queue import Queue
from tests.test_shelf import everything
from training.config.loading import from_mapping
from training.errors import BusyError, ConfigError, DataError
from training.storage.paths import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def ink(workspace: Workspace) -> Path:
    folder = store.make(workspace, "ink")
    Image.new("RGB", (40, 32), "red").save(folder / "a.png")
    store.write_caption(folder, "a.png", "a red square")
    store.rewrite(folder, "shorter", {"a.png": "red"})
    return folder


@pytest.mark.parametrize("called", ["🦊 foxes", "🖌️", "Füchse, rot & blau!", "con", "“wash”"])
def test_a_dataset_may_be_called_anything(workspace: Workspace, called: str) -> None:
    made = collection.make(workspace, called)
    assert collection.title(made) == called and made.parent == workspace.datasets()
    assert collection.choices(workspace) == [(called, made.name)]
    with pytest.raises(DataError, match="already a dataset"):
        collection.make(workspace, called)


@pytest.mark.parametrize("bad", ["", "  ", "../x", "a/b", "a\\b", ".x", "x" * 81, "a\0b", 'a"b'])
def test_what_no_system_could_show_is_refused(workspace: Workspace, ink: Path, bad: str) -> None:
    for act in (collection.make, lambda of, called: collection.rename(of, "ink", called)):
        with pytest.raises(ConfigError):
            act(workspace, bad)
    assert store.names(workspace) == ["ink"] and collection.title(ink) == "ink"


def test_a_new_name_leaves_the_folder_that_runs_refer_to(workspace: Workspace, ink: Path) -> None:
    store.make(workspace, "oil")
    collection.rename(workspace, "ink", "Ink 🖋")
    assert store.folder(workspace, "ink") == ink and collection.title(ink) == "Ink 🖋"
    assert collection.choices(workspace) == [("Ink 🖋", "ink"), "oil"]
    with pytest.raises(DataError, match="already a dataset"):
        collection.rename(workspace, "oil", "ink 🖋")
    collection.rename(workspace, "ink", "ink")
    assert collection.choices(workspace) == ["ink", "oil"]


def test_a_copy_holds_the_pictures_and_none_of_the_history(workspace: Workspace, ink: Path) -> None:
    collection.rename(workspace, "ink", "Ink 🖋")
    first, second = (collection.duplicate(workspace, "ink") for _ in range(2))
    assert [collection.title(made) for made in (first, second)] == ["Ink 🖋 copy", "Ink 🖋 copy 2"]
    assert store.captions(first) == store.captions(ink) == {"a.png": "red"}
    assert history.last(first) is None and history.last(ink) == "shorter"


def test_a_deleted_dataset_comes_back_as_it_was(workspace: Workspace, ink: Path) -> None:
    collection.rename(workspace, "ink", "Ink 🖋")
    before = everything(workspace.root)
    assert collection.delete(workspace, "ink") == "Ink 🖋"
    assert store.names(workspace) == [] and import_export.last_taken(workspace) is None
    assert collection.bring_back(workspace) == "ink"
    assert everything(workspace.root) == before
    with pytest.raises(DataError, match="No deleted dataset"):
        collection.bring_back(workspace)


def test_nothing_is_overwritten_when_a_dataset_comes_back(workspace: Workspace, ink: Path) -> None:
    collection.delete(workspace, "ink")
    store.make(workspace, "ink")
    with pytest.raises(DataError, match="again"):
        collection.bring_back(workspace)
    assert store.pictures(workspace.datasets() / "ink") == []


def test_a_dataset_that_a_training_waits_for_is_not_deleted(
    workspace: Workspace, ink: Path
) -> None:
    save = {"folder": str(workspace.runs()), "name": "first"}
    queue = Queue(workspace, None)
    job = queue.add(from_mapping({"data": {"folder": str(ink)}, "save": save}))
    with pytest.raises(BusyError, match="“first”"):
        collection.delete(workspace, "ink")
    assert store.names(workspace) == ["ink"]
    queue.cancel(job)
    collection.delete(workspace, "ink")


@pytest.mark.parametrize("name", ["../x", "/etc", "", "3", "."])
def test_a_record_in_the_trash_leads_nowhere_else(workspace: Workspace, name: str) -> None:
    entry = workspace.root / "trash" / "2026-01-01 00-00-00 000"
    entry.mkdir(parents=True)
    (entry / collection.RECORD).write_text(f'{{"title": "x", "name": "{name}"}}')
    before = everything(workspace.root.parent)
    with pytest.raises((DataError, ConfigError)):
        collection.bring_back(workspace)
    assert everything(workspace.root.parent) == before
