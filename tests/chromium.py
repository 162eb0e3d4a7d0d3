"""A Chromium for the page's test:

one that is there, else Playwright's own, else apt's when root. `python -m tests.chromium` gets one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HOW = (
    "install Chromium (apt-get install chromium, or python -m playwright install chromium), "
    "or set CHROMIUM to its path"
)


def found() -> str | None:
    """Path of a Chromium, or None."""
    if chosen := os.environ.get("CHROMIUM"):
        return chosen
    for name in NAMES:
        if path := shutil.which(name):
            return path
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def fetched() -> None:
    """Try Playwright's download, then apt when root; what fails is passed over."""
    tries = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        tries += [["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "chromium"]]
    for command in tries:
        try:
            subprocess.run(
                command,
                timeout=300,
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except (OSError, subprocess.SubprocessError):
            continue
        if found():
            return


def main() -> int:
    if not found():
        fetched()
    path = found()
    if path:
        print(f"browser tests use {path}")
        return 0
    print(f"No Chromium: the browser tests (tests/test_page.py) are left out. To have them, {HOW}.")
    return 1 if os.environ.get("CI") else 0


if __name__ == "__main__":
    sys.exit(main())
