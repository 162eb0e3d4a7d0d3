"""What a run says: one line a record, readable again whatever happened to the file."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from training.events import (
    KINDS,
    Event,
    Failed,
    Finished,
    Noted,
    Previewed,
    Saved,
    Started,
    Stepped,
    Warned,
    append,
    from_line,
    read,
    to_line,
)

NASTY = 'ü "quoted" \\ \n\r\t\0\x1b[2J\u2028\x85 \udcff 🎨'
EACH: list[Event] = [
    Started(0, 10, 5, 1234, 56789, "cpu", "float32"),
    Stepped(3, 0.125, 1e-4, 0.5, 0.25, 12.5),
    Previewed(3, ("previews/a.png", "previews/b.png"), ("a cat", NASTY)),
    Previewed(0, (), ()),
    Saved(3, "checkpoints/step-0000003"),
    Noted(NASTY),
    Warned(""),
    Finished(10, "s.safetensors", True, 3.5),
    Failed(NASTY, 3),
]


def test_each_kind_is_tried_here() -> None:
    assert {type(event) for event in EACH} == set(KINDS.values())


@pytest.mark.parametrize("event", EACH, ids=lambda e: type(e).__name__)
def test_an_event_comes_back_from_its_line(event: Event) -> None:
    line = to_line(event)
    assert from_line(line) == event
    assert line.isascii() and len(line.splitlines()) == 1  # readers split lines in different ways
    assert (
        json.loads(line)["event"] == type(event).__name__.lower()
        and json.loads(line)["time"] > 1.7e9
    )


@pytest.mark.parametrize("event", EACH, ids=lambda e: type(e).__name__)
def test_a_line_cut_off_anywhere_is_no_event(event: Event) -> None:
    line = to_line(event)
    assert all(from_line(line[:end]) is None for end in range(len(line)))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{}",
        "[]",
        "null",
        "7",
        '"started"',
        '{"event": "danced"}',
        '{"event": ["started"]}',
        '{"event": "saved"}',
        '{"event": "saved", "step": 1}',
        '{"event": "noted", "message": "x", "later": 1}',
        "\0" * 100,
        "[" * 100_000,
        '{"event": null}',
    ],
    ids=range(14),
)
def test_what_is_no_event_is_none(line: str) -> None:
    assert from_line(line) is None


OF_OTHER_KINDS = {
    "int": ["null", "1.5", '"3"', "true", "[]", "1e999", "9" * 400],
    "float": ["null", '"3"', "{}", "true", "1e999", "-1e999", "NaN", "9" * 400],
    "str": ["null", "3", "[]"],
    "bool": ["null", "1", '"yes"'],
    "tuple[str, ...]": ["null", '"x"', "[1]", "[null]", "{}"],
}


@pytest.mark.parametrize("event", EACH, ids=lambda e: type(e).__name__)
def test_values_of_other_kinds_make_no_event(event: Event) -> None:
    """Who reads events calculates with them: one damaged line must not keep a run from view."""
    found = json.loads(to_line(event))
    for field in dataclasses.fields(event):
        for bad in OF_OTHER_KINDS[str(field.type)]:
            line = json.dumps(found | {field.name: "@"}).replace('"@"', bad)
            assert from_line(line) is None, (field.name, bad)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "figure", [f.name for f in dataclasses.fields(Stepped) if f.name != "step"]
)
def test_no_line_holds_a_number_that_json_has_not(figure: str, bad: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        to_line(dataclasses.replace(Stepped(1, 1.0, 1.0, 1.0, 1.0, 1.0), **{figure: bad}))


def test_a_file_is_read_in_order_and_broken_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert list(read(path)) == []
    lines = [to_line(event).encode() for event in EACH]
    path.write_bytes(
        b"\n".join([lines[0], b"\xff\xfe\x00", lines[1][:20], b"", *lines[2:]])
        + b"\n"
        + lines[1][:30]
    )
    assert list(read(path)) == [EACH[0], *EACH[2:]]


def test_appending_after_a_cut_off_line_costs_that_line_only(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append(path, EACH[0])
    whole = path.read_bytes()
    path.write_bytes(
        whole + to_line(EACH[1]).encode()[:-7]
    )  # as a power cut or a full disk leaves it
    append(path, EACH[4])
    append(path, EACH[5])
    assert list(read(path)) == [EACH[0], EACH[4], EACH[5]]
    assert path.read_bytes().startswith(whole) and b"\n\n" not in path.read_bytes()


def test_events_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        EACH[1].loss = 0.0
