"""How quick the page is: `python -m benchmarks.page`. Answering, first paint, a caption among 500 pictures, and what open tabs cost a training.

Real Chromium over a real page on a free port of this machine; every figure is a median, the training's is a ratio from turns of one run.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.screenshots import served
from studio import jobs
from tests.chromium import HOW, found
from training import events

TURN = 20.0  # seconds of training with and without tabs, in turns
FIRST_PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


def main() -> int:
    """Exit code 0, 2 without a Chromium."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--tabs", type=int, nargs="+", default=[1, 10], help="pages that follow a training, all of them drawn")
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
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            row("first paint", [painted(browser, address) for _ in range(5)])
            desk(browser, address, workspace, given.pictures)
            slowed(browser, address, workspace, given.turns, given.tabs)
            browser.close()
    return 0


def row(what: str, seconds: Sequence[float]) -> None:
    print(f"| {what} | {statistics.median(seconds):.3f} | {max(seconds):.3f} |", flush=True)


def many(folder: Path, count: int) -> None:
    """Pictures of noise with captions: no two are alike."""
    folder.mkdir(parents=True)
    dice = np.random.default_rng(0)
    for i in range(count):
        small = Image.fromarray(dice.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        small.resize((512, 512), Image.Resampling.BICUBIC).save(folder / f"picture {i:04}.jpg", quality=85)
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
        page.wait_for_function("wanted => document.querySelector('#caption textarea').value === wanted", arg=f"thing {i}")
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


def slowed(browser: Browser, address: str, workspace: Path, turns: int, counts: Sequence[int]) -> None:
    """Updates of a training with no page open, and with so many that follow it."""
    run = workspace / "runs" / "long"
    sample = Path(__file__).resolve().parents[1] / "sample_data" / "linocut" / "style.toml"
    flags = ["--optim.steps", "100000", "--preview.every", "0", "--save.name", "long", "--save.folder", str(run.parent), "--save.every", "0"]
    training = subprocess.Popen(
        [sys.executable, "-m", "training.train_style", str(sample), *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        env=jobs.environment(),
    )
    try:
        while not stepped(run):
            time.sleep(1)
        alone, watched = [], {count: [] for count in counts}
        for _ in range(turns):
            alone.append(measured(run))
            for count in counts:
                pages = [opened(browser, address) for _ in range(count)]
                for page in pages:
                    page.get_by_role("tab", name="Train").click()
                time.sleep(5)
                watched[count].append(measured(run))
                for page in pages:
                    page.close()
                time.sleep(2)
    finally:
        training.terminate()
        training.wait()
    row("an update, no page open", alone)
    for count, seconds in watched.items():
        row(f"an update, followed by {count} open pages", seconds)
        print(f"followed by {count}, an update takes {statistics.median(seconds) / statistics.median(alone):.3f} times as long")


def stepped(run: Path) -> list[float]:
    return [e.seconds for e in events.read(run / "events.jsonl") if isinstance(e, events.Stepped)]


def measured(run: Path) -> float:
    """The median update of a turn, s."""
    before = len(stepped(run))
    time.sleep(TURN)
    return statistics.median(stepped(run)[before:])


if __name__ == "__main__":
    sys.exit(main())
