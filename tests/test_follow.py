"""Tests of studio.page.polling:

what a page is not sent again, and what many pages share. When a page asks is in tests/test_page.py.
"""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from studio.page import polling
from studio.page.polling import Late, Lately, unsent
from studio.page.tabs.train.rendering import run_view
from studio.page.views import charts
from studio.processes import process
from training import events

PARTS = (
    "status",
    "loss",
    "rate",
    "messages",
    "report",
    "previews",
    "draw",
    "save",
    "pause",
    "stop",
    "resume",
    "style",
    "reuse",
    "use",
    "last",
    "compare",
    "verdict",
    "go_on",
)


def test_what_a_page_has_is_not_sent_again() -> None:
    found = {"words": "a", "button": gr.update(visible=True), "more": ""}
    news, has = unsent(found, {})
    assert news == found  # also what is empty: the page may show something else
    news, again = unsent(found, has)
    assert news == {} and again == has
    news, _ = unsent(found | {"button": gr.update(visible=False)}, again)
    assert news == {"button": gr.update(visible=False)}


def test_what_was_left_alone_counts_as_what_it_was() -> None:
    _, has = unsent({"one": "a", "two": "b"}, {})
    _, has = unsent({"one": gr.skip(), "two": "c"}, has)
    assert unsent({"one": "a", "two": "c"}, has)[0] == {}


def test_what_costs_something_is_made_for_a_page_that_lacks_it_only() -> None:
    made = []

    def late(mark):
        return {"picture": Late(mark, lambda: made.append(mark) or f"picture of {mark}")}

    _, has = unsent(late("1"), {})
    _, has = unsent(late("1"), has)
    assert made == ["1"]
    assert unsent(late("2"), has)[0] == {"picture": "picture of 2"} and made == ["1", "2"]


def trained(run: Path, steps: range) -> None:
    for step in steps:
        events.append(run / "events.jsonl", events.Stepped(step, 1 / step, 1e-4, 1.0, 0.2, 10.0))


def looked(
    run: Path, has: dict[str, str], state: process.State = "running"
) -> tuple[set[str], dict[str, str]]:
    """Names of what a look sends, and what the page has then."""
    progress = charts.progress([*events.read(run / "events.jsonl")])
    shown = run_view(run, state, False, progress)
    assert set(shown) == set(PARTS)
    news, has = unsent(shown, has)
    return set(news), has


def test_a_look_at_a_training_sends_what_moved(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "previews").mkdir(parents=True)
    events.append(run / "events.jsonl", events.Started(0, 1000, 4, 1, 1, "cpu", "float32"))
    trained(run, range(1, 401))
    news_of, got = looked(run, {})
    assert news_of == set(PARTS)
    news_of, got = looked(run, got)
    assert news_of == set()
    trained(run, range(401, 402))
    news_of, got = looked(run, got)
    assert news_of == {"status"}  # a curve of 400 is not another picture for one point more
    trained(run, range(402, 421))
    news_of, got = looked(run, got)
    assert news_of == {"status", "loss", "rate"}
    Image.new("RGB", (64, 64)).save(run / "previews" / "a.png")
    events.append(
        run / "events.jsonl", events.Previewed(420, ("previews/a.png",), ("a red apple",))
    )
    news_of, got = looked(run, got)
    assert news_of == {"previews"}
    events.append(run / "events.jsonl", events.Warned("the pictures are small"))
    news_of, got = looked(run, got)
    assert news_of == {"messages"}
    news_of, got = looked(run, got, "stopped")
    assert news_of == {
        "status",
        "loss",
        "rate",
        "draw",
        "save",
        "pause",
        "stop",
        "resume",
        "reuse",
    }  # the curves now to their very end


def test_a_growing_curve_is_drawn_to_about_its_end() -> None:
    for count in (0, 1, 99, 100, 399, 400, 10_000, 123_457):
        kept = len(charts.settled([0] * count))
        assert kept <= count and count - kept <= count / charts.REDRAWN
    drawn = {len(charts.settled([0] * count)) for count in range(10_000, 20_000)}
    assert len(drawn) <= 2 * charts.REDRAWN


@pytest.mark.parametrize("loss", [5.5, 0.1, 1 / 3, 7.7, 1e307, 5e-324])
def test_losses_that_a_float_just_tells_apart_are_drawn(loss: float) -> None:
    """A constant loss whose mean is off by its last bit once took more numbers than fit memory."""
    other = math.nextafter(loss, math.inf)
    for low, high in ((loss, other), (-other, -loss), (loss, loss)):
        assert 0 < len(charts._ticks(low, high)) < 20
        assert "polyline" in charts.line_chart("Loss", [1, 2], [("raw", [low, high])])


def test_pages_that_ask_at_the_same_time_share_one_answer() -> None:
    asked, lately = [], Lately(60)

    def work() -> int:
        asked.append(1)
        time.sleep(0.05)
        return len(asked)

    found: list[int] = []
    pages = [
        threading.Thread(target=lambda: found.append(lately.of("run", work))) for _ in range(10)
    ]
    for page in pages:
        page.start()
    for page in pages:
        page.join()
    assert found == [1] * 10
    assert lately.of("another run", work) == 2


def test_an_answer_is_not_kept_longer_than_it_may_be_old() -> None:
    lately, made = Lately(0.01), iter(range(9))
    assert lately.of("run", lambda: next(made)) == 0
    time.sleep(0.02)
    assert lately.of("run", lambda: next(made)) == 1
    for number in range(2 * polling.MOST_KEPT):
        lately.of(number, lambda: None)
    assert len(lately._kept) == polling.MOST_KEPT


def test_what_is_followed_cannot_break_out_of_its_mark() -> None:
    assert '"><script' not in polling.following(1.5, speak='x"><script>')


@pytest.mark.parametrize(
    "values", [[5e-324, 1e-323], [-1e100, 1e100], [1e99, 1.0000000000000002e99], [0.0, 0.0]]
)
def test_a_curve_of_any_numbers_is_drawn(values: list[float]) -> None:
    """As a damaged line may hold them: neither nothing nor infinity is divided by."""
    curve = [events.Stepped(i, value, value, 1.0, 0.1, 1.0) for i, value in enumerate(values, 1)]
    assert "<svg" in charts.loss_curve(curve) and "<svg" in charts.rate_curve(curve)
