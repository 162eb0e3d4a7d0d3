"""A power cut at any moment of an operation leaves what was before or what shall be."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.next_kind import interposed, power_loss
from tests.next_kind.interposed import Call
from tests.next_kind.power_loss import Disk

needs_compiler = pytest.mark.skipif(
    interposed.compiler() is None, reason="needs Linux and a C compiler"
)
FEW = {"captions": 20, "queue": 15, "training": 12}  # states of each operation in the slice
MANY = {"captions": 1000, "queue": 1000, "training": 1000, "run": 200}  # in the long run


@needs_compiler
@pytest.mark.parametrize("group", FEW)
def test_a_power_cut_loses_and_tears_nothing(group: str) -> None:
    holds_after_cuts(group, FEW[group])


@needs_compiler
@pytest.mark.long
@pytest.mark.parametrize("group", MANY)
def test_a_power_cut_at_any_of_many_moments_loses_and_tears_nothing(group: str) -> None:
    holds_after_cuts(group, MANY[group])


def holds_after_cuts(group: str, states: int) -> None:
    done = interposed.run("power_loss", group, "--states", str(states))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["wrong"] == 0 and found["states"] >= states


# --- the states themselves ---


def left(folder: Path, *calls: Call) -> set[tuple[tuple[str, bytes], ...]]:
    """Every state that was drawn of a few calls, as the files that are there."""
    states = set()
    for seed in range(200):
        disk, place = Disk(folder), folder.parent / f"cut-{len(list(folder.parent.iterdir()))}"
        for call in calls:
            disk.take(call)
        disk.after_power_cut(random.Random(seed), place)
        files = [path for path in sorted(place.rglob("*")) if path.is_file()]
        states.add(tuple((path.name, path.read_bytes()) for path in files))
    return states


def test_what_no_fsync_followed_may_be_missing(tmp_path: Path) -> None:
    folder = tmp_path / "w"
    folder.mkdir()
    (folder / "a").write_bytes(b"old")

    def call(kind: str, fd: int = -1, a: int = 0, path: str = "", target: str = "", data=b""):
        paths = (str(folder / path) if path else "", str(folder / target) if target else "")
        return Call(kind, fd, a, 0, *paths, data)

    written = [call("open", 3, 0o101, path="b"), call("write", 3, 0, data=b"new")]
    renamed = [*written, call("sync", 3), call("rename", path="b", target="a")]
    open_folder = Call("open", 4, 0, 0, str(folder), "", b"")
    assert left(folder, *written) == {
        (("a", b"old"),),
        (("a", b"old"), ("b", b"")),
        (("a", b"old"), ("b", b"new")),
    }
    unsynced = left(folder, *written, renamed[-1])
    assert (("a", b""),) in unsynced, "a rename may outrun the write"
    assert left(folder, *renamed) >= {(("a", b"old"),), (("a", b"new"),)}
    assert not [state for state in left(folder, *renamed) if dict(state)["a"] == b""]
    assert left(folder, *renamed, open_folder, call("sync", 4)) == {(("a", b"new"),)}
    assert power_loss.SECTOR == 512
