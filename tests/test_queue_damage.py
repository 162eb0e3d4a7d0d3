"""The queue's database damaged in many ways: the page opens, the line works, no job is lost."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from studio.datasets import store
from studio.processes import queue_database
from studio.processes.queue import Queue
from tests.test_door import Asked
from tests.test_forgotten_pages import answer, dependency
from tests.test_page import free_port, page_process
from tests.test_queue import config
from training.errors import SpaceError
from training.storage.paths import Workspace

RUNS = [f"r{number}" for number in range(12)]
EACH = 20  # damaged databases of a kind


def flipped(content: bytearray, dice: random.Random) -> bytearray:
    """Any bytes changed."""
    for _ in range(dice.choice((1, 3, 30, 500))):
        content[dice.randrange(len(content))] = dice.randrange(256)
    return content


def cut(content: bytearray, dice: random.Random) -> bytearray:
    return content[: dice.randrange(len(content))]


def zeroed(content: bytearray, dice: random.Random) -> bytearray:
    """A sector that was never written."""
    start = dice.randrange(0, len(content), 512)
    content[start : start + 512] = bytes(512)
    return content


def swapped(content: bytearray, dice: random.Random) -> bytearray:
    """A page written to another one's place."""
    here, there = (dice.randrange(0, len(content), 4096) for _ in range(2))
    content[here : here + 4096] = content[there : there + 4096]
    return content


@pytest.mark.parametrize("damage", [flipped, cut, zeroed, swapped])
def test_a_damaged_database_loses_no_job_and_works(
    tmp_path: Path, damage: Callable[[bytearray, random.Random], bytearray]
) -> None:
    workspace, dice = Workspace(tmp_path / "w"), random.Random(damage.__name__)
    line = Queue(workspace, None)
    for name in RUNS:
        line.add(config(workspace, name))
    sound = {file.name: file.read_bytes() for file in line.folder.iterdir() if file.is_file()}
    for number in range(EACH):
        shutil.rmtree(line.folder)
        line.folder.mkdir()
        for name, content in sound.items():
            (line.folder / name).write_bytes(content)
        damaged = damage(bytearray(sound[queue_database.NAME]), dice)
        (line.folder / queue_database.NAME).write_bytes(damaged)
        again = Queue(workspace, None)
        assert len(again.shown()[0]) == len(RUNS), (damage.__name__, number)
        again.add(config(workspace, "one more"))
        assert len(again.jobs()) == len(RUNS) + 1


def test_a_wal_of_another_database_is_no_trouble(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    line = Queue(workspace, None)
    line.add(config(workspace, "a"))
    for ending, size in (("-wal", 20_000), ("-shm", 32_768)):
        (line.folder / f"{queue_database.NAME}{ending}").write_bytes(os.urandom(size))
    assert [job.run for job in Queue(workspace, None).shown()[0]] == ["a"]


@pytest.mark.parametrize(
    "make",
    [
        Path.mkdir,
        os.mkfifo,
        lambda path: path.symlink_to("/nowhere/x"),
        lambda path: path.symlink_to("/dev/null"),
    ],
    ids=["folder", "pipe", "link to nowhere", "device"],
)
def test_no_file_in_the_place_of_the_database_is_reported(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    workspace = Workspace(tmp_path / "w")
    (workspace.root / "queue").mkdir(parents=True)
    make(workspace.root / "queue" / queue_database.NAME)
    line = Queue(workspace, None)
    assert line.shown()[0] == [] and "cannot be written" in line.shown()[1]
    with pytest.raises(SpaceError):
        line.jobs()


def test_the_page_opens_without_its_queue_and_says_so(tmp_path: Path) -> None:
    workspace, port = tmp_path / "w", free_port()
    workspace.mkdir()
    (workspace / "queue").write_text("a file stands where the folder would")
    with page_process("--port", str(port), "--workspace", str(workspace)) as page:
        lines = [page.stdout.readline()]
        while "open at" not in lines[-1]:
            lines.append(page.stdout.readline())
            assert lines[-1], lines
        assert not [line for line in lines if "Traceback" in line]
        asked = Asked(port)
        assert asked("GET", "/")[0] == 200
        number, inputs = dependency(asked, "run", "input", "run")
        found = answer(asked, number, [None] * len(inputs), "opens")
        assert found["success"] and "folder queue cannot be made" in str(found["output"])


def test_the_page_opens_on_a_full_disk_and_says_so(small_disk: Path) -> None:
    """A workspace that is there: the page is where room is made."""
    if not small_disk.is_mount():
        pytest.skip("needs to mount a small disk")
    workspace, port = small_disk / "w", free_port()
    store.make(Workspace(workspace), "drawings")
    with contextlib.suppress(OSError), (small_disk / "filling").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))
    with page_process("--port", str(port), "--workspace", str(workspace)) as page:
        lines = [page.stdout.readline()]
        while "open at" not in lines[-1]:
            lines.append(page.stdout.readline())
            assert lines[-1], lines
        assert not [line for line in lines if "Traceback" in line]
        assert [line for line in lines if "cannot be written (No space left" in line]
        asked = Asked(port)
        assert asked("GET", "/")[0] == 200
        number, inputs = dependency(asked, "run", "input", "run")
        assert answer(asked, number, [None] * len(inputs), "opens")["success"]


def damaged_line(tmp_path: Path) -> tuple[Workspace, Queue]:
    """A queue of RUNS whose database is none any more."""
    workspace = Workspace(tmp_path / "w")
    line = Queue(workspace, None)
    for name in RUNS:
        line.add(config(workspace, name))
    (line.folder / queue_database.NAME).write_bytes(b"no database" * 500)
    return workspace, line


@pytest.mark.parametrize("failing", ["connect", "replace", "write_whole", "unlink"])
def test_a_disk_that_fails_while_the_line_is_made_again_loses_no_job(
    tmp_path: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails: nothing half made is taken for the line, and the next look makes it."""
    workspace, line = damaged_line(tmp_path)
    owner = {"connect": queue_database.sqlite3, "write_whole": queue_database}.get(failing, Path)
    real, calls = getattr(owner, failing), 0

    def fails(*args: object, **keys: object) -> object:
        nonlocal calls
        calls += str(args[0]).rpartition("/")[2].startswith(PARTS)
        if calls == place:
            if failing == "write_whole":
                raise SpaceError("a disk fails")
            if failing == "connect":
                raise queue_database.sqlite3.OperationalError("disk I/O error")
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*args, **keys)

    for place in range(1, 8):
        calls = 0
        with monkeypatch.context() as patched:
            patched.setattr(owner, failing, fails)
            Queue(workspace, None)
        assert len(Queue(workspace, None).jobs()) == len(RUNS), place
        (line.folder / queue_database.NAME).write_bytes(b"no database" * 500)


PARTS = ("queue.sqlite", "new.sqlite", "making-again", "notice.txt")


def test_a_copy_that_cannot_be_read_now_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, _ = damaged_line(tmp_path)

    def fails(path: Path, most: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(queue_database, "read_regular", fails)
        again = Queue(workspace, None)
        with pytest.raises(SpaceError, match="copy of the training queue"):
            again.jobs()
    assert len(again.jobs()) == len(RUNS)
