"""Files of unknown origin: a pipe in a file's place is refused instead of waited for, and reading
asks for no more memory than there are bytes.
"""

from __future__ import annotations

import json
import os
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from studio import grid_events
from studio.datasets import base_info, checks, store
from studio.library import cards, comparisons, preferences, sweeps
from studio.page.handlers import framed
from studio.processes import process
from training import events
from training.config.loading import read_toml
from training.data.dataset import read_dataset
from training.data.file_content import read_content
from training.errors import StudioError, StyleFileError
from training.models import files
from training.storage import run_lock
from training.storage.paths import Workspace, read_regular
from training.style_files.reading import read_metadata, read_style
from training.trainer import checkpoint, microbatching

LONG = 60.0  # seconds, for a busy machine


def answer(call: Callable[[], Any]) -> Any:
    """What a call gives or raises; fails when it waits for ever."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(call())
        except (StudioError, OSError) as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LONG)
    assert found, "waits for ever"
    return found[0]


def caption_of(dataset: Path) -> str:
    Image.new("RGB", (64, 64)).save(dataset / "a.png")
    return store.caption(dataset, "a.png")


def base_at(folder: Path) -> base_info.Base:
    (folder / "model_index.json").write_text("{}")
    return base_info.known(str(folder))


READERS: dict[str, tuple[str, Callable[[Path], Any], Any]] = {
    "run.toml": ("run.toml", lambda folder: read_toml(folder / "run.toml"), StudioError),
    "record": ("process.json", process.read, None),
    "state": ("events.jsonl", process.state, "new"),
    "log": ("terminal.log", process.log_tail, ""),
    "lock": ("run.lock", run_lock.holder, None),
    "events": ("events.jsonl", lambda folder: list(events.read(folder / "events.jsonl")), []),
    "tail": ("events.jsonl", lambda folder: process.Tail(folder / "events.jsonl").read_on(), []),
    "card": ("s.card.json", lambda folder: cards.card(folder / "s.safetensors"), cards.Card()),
    "comparison": ("wish.json", comparisons.read_spec, None),
    "picks": ("picks.json", comparisons.picks, []),
    "settings": (
        "settings.json",
        lambda folder: preferences.take_start(Workspace(folder)),
        None,
    ),
    "sweep": ("sweep.toml", sweeps.runs_of, []),
    "report": ("index.html", lambda folder: framed(folder / "index.html"), ""),
    "model": (
        "model_index.json",
        lambda folder: files.read_json(folder / "model_index.json", "it"),
        StudioError,
    ),
    "base": ("unet/config.json", base_at, StudioError),
    "caption in the page": ("a.txt", caption_of, OSError),
    "kept": (checks.KEPT, checks.kept, set()),
    "plan": (microbatching.FILE, lambda folder: microbatching.read(folder, {}), {}),
    "checkpoint": ("manifest.json", checkpoint.read, OSError),
    "drawing": ("events", lambda folder: grid_events.last(folder / "events"), None),
    "style": ("s.safetensors", lambda folder: read_style(folder / "s.safetensors"), StudioError),
    "caption": ("a.txt", lambda folder: read_content(folder / "a.txt", 1000), StudioError),
}


@pytest.mark.skipif(os.name != "posix", reason="needs pipes with names")
@pytest.mark.parametrize("name", READERS)
def test_a_pipe_in_a_files_place_is_not_waited_for(tmp_path: Path, name: str) -> None:
    file, read, wanted = READERS[name]
    (tmp_path / file).parent.mkdir(exist_ok=True)
    os.mkfifo(tmp_path / file)
    found = answer(lambda: read(tmp_path))
    assert isinstance(found, wanted) if isinstance(wanted, type) else found == wanted


def test_reading_takes_no_more_memory_than_the_file_has_bytes(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"a few bytes")
    tracemalloc.start()
    try:
        assert read_regular(tmp_path / "small", 2**31) == b"a few bytes"
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_one_byte_too_many_is_seen(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_regular(tmp_path / "file", 4) == b"12345"  # longer than 4: its reader refuses it
    assert len(read_regular(tmp_path / "file", 2)) == 3


def test_a_damaged_byte_of_a_report_costs_a_letter(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_bytes(b"<p>a stroke\xff</p>")
    assert "a stroke\N{REPLACEMENT CHARACTER}" in framed(tmp_path / "index.html")


@pytest.mark.parametrize("name", ["x" * 5000, "a/" * 3000, "é" * 200])
def test_a_name_that_no_file_can_have_is_not_there(name: str) -> None:
    for read in (read_style, read_metadata):
        with pytest.raises(StyleFileError, match="is not there"):
            read(Path(f"{name}.safetensors"))
    for read in (read_dataset, read_toml):
        with pytest.raises(StudioError):
            read(Path(name))


def test_the_longest_names_of_pictures_are_read(tmp_path: Path) -> None:
    """Names of 255 bytes leave no room for the ending of a crop's file."""
    for stem in ("a" * 251, "é" * 125):
        Image.new("RGB", (64, 64)).save(tmp_path / f"{stem}.png")
    assert len(read_dataset(tmp_path).examples) == 2


RECORD = {"pid": os.getpid(), "started": 1.0, "command": ["x"], "since": 0}


@pytest.mark.parametrize(
    "changed",
    [
        {"pid": "5"},
        {"pid": None},
        {"pid": [1]},
        {"pid": True},
        {"pid": 1e999},
        {"pid": -1},
        {"pid": 10**30},
        {"started": "now"},
        {"started": None},
        {"since": "0"},
        {"since": 1.5},
        {"exit_code": "0"},
        {"start": 5},
        {"stop_asked": {}},
        {"unknown": 1},
        {"command": 5},
    ],
    ids=str,
)
def test_a_damaged_record_of_a_process_is_of_no_process(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    for name in ("process.json", "run.lock"):
        (tmp_path / name).write_text(json.dumps({**RECORD, **changed}))
    assert not process.is_alive(tmp_path)
    assert run_lock.holder(tmp_path) is None
    assert process.state(tmp_path) in ("new", "interrupted")


def test_records_nested_ever_so_deeply_are_none(tmp_path: Path) -> None:
    for name in ("process.json", "run.lock"):
        (tmp_path / name).write_text("[" * 3000)
    assert process.read(tmp_path) is None and run_lock.holder(tmp_path) is None
