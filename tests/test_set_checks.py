"""Tests of training.data.checks: one list for the page, the plan and the training; a trigger is
always read.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from studio.datasets import base_info, fixes
from studio.datasets import checks as page_checks
from tests.test_training import changed, equal, of, weights
from tests.test_training import config as config
from tests.test_training import pictures as pictures
from training.cli import dry_run
from training.config.schema import RunConfig
from training.data import checks
from training.data.buckets import Bucket
from training.data.captions import TEMPLATE, captioned
from training.data.checks import Reader, trained_caption
from training.events import Event, Noted, Previewed, Stepped, Warned
from training.runtime.rng import Order
from training.trainer import encoding, saving
from training.trainer.batches import Caption
from training.trainer.loop import train

TEN = Reader(lambda text: len(text.split()), 10)
LONG = "one two three four five six seven eight nine ten eleven twelve"


@pytest.mark.parametrize(
    ("caption", "trigger", "template", "expected"),
    [
        ("a cat", "sks", TEMPLATE, "a cat, sks style"),
        (LONG, "", TEMPLATE, LONG),
        (LONG, "sks", "{trigger} {caption}", f"sks {LONG}"),
        (LONG, "sks", "{caption}", LONG),
        (f"sks {LONG}", "sks", TEMPLATE, f"sks {LONG}"),
        (LONG, "sks", TEMPLATE, "one two three four five six seven eight, sks style"),
        (f"{LONG} sks", "sks", TEMPLATE, "one two three four five six seven eight, sks style"),
        (LONG, "my own", "{caption} by {trigger}", "one two three four five six seven by my own"),
        ("a, b, c, d, e, f, g, h, i, j", "sks", TEMPLATE, "a, b, c, d, e, f, g, h, sks style"),
        ("one two three four five six seven eight nine", "sks", "{caption} {trigger} x", None),
    ],
)
def test_a_long_caption_is_shortened_only_where_the_trigger_would_be_lost(
    caption: str, trigger: str, template: str, expected: str | None
) -> None:
    whole = captioned(caption, trigger, template)
    # None: the trigger is the last word that is read, what follows is not
    assert trained_caption(caption, trigger, template, TEN) == (expected or whole)


def test_words_without_spaces_are_shortened_between_any_two_signs() -> None:
    signs = Reader(lambda text: len(text.replace(" ", "")), 20)
    text = "一只红色的猫坐在窗台上看着外面的雨" * 4
    trained = trained_caption(text, "sks", TEMPLATE, signs)
    assert trained == f"{text[:11]}, sks style" and signs.reads(trained)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "cat,", "sks", "on", "the mat", "·", ","]), max_size=40),
    st.sampled_from(
        ["{caption}, {trigger} style", "{caption} {trigger}", "by {trigger}: {caption}"]
    ),
    st.integers(4, 30),
)
def test_a_trigger_is_always_read(words: list[str], template: str, most: int) -> None:
    reader = Reader(lambda text: len(text.split()), most)
    caption = " ".join(words)
    trained = trained_caption(caption, "sks", template, reader)
    assert any("sks" in word for word in trained.split()[:most])
    whole = captioned(caption, "sks", template)
    assert trained == whole or not reader.reads(whole)


def test_what_is_left_out_is_said() -> None:
    found = [*checks.too_long({"a.png": LONG, "b.png": "a cat"}, "sks", TEMPLATE, TEN)]
    assert [remark.picture for remark in found] == ["a.png"]
    assert "has 14 tokens, 10 are read" in found[0].words
    assert "so that “sks” is read; left out: “nine ten eleven twelve”" in found[0].words
    [other] = checks.too_long({"a.png": LONG}, "", TEMPLATE, TEN)
    assert "Not read: “eleven twelve”" in other.words


# --- shapes ---


@pytest.mark.parametrize(
    ("counts", "batch_size", "often"),
    [
        ((9, 1), 4, {1}),
        ((9, 1), 1, set()),
        ((8, 2), 4, {2}),
        ((8, 3), 4, set()),
        ((8, 4), 4, set()),
        ((30, 5), 4, set()),
        ((1, 1, 1), 4, set()),
        ((20, 2, 1), 8, {2, 1}),
        ((1,), 4, set()),
    ],
)
def test_a_lonely_shape_is_counted_as_it_is_looked_at(
    counts: tuple[int, ...], batch_size: int, often: set[int]
) -> None:
    shapes: dict[str, Bucket] = {}
    groups = []
    for group, count in enumerate(counts):
        groups.append(list(range(len(shapes), len(shapes) + count)))
        shapes |= {str(i): Bucket(64 + 8 * group, 64) for i in groups[-1]}
    found = {remark.picture: remark.words for remark in checks.lonely(shapes, batch_size)}
    assert set(found) == {str(i) for group in groups if len(group) in often for i in group}
    order, seen = Order(groups, batch_size=batch_size, seed=0), Counter()
    for number in range(order.passes * 20):
        seen.update(order.rows(number))
    for name, words in found.items():
        others = [seen[int(n)] for n, shape in shapes.items() if shape != shapes[name]]
        times = seen[int(name)] / (sum(others) / len(others))
        assert f"looked at {times:.1f} times as often" in words


def test_what_is_cut_off_is_said() -> None:
    shapes = {"wide.png": Bucket(160, 96), "tall.png": Bucket(96, 160), "fits.png": Bucket(64, 64)}
    sizes = {"wide.png": (900, 640), "tall.png": (640, 900), "fits.png": (105, 100)}
    wide, tall = checks.cut(sizes, shapes)
    assert "Of wide.png (900 × 640 px) 16% of the height is cut off" in wide.words
    assert "16% of the width is cut off: it becomes 96 × 160 px" in tall.words


def test_many_remarks_of_a_kind_are_said_once() -> None:
    remarks = [checks.Remark("long", f"{i}.png", f"{i} is long.") for i in range(9)]
    assert list(checks.summarised(remarks)) == [
        "0 is long.",
        "1 is long.",
        "The same holds for 7 more: 2.png, 3.png, 4.png and 4 more.",
    ]


# --- a training ---


@pytest.fixture
def long(config: RunConfig, pictures: Path) -> RunConfig:
    """A run whose captions are longer than the 75 tokens that the base reads."""
    for i in range(5):
        (pictures / f"{i}.txt").write_text(f"thing {i} " + "on a plain ground in soft light " * 5)
    return changed(config, optim__steps=4, data__caption_dropout=0.0)


def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train as it was done before captions were shortened."""
    record = saving._record
    plain = lambda plan, parts: [  # noqa: E731
        (Caption(e.caption, e.caption, e.plain),) for e in plan.dataset.examples
    ]
    monkeypatch.setattr(encoding, "trained_captions", plain)
    monkeypatch.setattr(
        saving, "_record", lambda t: {k: v for k, v in record(t).items() if k != "captions"}
    )


@pytest.mark.parametrize("text_encoder_lr", [0.0, 1e-3])
def test_two_triggers_are_two_styles_however_long_the_captions(
    long: RunConfig, text_encoder_lr: float
) -> None:
    long = changed(long, optim__text_encoder_lr=text_encoder_lr)
    other = changed(long, data__trigger="zebra", save__name="t")
    events = list(train(long))
    list(train(other))
    assert not equal(long, other)
    notes = [event.message for event in of(Warned, events)]
    assert any("0.png" in note and "so that “sks” is read" in note for note in notes)


def test_captions_that_fit_are_trained_as_before(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(train(config))
    other = changed(config, save__name="before")
    as_before(monkeypatch)
    list(train(other))
    assert equal(config, other)


@pytest.mark.parametrize("text_encoder_lr", [0.0, 1e-3])
def test_a_run_that_began_before_goes_on_to_the_bit(
    long: RunConfig, text_encoder_lr: float
) -> None:
    long = changed(long, optim__text_encoder_lr=text_encoder_lr)
    straight, stopped = changed(long, save__name="straight"), changed(long, save__name="stopped")
    seen: list[Event] = []
    with pytest.MonkeyPatch.context() as patch:
        as_before(patch)
        list(train(straight))
        for event in train(stopped, lambda: len(of(Stepped, seen)) >= 2):
            seen.append(event)
    for _ in range(2):  # stopped once more: what it began with stays
        so_far = len(of(Stepped, seen))
        for event in train(stopped, lambda: len(of(Stepped, seen)) > so_far):  # noqa: B023
            seen.append(event)
    assert any("not shortened" in event.message for event in of(Noted, seen))
    assert [event.step for event in of(Stepped, seen)] == [1, 2, 3, 4]
    assert equal(straight, stopped)
    new = changed(long, save__name="new")
    list(train(new))
    assert weights(new).keys() == weights(straight).keys() and not equal(new, straight)


def test_a_shortened_run_goes_on_to_the_bit(long: RunConfig) -> None:
    stopped = changed(long, save__name="stopped")
    list(train(long))
    seen: list[Event] = []
    for event in train(stopped, lambda: len(of(Stepped, seen)) >= 2):
        seen.append(event)
    list(train(stopped))
    assert equal(long, stopped)


def test_previews_call_the_style(long: RunConfig) -> None:
    [drawn] = of(Previewed, list(train(changed(long, preview__every=9, optim__steps=1))))[:1]
    assert all(prompt.endswith(", sks style") and len(prompt) < 150 for prompt in drawn.prompts)


def test_a_learnt_word_counts_as_many_tokens_as_it_has(long: RunConfig) -> None:
    long = changed(long, optim__steps=1)
    as_letters, as_vectors = (
        next(e.message for e in of(Warned, list(train(config))) if "0.png" in e.message)
        for config in (long, changed(long, adapter__tokens=20, save__name="learnt"))
    )
    assert "has 131 tokens, 75 are read" in as_letters  # s, k, s
    assert "has 148 tokens, 75 are read" in as_vectors


def test_page_plan_and_training_say_the_same(
    long: RunConfig, pictures: Path, base_folder: Path
) -> None:
    (pictures / "1.txt").write_text("a thing")
    for i in range(5, 12):
        Image.new("RGB", (40, 40), (20 * i, 0, 0)).save(pictures / f"{i}.png")
        (pictures / f"{i}.txt").write_text(f"thing {i}")
    Image.new("RGB", (20, 40)).save(pictures / "12.png")
    (pictures / "12.txt").write_text("a tall thing")
    Image.new("RGB", (18, 18)).save(pictures / "13.png")
    (pictures / "13.txt").write_text("a small thing")
    long = changed(long, optim__batch_size=4, optim__steps=1)
    trained = [event.message for event in of(Warned, list(train(long)))]
    planned = dry_run.measured(changed(long, save__name="plan"), time.time())[1]
    assert trained == planned
    base = replace(base_info.known(str(base_folder)), trigger="sks")
    found = page_checks.findings(pictures, base, 4)
    said = {f.words for f in found if f.kind in ("long", "small", "lonely")}
    assert {"long", "small", "lonely"} <= {f.kind for f in found}
    alike = {text for text in trained if "look the same" in text}
    assert said >= {text for text in trained if not text.startswith("The same holds")} - alike
    assert bool(alike) == any(f.kind == "alike" for f in found)
    for finding in (f for f in found if f.kind == "long"):
        fixes.apply_fix(pictures, "long", "shorten", finding.pictures, base)
    assert not any(f.kind == "long" for f in page_checks.findings(pictures, base, 4))
