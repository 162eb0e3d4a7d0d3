from __future__ import annotations

import os
import time
from pathlib import Path

from studio.server import uploads


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
