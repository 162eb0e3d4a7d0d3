"""Tests of studio.datasets.history: what was changed comes back, what was changed since stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from studio.datasets import history
from training.errors import ConfigError, DataError


def state(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in folder.iterdir() if f.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "ink"
    made.mkdir()
    for name in "abc":
        (made / f"{name}.txt").write_text(name)
    return made


def test_what_is_done_bit_by_bit_is_undone_at_once(folder: Path) -> None:
    before = state(folder)
    history.change(folder, "captions", {"a.txt": b"1", "d.txt": b"made"}, act="x")
    history.change(folder, "captions", {"b.txt": b"2", "a.txt": b"3"}, act="x")
    between = state(folder)
    history.change(folder, "another", {"c.txt": None})
    history.change(
        folder, "captions", {"b.txt": b"4"}, act="x"
    )  # not the last change any more: one of its own
    for what in ("captions", "another"):
        assert history.undo(folder) == history.Undone(what, ())
    assert state(folder) == between
    assert (
        history.undo(folder) == history.Undone("captions", ())
        and state(folder) == before
        and history.last(folder) is None
    )


def test_changes_are_undone_one_after_another(folder: Path) -> None:
    states = [state(folder)]
    changes: list[dict[str, bytes | None]] = [
        {"a.txt": b"new", "d.txt": b"made"},
        {"b.txt": None},
        {"a.txt": b"newer"},
    ]
    for number, files in enumerate(changes):
        assert history.change(folder, f"change {number}", files) == len(files)
        states.append(state(folder))
    for number in (2, 1, 0):
        assert history.last(folder) == f"change {number}"
        assert history.undo(folder) == history.Undone(f"change {number}", ())
        assert state(folder) == states[number]
    assert history.last(folder) is None
    with pytest.raises(DataError, match="Nothing was changed"):
        history.undo(folder)


def test_what_was_undone_is_made_again_until_something_else_is_changed(folder: Path) -> None:
    states = [state(folder)]
    history.change(folder, "first", {"a.txt": b"new", "d.txt": b"made"})
    states.append(state(folder))
    history.change(folder, "second", {"b.txt": None, "a.txt": b"newer"})
    states.append(state(folder))
    history.undo(folder)
    history.undo(folder)
    assert history.undone(folder) == "first" and state(folder) == states[0]
    for number, what in enumerate(("first", "second"), start=1):
        assert history.redo(folder) == what
        assert state(folder) == states[number] and history.last(folder) == what
    assert history.undone(folder) is None
    history.undo(folder)
    assert history.undone(folder) == "second" and state(folder) == states[1]
    history.change(folder, "another", {"c.txt": b"3"})
    assert history.undone(folder) is None
    with pytest.raises(DataError, match="Nothing was undone"):
        history.redo(folder)


def test_nothing_that_was_typed_since_is_written_over_by_redo(folder: Path) -> None:
    history.change(folder, "one", {"a.txt": b"1"})
    history.undo(folder)
    (folder / "a.txt").write_text("by hand")
    with pytest.raises(DataError, match="changed since"):
        history.redo(folder)
    assert (folder / "a.txt").read_text() == "by hand" and history.undone(folder) is None


@pytest.mark.parametrize("content", ["", "[]", '{"what": "x", "files": {"../a": {}}}'])
def test_a_damaged_redo_is_none(folder: Path, content: str) -> None:
    history.change(folder, "one", {"a.txt": b"1"})
    history.undo(folder)
    (folder / history.FOLDER / "redo" / "000001" / "redo.json").write_text(content)
    assert history.undone(folder) is None


def test_what_was_changed_by_hand_since_stays(folder: Path) -> None:
    history.change(folder, "two", {"a.txt": b"1", "b.txt": b"2"})
    (folder / "a.txt").write_text("by hand")
    assert history.undo(folder).stayed == ("a.txt",)
    assert (folder / "a.txt").read_text() == "by hand" and (folder / "b.txt").read_text() == "b"
    assert history.last(folder) is None


def test_a_change_that_changes_nothing_is_none(folder: Path) -> None:
    assert history.change(folder, "nothing", {"a.txt": b"a", "missing.txt": None}) == 0
    assert history.last(folder) is None and not (folder / history.FOLDER).exists()


def test_half_a_change_can_be_undone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, put = state(folder), history._put

    def power_cut(dataset: Path, name: str, content: bytes | None) -> None:
        if name == "b.txt":
            raise KeyboardInterrupt
        put(dataset, name, content)

    monkeypatch.setattr(history, "_put", power_cut)
    with pytest.raises(KeyboardInterrupt):
        history.change(folder, "three", {"a.txt": b"1", "b.txt": b"2", "c.txt": None})
    monkeypatch.setattr(history, "_put", put)
    assert (folder / "a.txt").read_bytes() == b"1"
    history.undo(folder)
    assert state(folder) == before


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"what": 3}',
        '{"what": "x", "files": {"../../evil": {"had": false, "after": null}}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_journal_is_passed_over(folder: Path, content: str) -> None:
    entry = folder / history.FOLDER / "000001"
    entry.mkdir(parents=True)
    (entry / "change.json").write_text(content)
    assert history.last(folder) is None
    history.change(folder, "next", {"a.txt": b"1"})
    assert history.undo(folder).what == "next"


def test_nothing_outside_is_changed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("s")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    for name in ("../secret.txt", "link.txt"):
        with pytest.raises(ConfigError):
            history.change(folder, "out", {name: b"x"})
    assert (tmp_path / "secret.txt").read_text() == "s"
