"""SECURITY.md's promises: each names tests that exist, and nothing is sent anywhere by itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.test_door import Asked
from tests.test_page import free_port, page_process

ROOT = Path(__file__).resolve().parents[1]
TABLE = (ROOT / "SECURITY.md").read_text(encoding="utf-8").partition("## What is promised")[2]
PROMISES = [
    line.strip("| ").split(" | ")
    for line in TABLE.partition("\n## ")[0].splitlines()
    if line.startswith("| ") and not line.startswith(("| Promise", "| ---"))
]
TEST = re.compile(r"`(tests/\w+\.py)::(\w+)`")
# Stands in the way of every Python process below it: what leads off this machine is written down
# and refused
WATCH = """
import os, sys

def is_here(host):
    host = host.decode() if isinstance(host, bytes) else str(host or "")
    return host in ("", "::1", "localhost", "0.0.0.0", "::") or host.startswith("127.")

def watch(event, details):
    if event == "socket.connect":
        address = details[1]
        host = address[0] if isinstance(address, tuple) else ""
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = details[0]
    else:
        return
    if not is_here(host):
        with open(os.environ["OUTWARD"], "a") as log:
            log.write(f"{event} {host}\\n")
        raise OSError("nothing leaves this machine")

sys.addaudithook(watch)
"""
RUN = """
[base]
model = "{base}"
device = "cpu"
[data]
folder = "{pictures}"
[optim]
steps = 2
batch_size = 1
[preview]
every = 2
steps = 1
prompts = ["a cat"]
[report]
minutes = 0
[save]
name = "s"
folder = "{runs}"
"""


@pytest.fixture
def outward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where every attempt to reach another machine is written down."""
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    monkeypatch.setenv("OUTWARD", str(tmp_path / "outward.txt"))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'watch'}:{ROOT}")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "outward.txt"


def test_the_promises_are_a_table() -> None:
    assert len(PROMISES) > 15
    assert all(len(row) == 2 and len(row[0]) > 40 for row in PROMISES)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda row: row[0][:40])
def test_every_promise_names_tests_that_exist(promise: list[str]) -> None:
    named = TEST.findall(promise[1])
    assert named and len(named) == promise[1].count("`") // 2
    for file, test in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_what_watches_sees_and_refuses(outward: Path) -> None:
    reach = "import socket; socket.getaddrinfo('somebody.invalid', 80)"
    asked = subprocess.run([sys.executable, "-c", reach], capture_output=True, text=True)
    assert "nothing leaves this machine" in asked.stderr
    assert outward.read_text() == "socket.getaddrinfo somebody.invalid\n"


def test_a_training_and_the_page_connect_to_nobody(
    tmp_path: Path, outward: Path, base_folder: Path
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("a cat", "a dog"):
        Image.linear_gradient("L").resize((32, 32)).save(pictures / f"{name}.png")
    run_toml = tmp_path / "run.toml"
    run_toml.write_text(RUN.format(base=base_folder, pictures=pictures, runs=tmp_path / "runs"))
    command = [sys.executable, "-m", "training.train_style", str(run_toml)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    port = free_port()
    with page_process("--port", str(port), "--workspace", str(tmp_path / "w")) as process:
        assert "open at" in process.stdout.readline()
        asked = Asked(port)
        assert asked("GET", "/")[0] == asked("GET", "/config")[0] == 200
    assert not outward.exists(), outward.read_text()
