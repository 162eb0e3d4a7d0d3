"""What a training does when the place it prints to goes away: its terminal, a pipe, a disk."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests import crashes
from tests.test_style_file import PAIR, tensors
from training import events
from training.cli import terminal
from training.cli.output import lasting_output

ROOT = Path(__file__).resolve().parents[1]
TRAIN = [sys.executable, "-B", "-m", "training.train_style"]
PATIENCE = 120.0  # seconds for what takes a few
LONG = {"steps": 2000, "batch_size": 1, "accumulate": 1, "ema": 0.0}


def of(run: Path, *kinds: type) -> list[events.Event]:
    return [event for event in events.read(run / "events.jsonl") if isinstance(event, kinds)]


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def steps(run: Path) -> int:
    return len(of(run, events.Stepped))


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture
def run_toml(tmp_path: Path, base_folder: Path) -> Path:
    crashes.pictures(tmp_path)
    quiet = {"every": 0}
    save = {"folder": str(tmp_path / "runs"), "name": "s", "every": 0}
    return crashes.run_toml(tmp_path, base_folder, "s", optim=LONG, preview=quiet, save=save)


class Terminal:
    """A command in a terminal of its own, in a session of its own."""

    def __init__(self, command: Sequence[str], *, ignores_hangup: bool = False) -> None:
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            kind = signal.SIG_IGN if ignores_hangup else signal.SIG_DFL
            signal.signal(signal.SIGHUP, kind)
            os.execve(command[0], list(command), environment())
        self._open = True
        self._reader = threading.Thread(target=self._drain, daemon=True)
        self._reader.start()

    def _drain(self) -> None:
        with contextlib.suppress(OSError):
            while self._open:
                if select.select([self.master], [], [], 0.05)[0]:
                    os.read(self.master, 4096)

    def close(self) -> None:
        """Take the terminal away, as a window's X does."""
        self._open = False
        self._reader.join()
        os.close(self.master)

    def ended(self) -> int:
        """The exit status, as a shell shows it."""
        until(self._done)
        return self._status

    def _done(self) -> bool:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        self._status = os.waitstatus_to_exitcode(status) if pid else 0
        return bool(pid)


@contextlib.contextmanager
def in_terminal(command: Sequence[str], **how: bool) -> Iterator[Terminal]:
    terminal = Terminal(command, **how)
    try:
        yield terminal
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(terminal.pid, signal.SIGKILL)
            os.waitpid(terminal.pid, 0)


def check_stopped_with_its_work(run: Path) -> None:
    (finished,) = of(run, events.Finished)
    assert finished.stopped and finished.step == steps(run)
    assert (run / finished.path).is_file()
    saved = [path.name for path in (run / "checkpoints").iterdir()]
    assert saved == [f"step-{finished.step:07d}"]


def test_a_closed_terminal_is_a_stop_with_a_checkpoint(run_toml: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "s"
    with in_terminal([*TRAIN, str(run_toml)]) as terminal:
        until(lambda: steps(run) > 1)
        terminal.close()
        assert terminal.ended() == 0
    check_stopped_with_its_work(run)


def test_two_hangups_are_one_stop(run_toml: Path, tmp_path: Path) -> None:
    """The kernel sends one for the terminal, the shell another one for its jobs."""
    run = tmp_path / "runs" / "s"
    process = subprocess.Popen([*TRAIN, str(run_toml)], env=environment())
    until(lambda: steps(run) > 1)
    for kind in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
        process.send_signal(kind)
        time.sleep(0.02)
    assert process.wait(PATIENCE) == 0
    check_stopped_with_its_work(run)


def test_joint_training_in_a_closed_terminal_saves_every_style(
    base_folder: Path, tmp_path: Path
) -> None:
    crashes.pictures(tmp_path)
    styles = [{"save": {"every": 0}}, {"save": {"every": 0}, "optim": {"unet_lr": 2e-3}}]
    sweep = crashes.sweep_toml(
        tmp_path, base_folder, "both", styles, optim=LONG, preview={"every": 0}
    )
    runs = [tmp_path / "runs" / "both" / name for name in "ab"]
    with in_terminal([*TRAIN, "--sweep", str(sweep)]) as terminal:
        until(lambda: all(steps(run) > 1 for run in runs))
        terminal.close()
        assert terminal.ended() == 0
    for run in runs:
        check_stopped_with_its_work(run)


def test_nohup_goes_on_when_its_terminal_is_gone(run_toml: Path, tmp_path: Path) -> None:
    """Every line that it would print there fails (EIO)."""
    run = tmp_path / "runs" / "s"
    with in_terminal([*TRAIN, str(run_toml)], ignores_hangup=True) as terminal:
        until(lambda: steps(run) > 1)
        terminal.close()
        reached = steps(run)
        until(lambda: steps(run) > reached + 20)
        os.kill(terminal.pid, signal.SIGHUP)
        reached = steps(run)
        until(lambda: steps(run) > reached + 5)
        os.kill(terminal.pid, signal.SIGTERM)
        assert terminal.ended() == 0
    check_stopped_with_its_work(run)


def a_closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def a_full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def a_reader_who_reads_nothing() -> int:
    """A pipe that is full and does not block, as node and some terminals hand on."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    kept_open.append(reader)
    return writer


kept_open: list[int] = []


@pytest.mark.parametrize("place", [a_closed_pipe, a_full_disk, a_reader_who_reads_nothing])
def test_output_that_fails_costs_nothing_but_the_output(
    place: Callable[[], int], run_toml: Path, tmp_path: Path
) -> None:
    output = place()
    end = ["--optim.steps", "4", "--save.every", "2"]
    done = subprocess.run(
        [*TRAIN, str(run_toml), *end], stdout=output, stderr=output, env=environment()
    )
    os.close(output)
    assert done.returncode == 0
    (finished,) = of(tmp_path / "runs" / "s", events.Finished)
    assert not finished.stopped and finished.step == 4


def test_closed_output_is_no_reason_to_fail(run_toml: Path, tmp_path: Path) -> None:
    """Both descriptors closed before the start, as by `>&- 2>&-`."""
    script = 'exec "$@" >&- 2>&- <&-'
    command = ["bash", "-c", script, "-", *TRAIN, str(run_toml), "--optim.steps", "2"]
    assert subprocess.run(command, env=environment()).returncode == 0
    (finished,) = of(tmp_path / "runs" / "s", events.Finished)
    assert finished.step == 2


@pytest.mark.parametrize("module", ["training.cli.style_file", "studio.compare", "studio"])
def test_the_other_commands_end_quietly_when_their_reader_is_gone(module: str) -> None:
    output = a_closed_pipe()
    command = [sys.executable, "-B", "-m", module, "--help"]
    if module == "training.cli.style_file":
        command = [sys.executable, "-B", "-c", "from training.cli import style_file as s; s.main()"]
        command.append("--help")
    done = subprocess.run(
        command, stdout=output, stderr=subprocess.PIPE, env=environment(), text=True
    )
    os.close(output)
    assert (done.returncode, done.stderr) == (0, "")


WORDS = ["häkeln", "墨", "красный кот", "😀", "caf\udce9"]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp437", "utf-8"])
def test_letters_that_an_encoding_lacks_are_escaped(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "out.txt"
    with file.open("w", encoding=encoding) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with lasting_output():
            print(*WORDS)
            terminal.show([events.Warned(word) for word in WORDS], tmp_path)
    escaped = [word.encode(encoding, "backslashreplace").decode(encoding) for word in WORDS]
    lines = file.read_text(encoding=encoding).splitlines()
    assert lines == [" ".join(escaped), *(f"Note: {word}" for word in escaped)]


@pytest.mark.parametrize("command", ["inspect {0}", "scrub {0} --out {1}"])
def test_style_files_have_names_that_a_pipe_of_windows_lacks(command: str, tmp_path: Path) -> None:
    style, out = tmp_path / "墨.safetensors", tmp_path / "кот 😀.safetensors"
    style.write_bytes(tensors(**PAIR))
    words = [word.format(style, out) for word in command.split()]
    script = "from training.cli import style_file as s; raise SystemExit(s.main())"
    done = subprocess.run(
        [sys.executable, "-B", "-c", script, *words],
        capture_output=True,
        env={**environment(), "PYTHONIOENCODING": "cp1252"},
        text=True,
        encoding="cp1252",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u58a8" in done.stdout or "\\u043a" in done.stdout


@pytest.mark.parametrize("kind", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_worker_asked_to_end_leaves_between_two_looks(
    kind: signal.Signals, tmp_path: Path
) -> None:
    """It gives its lock back, and the line stays as it was."""
    from studio.processes.queue import Queue
    from training.storage import run_lock
    from training.storage.paths import Workspace

    workspace = Workspace(tmp_path)
    line = Queue(workspace, worker=None)
    place = line.place_of("cpu")
    script = (
        f"import signal, sys\nsignal.signal({kind:d}, signal.SIG_DFL)\n"  # nohup ignores one
        "from pathlib import Path\nfrom studio.processes import queue, worker\n"
        "from training.cli.interrupts import Interrupts\n"
        "queue.Queue.has_work = lambda *_: True\n"
        "worker.work(Path(sys.argv[1]), 'cpu', Interrupts())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-B", "-c", script, str(workspace.root)], env=environment()
    )
    until(lambda: run_lock.holder(place) is not None)
    process.send_signal(kind)
    assert process.wait(PATIENCE) == 0
    assert not (place / run_lock.NAME).exists()
