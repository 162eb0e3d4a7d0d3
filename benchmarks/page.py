"""How quick the page is: `python -m benchmarks.page`. Answering, first paint, a caption among 500
pictures, and what open tabs cost a training.

Real Chromium over a real page on a free port of this machine; every figure is a median, the
training's one of ratios between neighbouring turns of one run.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from PIL import Image
from playwright.sync_api import Browser, Page, Playwright, sync_playwright
from playwright.sync_api import Error as PlaywrightError

from benchmarks.screenshots import free_port, served
from studio.processes import process as jobs
from tests.chromium import HOW, found
from training import events

SETTLED = 8.0  # seconds from when pages are open until time is taken
TURN = 8.0  # seconds of training with pages that stand still, then with pages that follow it
UNTOUCHED = 60.0  # seconds until a page that nobody touches asks less often
CAUGHT_UP = 3.0  # seconds after which pages that stood still have caught up
FIRST_PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


class Chromium(NamedTuple):
    """What starts a browser, and where it lies."""

    playwright: Playwright
    path: str


def main() -> int:
    """Exit code 0, 2 without a Chromium."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--tabs", type=int, default=10, help="pages that follow a training")
    parser.add_argument(
        "--only-training", action="store_true", help="leave out what is measured without one"
    )
    given = parser.parse_args()
    if (chromium := found()) is None:
        print(f"No Chromium: {HOW}.", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        workspace = Path(folder) / "workspace"
        many(workspace / "datasets" / "many", given.pictures)
        began = time.monotonic()
        with served(workspace) as address:
            row("process answers", [time.monotonic() - began])
            if not given.only_training:
                browser = playwright.chromium.launch(
                    executable_path=chromium, args=["--no-sandbox"]
                )
                row("first paint", [painted(browser, address) for _ in range(5)])
                desk(browser, address, workspace, given.pictures)
                browser.close()
            slowed(Chromium(playwright, chromium), address, workspace, given.turns, given.tabs)
    return 0


def row(what: str, seconds: Sequence[float]) -> None:
    print(f"| {what} | {statistics.median(seconds):.3f} | {max(seconds):.3f} |", flush=True)


def many(folder: Path, count: int) -> None:
    """Pictures of noise with captions: no two are alike."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        small.resize((512, 512), Image.Resampling.BICUBIC).save(
            folder / f"picture {i:04}.jpg", quality=85
        )
        (folder / f"picture {i:04}.txt").write_text(f"thing {i}\n")


def opened(browser: Browser, address: str) -> Page:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(address)
    return page


def painted(browser: Browser, address: str) -> float:
    """Seconds from asking for the page to its first paint of content."""
    page = opened(browser, address)
    page.wait_for_function(FIRST_PAINT)
    seconds = page.evaluate(FIRST_PAINT) / 1000
    page.close()
    return seconds


def desk(browser: Browser, address: str, workspace: Path, count: int) -> None:
    """Walk through pictures and type captions among so many."""
    page = opened(browser, address)
    if page.locator("#tour [data-tour=end]").is_visible():
        page.locator("#tour [data-tour=end]").click()
    began = time.monotonic()
    page.locator("#pictures img").nth(count - 1).wait_for(state="attached", timeout=600_000)
    row(f"{count} pictures listed", [time.monotonic() - began])
    caption, steps, keys, saves = page.locator("#caption textarea"), [], [], []
    for i in range(1, min(21, count)):
        began = time.monotonic()
        page.locator("#next-picture").click()
        page.wait_for_function(
            "wanted => document.querySelector('#caption textarea').value === wanted",
            arg=f"thing {i}",
        )
        steps.append(time.monotonic() - began)
        caption.press("End")
        for letter in " seen":
            began = time.monotonic()
            caption.press(letter)
            keys.append(time.monotonic() - began)
        began, file = time.monotonic(), workspace / "datasets" / "many" / f"picture {i:04}.txt"
        while file.read_text() != f"thing {i} seen\n":
            time.sleep(0.01)
        saves.append(time.monotonic() - began)
    row("from picture to picture", steps)
    row("a letter", keys)
    row("a caption on disk", saves)
    page.close()


def slowed(chromium: Chromium, address: str, workspace: Path, turns: int, count: int) -> None:
    """Updates of a training that pages of a browser follow, and while they are held, in turns."""
    run = workspace / "runs" / "long"
    sample = Path(__file__).resolve().parents[1] / "sample_data" / "linocut" / "style.toml"
    flags = [
        "--optim.steps",
        "100000",
        "--preview.every",
        "0",
        "--save.name",
        "long",
        "--save.folder",
        str(run.parent),
        "--save.every",
        "0",
    ]
    training = subprocess.Popen(
        [sys.executable, "-m", "training.train_style", str(sample), *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        env=jobs.environment(),
    )
    ways = {
        "one page": following(chromium, address, 1),
        f"{count} tabs of a window, one in front": following(chromium, address, count),
        f"{count} pages, all of them drawn and untouched": following(
            chromium, address, count, drawn=True
        ),
    }
    try:
        while not stepped(run):
            time.sleep(1)
        for way, pages_are_open in ways.items():
            with pages_are_open:
                time.sleep(SETTLED)
                alone, followed, used = [], [], []
                for _ in range(turns):
                    with held():
                        alone.append(measured(run))
                    time.sleep(CAUGHT_UP)
                    before = cores()
                    followed.append(measured(run))
                    used.append(
                        {name: (after - before[name]) / TURN for name, after in cores().items()}
                    )
            row(f"an update, followed by {way}", followed)
            row("the same while page and browser are held", alone)
            ratio = statistics.median(a / b for a, b in zip(followed, alone, strict=True))
            busy = ", ".join(
                f"{name} {statistics.median(turn[name] for turn in used):.3f}" for name in used[0]
            )
            print(f"{ratio:.3f} times as long; cores in use: {busy}", flush=True)
    finally:
        training.terminate()
        training.wait()


@contextmanager
def following(
    chromium: Chromium, address: str, count: int, *, drawn: bool = False
) -> Iterator[None]:
    """A browser whose tabs follow the newest run. drawn: all of them as if each were in a window of
    its own.

    Only a browser without a debugger hides the tabs behind the one in front, so it is let go while
    time is taken, and asked afterwards.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            chromium.path,
            "--headless=new",
            "--no-sandbox",
            "--no-first-run",
            f"--remote-debugging-port={port}",
            f"--user-data-dir={profile}",
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            browser = attached(chromium, port)
            for _ in range(count):
                page = browser.contexts[0].new_page()
                page.set_viewport_size({"width": 1280, "height": 900})
                page.goto(address)
                page.get_by_role("tab", name="Train").click()
                page.locator("#status .running").wait_for()
                page.evaluate(
                    "() => { window.hiddenTimes = []; setInterval(() => "
                    "window.hiddenTimes.push(document.hidden), 1000) }"
                )
                if not drawn:  # a hand on the mouse
                    page.evaluate(
                        "() => setInterval(() => document.dispatchEvent(new "
                        "Event('pointermove')), 10000)"
                    )
            if drawn:
                time.sleep(UNTOUCHED)
            else:
                browser.close()  # of one that was attached to, it only lets go
            yield
            if not drawn:
                browser = attached(chromium, port)
            times = [
                page.evaluate("() => window.hiddenTimes")
                for page in browser.contexts[0].pages
                if page.url.startswith(address)
            ]
            hidden = sum(sum(found) > TURN / 2 for found in times)
            if hidden != (0 if drawn else count - 1):
                raise SystemExit(
                    f"Of {count} tabs {hidden} were hidden: this browser cannot be measured so."
                )
            browser.close()
        finally:
            process.terminate()
            process.wait()


def attached(chromium: Chromium, port: int) -> Browser:
    """The browser that listens there, once it does."""
    for _ in range(100):
        try:
            return chromium.playwright.chromium.connect_over_cdp(f"http://127.0.0.1:{port}")
        except PlaywrightError:
            time.sleep(0.1)
    raise SystemExit("Chromium was begun and does not answer.")


def ours() -> Iterator[tuple[str, psutil.Process]]:
    """The page's process and all of the browser's."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "studio" in process.cmdline():
                yield "page", process
            elif "chrom" in process.name():
                yield "browser", process


def cores() -> dict[str, float]:
    """Seconds of CPU that each of them has taken."""
    spent: dict[str, float] = {}
    for name, process in ours():
        with suppress(psutil.Error):
            times = process.cpu_times()
            spent[name] = spent.get(name, 0.0) + times.user + times.system
    return spent


@contextmanager
def held() -> Iterator[None]:
    """Page and browser stand still, as if they were not there:

    turns with and without them lie close together, whatever else the machine does.
    """
    processes = [process for _, process in ours()]
    for process in processes:
        process.suspend()
    yield
    for process in reversed(processes):
        process.resume()


def stepped(run: Path) -> list[float]:
    return [e.seconds for e in events.read(run / "events.jsonl") if isinstance(e, events.Stepped)]


def measured(run: Path) -> float:
    """The median update of a turn, s."""
    before = len(stepped(run))
    time.sleep(TURN)
    return statistics.median(stepped(run)[before:])


if __name__ == "__main__":
    sys.exit(main())
