"""A run's events on a terminal: one line each, whatever stands in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_events import EACH, NASTY
from training.cli.terminal import clock, show
from training.errors import DataError, StudioError
from training.events import Failed, Finished, Noted, Previewed, Started, Stepped, Warned


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7810, "2 h 10 min"),
    ],
)
def test_times_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert clock(seconds) == said


def test_every_event_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show(EACH, Path("/runs/x"))
    out = capsys.readouterr().out
    assert "5 pictures, 1,234 weights trained (2.17%), float32 on cpu" in out
    assert "update 3  loss 0.1250" in out and "stopped after 10 updates" in out


def test_a_message_is_one_line_and_markup_in_it_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    long = "[red]x[/nope] " + "word " * 60 + "end"
    path = "[a]/s.safetensors"
    show(
        [
            Warned(long),
            Finished(1, path, False, 61.0),
            Failed("[/]", 0),
            Previewed(0, ("[b].png", "c.png"), ("x", "y")),
        ],
        Path("/runs/[x]"),
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"Note: {long}",
        f"finished after 1 updates, 1 min 01 s: /runs/[x]/{path}",
        "[/]",
        "previews after 0 updates: [b].png and 1 more",
    ]


def test_without_a_terminal_updates_are_printed_now_and_then(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show(
        [
            Started(0, 500, 1, 1, 0, "cpu", "float32"),
            *(Stepped(i, 1.0, 1.0, 1.0, 0.0, 0.0) for i in range(1, 501)),
        ],
        Path(),
    )
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_nasty_text_does_not_stop_it(capsys: pytest.CaptureFixture[str]) -> None:
    show([Warned(NASTY)], Path())
    assert "quoted" in capsys.readouterr().out


CODES = "a\x1b[2J\x07\x9b31m\u202e\udcff.png\r"


def test_no_message_holds_codes_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("/runs") / CODES.replace("/", "")
    show([Warned(CODES), Noted(CODES), Failed(CODES, 0), Finished(1, CODES, False, 1.0)], folder)
    shown = capsys.readouterr().out
    for error in (DataError(CODES), StudioError(f"{CODES}\n{CODES}")):
        assert str(error).count("\n") == str(error).count(".png") - 1
        shown += str(error)
    assert not {"\x1b", "\x07", "\x9b", "\u202e", "\udcff", "\r"} & set(shown)
    assert r"a\x1b[2J\x07\x9b31m" in shown
