"""What an error says of its cause is the cause, and what it says to do helps."""

from __future__ import annotations

import ast
import errno
import io
import itertools
import os
import re
import socket
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from gradio import http_server
from starlette.applications import Starlette

from studio import __main__
from studio.datasets import caption_worker
from studio.library import reload_grid
from studio.processes import queue_database
from studio.processes.queue import Queue
from studio.processes.worker import Worker
from studio.server import auth, gradio_patches
from tests.test_image_worker import file_of
from training.cli.train_arguments import config_from, parser, sweep_from
from training.config import loading
from training.config.loading import from_mapping, read_toml
from training.data import masks
from training.data.dataset import read_dataset
from training.errors import ConfigError, DataError, StudioError
from training.storage.disk_errors import not_read
from training.storage.paths import Workspace
from training.style_files import base_weights, reading
from training.system import processes
from training.trainer.plan import check_same_run

ROOT = Path(__file__).resolve().parents[1]
READERS: dict[str, tuple[Any, str, Callable[[Path], object]]] = {
    "a style": (reading, "read_regular", reading.read_style),
    "a style's metadata": (reading, "open_regular", reading.read_metadata),
    "a base's weights": (base_weights, "open_regular", base_weights._head),
    "settings": (loading, "read_regular", read_toml),
    "the queue's copy": (queue_database, "read_regular", queue_database._copied),
    "a password": (Path, "read_text", auth._from_file),
    "a downloaded grid": (reload_grid, "read_regular", reload_grid._settings),
}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.EACCES, "Allow reading it"),
        (errno.EIO, "Look whether its disk is sound and connected"),
        (errno.ESTALE, "Look whether its disk is sound and connected"),
        (errno.EMFILE, "Too many files are open: close other programs"),
        (errno.ENOMEM, "Memory was full: close other programs"),
    ],
)
def test_what_cannot_be_read_is_blamed_on_what_hinders_it(
    kind: str, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> bytes:
        raise OSError(code, os.strerror(code))

    module, function, read = READERS[kind]
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"")
    file.chmod(0o600)
    monkeypatch.setattr(module, function, fails)
    with pytest.raises(StudioError) as caught:
        read(file)
    assert f"cannot be read ({os.strerror(code)}). {said}." in str(caught.value)


@pytest.mark.parametrize(
    ("code", "said"), [(errno.EACCES, "Allow reading it"), (errno.EIO, "disk is sound")]
)
@pytest.mark.parametrize("place", ["folder", "masks"])
def test_a_folder_that_cannot_be_read_is_blamed_on_what_hinders_it(
    place: str, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    (tmp_path / "a.png").write_bytes(file_of("PNG"))
    monkeypatch.setattr(*((Path, "iterdir") if place == "folder" else (masks, "_files")), fails)
    otherwise = "set data.folder to another" if place == "folder" else "set data.mask = none"
    with pytest.raises(DataError, match=rf"{said}.*, or {otherwise}"):
        read_dataset(tmp_path, mask="file")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EACCES, "Permission denied"), "Allow reading it"),
        (OSError(errno.EIO, "Input/output error"), "Look whether its disk is sound"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "Memory was full"),
        (MemoryError(), "Memory was full"),
        (ValueError("no config"), "Download it again"),
        (OSError("no file named model.safetensors"), "Download it again"),
    ],
)
def test_a_captioning_model_is_downloaded_again_only_where_that_helps(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    answers: list[dict[str, str]] = []
    monkeypatch.setattr(caption_worker, "present", lambda _: "blip")
    monkeypatch.setattr(caption_worker, "Describer", fails)
    monkeypatch.setattr(caption_worker, "_say", answers.append)
    monkeypatch.setattr("sys.stdin", io.StringIO("[]"))
    assert caption_worker.main() == 0
    [answer] = answers
    assert "blip in the hub's cache cannot be opened (" in answer["error"]
    assert said in answer["error"]


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("kill -KILL $$", "it was killed, as systems do when the memory is full"),
        ("kill -TERM $$", "it was asked to end, with SIGTERM"),
        ("kill -ABRT $$", "it crashed with signal 6"),
        ("kill -SEGV $$", "it crashed with signal 11"),
        ("exit 3", "exit code 3"),
    ],
)
def test_full_memory_is_suspected_only_where_a_system_kills_for_it(how: str, said: str) -> None:
    assert processes.ending(subprocess.run(["sh", "-c", how]).returncode) == said


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0xC0000017, "the memory was full"),
        (0xC0000005, "it crashed with code 0xc0000005"),
        (15, "another program ended it"),
        (1, "exit code 1"),
    ],
)
def test_windows_says_it_by_the_exit_code(
    code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "sys", SimpleNamespace(platform="win32"))
    assert processes.ending(code) == said


def test_settings_in_the_queue_that_cannot_be_used_are_said_in_whole_sentences(
    tmp_path: Path,
) -> None:
    line = Queue(Workspace(tmp_path), None)
    config = from_mapping({"save": {"folder": str(line.workspace.runs()), "name": "ink"}})
    line.add(config)
    with line.transaction() as db:
        db.execute("UPDATE jobs SET settings = 'no = ['")
    worker = Worker(line, "cpu")
    worker.look(lambda _: ["true"])
    said = line.jobs()[0].message
    assert said.startswith("its settings in the queue are damaged. The settings of “ink”")
    assert said.endswith("start it again in the Train tab.")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOENT, "Look whether it is still there"),
        (errno.ENOTDIR, "Look whether it is still there"),
        (errno.EISDIR, "Give an ordinary file"),
        (errno.ELOOP, "Give an ordinary file"),
    ],
)
def test_a_file_that_went_or_is_none_is_no_question_of_its_disk(code: int, said: str) -> None:
    assert not_read("a.toml", OSError(code, "x")) == f"a.toml cannot be read (x). {said}."


def test_a_run_folder_that_cannot_be_looked_at_names_its_cause(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    wanted = {
        "x" * 5000: "Use shorter names, or choose another folder",
        str(tmp_path / "file"): "A file and a folder are in each other's place there",
    }
    for folder, said in wanted.items():
        config, _ = config_from(["--save.folder", folder])
        found = check_same_run if len(folder) > 4000 else _looked_at
        with pytest.raises(StudioError, match=said):
            found(config)


def _looked_at(config: Any) -> None:
    """As check_same_run, on a system that raises for a folder below a file."""
    folder = SimpleNamespace(exists=lambda: os.stat(config.run_folder))  # noqa: PTH116
    check_same_run(SimpleNamespace(run_folder=folder, save=config.save))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "argv",
    [["--what", "1"], ["a.toml", "b.toml"], ["--optim.steps"], ["gone.toml"]],
)
def test_a_command_is_named_as_it_is_typed(argv: list[str], tmp_path: Path) -> None:
    for read in (config_from, sweep_from):
        with pytest.raises(ConfigError) as caught:
            read([str(tmp_path / word) if word == "gone.toml" else word for word in argv])
        assert "train_style" not in str(caught.value)
    assert "train-style --help" in str(caught.value) or "--sweep takes" in str(caught.value)
    assert parser().format_usage().startswith("usage: train-style ")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (socket.gaierror(-2, "Name or service not known"), "no address of this machine"),
        (OSError(errno.EADDRNOTAVAIL, "Cannot assign"), "no address of this machine"),
        (PermissionError(errno.EACCES, "Permission denied"), "a --port of 1024 or more"),
        (OSError(errno.EADDRINUSE, "Address already in use"), "Is the page open already?"),
    ],
)
def test_a_port_that_cannot_be_had_names_its_cause(error: OSError, said: str) -> None:
    assert said in str(__main__._no_port("box", 80, error))


def test_an_address_of_another_machine_is_no_busy_port() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1, which is no address of this machine"):
        __main__._check_place("192.0.2.1", 7860)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("PRAGMA query_only = 1", "Allow writing into the workspace"),
        ("PRAGMA max_page_count = 1", "Free space on the workspace's disk"),
    ],
)
def test_a_queue_that_is_not_written_names_its_cause(
    statement: str, said: str, tmp_path: Path
) -> None:
    db = sqlite3.connect(tmp_path / "db")
    db.execute("CREATE TABLE a (b)")
    db.commit()
    db.execute(statement)
    with pytest.raises(sqlite3.OperationalError) as caught:
        for _ in range(100):
            db.execute("INSERT INTO a VALUES (zeroblob(500))")
    db.close()
    assert said in queue_database._aid(caught.value)
    other = sqlite3.OperationalError("disk I/O error")
    assert "sound and connected" in queue_database._aid(other)


# --- a way out ---

OURS = re.compile(r"(Config|Data|Model|StyleFile|Space|Busy|Diverged|Studio)Error$|^OutOfMemory$")
WAY_OUT = re.compile(
    r"[.?!…)] +[“`A-Z…]|[a-z…]: |expected|^Choose "
)  # a sentence more, or what is right
# What says all there is to do, or is only a part of a message
WHOLE = (
    "is not a PNG",
    "holds a text",
    "is here already",
    "the folder holds no pictures, …",
    "No deleted dataset is in the trash.",
    "that could be undone.",
    "has more than … bytes",
    "so there is nothing to begin again.",
    "Give two styles a weight above 0 first.",
    "Put both files into one of these folders",
    "no --preset or --report.",
    "must be a number",
)


def _texts(node: ast.expr) -> list[str]:
    """What a message can say, with … for what is filled in."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.JoinedStr):
        return ["".join(parts) for parts in itertools.product(*map(_texts, node.values))]
    if isinstance(node, ast.BinOp):
        return [a + b for a in _texts(node.left) for b in _texts(node.right)]
    if isinstance(node, ast.FormattedValue):
        return _texts(node.value)
    if isinstance(node, ast.IfExp):
        return [*_texts(node.body), *_texts(node.orelse)]
    return ["…"]


@pytest.mark.parametrize("package", ["training", "studio"])
def test_an_error_says_what_to_do(package: str) -> None:
    blind = []
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            call = node.exc if isinstance(node, ast.Raise) else None
            if isinstance(call, ast.Call) and OURS.search(ast.unparse(call.func)) and call.args:
                for text in _texts(call.args[0]):
                    is_known = any(part in text for part in WHOLE) or not text.strip("….\n ")
                    if not is_known and not WAY_OUT.search(text):
                        blind.append(f"{path.relative_to(ROOT)}:{node.lineno}: {text}")
    assert blind == []


# --- a busy machine ---


def test_a_server_that_takes_long_to_start_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradio's own gives up after five seconds, which a clock that runs ahead makes short."""
    slow, began = threading.Event(), []

    class Slow(http_server.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            began.append(slow.wait(0.3))
            await super().startup(sockets)

    hours = iter(range(0, 10**9, 3600))
    clock = SimpleNamespace(time=lambda: next(hours), sleep=lambda _: slow.wait(0.01))
    monkeypatch.setattr(http_server, "time", clock)
    monkeypatch.setattr(http_server.Server, "run_in_thread", http_server.Server.run_in_thread)
    gradio_patches.wait_for_server()
    server = Slow(uvicorn.Config(Starlette(), port=0, log_level="critical"))
    server.run_in_thread()
    assert server.started and began
    server.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_that_ends_at_once_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server.Server, "run_in_thread", http_server.Server.run_in_thread)
    gradio_patches.wait_for_server()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = uvicorn.Config(Starlette(), port=taken.getsockname()[1], log_level="critical")
        with pytest.raises(http_server.ServerFailedToStartError):
            http_server.Server(config).run_in_thread()
