"""The page in a real browser, from uploaded pictures to a drawn grid, with the real trainer and the
real comparison.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image, ImageDraw

from studio.page.tabs.compare.events import TAKE
from tests.test_apply_styles import some_style
from training.data.crops import read_place
from training.models.family import Parts
from training.style_files.reading import canonical_name, read_metadata
from training.style_files.writing import write_style

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[1]
MINUTE = 60_000  # ms
sync_api.expect.set_options(timeout=MINUTE / 2)  # a busy machine is slow, and slow is not wrong


def free_port() -> int:
    """A port that no other worker is given, below those that a system hands out itself."""
    first = 20_000 + 200 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for port in random.sample(range(first, first + 200), 200):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    pytest.fail("no port is free")


@contextmanager
def page_process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m studio` as a user starts it, ended as a service manager ends it."""
    beginning = [] if "--begin-with" in arguments else ["--begin-with", "pictures"]
    command = [sys.executable, "-m", "studio", *arguments, *beginning]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
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
        assert f"http://127.0.0.1:{port}/" in line, line + (
            process.stdout.read() if process.poll() is not None else ""
        )
        yield f"http://127.0.0.1:{port}/", process


@pytest.fixture(scope="module")
def tab(server: tuple[str, subprocess.Popen[str]]) -> Iterator[sync_api.Page]:
    """A browser's tab, 1280 px wide, that keeps what it asked for and what went wrong in it."""
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.asked, page.complaints = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on(
            "console",
            lambda message: (
                page.complaints.append(message.text) if message.type == "error" else None
            ),
        )
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.goto(server[0])
        yield page


@contextmanager
def browser(*flags: str) -> Iterator[sync_api.Browser]:
    """A Chromium; none is a failure where CI says that there should be one, else a reason to leave
    the test out.
    """
    from tests.chromium import HOW, found

    path = found()
    if path is None and os.environ.get("CI"):
        pytest.fail(f"no Chromium: {HOW}")
    if path is None:
        pytest.skip(f"no Chromium: {HOW}")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", *flags])
        yield chromium
        chromium.close()


def renamed(path: str | Path) -> Path:
    """A download under a name that a style has; browsers keep it under one of their own."""
    return Path(path).rename(Path(path).with_suffix(".safetensors"))


def drawn_pictures(folder: Path) -> list[str]:
    folder.mkdir()
    for name, colour in (
        ("red ball", "red"),
        ("blue ball", "blue"),
        ("green ball", "green"),
        ("gold ball", "gold"),
    ):
        picture = Image.new("RGB", (96, 96), "white")
        ImageDraw.Draw(picture).ellipse((16, 16, 80, 80), fill=colour)
        picture.save(folder / f"{name}.png")
    (folder / "page.png").write_text("<html>not found</html>")
    return [str(path) for path in sorted(folder.iterdir())]


def opened(page: sync_api.Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def unfolded(page: sync_api.Page, part: str, title: str) -> None:
    """Open a folded part of the page and wait as long as a person takes to begin to type:

    gradio still fills the fields as it opens.
    """
    page.locator(part).get_by_role("button", name=title).click()
    page.wait_for_timeout(1500)


def reloaded(page: sync_api.Page) -> None:
    """Reload; what the page had asked for just then is cut off, and its complaints of that are
    none.
    """
    assert page.complaints == []
    page.reload()
    page.complaints.clear()


def until(true: object, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def test_from_upload_to_grid(
    tab: sync_api.Page,
    server: tuple[str, subprocess.Popen[str]],
    workspace: Path,
    tmp_path: Path,
    base_folder: Path,
) -> None:
    expect = sync_api.expect
    dataset = workspace / "datasets" / "my-pictures"

    # The tour, once: three steps through the tabs
    expect(tab.locator("#tour")).to_contain_text("1 of 3")
    for name, said in (("Train", "2 of 3"), ("Create", "3 of 3")):
        tab.locator("#tour [data-tour=on]").click()
        expect(tab.locator("#tour")).to_contain_text(said)
        expect(tab.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
    tab.locator("#tour [data-tour=on]").click()
    expect(tab.locator("#tour")).to_be_hidden()
    opened(tab, "Dataset")
    reloaded(tab)
    expect(tab.locator("#tour")).to_be_hidden()

    # Pictures: the example is there; own pictures become a dataset of their own, the bad file
    # named, a caption edited
    expect(tab.locator("#pictures img")).to_have_count(24, timeout=MINUTE)
    expect(tab.locator("#train-example")).to_be_visible()
    tab.locator("#upload input[type=file]").set_input_files(drawn_pictures(tmp_path / "pictures"))
    expect(tab.locator("#pictures img")).to_have_count(4, timeout=MINUTE)
    expect(tab.locator("#upload-report")).to_contain_text("page.png")
    expect(tab.locator("#train-example")).to_be_hidden()
    assert len(list((workspace / "datasets" / "linocut").glob("*.png"))) == 24
    expect(tab.locator("#picture")).to_contain_text("blue ball.png")
    caption = tab.locator("#caption textarea")
    caption.fill("a blue ball, für alle")
    until(
        lambda: (
            (dataset / "blue ball.txt").exists()
            and (dataset / "blue ball.txt").read_text(encoding="utf-8") == "a blue ball, für alle\n"
        )
    )
    for name in (
        "gold ball.png",
        "green ball.png",
        "red ball.png",
        "blue ball.png",
    ):  # round once: choosing pictures writes nothing
        tab.locator("#next-picture").click()
        expect(tab.locator("#picture")).to_contain_text(name)
    assert sorted(path.name for path in dataset.glob("*.txt")) == ["blue ball.txt"]
    opened(tab, "Train")
    expect(tab.locator("#train-dataset input")).to_have_value(
        "my-pictures"
    )  # without a reload as well
    reloaded(tab)
    expect(tab.locator("#pictures img")).to_have_count(4, timeout=MINUTE)
    expect(caption).to_have_value("a blue ball, für alle")

    # Train: a form that is wrong is told in words, one that is right starts
    opened(tab, "Train")
    tab.locator("#save-name input, #save-name textarea").fill("balls")
    tab.locator("#data-trigger input, #data-trigger textarea").fill("ballish")
    tab.locator("#base-model input, #base-model textarea").fill(str(base_folder))
    tab.locator("#optim-steps input").fill("0")
    tab.locator("#optim-batch_size input").fill("1")
    tab.get_by_role("button", name="Advanced settings").click()
    tab.locator("#section-preview").get_by_role("button", name="Sample images").click()
    tab.locator("#preview-every input").fill("0")
    tab.locator("#section-report").get_by_role("button").first.click()
    tab.locator("#report-minutes input").fill("0")  # the story in seven clicks has one
    tab.locator("#start").click()
    expect(tab.get_by_text("“Steps” is 0")).to_be_visible()
    expect(tab.locator("#optim-steps")).to_have_class(re.compile("wrong-field"))
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
    assert (
        Path(download.value.path()).read_bytes()
        == (workspace / "runs" / "balls" / "balls.safetensors").read_bytes()
    )

    # Compare: the style is offered with its trigger word, the grid is drawn
    opened(tab, "Compare")
    expect(tab.locator("#style-1 input")).to_have_value("balls · say “ballish” · rank 16")
    tab.locator("#compare-base input, #compare-base textarea").fill(str(base_folder))
    tab.locator("#compare-prompts textarea").fill("a red ball")
    tab.locator("#compare-steps input").fill("2")
    tab.locator("#draw").click()
    shown = tab.locator("#grid .comparison .open img").last
    expect(shown).to_be_visible(timeout=5 * MINUTE)
    expect(tab.locator("#grid .comparison .open")).to_have_count(2)
    grids = list((workspace / "comparisons").glob("*/grid.png"))
    assert len(grids) == 1 and Image.open(grids[0]).width > 300
    with tab.expect_download() as download:
        tab.locator("#download-grid").click()
    assert Path(download.value.path()).read_bytes() == grids[0].read_bytes()
    shown.click()
    expect(tab.locator("#grid dialog")).to_be_visible()
    expect(tab.locator("#grid .what")).to_contain_text("balls")
    tab.keyboard.press("Space")
    expect(tab.locator("#grid .what")).to_contain_text("base")
    tab.keyboard.press("Escape")
    expect(tab.locator("#grid dialog")).to_be_hidden()

    # Blind: the names are gone until the picks are told
    tab.get_by_role("button", name="Blind test").click()
    expect(tab.locator("#grid thead")).to_be_hidden()
    tab.locator('#grid td[data-column="1"] .pick').click()
    tab.get_by_role("button", name="Reveal").click()
    expect(tab.locator("#grid .verdict")).to_contain_text("balls 1 of 1")
    assert (grids[0].parent / "picks.json").read_text() == "[1]"

    # Again with another seed; both are found after a reload, and the first one's settings can be
    # had back
    first = shown.get_attribute("src")
    tab.locator("#reseed").click()
    expect(tab.locator("#past .thumb")).to_have_count(2, timeout=5 * MINUTE)
    assert shown.get_attribute("src") != first
    assert tab.locator("#compare-seeds input, #compare-seeds textarea").input_value() != "0"
    reloaded(tab)
    opened(tab, "Compare")
    expect(tab.locator("#past .thumb")).to_have_count(2, timeout=MINUTE)
    tab.locator("#past .thumb").last.click()
    expect(shown).to_have_attribute("src", first)
    tab.locator("#reuse-comparison").click()
    expect(tab.locator("#compare-prompts textarea")).to_have_value("a red ball")
    expect(tab.locator("#compare-seeds input, #compare-seeds textarea")).to_have_value("0")
    expect(tab.locator("#style-1 input")).to_have_value("balls · say “ballish” · rank 16")

    # A grid that was downloaded leads back to its settings
    tab.locator("#compare-prompts textarea").fill("something else")
    tab.locator("#reload-grid input[type=file]").set_input_files(str(grids[0]))
    expect(tab.locator("#compare-prompts textarea")).to_have_value("a red ball")

    # Styles: shown with its pictures, renamed, shared, deleted and brought back
    opened(tab, "Styles")
    expect(tab.locator("#shelf .thumb")).to_have_count(1)
    expect(tab.locator("#style")).to_contain_text("ballish")
    expect(
        tab.locator("#style .examples img").nth(1)
    ).to_be_visible()  # of the two comparisons; its previews too, when it drew some
    unfolded(tab, "#style-words", "Edit details")
    expect(tab.locator("#style-title input, #style-title textarea")).to_have_value("balls")
    tab.locator("#style-title input, #style-title textarea").fill("<b>Balls</b>")
    expect(tab.locator("#style-title input, #style-title textarea")).to_have_value("<b>Balls</b>")
    tab.locator("#save-card").click()
    expect(tab.locator("#shelf .title")).to_have_text("<b>Balls</b>")
    tab.locator("#share").get_by_role("button", name="Publish").click()
    expect(tab.locator("#published")).to_contain_text("ballish")
    tab.locator("#share-fields").get_by_label("trigger phrase: ballish").uncheck()
    expect(tab.locator("#published")).not_to_contain_text("modelspec.trigger_phrase")
    tab.locator("#make-file").click()
    with tab.expect_download() as download:
        tab.locator("#download-shared").click()
    assert "modelspec.trigger_phrase" not in read_metadata(renamed(download.value.path()))
    tab.locator("#go-on-from").click()
    expect(tab.locator("#save-name input, #save-name textarea")).to_have_value("balls-2")
    opened(tab, "Styles")
    tab.locator("#delete-style").click()
    expect(tab.locator("#shelf .thumb")).to_have_count(0)
    assert not (workspace / "runs" / "balls").exists()
    tab.locator("#undo-style").click()
    expect(tab.locator("#shelf .thumb")).to_have_count(1)
    assert (workspace / "runs" / "balls" / "balls.safetensors").is_file()
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"\x80\x04pickle")
    tab.locator("#bring-style input[type=file]").set_input_files(str(bad))
    expect(tab.locator("#brought")).to_contain_text("bad.safetensors")
    assert not (workspace / "styles").exists()

    # Settings
    opened(tab, "Settings")
    expect(tab.locator("#workspace")).to_contain_text(str(workspace))
    expect(tab.locator("#bases")).to_contain_text("built in")
    tab.locator("#ask-device").click()
    expect(tab.locator("#device")).to_contain_text("convolution and attention", timeout=2 * MINUTE)

    address, process = server
    assert [url for url in tab.asked if not url.startswith((address, "data:", "blob:"))] == []
    assert tab.complaints == []
    assert not any("torch" in mapped.path for mapped in psutil.Process(process.pid).memory_maps())


def test_an_image_follows_its_slider_and_a_sketch(
    tab: sync_api.Page, workspace: Path, tmp_path: Path, base_folder: Path, parts: Parts
) -> None:
    """Drawn large in a style, again when the slider moves, and from one's own sketch at four
    strengths beside it; kept with a note.
    """
    expect, patient = sync_api.expect, {"timeout": 3 * MINUTE}
    modules = some_style(parts, rank=2, seed=1, of=["unet"])
    lora = {canonical_name(part, name, "sd1"): one for (part, name), one in modules.items()}
    style = workspace / "styles" / "waves.safetensors"
    style.parent.mkdir(parents=True, exist_ok=True)
    write_style(style, lora, {"ss_base_model_version": "sd_v1"})
    reloaded(tab)
    opened(tab, "Create")
    expect(tab.locator("#create-style input")).to_have_value(re.compile("waves|Balls"), **patient)
    unfolded(tab, "#create-more", "Advanced settings")
    tab.locator("#create-base input, #create-base textarea").fill(str(base_folder))
    tab.locator("#create-steps input").fill("2")
    tab.locator("#create-prompt textarea").fill("a red ball")
    tab.locator("#create-draw").click()
    image = tab.locator("#create-image .created:not(.busy) img")
    expect(image).to_be_visible(**patient)
    first = image.get_attribute("src")
    slider = tab.locator("#create-strength input")
    slider.focus()
    for _ in range(3):
        slider.press("ArrowLeft")
    expect(tab.locator("#create-strength output")).to_have_text("0.7")
    expect(image).not_to_have_attribute("src", first, **patient)
    sketch = tmp_path / "sketch.png"
    Image.new("RGB", (64, 64), "gold").save(sketch)
    tab.locator("#create-drop input[type=file]").set_input_files(str(sketch))
    expect(tab.locator("#create-own img")).to_be_visible(**patient)
    tab.locator("#create-draw").click()
    expect(tab.locator("#create-series button")).to_have_count(4, **patient)
    expect(tab.locator("#create-series button[aria-current]")).to_contain_text("50 %")
    expect(tab.locator("#create-series figure img")).to_be_visible()  # the original
    tab.locator("#create-favourite").click()
    note = tab.locator("#create-note input, #create-note textarea")
    note.fill("for the cover")
    note.blur()
    until(lambda: "for the cover" in (workspace / "created" / "kept.json").read_text(), 60)
    tab.locator("#create-forget").click()
    expect(tab.locator("#create-series button")).to_have_count(0)
    assert tab.complaints == []


def test_trainings_wait_their_turn(tab: sync_api.Page, workspace: Path, base_folder: Path) -> None:
    """Two runs in the line, put in order, paused and gone on with from the page; the line is the
    same after a reload.
    """
    expect, line = sync_api.expect, tab.locator("#line")

    def row(name):
        return line.locator(f'li:has([data-run="{name}"])')

    opened(tab, "Train")
    tab.locator("#train-dataset input").click()
    tab.get_by_role("option", name="linocut").click()
    tab.locator("#base-model input, #base-model textarea").fill(str(base_folder))
    tab.locator("#data-trigger input, #data-trigger textarea").fill("linocut")
    tab.locator("#optim-steps input").fill("100000")
    for name in ("long", "second", "third"):
        tab.locator("#save-name input, #save-name textarea").fill(name)
        tab.locator("#start").click()
        expect(row(name)).to_be_visible()
    expect(row("long")).to_contain_text("Training")
    expect(row("third")).to_contain_text("Waiting")
    row("third").locator('[data-do="up"]').click()
    expect(line.locator("li .of")).to_contain_text(["long", "third", "second"])
    reloaded(tab)
    opened(tab, "Train")
    expect(line.locator("li .of")).to_contain_text(["long", "third", "second"])
    row("long").locator(".of").click()
    expect(tab.locator("#status .running")).to_be_visible()
    tab.locator("#save-now").click()
    until(lambda: any((workspace / "runs" / "long" / "checkpoints").glob("step-*")))
    tab.locator("#pause").click()
    expect(row("long")).to_contain_text("Paused", timeout=MINUTE)
    expect(row("third")).to_contain_text("Training", timeout=MINUTE)
    row("second").locator('[data-do="cancel"]').click()
    expect(row("second")).to_contain_text("Stopped")
    row("third").locator('[data-do="cancel"]').click()
    expect(row("third")).to_contain_text("Stopped", timeout=MINUTE)
    row("long").locator('[data-do="go_on"]').click()
    expect(row("long")).to_contain_text("Training", timeout=MINUTE)
    row("long").locator('[data-do="cancel"]').click()
    expect(row("long")).to_contain_text("Stopped", timeout=MINUTE)
    for name in ("second", "third", "long"):
        row(name).locator('[data-do="remove"]').click()
        expect(row(name)).to_have_count(0)
    opened(tab, "Dataset")


def test_from_a_drawer_of_pictures_to_a_dataset(
    tab: sync_api.Page, server: tuple[str, subprocess.Popen[str]], workspace: Path, tmp_path: Path
) -> None:
    expect, dataset = sync_api.expect, workspace / "datasets" / "drawer"
    opened(tab, "Dataset")
    tab.locator("#new-dataset input, #new-dataset textarea").fill("drawer")
    tab.locator("#new-dataset").get_by_role("button", name="Create").click()
    expect(tab.locator("#dataset input")).to_have_value("drawer")

    # A zip with captions; a bad member is named, the rest is there
    tab.locator("#upload input[type=file]").set_input_files(zipped(tmp_path))
    expect(tab.locator("#pictures .thumb")).to_have_count(5, timeout=MINUTE)
    expect(tab.locator("#upload-report")).to_contain_text("run.exe")
    caption, chosen = (
        tab.locator("#caption textarea"),
        tab.locator("#pictures .thumb[aria-current]"),
    )

    # Through the pictures from the keyboard, writing
    tab.locator('#pictures [data-at="apple.png"]').click()
    expect(caption).to_have_value("a red apple")
    caption.press("PageDown")
    expect(chosen).to_have_attribute("data-at", "bear.png")
    expect(caption).to_be_focused()
    strange = "${alert(1)} {{name}} <img src=x onerror=alert(1)>, a bear"
    caption.fill(strange)
    until(
        lambda: (
            (dataset / "bear.txt").is_file()
            and (dataset / "bear.txt").read_text() == strange + "\n"
        )
    )
    caption.press("PageUp")
    expect(caption).to_have_value("a red apple")
    caption.press("PageDown")
    expect(caption).to_have_value(strange)
    caption.blur()
    expect(tab.locator("#findings .odd")).to_contain_text("${alert(1)} {{name}} <img")
    caption.fill("a bear")
    expect(tab.locator("#tokens")).to_contain_text("tokens")

    # Thumbnails are one stop of the Tab key, arrows go through them
    tab.locator('#pictures [data-at="apple.png"]').click()
    expect(caption).to_have_value("a red apple")
    assert [
        thumb.get_attribute("tabindex") for thumb in tab.locator("#pictures .thumb").all()
    ].count("0") == 1
    chosen.press("ArrowRight")
    expect(chosen).to_have_attribute("data-at", "bear.png")
    expect(chosen).to_be_focused()

    # The crop: by keys and by hand, kept beside the picture
    tab.locator('#pictures [data-at="wide.png"]').click()
    crop = tab.locator('#picture [data-current="wide.png"] .crop.movable')
    crop.press("ArrowRight")
    until(
        lambda: (
            (dataset / "wide.crop.json").is_file()
            and read_place(dataset / "wide.png") == (0.55, 0.5)
        )
    )
    box = crop.bounding_box()
    tab.mouse.move(box["x"] + 20, box["y"] + 20)
    tab.mouse.down()
    tab.mouse.move(box["x"] - 900, box["y"] + 20, steps=3)
    tab.mouse.up()
    until(lambda: read_place(dataset / "wide.png") == (0.0, 0.5))

    # All captions at once; undone after a reload
    unfolded(tab, "#bulk", "Edit captions")
    tab.locator("#bulk-apply").click()
    expect(tab.get_by_text("“Words” is empty")).to_be_visible()
    tab.wait_for_timeout(500)
    expect(tab.locator("#caption textarea")).to_be_visible()  # told once, and laid over nothing
    expect(tab.locator("[data-testid=status-tracker] .error:visible")).to_have_count(0)
    tab.locator("#bulk-words input, #bulk-words textarea").fill("ink")
    expect(tab.locator("#bulk-example")).to_contain_text("ink, a red apple")
    tab.locator("#bulk-apply").click()
    until(lambda: (dataset / "apple.txt").read_text() == "ink, a red apple\n")
    expect(tab.locator("#undo")).to_contain_text("add to the start")
    reloaded(tab)
    expect(tab.locator("#pictures .thumb")).to_have_count(5, timeout=MINUTE)
    tab.locator("#undo").click()
    until(lambda: (dataset / "apple.txt").read_text() == "a red apple\n")
    expect(tab.locator("#undo")).to_be_hidden()

    # What is found, mended with a click, and back
    alike = tab.locator("#findings .finding.alike")
    expect(alike.locator(".thumb")).to_have_count(2)
    alike.get_by_role("button", name="Keep only").click()
    expect(tab.locator("#pictures .thumb")).to_have_count(4)
    expect(alike).to_have_count(0)
    tab.locator("#undo").click()
    expect(tab.locator("#pictures .thumb")).to_have_count(5)
    expect(alike).to_have_count(1)

    # Another tab of the browser sees the same; narrow and dark, nothing sticks out
    with tab.context.expect_page() as other:
        tab.evaluate("() => window.open(location.href)")
    expect(other.value.locator("#pictures .thumb")).to_have_count(5, timeout=MINUTE)
    other.value.close()
    tab.set_viewport_size({"width": 800, "height": 900})
    tab.locator("#theme").click()
    assert tab.evaluate("document.body.classList.contains('dark')")
    for name in ("Dataset", "Train", "Create", "Compare", "Styles", "Settings"):
        opened(tab, name)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 800, name
    tab.set_viewport_size({"width": 1280, "height": 900})
    opened(tab, "Dataset")

    assert [url for url in tab.asked if not url.startswith((server[0], "data:", "blob:"))] == []
    assert tab.complaints == []


def test_a_folder_is_dropped_and_what_is_no_picture_is_named(
    tab: sync_api.Page, workspace: Path, tmp_path: Path
) -> None:
    expect, dataset = sync_api.expect, workspace / "datasets" / "dropped"
    (tmp_path / "drawer" / "deep").mkdir(parents=True)
    for path, colour in (("red thing.png", "red"), ("deep/blue thing.jpg", "blue")):
        Image.new("RGB", (120, 100), colour).save(tmp_path / "drawer" / path)
    (tmp_path / "drawer" / "deep" / "blue thing.txt").write_text("a blue thing")
    (tmp_path / "drawer" / ".DS_Store").write_text("of a file manager")
    opened(tab, "Dataset")
    tab.locator("#new-dataset input, #new-dataset textarea").fill("dropped")
    tab.locator("#new-dataset").get_by_role("button", name="Create").click()
    expect(tab.locator("#dataset input")).to_have_value("dropped")

    def drop(path: Path) -> None:
        box = tab.locator("#upload button").first.bounding_box()
        place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        session = tab.context.new_cdp_session(tab)
        for kind in ("dragEnter", "dragOver", "drop"):
            data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
            session.send("Input.dispatchDragEvent", {"type": kind, **place, "data": data})
        session.detach()

    drop(tmp_path / "drawer")
    expect(tab.locator("#pictures .thumb")).to_have_count(2, timeout=MINUTE)
    assert (dataset / "blue thing.txt").read_text() == "a blue thing\n"
    assert sorted(path.name for path in dataset.iterdir() if path.is_file()) == [
        "blue thing.jpg",
        "blue thing.txt",
        "red thing.png",
    ]

    # Of two pictures of one name each keeps the caption beside it; what is not sent is named
    for sub, colour in (("10_cat", "orange"), ("5_dog", "brown")):
        (tmp_path / "img" / sub).mkdir(parents=True)
        Image.new("RGB", (120, 100), colour).save(tmp_path / "img" / sub / "x1.png")
        (tmp_path / "img" / sub / "x1.txt").write_text(f"something {colour}")
    (tmp_path / "img" / "IMG_1.NEF").write_bytes(b"\0\0\0\x18ftypheic" + bytes(2000))
    drop(tmp_path / "img")
    expect(tab.locator("#pictures .thumb")).to_have_count(4, timeout=MINUTE)
    expect(tab.locator("#upload-report")).to_contain_text("img/IMG_1.NEF is a picture of a kind")
    for name in ("x1", "x1-2"):
        with Image.open(dataset / f"{name}.png") as shown:
            brown = shown.getpixel((0, 0)) == (165, 42, 42)
        words = (dataset / f"{name}.txt").read_text()
        assert words == f"something {'brown' if brown else 'orange'}\n"

    # A file that is no picture is told by name; nothing else is lost with it
    (tmp_path / "notes.pdf").write_text("%PDF")
    drop(tmp_path / "notes.pdf")
    expect(tab.locator("#upload-report")).to_contain_text("notes.pdf")
    expect(tab.locator("#pictures .thumb")).to_have_count(4)

    # While the server does not answer, a banner says so, buttons do nothing, and what is typed is
    # kept and saved afterwards
    tab.locator('#pictures [data-at="blue thing.jpg"]').click()
    caption = tab.locator("#caption textarea")
    expect(caption).to_have_value("a blue thing")
    tab.context.set_offline(True)
    caption.fill("a blue thing, typed meanwhile")
    expect(tab.locator("#server-gone")).to_be_visible()
    tab.locator("#next-picture").click(force=True)
    tab.context.set_offline(False)
    expect(tab.locator("#server-gone")).to_be_hidden()
    until(lambda: (dataset / "blue thing.txt").read_text() == "a blue thing, typed meanwhile\n")
    # gradio loads the page anew where an answer was under way: also then all is there
    tab.locator('#pictures [data-at="blue thing.jpg"]').click()
    expect(caption).to_have_value("a blue thing, typed meanwhile")
    tab.complaints.clear()  # of requests that failed


def zipped(folder: Path) -> str:
    """Five pictures, two of them alike, one wide; captions; and something else."""
    rng = np.random.default_rng(0)
    blots = [Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)) for _ in range(3)]
    sizes = {
        "apple.png": (0, (200, 200)),
        "bear.png": (1, (220, 200)),
        "wide.png": (2, (500, 220)),
        "again.png": (0, (180, 180)),
        "wider.png": (1, (520, 220)),
    }
    with zipfile.ZipFile(folder / "drawer.zip", "w") as file:
        for name, (which, size) in sizes.items():
            content = io.BytesIO()
            blots[which].resize(size, Image.Resampling.BICUBIC).save(content, "PNG")
            file.writestr(f"drawer/{name}", content.getvalue())
        file.writestr("drawer/metadata.jsonl", '{"file_name": "apple.png", "text": "a red apple"}')
        file.writestr("drawer/run.exe", b"MZ")
    return str(folder / "drawer.zip")


def test_every_place_has_an_address_and_arrow_keys_lead_there(
    tab: sync_api.Page, server: tuple[str, subprocess.Popen[str]]
) -> None:
    """Reload and the back button come back to a place; the one thing to do there is in sight."""
    expect = sync_api.expect
    tab.evaluate("localStorage.setItem('style-studio-tour', 'seen')")
    tab.goto(f"{server[0]}#create")
    reloaded(tab)
    expect(tab.get_by_role("tab", name="Create")).to_have_attribute("aria-selected", "true")
    expect(tab.locator("#create-draw")).to_be_in_viewport()
    tab.get_by_role("tab", name="Create").press("ArrowUp")
    expect(tab.get_by_role("tab", name="Train")).to_be_focused()
    expect(tab).to_have_url(f"{server[0]}#train")
    expect(tab.locator("#start")).to_be_in_viewport()
    tab.go_back()
    expect(tab.get_by_role("tab", name="Create")).to_have_attribute("aria-selected", "true")
    frame = "getComputedStyle(document.querySelector('.gradio-container main')).paddingLeft"
    for width, left in (
        (390, 16),
        (768, 76 + 24),
        (1920, 208 + 24),
    ):  # px; left: what the rail takes
        tab.set_viewport_size({"width": width, "height": 900})
        opened(tab, "Train")
        expect(tab.locator("#start")).to_be_in_viewport()
        expect(tab.get_by_role("tab")).to_have_count(6)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.evaluate(frame) == f"{left}px"
    tab.set_viewport_size({"width": 1280, "height": 900})
    opened(tab, "Dataset")


def test_foreign_hosts_and_files_are_refused(server: tuple[str, subprocess.Popen[str]]) -> None:
    def status(path: str, **headers: str) -> int:
        try:
            return urllib.request.urlopen(
                urllib.request.Request(server[0] + path, headers=headers), timeout=30
            ).status
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
        (["--host", "0.0.0.0"], "needs a password"),
        (["--host", "example.org"], "needs a password"),
        (["--port", "0"], "a number from 1 to 65535"),
        (["--workspace", "/proc/nowhere"], "cannot be written"),
    ],
)
def test_what_cannot_be_opened_is_reported_with_code_2(arguments: list[str], words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "studio", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert words in done.stderr and "Traceback" not in done.stderr


def test_a_busy_port_is_reported_with_code_2(tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        command = [sys.executable, "-m", "studio", "--port", port, "--workspace", str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert f"Port {port}" in done.stderr


def test_a_style_brings_its_prompts_and_guidance_unless_they_were_typed(tab: sync_api.Page) -> None:
    def take(*given):
        return tab.evaluate(f"given => ({TAKE})(...given)", list(given))

    offered, before = (
        {"for": "mini", "base": "own", "prompts": "a cat", "guidance": 5},
        {"prompts": "a dog", "guidance": 2},
    )
    base, prompts, guidance, taken = take(
        json.dumps(offered), "mini", "a dog", 2, json.dumps(before)
    )
    assert (base, prompts, guidance) == ("own", "a cat", 5) and json.loads(taken) == {
        "prompts": "a cat",
        "guidance": 5,
    }
    base, prompts, guidance, taken = take(
        json.dumps(offered), "another", "my words", 3.5, json.dumps(before)
    )
    assert (base, prompts, guidance) == ("another", "my words", 3.5) and json.loads(taken) == before


def test_from_nothing_to_a_comparison_of_own_pictures_in_seven_clicks(
    tab: sync_api.Page, tmp_path: Path, base_folder: Path
) -> None:
    """As the README counts them.

    Typing is no click; the base and the length are typed here only so that it takes seconds.
    """
    expect, port, clicks = sync_api.expect, free_port(), 0
    with page_process(
        "--port", str(port), "--workspace", str(tmp_path / "workspace"), "--begin-with", "example"
    ) as process:
        process.stdout.readline()
        page = tab.context.browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"http://127.0.0.1:{port}/")

        # What every tab shows of the example before anything is done; none of these clicks is
        # needed
        page.locator("#tour [data-tour=end]").click()
        for name, shown in (
            ("Train", "#status .finished"),
            ("Compare", "#grid .comparison .open img"),
            ("Styles", "#style .examples img"),
        ):
            opened(page, name)
            expect(page.locator(shown).first).to_be_visible()
        guidance = page.locator("#compare-guidance input")
        expect(guidance).to_have_value("2")  # as the example was made
        opened(page, "Dataset")

        # One that is begun there is what Train shows, not the example's own run that it has shown
        page.locator("#train-example").click()
        expect(page.locator("#run input")).to_have_value("linocut-2")
        page.locator('#line li:has([data-run="linocut-2"]) [data-do="cancel"]').click()
        expect(page.locator('#line li:has([data-run="linocut-2"])')).to_contain_text(
            "Stopped", timeout=MINUTE
        )
        opened(page, "Dataset")

        def click(what: sync_api.Locator) -> None:
            nonlocal clicks
            clicks += 1
            what.click()

        with page.expect_file_chooser() as chooser:
            click(page.locator("#upload button").first)
        chooser.value.set_files(drawn_pictures(tmp_path / "pictures"))
        clicks += 1  # Open, in the system's own window
        expect(page.locator("#pictures img")).to_have_count(4, timeout=MINUTE)
        click(page.get_by_role("tab", name="Train"))
        expect(page.locator("#train-dataset input")).to_have_value("my-pictures")
        click(page.locator("#data-trigger input, #data-trigger textarea"))
        page.keyboard.type("ballish")
        expect(page.locator("#preset label.selected")).to_have_text("style")
        expect(page.locator("#optim-steps input")).to_have_value("900")
        page.locator("#base-model input, #base-model textarea").fill(str(base_folder))
        expect(page.locator("#optim-steps input")).to_have_value(
            "1200"
        )  # what the preset chooses for the built-in base is not for others
        page.locator("#optim-steps input").fill("2")
        click(page.locator("#start"))
        expect(page.locator("#status .finished")).to_contain_text("2 of 2", timeout=5 * MINUTE)
        click(page.get_by_role("tab", name="Compare"))
        expect(page.locator("#style-1 input")).to_have_value("my-style · say “ballish” · rank 16")
        # its own, no more the example's, and without the trigger word, which the base must not get
        prompts = page.locator("#compare-prompts textarea")
        expect(prompts).to_have_value(re.compile(" ball"))
        expect(prompts).not_to_have_value(re.compile("ballish"))
        expect(guidance).to_have_value("5")  # and this one's base is not the built-in one
        click(page.locator("#draw"))
        expect(page.locator("#grid .comparison .open img").first).to_be_visible(timeout=5 * MINUTE)
        page.close()
    assert clicks == 7
