"""What a user typed or dropped, on a disk that fails at any moment:

told in words, and what was there before is there still.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from studio.datasets import history, store
from studio.library import cards, preferences
from studio.page.handlers import shows_errors
from training import events
from training.errors import SpaceError
from training.storage.paths import Workspace

FAILS = [errno.EIO, errno.ENOSPC, errno.EROFS, errno.EDQUOT]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    space = Workspace(tmp_path / "w")
    folder = store.make(space, "drawings")
    for i in range(3):
        Image.new("RGB", (64, 64), (80 * i, 0, 0)).save(tmp_path / f"{i}.png")
    store.add(folder, [tmp_path / f"{i}.png" for i in range(3)])
    for i in range(3):
        store.write_caption(folder, f"{i}.png", f"a thing {i}")
    preferences.choose_base(space, "mini")
    return space


def edited(space: Workspace) -> None:
    store.write_caption(store.folder(space, "drawings"), "0.png", "another thing")


def edited_all(space: Workspace) -> None:
    history.change(
        store.folder(space, "drawings"),
        "a trigger",
        {f"{i}.txt": f"tusche {i}\n".encode() for i in range(3)},
    )


def taken_out(space: Workspace) -> None:
    store.remove(store.folder(space, "drawings"), ["1.png"])


def added(space: Workspace) -> None:
    Image.new("RGB", (64, 64), (0, 0, 200)).save(space.root.parent / "more.png")
    store.add(store.folder(space, "drawings"), [space.root.parent / "more.png"])


def chosen(space: Workspace) -> None:
    preferences.choose_base(space, "another")


def described(space: Workspace) -> None:
    cards.write_card(space.root / "a.safetensors", cards.Card(title="Ink"))


ACTS: list[Callable[[Workspace], None]] = [edited, edited_all, taken_out, added, chosen, described]


def content(space: Workspace) -> dict[str, bytes]:
    """Every file that a user would miss; what undo keeps beside them is not one."""
    files = {path.relative_to(space.root): path for path in space.root.rglob("*") if path.is_file()}
    return {
        str(at): path.read_bytes()
        for at, path in files.items()
        if not any(part.startswith(".") for part in at.parts)
    }


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """[which, number]: the which-th fsync from now on fails with that error, and so do all after
    it; 0 = none.
    """
    fsync, state = os.fsync, [0, errno.EIO]

    def fails(handle: int) -> None:
        if state[0]:
            state[0] -= 1
            if not state[0]:
                state[0] = 1
                raise OSError(state[1], os.strerror(state[1]))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", fails)
    yield state
    state[0] = 0


@pytest.mark.parametrize("number", FAILS, ids=errno.errorcode.get)
@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
def test_a_disk_that_fails_costs_nothing_that_was_there(
    workspace: Workspace, act: Callable[[Workspace], None], number: int, failing: list[int]
) -> None:
    before = content(workspace)
    for flush in range(1, 60):
        failing[:] = [flush, number]
        try:
            act(workspace)
        except SpaceError as error:
            failing[0] = 0
            assert os.strerror(number) in str(error)
            now = content(workspace)
            # Each file is as it was or as it shall be; a change of several can be taken back as one
            if now != before and history.last(store.folder(workspace, "drawings")):
                history.undo(store.folder(workspace, "drawings"))
            lost = [name for name, data in before.items() if not content(workspace).get(name)]
            assert not lost
            continue
        break
    failing[0] = 0
    assert 1 < flush < 60 and content(workspace) != before


def test_a_caption_that_a_full_disk_kept_out_comes_with_the_next_upload(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = store.folder(workspace, "drawings")
    more = [workspace.root.parent / name for name in ("more.png", "more.txt")]
    Image.new("RGB", (64, 64), (0, 0, 200)).save(more[0])
    more[1].write_text("a blue thing")
    written = store.write_whole

    def full(path: Path, content: bytes | str) -> None:
        if path.suffix == ".txt":
            raise SpaceError("the disk is full")
        written(path, content)

    with monkeypatch.context() as patched, pytest.raises(SpaceError):
        patched.setattr(store, "write_whole", full)
        store.add(dataset, more)
    assert store.caption(dataset, "more.png") == ""
    assert store.add(dataset, more).refused == (("more.png", "is already there as more.png."),)
    assert store.caption(dataset, "more.png") == "a blue thing"


def test_an_undo_that_was_cut_short_is_not_undone_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its copies may be gone, and what is as before needs none."""
    dataset = store.folder(workspace, "drawings")
    edited_all(workspace)

    def cut_short(entry: Path, **keys: object) -> None:
        for file in (entry / "before").iterdir():
            file.unlink()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched, contextlib.suppress(OSError):
        patched.setattr(history.shutil, "rmtree", cut_short)
        history.undo(dataset)
    assert store.caption(dataset, "1.png") == "a thing 1" and history.last(dataset) is None


def test_what_undo_relies_on_is_written_through(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copies, and the names of all folders made for them."""
    dataset, synced, fsync = store.folder(workspace, "drawings"), set(), os.fsync

    def noted(handle: int) -> None:
        synced.add(os.fstat(handle).st_ino)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    taken_out(workspace)
    entry = dataset / history.FOLDER / "000001"
    wanted = [dataset, entry.parent, entry, entry / "before", *(entry / "before").iterdir()]
    assert not [path for path in wanted if path.stat().st_ino not in synced]


def test_events_after_a_failure_are_read_whole(tmp_path: Path) -> None:
    """Half a line that a full disk left costs no other event."""
    path = tmp_path / "events.jsonl"
    events.append(path, events.Noted("one"))
    with path.open("ab") as file:
        file.write(events.to_line(events.Noted("cut off")).encode()[:20])
    events.append(path, events.Noted("two"))
    assert [event.message for event in events.read(path)] == ["one", "two"]


@pytest.mark.parametrize("number", FAILS, ids=errno.errorcode.get)
def test_the_page_says_what_the_disk_said_and_no_path(number: int) -> None:
    @shows_errors
    def handler() -> None:
        raise OSError(number, os.strerror(number), "/home/someone/secret")

    with pytest.raises(gr.Error) as said:
        handler()
    assert os.strerror(number) in said.value.message and "secret" not in said.value.message
