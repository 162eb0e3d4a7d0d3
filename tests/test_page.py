"""The page in a real browser, from uploaded pictures to a drawn grid, with the real trainer and the real comparison."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from PIL import Image, ImageDraw

from training.workspace import builtin_base

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[1]
MINUTE = 60_000  # ms


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def page_process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m studio` as a user starts it, ended as a service manager ends it."""
    command = [sys.executable, "-m", "studio", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page") / "workspace"


@pytest.fixture(scope="module")
def server(workspace: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The page's address and its process."""
    port = free_port()
    with page_process("--port", str(port), "--workspace", str(workspace)) as process:
        line = process.stdout.readline()
        assert f"http://127.0.0.1:{port}/" in line, line + (process.stdout.read() if process.poll() is not None else "")
        yield f"http://127.0.0.1:{port}/", process


@pytest.fixture(scope="module")
def tab(server: tuple[str, subprocess.Popen[str]]) -> Iterator[sync_api.Page]:
    """A browser's tab, 1280 px wide, that keeps what it asked for and what went wrong in it."""
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.asked, page.complaints = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.goto(server[0])
        yield page


@contextmanager
def browser() -> Iterator[sync_api.Browser]:
    """A Chromium; none is a failure where CI says that there should be one, else a reason to leave the test out."""
    from tests.chromium import HOW, found

    path = found()
    if path is None and os.environ.get("CI"):
        pytest.fail(f"no Chromium: {HOW}")
    if path is None:
        pytest.skip(f"no Chromium: {HOW}")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def drawn_pictures(folder: Path) -> list[str]:
    folder.mkdir()
    for name, colour in (("red ball", "red"), ("blue ball", "blue"), ("green ball", "green"), ("gold ball", "gold")):
        picture = Image.new("RGB", (96, 96), "white")
        ImageDraw.Draw(picture).ellipse((16, 16, 80, 80), fill=colour)
        picture.save(folder / f"{name}.png")
    (folder / "page.png").write_text("<html>not found</html>")
    return [str(path) for path in sorted(folder.iterdir())]


def opened(page: sync_api.Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def reloaded(page: sync_api.Page) -> None:
    """Reload; what the page had asked for just then is cut off, and its complaints of that are none."""
    assert page.complaints == []
    page.reload()
    page.complaints.clear()


def until(true: object, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def test_from_upload_to_grid(
    tab: sync_api.Page, server: tuple[str, subprocess.Popen[str]], workspace: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    expect = sync_api.expect
    dataset = workspace / "datasets" / "my-pictures"

    # Data: upload, the bad file named, a caption edited
    tab.locator("#upload input[type=file]").set_input_files(drawn_pictures(tmp_path / "pictures"))
    expect(tab.locator("#pictures img")).to_have_count(4, timeout=MINUTE)
    expect(tab.locator("#upload-report")).to_contain_text("page.png")
    expect(tab.locator("#picture")).to_contain_text("blue ball.png")
    caption = tab.locator("#caption textarea")
    caption.fill("a blue ball, für alle")
    until(lambda: (dataset / "blue ball.txt").exists() and (dataset / "blue ball.txt").read_text(encoding="utf-8") == "a blue ball, für alle\n")
    for name in ("gold ball.png", "green ball.png", "red ball.png", "blue ball.png"):  # round once: choosing pictures writes nothing
        tab.locator("#next-picture").click()
        expect(tab.locator("#picture")).to_contain_text(name)
    assert sorted(path.name for path in dataset.glob("*.txt")) == ["blue ball.txt"]
    opened(tab, "Train")
    expect(tab.locator("#train-dataset input")).to_have_value("my-pictures")  # without a reload as well
    reloaded(tab)
    expect(tab.locator("#pictures img")).to_have_count(4, timeout=MINUTE)
    expect(caption).to_have_value("a blue ball, für alle")

    # Train: a form that is wrong is told in words, one that is right starts
    opened(tab, "Train")
    tab.locator("#save-name input, #save-name textarea").fill("balls")
    tab.locator("#data-trigger input, #data-trigger textarea").fill("ballish")
    tab.locator("#base-model input, #base-model textarea").fill(base(request))
    tab.locator("#optim-steps input").fill("0")
    tab.locator("#optim-batch_size input").fill("1")
    tab.get_by_role("button", name="Everything").click()
    tab.locator("#section-preview").get_by_role("button", name="Previews").click()
    tab.locator("#preview-every input").fill("0")
    tab.locator("#start").click()
    expect(tab.get_by_text("“Length (updates)” is 0")).to_be_visible()
    assert not (workspace / "runs").exists()
    tab.locator("#optim-steps input").fill("2")
    tab.locator("#start").click()
    expect(tab.locator("#status")).to_contain_text("balls", timeout=MINUTE)
    reloaded(tab)
    opened(tab, "Train")
    expect(tab.locator("#status .finished")).to_be_visible(timeout=5 * MINUTE)
    expect(tab.locator("#status")).to_contain_text("2 of 2")
    expect(tab.locator("#loss svg")).to_be_visible()
    assert (workspace / "runs" / "balls" / "balls.safetensors").is_file()
    with tab.expect_download() as download:
        tab.locator("#download-style").click()
    assert Path(download.value.path()).read_bytes() == (workspace / "runs" / "balls" / "balls.safetensors").read_bytes()

    # Compare: the style is offered with its trigger word, the grid is drawn
    opened(tab, "Compare")
    expect(tab.locator("#style-1 input")).to_have_value("balls · say “ballish” · rank 16")
    tab.locator("#compare-base input, #compare-base textarea").fill(base(request))
    tab.locator("#compare-prompts textarea").fill("a red ball")
    tab.locator("#compare-steps input").fill("2")
    tab.locator("#draw").click()
    expect(tab.locator("#grid img")).to_be_visible(timeout=5 * MINUTE)
    grids = list((workspace / "comparisons").glob("*/grid.png"))
    assert len(grids) == 1 and Image.open(grids[0]).width > 300

    address, process = server
    assert [url for url in tab.asked if not url.startswith((address, "data:", "blob:"))] == []
    assert tab.complaints == []
    assert not any("torch" in mapped.path for mapped in psutil.Process(process.pid).memory_maps())


def base(request: pytest.FixtureRequest) -> str:
    """The built-in base; a tiny one where this clone does not have it."""
    return "mini" if (builtin_base() / "model_index.json").is_file() else str(request.getfixturevalue("base_folder"))


def test_foreign_hosts_and_files_are_refused(server: tuple[str, subprocess.Popen[str]]) -> None:
    def status(path: str, **headers: str) -> int:
        try:
            return urllib.request.urlopen(urllib.request.Request(server[0] + path, headers=headers), timeout=30).status
        except urllib.error.HTTPError as error:
            return error.code

    assert status("") == 200
    assert status("", Host="evil.example") == 400
    assert status("openapi.json") == 404
    assert status("gradio_api/file=/etc/passwd") in (403, 404)
    assert status(f"gradio_api/file={ROOT}/pyproject.toml") in (403, 404)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "opens on this machine only"),
        (["--host", "example.org"], "opens on this machine only"),
        (["--port", "0"], "a number from 1 to 65535"),
        (["--workspace", "/proc/nowhere"], "cannot be written"),
    ],
)
def test_what_cannot_be_opened_is_told_with_code_2(arguments: list[str], words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "studio", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert words in done.stderr and "Traceback" not in done.stderr


def test_a_busy_port_is_told_with_code_2(tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        command = [sys.executable, "-m", "studio", "--port", port, "--workspace", str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert f"Port {port}" in done.stderr
