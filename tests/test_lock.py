"""One process a run: the second is refused by name, and one that died leaves no lock behind."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from training.errors import BusyError, SpaceError
from training.storage import run_lock

ROOT = Path(__file__).resolve().parents[1]
HOLD = """
import sys, time
from pathlib import Path
from training.storage import run_lock
with run_lock.held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def holding(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-B", "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_the_second_is_refused_by_name_and_the_third_follows_a_crash(tmp_path: Path) -> None:
    run = tmp_path / "ink"
    run.mkdir()
    first = holding(run)
    try:
        assert run_lock.holder(run) == run_lock.Holder(
            first.pid, psutil.Process(first.pid).create_time()
        )
        with (
            pytest.raises(
                BusyError, match=f"“ink” is being trained right now by process {first.pid}"
            ),
            run_lock.held(run),
        ):
            pass
    finally:
        first.kill()
        first.communicate()
    assert run_lock.holder(run) is None
    with run_lock.held(run):
        assert run_lock.holder(run) == run_lock.myself()
        with pytest.raises(BusyError), run_lock.held(run):
            pass
    assert list(run.iterdir()) == []


def test_without_locks_of_the_file_system_the_word_of_the_file_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "_locked", lambda handle: True)
    mine = psutil.Process(os.getppid())
    (tmp_path / run_lock.NAME).write_text(
        json.dumps({"pid": mine.pid, "started": mine.create_time()})
    )
    with pytest.raises(BusyError), run_lock.held(tmp_path):
        pass
    (tmp_path / run_lock.NAME).write_text(
        json.dumps({"pid": mine.pid, "started": mine.create_time() - 3600})
    )  # a stranger with that pid
    with run_lock.held(tmp_path):
        pass


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"pid": -1, "started": 0}', '{"pid": 99999999999999, "started": 0}']
)
def test_a_damaged_lock_is_nobodys(tmp_path: Path, content: str) -> None:
    (tmp_path / run_lock.NAME).write_text(content)
    assert run_lock.holder(tmp_path) is None
    with run_lock.held(tmp_path):
        pass


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(SpaceError, match=r"run\.lock could not be written"),
        run_lock.held(tmp_path / "nowhere"),
    ):
        pass


def test_a_disk_that_takes_nothing_more_hides_no_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that turned read-only:

    what the training says of it is told, not that its lock could not be taken away; nobody is kept
    out by that.
    """
    with (
        monkeypatch.context() as patched,
        pytest.raises(SpaceError, match="a checkpoint"),
        run_lock.held(tmp_path),
    ):

        def read_only(*args: object, **keys: object) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        patched.setattr(Path, "unlink", read_only)
        raise SpaceError("a checkpoint could not be written")
    with run_lock.held(tmp_path):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts starts without the clock")
@pytest.mark.parametrize("step", [-3600.0, 3600.0])  # seconds
def test_a_clock_that_is_set_makes_no_stranger_of_a_training(tmp_path: Path, step: float) -> None:
    first = holding(tmp_path)
    try:
        record = json.loads((tmp_path / run_lock.NAME).read_text())
        other_clock = {**record, "started": record["started"] + step}
        (tmp_path / run_lock.NAME).write_text(json.dumps(other_clock))
        found = run_lock.holder(tmp_path)
        assert found is not None and found.pid == first.pid
        boot, ticks = record["start"].split(":")
        for start in (f"{boot}:{int(ticks) + 1}", f"another boot:{ticks}"):
            (tmp_path / run_lock.NAME).write_text(json.dumps({**record, "start": start}))
            assert run_lock.holder(tmp_path) is None  # the pid came back
    finally:
        first.kill()
        first.communicate()
