"""Every tab of the page as a picture, light and dark, wide and narrow: `python
benchmarks/screenshots.py --workspace FOLDER --out FOLDER`.

Opens the page on a free port of this machine over a workspace that is there, so that the pictures
show what a user would see.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.chromium import HOW, found  # noqa: E402

TABS = ("Pictures", "Train", "Compare", "Styles", "Settings")
WIDTHS = (1280, 800)  # px
TALLEST = 4000  # px
SETTLED = 3000  # ms after a tab was opened


def main() -> int:
    """Exit code 0, 2 without a Chromium."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tabs", nargs="+", choices=TABS, default=TABS)
    parser.add_argument("--light-only", action="store_true", help="and wide only")
    given = parser.parse_args()
    if (chromium := found()) is None:
        print(f"No Chromium: {HOW}.", file=sys.stderr)
        return 2
    given.out.mkdir(parents=True, exist_ok=True)
    with served(given.workspace) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for width in WIDTHS[:1] if given.light_only else WIDTHS:
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.goto(address)
            page.locator("#tour [data-tour=end]").click()
            for look in ("light",) if given.light_only else ("light", "dark"):
                if look == "dark":
                    page.locator("#theme").click()
                for tab in given.tabs:
                    shoot(page, tab, given.out / f"{tab.lower()}-{width}-{look}.png")
            page.close()
        browser.close()
    return 0


def shoot(page: Page, tab: str, file: Path) -> None:
    page.get_by_role("tab", name=tab).click()
    page.wait_for_timeout(SETTLED)
    window = page.viewport_size
    tall = page.evaluate("document.documentElement.scrollHeight")
    page.set_viewport_size(
        {**window, "height": min(tall, TALLEST)}
    )  # not full_page, which leaves frames inside the page blank
    page.wait_for_timeout(SETTLED // 3)
    page.screenshot(path=file)
    page.set_viewport_size(window)
    print(file)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def served(workspace: Path) -> Iterator[str]:
    """The page's address while it is open."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "studio",
        "--port",
        str(port),
        "--workspace",
        str(workspace.resolve()),
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        line = process.stdout.readline()
        if "is open at" not in line:
            raise SystemExit(f"The page could not be opened: {line}")
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(30)


if __name__ == "__main__":
    sys.exit(main())
