"""Bases on their way from the hub, as the page sees them: begun, paused, gone on with, told when
they cannot be had. The hub is a server on this machine, the fetch a process of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from studio.library import fetches
from studio.library.fetches import Fetch
from studio.library.known_bases import KNOWN
from studio.page.views.bases import bases_html
from tests.hub_server import Hub, hub
from training.errors import BusyError, ModelError
from training.models import hub as bases
from training.storage.paths import Workspace
from training.style_files.family_spec import SPECS

PATIENCE = 180.0  # seconds for what takes a few
MODEL, CONTENT = "painters/large", os.urandom(2 * bases.LARGE)
FILES = {"model_index.json": b"{}", "unet/diffusion_pytorch_model.safetensors": CONTENT}


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    with hub({MODEL: FILES}) as found:
        monkeypatch.setenv("HF_ENDPOINT", found.address)
        yield found


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


def until(workspace: Workspace, true: Callable[[Fetch], bool], model: str = MODEL) -> Fetch:
    end = time.monotonic() + PATIENCE
    while True:
        found = next(fetch for fetch in fetches.every(workspace) if fetch.model == model)
        if true(found):
            return found
        assert time.monotonic() < end, found
        time.sleep(0.05)


def test_a_fetch_is_paused_and_gone_on_with_where_it_was(
    there: Hub, workspace: Workspace, tmp_path: Path
) -> None:
    there.slow = 0.002
    fetches.begin(workspace, MODEL)
    far = until(workspace, lambda f: f.done > 0)
    assert far.state == "fetching" and far.whole == sum(map(len, FILES.values()))
    assert "Pause" in bases_html([], [far], [])
    with pytest.raises(BusyError, match="Pause it first"):
        fetches.forget(workspace, MODEL)
    fetches.pause(workspace, MODEL)
    paused = until(workspace, lambda f: f.state == "paused")
    assert paused.done >= far.done and "Resume" in bases_html([], [paused], [])
    part = max(p.stat().st_size for p in (tmp_path / "hub").rglob(f"*{bases.PART}"))
    there.slow = 0.0
    fetches.begin(workspace, MODEL)
    done = until(workspace, lambda f: f.state not in ("fetching", "paused"))
    assert (done.state, done.done) == ("ready", done.whole)
    assert there.ranges == [f"bytes={part}-"]
    (kept,) = (tmp_path / "hub").rglob("snapshots/*/unet/*.safetensors")
    assert kept.read_bytes() == CONTENT
    fetches.forget(workspace, MODEL)
    assert fetches.every(workspace) == [] and kept.is_file()


def test_a_base_that_the_hub_has_not_is_said_in_the_list(there: Hub, workspace: Workspace) -> None:
    fetches.begin(workspace, "painters/nobody")
    failed = until(workspace, lambda f: f.state == "failed", "painters/nobody")
    assert "painters/nobody cannot be downloaded" in failed.message
    shown = bases_html(KNOWN, [failed], [])
    assert "Check the name" in shown and "Try again" in shown


@pytest.mark.parametrize(
    "name", ["", "x", "../x/y", "a/../b", "-a/b", "a--b/c", "a/b/c", "http://127.0.0.1/x", "a/b\n"]
)
def test_what_is_no_hub_id_is_refused(name: str, workspace: Workspace) -> None:
    with pytest.raises(ModelError, match="is no name on the hub"):
        fetches.begin(workspace, name)
    assert not workspace.root.exists()


def test_strange_folders_and_files_are_passed_over(workspace: Workspace) -> None:
    root = workspace.root / "fetches"
    for name in ("painters--large", "no hub id", "..x"):
        (root / name).mkdir(parents=True)
        (root / name / "model.txt").write_text(name)
    (root / "painters--forgotten").mkdir()
    progress = root / "painters--large" / "progress.json"
    for text in ("", "[]", '{"done": "x", "whole": -1}', '{"done": true}', "[" * 60000):
        progress.write_text(text)
        assert fetches.every(workspace) == [Fetch("painters/large", "paused")]


def test_the_list_names_families_that_are_trained_and_what_each_takes() -> None:
    shown = bases_html(KNOWN, [], [KNOWN[0].model])
    for base in KNOWN:
        assert base.family in SPECS and fetches.HUB_ID.fullmatch(base.model)
        assert base.title in shown and f"{base.size:g} GB" in shown and base.licence in shown
    assert shown.count(">Download<") == len(KNOWN) - 1 and shown.count("On this machine") == 1
