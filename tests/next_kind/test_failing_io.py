"""Changes of files fail at every place: nothing is lost or torn, and all is said in words."""

from __future__ import annotations

import json

import pytest

from tests.next_kind import interposed

pytestmark = pytest.mark.skipif(
    interposed.compiler() is None, reason="needs Linux and a C compiler"
)
# Of the places, each so many-th; the long run takes all
SOME = {"captions": 2, "queue": 7, "training": 5}
FEWEST = 40  # faults that a slice has


@pytest.mark.parametrize("group", SOME)
def test_a_failing_disk_loses_and_tears_nothing(group: str) -> None:
    holds_under_faults(group, SOME[group])


@pytest.mark.long
@pytest.mark.parametrize("group", [*SOME, "run"])
def test_a_failing_disk_loses_and_tears_nothing_at_any_place(group: str) -> None:
    holds_under_faults(group, 1)


def holds_under_faults(group: str, every: int) -> None:
    done = interposed.run("failing_io", group, "--every", str(every))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["wrong"] == 0 and sum(found["faults"].values()) >= FEWEST, found
    assert {"open", "fsync", "rename"} <= found["faults"].keys(), "no such call failed"
