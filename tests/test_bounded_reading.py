"""Files of unknown origin: a pipe in a file's place is refused instead of waited for, and reading
asks for no more memory than there are bytes.
"""

from __future__ import annotations

import os
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studio.library import cards, comparisons, preferences, sweeps
from studio.page.handlers import framed
from studio.processes import process
from training import events
from training.config.loading import read_toml
from training.data.file_content import read_content
from training.errors import StudioError
from training.storage import run_lock
from training.storage.paths import Workspace, read_regular

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
    "caption": ("a.txt", lambda folder: read_content(folder / "a.txt", 1000), StudioError),
}


@pytest.mark.skipif(os.name != "posix", reason="needs pipes with names")
@pytest.mark.parametrize("name", READERS)
def test_a_pipe_in_a_files_place_is_not_waited_for(tmp_path: Path, name: str) -> None:
    file, read, wanted = READERS[name]
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
