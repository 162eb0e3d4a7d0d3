"""Many pages over one workspace in a real browser:

how many may be open, when they ask, what they tell each other and what they do not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from studio.processes.queue import Queue
from tests.test_page import (
    MINUTE,
    ROOT,
    browser,
    free_port,
    opened,
    page_process,
    sync_api,
    unfolded,
    until,
)
from training import events
from training.cli import style_file
from training.storage.paths import Workspace

SAMPLE_STYLE = ROOT / "sample_data" / "linocut" / "example" / "run" / "linocut.safetensors"
LINOCUT = "#shelf .thumb[data-at='file:linocut']"
pytestmark = pytest.mark.browser
# A browser of a test calls every page visible and lets none speak; this puts both into the test's
# hand.
IN_HAND = """
let hidden = false;
window.shown = [];
window.Notification = class {
    static permission = 'granted';
    constructor(title, words) { window.shown.push(title + ': ' + words.body); }
};
Object.defineProperty(document, 'hidden', {get: () => hidden});
window.leave = gone => { hidden = gone; document.dispatchEvent(new Event('visibilitychange')); };
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("many") / "workspace"


@pytest.fixture(scope="module")
def address(workspace: Path) -> Iterator[str]:
    port = free_port()
    with page_process("--port", str(port), "--workspace", str(workspace)) as process:
        process.stdout.readline()
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def chromium() -> Iterator[sync_api.Browser]:
    with browser() as found:
        yield found


def visited(context: sync_api.BrowserContext, address: str) -> sync_api.Page:
    """The page in a new tab; it remembers when it asked."""
    page = context.new_page()
    page.asks = []
    page.on(
        "request",
        lambda request: page.asks.append(time.monotonic()) if "queue/join" in request.url else None,
    )
    page.goto(address)
    sync_api.expect(page.locator("#pictures img")).to_have_count(24, timeout=MINUTE)
    if page.locator("#tour [data-tour=end]").is_visible():
        page.locator("#tour [data-tour=end]").click()
    return page


def test_more_tabs_are_open_at_once_than_a_browser_has_connections(
    chromium: sync_api.Browser, address: str
) -> None:
    context = chromium.new_context()
    for _ in range(8):
        visited(context, address)
    context.close()


def test_a_page_that_nobody_sees_does_not_ask_and_one_of_them_says_when_it_is_done(
    chromium: sync_api.Browser, address: str, workspace: Path
) -> None:
    expect, said = sync_api.expect, workspace / "runs" / "elsewhere" / "events.jsonl"
    said.parent.mkdir(parents=True)
    events.append(said, events.Started(0, 100, 4, 1, 1, "cpu", "float32"))
    events.append(said, events.Stepped(20, 0.5, 1e-4, 1.0, 0.2, 16.0))
    context = chromium.new_context()
    context.add_init_script(IN_HAND)
    speaker, other = visited(context, address), visited(context, address)
    for page in (speaker, other):
        page.bring_to_front()
        opened(page, "Train")
        expect(page.locator("#status .running")).to_contain_text("20 of 100")
        expect(page).to_have_title("20 % · elsewhere · Style Studio")

    # Seen: a new update is shown within some seconds; what did not change is not drawn again
    expect(speaker.locator("#loss svg")).to_be_visible()
    speaker.evaluate(
        "() => { window.redrawn = 0; new MutationObserver(() => "
        "window.redrawn++).observe(document.querySelector('#loss .html-container'),"
        " {subtree: true, childList: true, attributes: true, characterData: true}); }"
    )
    events.append(said, events.Saved(20, "checkpoints/step-000020"))
    asked = len(speaker.asks)
    until(lambda: speaker.wait_for_timeout(100) or len(speaker.asks) >= asked + 3, 60)
    assert speaker.evaluate("redrawn") == 0
    events.append(said, events.Stepped(21, 0.5, 1e-4, 1.0, 0.2, 16.0))
    expect(speaker.locator("#status")).to_contain_text("21 of 100")
    until(lambda: speaker.wait_for_timeout(100) or speaker.evaluate("redrawn") > 0, 60)

    # Behind other windows: nobody asks for a while, and who will not ask at all has a title that
    # claims nothing
    for page in (speaker, other):
        page.evaluate("leave(true)")
    speaker.wait_for_timeout(1500)  # what was under way
    asked = [len(page.asks) for page in (speaker, other)]
    speaker.wait_for_timeout(5000)
    assert [len(page.asks) for page in (speaker, other)] == asked
    assert speaker.title() == "21 % · elsewhere · Style Studio" and other.title() == "Style Studio"

    # The end: one of them says so, once
    events.append(said, events.Finished(100, "", False, 20.0))
    until(
        lambda: (
            speaker.wait_for_timeout(200) or speaker.evaluate("shown") == ["elsewhere: Finished"]
        ),
        60,
    )
    assert speaker.title() == "Style Studio"
    assert other.evaluate("shown") == [] and len(other.asks) == asked[1]

    # Seen again: it asks at once, and then there is nothing more to ask
    other.evaluate("leave(false)")
    expect(other.locator("#status .finished")).to_be_visible()
    other.wait_for_timeout(1000)
    asked = len(other.asks)
    other.wait_for_timeout(4000)
    assert len(other.asks) == asked
    context.close()


def test_two_people_share_what_is_done_and_not_what_is_half_typed(
    chromium: sync_api.Browser, address: str, workspace: Path, base_folder: Path
) -> None:
    expect, queue = sync_api.expect, Queue(Workspace(workspace), worker=None)
    ann, ben = (visited(chromium.new_context(), address) for _ in range(2))
    caption = ben.locator("#caption textarea")
    expect(caption).to_have_value("anchor")
    ann.locator("#caption textarea").fill("anchor, half a w")
    until(
        lambda: (
            (workspace / "datasets" / "linocut" / "anchor.txt").read_text() == "anchor, half a w\n"
        ),
        60,
    )
    for page in (ann, ben):
        opened(page, "Train")
        page.locator("#train-dataset input").click()
        page.get_by_role("option", name="linocut").click()
        page.locator("#base-model input, #base-model textarea").fill(str(base_folder))
        page.locator("#optim-steps input").fill("100000")
        page.locator("#save-name input, #save-name textarea").fill("same")
    ann.locator("#data-trigger input, #data-trigger textarea").fill("annis")
    ben.wait_for_timeout(2000)
    assert ben.locator("#data-trigger input, #data-trigger textarea").input_value() == ""
    assert caption.input_value() == "anchor"

    ben.locator("#data-trigger input, #data-trigger textarea").fill("bennish")

    # The same run twice: one of them begins it, the other is told, and both see it
    ann.locator("#start").click(no_wait_after=True)
    ben.locator("#start").click(no_wait_after=True)
    refused = "“same” is in the queue already"
    until(
        lambda: (
            ann.wait_for_timeout(100)
            or any(page.get_by_text(refused).count() for page in (ann, ben))
        ),
        60,
    )
    assert [job.run for job in queue.jobs()] == ["same"]
    for page in (ann, ben):
        if page.get_by_text(refused).count():
            page.reload()
            opened(page, "Train")
        expect(page.locator('#line li:has([data-run="same"])')).to_contain_text(
            "Training", timeout=MINUTE
        )
    ben.locator('#line li:has([data-run="same"]) [data-do="cancel"]').click()
    expect(ann.locator('#line li:has([data-run="same"])')).to_contain_text(
        "Stopped", timeout=MINUTE
    )
    ann.context.close()
    ben.context.close()


def test_a_card_belongs_to_the_style_that_is_shown(
    chromium: sync_api.Browser, address: str, workspace: Path, tmp_path: Path
) -> None:
    """Fields of one style are never saved onto another, nor over what a second page has saved."""
    expect = sync_api.expect
    second = tmp_path / "woodcut.safetensors"
    assert (
        style_file.main(["scrub", str(SAMPLE_STYLE), "--out", str(second)]) == 0
    )  # other bytes: a second style
    context = chromium.new_context()
    page, other = visited(context, address), visited(context, address)
    opened(page, "Styles")
    title, notes = (
        page.locator(f"#style-{field} input, #style-{field} textarea")
        for field in ("title", "notes")
    )
    for count, file in enumerate((SAMPLE_STYLE, second), start=1):
        page.locator("#bring-style input[type=file]").set_input_files(str(file))
        expect(page.locator("#shelf .thumb")).to_have_count(count, timeout=MINUTE)
    # What was brought last is shown: by its own answer, an earlier one may have listed both
    expect(page.locator("#style-of input, #style-of textarea")).to_have_value("file:woodcut")
    unfolded(page, "#style-words", "Edit details")
    title.fill("Woodcut of mine")
    page.locator("#save-card").click()
    expect(page.locator("#shelf .thumb", has_text="Woodcut of mine")).to_have_count(1)

    page.locator(LINOCUT).click()
    expect(title).to_have_value("linocut")
    notes.fill("the sample")
    page.locator(LINOCUT).click()  # the same again: what is being typed stays
    expect(notes).to_have_value("the sample")

    opened(other, "Styles")
    other.locator(LINOCUT).click()
    unfolded(other, "#style-words", "Edit details")
    expect(other.locator("#style-title input, #style-title textarea")).to_have_value("linocut")
    other.locator("#style-title input, #style-title textarea").fill("Lino")
    other.locator("#save-card").click()
    expect(other.locator(f"{LINOCUT} .title")).to_have_text("Lino")
    page.locator("#save-card").click()
    expect(page.locator("#style")).to_contain_text("the sample")
    cards = [json.loads(path.read_text()) for path in sorted(workspace.rglob("*.card.json"))]
    assert sorted((card["title"], card["notes"]) for card in cards) == [
        ("Lino", "the sample"),
        ("Woodcut of mine", ""),
    ]
    context.close()
