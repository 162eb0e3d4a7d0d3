"""axe-core on every place of the page, in both themes and on a phone, with what opens over it.

axe comes with its wheel and asks nothing of the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest

from tests.test_page import browser, free_port, opened, page_process, sync_api

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest.importorskip("axe_playwright_python")
pytestmark = pytest.mark.browser

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
PLACES = ("Dataset", "Train", "Create", "Compare", "Styles", "Settings")
# What shows that a place has its content: the example's, which every new workspace has
FILLED = {
    "Dataset": "#pictures .thumb",
    "Train": "#previews .strip",
    "Create": "#create-draw",
    "Compare": "#grid .comparison",
    "Styles": "#style figure",
    "Settings": ".bases li",
}
UNFOLD = """() => document.querySelectorAll('.label-wrap:not(.open)').forEach(
    part => { if (part.offsetParent) part.click(); })"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a page over a new workspace with the whole example: pictures, a run, a comparison."""
    at, workspace = free_port(), tmp_path_factory.mktemp("accessible") / "workspace"
    arguments = ["--port", str(at), "--workspace", str(workspace), "--begin-with", "example"]
    with page_process(*arguments) as process:
        assert process.stdout is not None
        assert f"http://127.0.0.1:{at}/" in process.stdout.readline()
        yield f"http://127.0.0.1:{at}/"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as made:
        yield made


def shown(chromium: Browser, address: str, theme: str, width: int = 1280) -> Page:
    """The page in a theme, with axe in it and the tour taken."""
    page = chromium.new_page(viewport={"width": width, "height": 900}, reduced_motion="reduce")
    page.add_init_script(
        f"localStorage.setItem('style-studio-theme', '{theme}');"
        "localStorage.setItem('style-studio-tour', 'seen');"
    )
    page.goto(address)
    sync_api.expect(page.locator("#pictures .thumb").first).to_be_visible()
    page.evaluate(AXE)
    return page


def findings(page: Page) -> list[str]:
    """What axe finds, each with where it is and why."""
    page.wait_for_function("!document.querySelector('.pending')")  # faint while it is drawn anew
    page.wait_for_timeout(400)  # ms in which colours fade to those of what was opened
    found: dict[str, Any] = page.evaluate("() => axe.run({resultTypes: ['violations']})")
    return [
        f"{rule['impact']} {rule['id']}: {node['target']} {node['failureSummary']}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]


def filled(page: Page, place: str) -> None:
    """Go to a place, wait until it shows the example, and unfold all that is folded."""
    opened(page, place)
    sync_api.expect(page.locator(FILLED[place]).first).to_be_visible()
    page.evaluate(UNFOLD)


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 1280), ("dark", 390)])
def test_axe_finds_nothing_in_any_place(
    chromium: Browser, address: str, theme: str, width: int
) -> None:
    page = shown(chromium, address, theme, width)
    for place in PLACES:
        filled(page, place)
        assert findings(page) == [], place
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_in_what_opens_over_a_place(
    chromium: Browser, address: str, theme: str
) -> None:
    """Dialogs with a large image, the tour, a question, what was just done."""
    expect = sync_api.expect
    page = shown(chromium, address, theme)
    page.locator("#tour-again").click()
    expect(page.locator("#tour")).to_be_visible()
    assert findings(page) == []
    page.locator("#tour [data-tour=end]").click()

    filled(page, "Train")
    page.locator("#previews [data-large]").first.click()
    expect(page.locator("#previews dialog")).to_be_visible()
    assert findings(page) == []
    page.locator("#previews [data-close]").click()

    filled(page, "Compare")
    page.locator("#grid .open").first.click()
    expect(page.locator("#grid dialog")).to_be_visible()
    assert findings(page) == []
    page.locator("#grid [data-act=close]").click()

    filled(page, "Dataset")
    page.locator("#rename-dataset").click()
    expect(page.locator("#dataset-name")).to_be_visible()
    page.locator("#remove-picture").click()
    expect(page.locator("#pictures-snackbar")).to_be_visible()
    assert findings(page) == []
    page.locator("#pictures-undo").click()
    expect(page.locator("#pictures-snackbar")).to_be_hidden()
    page.close()


def test_axe_finds_what_is_wrong(chromium: Browser, address: str) -> None:
    """Else the tests above would say nothing."""
    page = shown(chromium, address, "light")
    page.evaluate("""() => {
        const made = document.createElement('button');
        made.append(Object.assign(document.createElement('img'), {src: 'data:,'}));
        document.querySelector('main').append(made);
    }""")
    assert any("image-alt" in finding for finding in findings(page))
    page.close()
