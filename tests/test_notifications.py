"""A run's end is told where its settings want it: a real server on loopback, a desktop's program
that writes down what it was given. Nothing that goes wrong there costs the run.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.tiny import tiny_training
from training import events
from training.cli import notifications, trackers
from training.config.loading import from_mapping
from training.config.schema import RunConfig
from training.errors import ConfigError
from training.style_files.metadata import Made, metadata_for
from training.train_style import main

FINISHED = events.Finished(40, "ink.safetensors", False, 90.0)
FAILED = events.Failed("/home/anna/secret.png is damaged", 20)


class Server(ThreadingHTTPServer):
    """Keeps what is posted. status: what it answers, where: a redirect's target."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.where = 204, ""
        self.posted: list[tuple[str, dict]] = []
        self.free = threading.Event()
        self.free.set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook/token"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted.append((self.path, json.loads(body)))
        self.server.free.wait()
        self.send_response(self.server.status)
        if self.server.where:
            self.send_header("Location", self.server.where)
        self.end_headers()

    do_GET = do_POST

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv(notifications.VARIABLE, raising=False)
    with Server() as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.free.set()
        found.shutdown()


@pytest.fixture
def desktop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """A notify-send that writes its arguments down, a line each; returns those of the last call."""
    folder, kept = tmp_path / "bin", tmp_path / "shown.txt"
    folder.mkdir()
    program = folder / "notify-send"
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >'{kept}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return lambda: kept.read_text().splitlines()


def config(**save: object) -> RunConfig:
    return from_mapping({"data": {"folder": "p"}, "save": {"name": "ink", **save}})


def passed(config: RunConfig, *ended: events.Event) -> list[events.Event]:
    return list(notifications.notified(iter(ended), config))


def test_the_end_of_a_real_run_reaches_the_address_and_the_desktop(
    base_folder: Path, tmp_path: Path, server: Server, desktop: Callable[[], list[str]]
) -> None:
    if sys.platform in notifications.PROGRAMS:
        pytest.skip("the pretended program is that of other systems")
    quick = ["--preview.every", "0", "--report.minutes", "0", "--save.notify", "on"]
    flags = [*tiny_training(base_folder, tmp_path, steps=2), *quick]
    assert main([*flags, "--save.webhook", server.address]) == 0
    ((path, said),) = server.posted
    assert path == "/hook/token" and (said["event"], said["style"], said["step"]) == (
        "finished",
        "s",
        2,
    )
    assert said["text"] == said["content"] and "s is finished" in said["text"]
    assert str(tmp_path) not in json.dumps(said)
    *_, title, text = desktop()
    assert title == "s is finished" and text.startswith("2 updates")


def test_a_run_that_fails_while_it_loads_is_reported_too(
    base_folder: Path, tmp_path: Path, server: Server
) -> None:
    flags = tiny_training(base_folder, tmp_path, steps=2)
    (tmp_path / "runs" / "s").mkdir(parents=True)
    (tmp_path / "runs" / "s" / "events.jsonl").touch()  # as the page leaves it: a run is awaited
    (tmp_path / "pictures" / "0.png").write_bytes(b"no picture")
    assert main([*flags, "--save.webhook", server.address]) == 2
    ((_, said),) = server.posted
    assert said["event"] == "failed" and str(tmp_path) not in json.dumps(said)


def test_what_is_refused_at_once_is_sent_to_nobody(
    base_folder: Path, tmp_path: Path, server: Server
) -> None:
    flags = tiny_training(base_folder, tmp_path, steps=0)
    assert main([*flags, "--save.webhook", server.address]) == 2
    assert server.posted == []


def test_why_it_failed_stays_here(server: Server) -> None:
    assert passed(config(webhook=server.address), FAILED) == [FAILED]
    ((_, said),) = server.posted
    assert said["event"] == "failed" and said["step"] == 20 and "secret" not in json.dumps(said)


def test_of_several_styles_each_is_reported_once(server: Server) -> None:
    both = [config(webhook=server.address), config(name="oil", webhook=server.address)]
    mixed = [(0, FINISHED), (1, events.Warned("w")), (1, FAILED)]
    assert list(notifications.notified_many(iter(mixed), both)) == mixed
    assert [(said["style"], said["event"]) for _, said in server.posted] == [
        ("ink", "finished"),
        ("oil", "failed"),
    ]


def test_who_starts_the_program_may_name_the_address(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(notifications.VARIABLE, server.address)
    passed(config(), FINISHED)
    assert len(server.posted) == 1
    monkeypatch.setenv(notifications.VARIABLE, "file:///etc/passwd")
    with pytest.raises(ConfigError, match=rf"{notifications.VARIABLE} .* Set it to one"):
        notifications.check([config()])


@pytest.mark.parametrize("kind", ["answers 500", "redirects", "refuses", "trickles"])
def test_what_goes_wrong_is_a_line_without_the_secret(
    kind: str,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address = server.address
    with Server() as other:
        if kind == "answers 500":
            server.status = 500
        elif kind == "redirects":
            server.status, server.where = 307, other.address
        elif kind == "refuses":
            address = other.address
            other.server_close()
        else:
            monkeypatch.setattr(notifications, "PATIENCE", 0.2)
            server.free.clear()
        assert passed(config(webhook=address), FINISHED) == [FINISHED]
        assert other.posted == []
    said = capsys.readouterr().err
    assert "could not be told to 127.0.0.1" in said and "token" not in said


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "ftp://example.org/hook",
        "example.org/hook",
        "https://",
        "https:///hook",
        "http://[::1",
        "http://example.org:x/",
        "http://example.org:99999/",
        "http://example.org:0/",
        "https://anna:pass@example.org/",
        "https://example.org/a b",
        "https://example.org/\r\nX: y",
        "https://exämple.org/",
        "https://example.org/" + "x" * 2000,
        "javascript:alert(1)",
    ],
)
def test_what_is_no_address_is_refused_before_anything(address: str) -> None:
    with pytest.raises(ConfigError, match=r"save\.webhook"):
        config(webhook=address)


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8080", "https://hooks.example.org/T0/B0?x=1", "http://[::1]/a"]
)
def test_addresses_are_taken(address: str) -> None:
    assert config(webhook=address).save.webhook == address


def test_a_desktop_that_cannot_be_reached_is_said_before_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"save\.notify is on"):
        notifications.check([config(), config(notify=True)])
    notifications.check([config()])


def test_a_notice_that_fails_is_a_line(
    desktop: Callable[[], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bin" / "notify-send").write_text("#!/bin/sh\necho 'no bus' >&2\nexit 1\n")
    if sys.platform in notifications.PROGRAMS:
        pytest.skip("the pretended program is that of other systems")
    assert passed(config(notify=True), FINISHED) == [FINISHED]
    assert "could not be shown: no bus" in capsys.readouterr().err


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_no_word_of_a_name_is_obeyed(system: str) -> None:
    """It is an argument of its own, or lies in the environment."""
    nasty = "--hint\"; $(reboot) ' & display dialog"
    command, values = notifications.notice(system, nasty, "text")
    inside = [word for word in command if nasty in word]
    assert inside == [] if values else inside == [nasty]
    assert nasty in (*command, *values.values())
    if system == "linux":
        assert command.index("--") < command.index(nasty)


def test_the_address_is_in_no_style_file_and_no_tracker() -> None:
    chosen = config(webhook="https://example.org/a-secret", notify=True)
    made = Made(
        family="sd1", base_name="b", base_hash="", prediction="epsilon", resolution=64,
        steps=1, pictures=1, started=0.0, finished=1.0, version="0",
    )  # fmt: skip
    assert "a-secret" not in json.dumps(metadata_for(chosen, made))
    assert "a-secret" not in json.dumps(trackers.flat(chosen))
