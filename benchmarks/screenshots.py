"""Every place of the page as a picture, light and dark, in four widths: `python
benchmarks/screenshots.py --out FOLDER`; `--docs` makes those of docs/ anew, `--devices` shows
what the system check says on machines with a card that this one need not have.

Opens the page on a free port of this machine, over a workspace that is there or over a new one with
the example, so that the pictures show what a user would see.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.chromium import HOW, found  # noqa: E402

PLACES = ("Dataset", "Train", "Create", "Compare", "Styles", "Settings")
# Of docs/, which the README shows
IN_DOCS = {"Dataset": "pictures", "Train": "train", "Compare": "compare", "Styles": "styles"}
# What the system check is shown for: a device, and whether the driver's program names a card
MACHINES = {
    "nvidia": ("cuda", True),
    "amd": ("rocm", False),
    "intel": ("xpu", False),
    "apple": ("mps", False),
    "idle-nvidia": ("", True),
}
WINDOWS = {390: 844, 768: 1024, 1280: 800, 1920: 1080}  # width -> height, px
PATIENCE = 240_000  # ms: a busy machine is slow
SETTLED = 3000  # ms after a place was opened


def main() -> int:
    """Exit code 0, 2 without a Chromium."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, help="a new one with the example if left out")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--docs", action="store_true", help="renew the pictures of docs/")
    parser.add_argument("--devices", action="store_true", help="the system check, pretended")
    parser.add_argument("--places", nargs="+", choices=PLACES, default=PLACES)
    given = parser.parse_args()
    if not given.docs and given.out is None:
        parser.error("--out or --docs is needed")
    if (chromium := found()) is None:
        print(f"No Chromium: {HOW}.", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        workspace = given.workspace or Path(folder) / "workspace"
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        if given.devices:
            given.out.mkdir(parents=True, exist_ok=True)
            for machine in MACHINES:
                checked_machine(browser, machine, Path(folder) / machine, given.out)
            browser.close()
            return 0
        with served(workspace) as address:
            if given.docs:
                for_docs(browser, address)
            if given.out is not None:
                given.out.mkdir(parents=True, exist_ok=True)
                every_width(browser, address, given.places, given.out)
        browser.close()
    return 0


def opened(browser: Browser, address: str, width: int) -> Page:
    """The page in a window of that width, without its tour."""
    page = browser.new_page(viewport={"width": width, "height": WINDOWS[width]})
    page.set_default_timeout(PATIENCE)
    # the report's frame has no storage
    page.add_init_script("if (window === top) localStorage.setItem('style-studio-tour', 'seen')")
    page.goto(address, timeout=PATIENCE)
    return page


def every_width(browser: Browser, address: str, places: Sequence[str], out: Path) -> None:
    for width in WINDOWS:
        page = opened(browser, address, width)
        for look in ("light", "dark"):
            if look == "dark":
                page.locator("#theme").click()
            for place in places:
                shoot(page, place, out / f"{place.lower()}-{width}-{look}.png")
        page.close()


def checked_machine(browser: Browser, machine: str, folder: Path, out: Path) -> None:
    """The system check of the page on a pretended machine."""
    device, has_driver = MACHINES[machine]
    folder.mkdir()
    if has_driver:
        program = folder / "nvidia-smi"
        program.write_text("#!/bin/sh\necho NVIDIA GeForce RTX 4070\n", encoding="utf-8")
        program.chmod(0o755)
    pretended = os.environ | {
        "PRETENDED_DEVICE": device,
        "PYTHONPATH": str(ROOT / "tests" / "pretended_devices"),
        "PATH": os.pathsep.join([str(folder), os.environ.get("PATH", os.defpath)]),
    }
    with served(folder / "workspace", pretended, "--begin-with", "empty") as address:
        page = opened(browser, address, 1280)
        page.get_by_role("tab", name="Settings").click()
        page.locator("#ask-device").click()
        page.locator("#device .facts-table").wait_for()
        page.wait_for_timeout(SETTLED)
        page.screenshot(path=out / f"check-{machine}.png", full_page=True)
        print(out / f"check-{machine}.png", flush=True)
        page.close()


def for_docs(browser: Browser, address: str) -> None:
    page = opened(browser, address, 1280)
    for place, name in IN_DOCS.items():
        shoot(page, place, ROOT / "docs" / f"{name}.png")
    page.close()


def shoot(page: Page, place: str, file: Path) -> None:
    """What somebody sees who opens a place, in a window of usual height."""
    page.get_by_role("tab", name=place).click()
    page.wait_for_timeout(SETTLED)
    page.screenshot(path=file)
    print(file, flush=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def served(
    workspace: Path, environment: dict[str, str] | None = None, *given: str
) -> Iterator[str]:
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
        *given,
    ]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        line = process.stdout.readline()
        if "is open at" not in line:
            raise SystemExit(f"The page could not be opened: {line}{process.communicate()[0]}")
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(30)


if __name__ == "__main__":
    sys.exit(main())
