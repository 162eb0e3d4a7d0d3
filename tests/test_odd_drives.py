"""Drives that refuse what others allow: network shares, WSL's Windows folders, FUSE mounts."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from studio.datasets import history, store
from studio.library import sample_project
from studio.processes.queue import Queue
from studio.system import doctor
from training.errors import BusyError, SpaceError
from training.storage import run_lock
from training.storage.disk_errors import advice, cause
from training.storage.paths import Workspace, checked_writable, write_whole
from training.system import locks


def refuses(number: int, *, only: Callable[[Any], bool] = lambda _: True) -> Callable[..., Any]:
    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(target: Any, *args: Any, **keys: Any) -> Any:
            if only(target):
                raise OSError(number, os.strerror(number))
            return real(target, *args, **keys)

        return call

    return wrapped


def is_folder(handle: int) -> bool:
    return Path(f"/proc/self/fd/{handle}").is_dir()


HARMLESS: dict[str, dict[str, Callable[..., Any]]] = {
    "no permissions": {"chmod": refuses(errno.EPERM), "fchmod": refuses(errno.EPERM)},
    "no permissions, as NFS says it": {"chmod": refuses(errno.EACCES)},
    "not even a call for them": {"chmod": refuses(errno.ENOSYS), "utime": refuses(errno.ENOSYS)},
    "no dates": {"utime": refuses(errno.EPERM)},
    "folders that cannot be flushed": {"fsync": refuses(errno.EPERM, only=is_folder)},
}
HARMFUL: dict[str, tuple[str, int]] = {
    "no flush": ("fsync", errno.EIO),
    "no second name": ("replace", errno.EPERM),
    "no new names for folders": ("rename", errno.EACCES),
    "read only": ("mkdir", errno.EROFS),
}


@pytest.fixture(params=HARMLESS.values(), ids=HARMLESS)
def odd_drive(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    for name, refusal in request.param.items():
        monkeypatch.setattr(os, name, refusal(getattr(os, name)))
    return tmp_path


def test_what_a_drive_does_not_keep_costs_nothing(odd_drive: Path) -> None:
    checked_writable(odd_drive, "save.folder")
    write_whole(odd_drive / "a.bin", b"1")
    write_whole(odd_drive / "a.bin", b"2")
    assert (odd_drive / "a.bin").read_bytes() == b"2"
    assert [path.name for path in odd_drive.iterdir()] == ["a.bin"]


def test_a_workspace_there_works(odd_drive: Path) -> None:
    workspace = Workspace(odd_drive / "space")
    sample_project.settle(workspace, "example")
    run = workspace.runs() / sample_project.NAME
    assert (run / "run.toml").is_file() and any(workspace.comparisons().iterdir())
    made = store.make(workspace, "drawings")
    Image.new("RGB", (64, 64), "red").save(made / "a.png")
    store.write_caption(made, "a.png", "a red square")
    history.change(made, "edit", {"a.txt": b"a blue square"})
    history.undo(made)
    assert (made / "a.txt").read_text().strip() == "a red square"


def test_the_doctor_finds_nothing_wrong_there(odd_drive: Path) -> None:
    (finding, _) = doctor._folder("workspace", odd_drive)
    assert finding.state == "good"


@pytest.mark.parametrize(("name", "number"), HARMFUL.values(), ids=HARMFUL)
def test_what_the_work_needs_is_tried_before_it(
    name: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check and the doctor see it, with the system's reason and advice that fits."""
    monkeypatch.setattr(os, name, refuses(number)(getattr(os, name)))
    with pytest.raises(SpaceError) as caught:
        checked_writable(tmp_path, "save.folder")
    finding = next(doctor._folder("workspace", tmp_path))
    monkeypatch.undo()
    assert os.strerror(number) in str(caught.value) and "ree space" not in str(caught.value)
    assert finding.state == "bad" and os.strerror(number) in finding.words
    assert str(tmp_path) not in finding.words + finding.advice
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "word"),
    [
        (errno.ENOSPC, "Free space"),
        (errno.EDQUOT, "Free space"),
        (errno.EPERM, "permissions"),
        (errno.EACCES, "permissions"),
        (errno.EROFS, "only be read"),
        (errno.EFBIG, "of this size"),
        (errno.ENAMETOOLONG, "shorter names"),
        (errno.ENOTDIR, "each other's place"),
        (errno.EIO, "sound and connected"),
        (errno.ESTALE, "sound and connected"),
    ],
)
def test_advice_fits_the_error(number: int, word: str) -> None:
    said = advice(OSError(number, os.strerror(number)), "choose another --workspace")
    assert word in said and said.endswith("choose another --workspace.")


def test_the_cause_is_never_none() -> None:
    copied = shutil.Error([("a", "b", "[Errno 1] Operation not permitted: 'b'")])
    assert "Operation not permitted" in cause(copied)
    assert cause(OSError()) == "OSError" and cause(OSError("odd")) == "odd"


def test_a_shares_full_quota_pauses_and_a_refusal_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = refuses(errno.EDQUOT)(os.fsync)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SpaceError, match=r"Disk quota exceeded\)\. Free space"):
        write_whole(tmp_path / "x", b"x")


@pytest.fixture
def without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A drive that refuses every lock, as a network share without lockd does."""
    monkeypatch.setattr(locks.filelock, "lock_descriptor", refuses(errno.ENOLCK)(bool))
    return tmp_path


def test_without_locks_the_word_of_the_file_keeps_a_run_to_one_process(without_locks: Path) -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as other:
        holder = run_lock.Holder(other.pid, psutil.Process(other.pid).create_time())
        (without_locks / run_lock.NAME).write_text(json.dumps(asdict(holder)))
        with pytest.raises(BusyError, match=str(other.pid)), run_lock.held(without_locks):
            pass
        other.communicate()
    with run_lock.held(without_locks):
        pass


def test_a_workspace_on_a_drive_without_locks_is_called_that(without_locks: Path) -> None:
    """sqlite says that such a database is locked, as if another program had it open."""
    held = sqlite3.connect(without_locks / "held.sqlite")
    held.execute("BEGIN EXCLUSIVE")
    refused = sqlite3.connect(without_locks / "held.sqlite", timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked") as caught:
        refused.execute("BEGIN EXCLUSIVE")
    held.close()
    said = str(Queue(Workspace(without_locks), None).database._trouble(caught.value))
    assert "has no locks" in said and "another program" not in said
    findings = {one.about: one for one in doctor._locks(Workspace(without_locks))}
    assert findings["locks of the workspace"].state == "bad"


def test_a_drive_with_locks_is_not_blamed(tmp_path: Path) -> None:
    assert locks.are_kept(tmp_path) and locks.are_kept(tmp_path / "nowhere")
    assert not list(doctor._locks(Workspace(tmp_path))) and not list(tmp_path.iterdir())
