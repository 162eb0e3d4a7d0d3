from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from studio.server import uploads


@pytest.fixture(autouse=True)
def _own_sweeper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests of this process have files that go in ten minutes."""
    monkeypatch.setattr(uploads, "_SWEEPER", uploads.Sweeper())


def gone(path: Path, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while path.exists() and time.monotonic() < end:
        time.sleep(0.01)
    return not path.exists()


def test_an_upload_stays_a_while_after_its_use_and_then_goes(tmp_path: Path) -> None:
    """Another page may just have sent the same picture: gradio keeps both as one file."""
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for file in files:
        file.write_bytes(b"x")
    uploads.used([*files, tmp_path / "none.png", ""], kept=0.3)
    assert all(file.exists() for file in files)
    assert all(gone(file) for file in files)


def test_what_was_sent_again_stays(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"x")
    uploads.used([file], kept=0.4)
    time.sleep(0.2)
    os.utime(file)  # sent again
    time.sleep(0.35)
    assert file.exists()
    uploads.used([file], kept=0.1)
    assert gone(file)


def test_many_uploads_keep_one_thread(tmp_path: Path) -> None:
    others = set(threading.enumerate())

    def waiting() -> list[threading.Thread]:
        return [one for one in threading.enumerate() if one.name == "uploads" and one not in others]

    files = [tmp_path / f"{number}.png" for number in range(200)]
    before = threading.active_count()
    for number, file in enumerate(files):
        file.write_bytes(b"x")
        uploads.used([file], kept=1.0 + 0.001 * (number % 7))
    assert len(waiting()) == 1 and threading.active_count() <= before + 1
    assert all(gone(file, 60.0) for file in files)
    end = time.monotonic() + 60.0
    while waiting() and time.monotonic() < end:
        time.sleep(0.01)
    assert not waiting()
