"""What the program wrote before its folders were given today's names: it opens, goes on and ends as
it would have then.

`from_before/` was written by that program from four drawings and tests/tiny.py's base: a run that
was killed after 3 of 6 updates, and a workspace. Nothing in it is to be renewed: it stands for what
lies on users' disks.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from studio.datasets import history, store
from studio.library import cards, comparisons, library, preferences
from studio.processes.queue import Queue
from tests.tiny import tiny_base
from training import train_style
from training.storage.paths import Workspace

BEFORE = Path(__file__).parent / "from_before"


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """A copy of everything, the base beside it."""
    shutil.copytree(BEFORE, tmp_path / "before")
    tiny_base(tmp_path / "before" / "base")
    return tmp_path / "before"


@pytest.fixture
def workspace(before: Path) -> Workspace:
    return Workspace(before / "workspace")


def test_a_killed_run_goes_on_and_ends_with_the_same_weights(
    before: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (before / "runs").mkdir()
    (before / "run").rename(before / "runs" / "mist")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as then
    try:
        code = train_style.main(
            [
                str(before / "run.toml"),
                f"--save.folder={before / 'runs'}",
                "--save.resume=adapt",  # base and pictures lie in another folder than then
            ]
        )
    finally:
        torch.set_num_threads(threads)
    output = capsys.readouterr()
    assert code == 0, output.err
    assert "going on after 3 of 6 updates" in output.out
    found = load_file(before / "runs" / "mist" / "mist.safetensors")
    then = load_file(before / "workspace" / "runs" / "mist" / "mist.safetensors")
    assert found.keys() == then.keys()
    for key, value in then.items():
        # Another CPU rounds otherwise; a forgotten moment or another noise moves far more
        np.testing.assert_allclose(found[key], value, rtol=2e-3, atol=2e-6, err_msg=key)


def test_a_run_that_is_finished_stays_as_it_is(workspace: Workspace) -> None:
    run = library.run(workspace, "mist")
    before = (run / "mist.safetensors").read_bytes()
    assert library.prompts(workspace, "run:mist") == ("red apple, mist style",)
    assert library.guidance(library.style(workspace, "run:mist")) == 5.0
    assert (run / "mist.safetensors").read_bytes() == before


def test_styles_and_what_was_said_of_them_are_found(workspace: Workspace) -> None:
    assert [style.id for style in library.styles(workspace)] == ["run:mist", "file:fog"]
    mist = library.style(workspace, "run:mist")
    assert (mist.trigger, mist.rank) == ("mist", "2")
    card = cards.card(mist.path)
    assert (card.title, card.licence, card.notes) == (
        "Mist over the lake",
        "CC BY 4.0",
        "thin lines",
    )
    assert preferences.base(workspace) == "mini"


def test_a_dataset_keeps_its_captions_its_crops_and_its_way_back(workspace: Workspace) -> None:
    assert store.names(workspace) == ["drawings"]
    drawings = store.folder(workspace, "drawings")
    assert store.captions(drawings) == {
        "boat.png": "ink of a blue boat",
        "cat.png": "a black cat on a wall",
        "door.png": "green door",
    }
    assert store.place_of(drawings, "door.png") == (0.25, 0.75)
    history.undo(drawings)
    assert store.captions(drawings)["apple.png"] == "red apple"
    history.undo(drawings)
    assert store.captions(drawings)["boat.png"] == "blue boat"


def test_a_comparison_shows_its_pictures_and_its_pick(workspace: Workspace) -> None:
    (name,) = comparisons.names(workspace)
    folder = comparisons.folder(workspace, name)
    assert folder is not None
    spec = comparisons.read_spec(folder)
    assert spec is not None
    assert spec.columns == ["base", "mist", "fog × 0.5", "mist × 0.5 + fog × 0.5"]
    assert spec.rows == [("red apple", 0)]
    assert all(comparisons.cell(folder, 0, column).is_file() for column in range(4))
    assert comparisons.picks(folder) == [1]


def test_the_queue_knows_what_waits(workspace: Workspace) -> None:
    (job,) = Queue(workspace, worker=None).jobs()
    assert (job.run, job.state) == ("next", "waiting")
    assert job.config.data.trigger == "mist"
    assert job.config.optim.steps == 10
