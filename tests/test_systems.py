"""Tests of training.system: Windows' rules without Windows.

What runs here runs on Linux with what Windows has not taken away and with its rules of open files
(tests/like_windows); that the modules fit Windows' own Python is the type checker's to say.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from studio.datasets import incoming
from studio.library.import_export import plain_stem
from tests.test_page import free_port
from training.errors import ConfigError, SpaceError
from training.storage.paths import checked_name, checked_writable, inside, write_whole
from training.system import file_system, locks, processes

ROOT = Path(__file__).resolve().parents[1]
LIKE_WINDOWS = ROOT / "tests" / "like_windows"
SOURCES = [path for top in ("training", "studio") for path in (ROOT / top).rglob("*.py")]
RUN = """
[base]
model = "{base}"
dtype = "float32"
device = "cpu"
[data]
folder = "{pictures}"
trigger = "sks"
[adapter]
rank = 2
[optim]
steps = 8
[preview]
every = 4
steps = 1
prompts = ["a cat"]
[report]
minutes = 0
[save]
name = "ink"
folder = "{runs}"
every = 1
"""


def like_windows(*command: str, **options: str) -> subprocess.Popen[str]:
    """A process in which the project finds Windows."""
    paths = os.pathsep.join([str(LIKE_WINDOWS), str(ROOT)])
    return subprocess.Popen(
        [sys.executable, "-B", *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **options},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )


def output_of(process: subprocess.Popen[str]) -> str:
    """What a process has printed by its end, which has to be a good one."""
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def written(folder: Path, base: Path, runs: Path) -> Path:
    """A run.toml of eight updates on pictures that are made for it."""
    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    for number, word in enumerate(("apple", "boat")):
        picture = Image.linear_gradient("L").resize((32, 32)).rotate(90 * number)
        picture.convert("RGB").save(pictures / f"{word}.png")
    path = folder / f"{runs.name}.toml"
    path.write_text(
        RUN.format(base=base.as_posix(), pictures=pictures.as_posix(), runs=runs.as_posix()),
        encoding="utf-8",
    )
    return path


# --- the whole program without POSIX ---

QUEUE = """
import sys, time
from pathlib import Path
from studio.processes import process
from studio.processes.queue import Queue
from training import events
from training.config.loading import from_mapping, read_toml
from training.storage import run_lock
from training.storage.paths import Workspace
from training.system import processes

def until(what, there):
    end = time.monotonic() + 300
    while not there():
        is_over = line.job(id).state == "failed" or time.monotonic() > end
        assert not is_over, (what, line.jobs(), process.log_tail(run))
        time.sleep(0.05)

def saved(count):
    return len(list((run / "checkpoints").glob("step-*"))) >= count

def comes_to(state):
    until(state, lambda: line.job(id).state == state)

line = Queue(Workspace(Path(sys.argv[1])))
config = from_mapping(read_toml(Path(sys.argv[2])))
run = config.run_folder
id = line.add(config)
until("a checkpoint", lambda: saved(1))
line.pause(id)
comes_to("paused")
assert process.state(run) == "stopped" and (run / "ink.safetensors").exists()
before = max((run / "checkpoints").glob("step-*")).name
assert int(before[5:]) < 8, before
line.go_on(id)
until("another", lambda: max((run / "checkpoints").glob("step-*")).name > before)
processes.end(run_lock.holder(run).pid)  # hard, without saving
comes_to("finished")
until("the worker's end", lambda: not list(line.folder.rglob("run.lock*")))
begun = [e for e in events.read(run / "events.jsonl") if isinstance(e, events.Started)]
assert [e.step > 0 for e in begun] == [False, True, True], begun
"""


def test_a_training_is_stopped_killed_and_resumed_to_the_same_bits(
    tmp_path: Path, base_folder: Path
) -> None:
    runs = tmp_path / "workspace" / "runs"
    settings = written(tmp_path, base_folder, runs)
    (temporary := tmp_path / "temporary").mkdir()
    queue = like_windows("-c", QUEUE, str(runs.parent), str(settings), TMPDIR=str(temporary))
    plain = written(tmp_path, base_folder, tmp_path / "undisturbed")
    command = [sys.executable, "-B", "-m", "training.train_style", str(plain)]
    alone = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, env=alone, check=True, capture_output=True)
    output_of(queue)
    found, expected = (
        safetensors.numpy.load_file(folder / "ink" / "ink.safetensors")
        for folder in (runs, tmp_path / "undisturbed")
    )
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in expected.items()
    }
    for left in ("*.guard", "run.lock", "style-studio-end-*", "*.tmp"):
        assert not [*tmp_path.rglob(left)], left
    inspected = like_windows(
        "-m", "training.cli.style_file", "inspect", str(runs / "ink" / "ink.safetensors")
    )
    assert "sks" in output_of(inspected)


def test_the_page_and_the_doctor_start(tmp_path: Path) -> None:
    port = free_port()
    page = like_windows(
        *("-m", "studio", "--port", str(port), "--workspace", str(tmp_path / "w")),
        *("--begin-with", "empty"),
        STYLE_STUDIO_CACHE=str(tmp_path / "cache"),
    )
    try:
        doctor = like_windows(
            "-m", "studio", "doctor", "--json", "--workspace", str(tmp_path / "w"),
            STYLE_STUDIO_CACHE=str(tmp_path / "cache"),
        )  # fmt: skip
        states = {one["about"]: one["state"] for one in json.loads(output_of(doctor))}
        assert "bad" not in states.values() and "device" in states
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
                    assert b"<html" in answer.read().lower()
                break
            except OSError:
                assert page.poll() is None, page.communicate()[0]
                time.sleep(0.1)
    finally:
        page.terminate()
        page.communicate()


def test_what_windows_has_not_is_not_found() -> None:
    """The pretended system refuses, so that the tests above can fail."""
    script = """
import training.system, types
probe = types.ModuleType("training.probe")
def fails(code):
    try:
        exec(code, vars(probe))
    except Exception as error:
        return type(error).__name__
for code in sys.argv[1:]:
    print(fails(code))
"""
    lines = [
        "import fcntl",
        "from resource import getrusage",
        "import os; os.fork",
        "import os; os.pwrite",
        "from os import O_DIRECTORY",
        "from signal import SIGKILL",
        "import signal; signal.SIGHUP",
        "import subprocess; subprocess.Popen(['true'], start_new_session=True)",
        "import os, sys; assert sys.platform == 'win32' and os.name == 'nt'",
    ]
    found = output_of(like_windows("-c", f"import sys\n{script}", *lines)).split()
    assert found == [
        *("ModuleNotFoundError", "ModuleNotFoundError"),
        *("AttributeError", "AttributeError", "ImportError", "ImportError", "AttributeError"),
        *("ValueError", "None"),
    ]


# --- open files ---


@pytest.fixture
def on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """training.system takes this for Windows."""
    for module in (file_system, locks):
        monkeypatch.setattr(module, "sys", SimpleNamespace(platform="win32", version_info=(3, 11)))


def refusing_while(is_open: threading.Event, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Have files be replaced only when none is open; return those that were refused."""
    replace, refused = Path.replace, []

    def windows_replace(self: Path, target: Path) -> Path:
        if is_open.is_set():
            refused.append(target)
            raise PermissionError(13, "The process cannot access the file", str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", windows_replace)
    return refused


def test_a_file_that_is_open_is_replaced_when_its_reader_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_windows: None
) -> None:
    path, is_open = tmp_path / "state.json", threading.Event()
    write_whole(path, "old")
    is_open.set()
    refused = refusing_while(is_open, monkeypatch)
    monkeypatch.setattr(
        file_system, "time", SimpleNamespace(sleep=lambda _: len(refused) < 4 or is_open.clear())
    )
    write_whole(path, "new")
    assert path.read_text(encoding="utf-8") == "new" and refused == [path] * 4


def test_a_file_that_stays_open_is_named_and_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_windows: None
) -> None:
    path, is_open = tmp_path / "state.json", threading.Event()
    write_whole(path, "old")
    is_open.set()
    refused, waited = refusing_while(is_open, monkeypatch), []
    monkeypatch.setattr(file_system, "time", SimpleNamespace(sleep=waited.append))
    with pytest.raises(SpaceError, match=r"state\.json could not be written \(The process cannot"):
        write_whole(path, "new")
    assert path.read_text(encoding="utf-8") == "old" and [*tmp_path.iterdir()] == [path]
    assert len(refused) == len(waited) + 1 and 1 < sum(waited) < 5  # seconds


def test_elsewhere_a_refusal_is_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    is_open = threading.Event()
    is_open.set()
    refused = refusing_while(is_open, monkeypatch)
    with pytest.raises(SpaceError):
        write_whole(tmp_path / "state.json", "new")
    assert len(refused) == 1


def test_a_read_only_file_goes_with_its_folder(tmp_path: Path, on_windows: None) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_text("x", encoding="utf-8")
    failed: list[str] = []

    def once_refused(path: str) -> None:
        if not failed:
            failed.append(path)
            raise PermissionError(13, "Access is denied", path)
        Path(path).unlink()

    file_system._made_writable(once_refused, str(folder / "file"), None)
    file_system.remove_tree(folder)
    assert failed and not folder.exists()


def test_the_lock_of_windows_lies_beside_what_is_read(tmp_path: Path, on_windows: None) -> None:
    handle = locks.open_lock_file(tmp_path / "run.lock")
    assert locks.lock(handle) and [*tmp_path.iterdir()] == [tmp_path / "run.lock.guard"]
    locks.release(handle, tmp_path / "run.lock")
    assert not [*tmp_path.iterdir()]


# --- names and paths ---

WINDOWS_NAMES = ("CON", "nul.txt", "Com1", "lpt9.tar.gz", "COM¹", "CONIN$", "a.", "b ", "c:d", "e?")


def leads_elsewhere(name: str) -> bool:
    """Whether Windows would not make a plain file of this very name."""
    path = PureWindowsPath("C:/folder") / name
    return (
        path.name != name
        or path.parent != PureWindowsPath("C:/folder")
        or path.is_reserved()
        or name.endswith((".", " "))
        or any(char in '<>:"|?*' or ord(char) < 32 for char in name)
    )


@pytest.mark.parametrize("name", WINDOWS_NAMES)
def test_names_that_windows_keeps_are_refused(name: str) -> None:
    assert not file_system.is_portable(name)
    with pytest.raises(ConfigError):
        checked_name(name)


@given(st.text(max_size=90))
def test_what_becomes_a_name_is_one_on_windows_too(text: str) -> None:
    assert not leads_elsewhere(plain_stem(text) + ".safetensors")
    try:
        name = checked_name(text)
    except ConfigError:
        return
    assert not leads_elsewhere(name)


@pytest.mark.parametrize("stem", ["con", "Aux", "a:b", "x.", "..", "\\\\host\\share", "C:evil", ""])
def test_a_picture_gets_a_name_that_windows_takes(stem: str) -> None:
    for name in (incoming.free_name([], stem, ".png"), plain_stem(stem) + ".png"):
        assert not leads_elsewhere(name)


def test_names_that_differ_in_case_only_are_one() -> None:
    assert incoming.free_name(["Boat"], "boat", ".png") == "boat-2.png"


def test_other_streams_and_devices_are_not_inside(tmp_path: Path, on_windows: None) -> None:
    for name in ("a.png:hidden", "nul", "sub/con.txt", "a. "):
        with pytest.raises(ConfigError, match="leads out of"):
            inside(tmp_path, name)
    assert inside(tmp_path, "sub", "a.png") == (tmp_path / "sub" / "a.png").resolve()


def test_a_folder_too_deep_for_windows_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_windows: None
) -> None:
    deep = tmp_path.joinpath(*["folder-of-twenty-one"] * 8)
    checked_writable(deep, "save.folder")  # Windows was told to take long paths
    touch = Path.touch

    def short_only(self: Path) -> None:
        if len(str(self)) > file_system.LONGEST_PATH:
            raise FileNotFoundError(2, "The system cannot find the path specified")
        touch(self)

    monkeypatch.setattr(Path, "touch", short_only)
    with pytest.raises(SpaceError, match="longer paths than Windows takes"):
        checked_writable(deep, "save.folder")
    checked_writable(tmp_path, "save.folder")


# --- processes ---


def test_a_process_of_its_own_is_ended_with_its_children() -> None:
    script = "import subprocess, sys; print('begun', flush=True); subprocess.run([sys.executable, '-c', 'input()'])"  # noqa: E501
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        **processes.own_session(),
    )
    assert child.stdout is not None and child.stdout.readline() == b"begun\n"
    processes.end_session(child.pid)
    assert processes.exit_code(child.wait()) < 0
    assert child.stdout.read() == b""  # nobody holds the other end any more
    with pytest.raises(ProcessLookupError):
        processes.end(child.pid)
    child.stdout.close()
    if child.stdin is not None:
        child.stdin.close()


@pytest.mark.parametrize(
    ("code", "shown"), [(0, 0), (1, 1), (15, -15), (0xC0000005, -15), (0xC000013A, -15)]
)
def test_an_end_by_force_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, code: int, shown: int
) -> None:
    monkeypatch.setattr(processes, "sys", SimpleNamespace(platform="win32"))
    assert processes.exit_code(code) == shown


# --- what holds everywhere ---


def calls(path: Path, is_wanted: Callable[[str], bool]) -> list[ast.Call]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and is_wanted(ast.unparse(node.func).rpartition(".")[2])
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_text_says_its_encoding(path: Path) -> None:
    """Windows' own is not UTF-8, and some line ends are not its own either."""
    silent = []
    for call in calls(path, lambda name: name in ("read_text", "write_text", "open", "fdopen")):
        function = ast.unparse(call.func)
        if function in (
            "Image.open",
            "os.open",
            "webbrowser.open",
            "opened.open",
            "opener.open",
            "zipped.open",
            "self.database.open",
        ):
            continue
        given_words = {word.arg for word in call.keywords}
        modes = [a.value for a in call.args if isinstance(a, ast.Constant)]
        is_binary = any(isinstance(mode, str) and "b" in mode for mode in modes)
        is_text = function.endswith("_text") or (not is_binary and function.endswith("open"))
        if is_text and "encoding" not in given_words:
            silent.append(ast.unparse(call))
    for call in calls(path, lambda name: name in ("Popen", "run", "check_output")):
        words = {word.arg for word in call.keywords}
        if words & {"text", "universal_newlines"} and "encoding" not in words:
            silent.append(ast.unparse(call))
    assert not silent


ELSEWHERE = {  # attributes that only some systems have, and the modules that may name them
    "fcntl", "resource", "pwd", "grp", "termios", "killpg", "setsid", "fork", "pwrite", "pread",
    "SIGKILL", "SIGHUP", "O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC", "geteuid", "getuid", "getpgid",
    "sched_getaffinity", "setitimer", "statvfs", "fchmod", "chown", "mkfifo", "AF_UNIX",
    "start_new_session", "preexec_fn", "pass_fds", "creationflags", "malloc_trim",
}  # fmt: skip


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_systems_do_differently_lies_in_one_place(path: Path) -> None:
    if path.parent == ROOT / "training" / "system":
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {
        name
        for node in ast.walk(tree)
        for field in ("attr", "arg", "name")
        if isinstance(name := getattr(node, field, None), str)
    }
    assert not names & ELSEWHERE
