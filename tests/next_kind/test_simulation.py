"""The queue on a pretended machine, in many orders: one training a device, no job lost."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from studio.processes import starting
from training.storage import run_lock

pytest.importorskip("greenlet")

from tests.next_kind.simulation import cheaper, played

FEW, MANY = 60, 20_000  # schedules in the slice and in the long run
# Found faults that were mended then, and no other of the slice would
ONCE_WRONG = (200_099, 303_150, 303_998)
SOON = 2_000  # schedules within which a fault shows


def wrong(tmp_path: Path, schedules: Iterable[int], most: int) -> list[str]:
    found = []
    with cheaper():
        for number in schedules:
            if complaints := played(number, tmp_path / "w"):
                found.append(f"schedule {number}: {'; '.join(complaints)}")
            if len(found) >= most:
                break
    return found


def test_no_order_of_events_loses_a_job_or_shares_a_device(tmp_path: Path) -> None:
    assert wrong(tmp_path, [*range(FEW), *ONCE_WRONG], 5) == []


@pytest.mark.long
def test_no_order_of_many_loses_a_job_or_shares_a_device(tmp_path: Path) -> None:
    assert wrong(tmp_path, range(FEW, MANY), 5) == []


@pytest.mark.long
@pytest.mark.parametrize("fault", ["starts are not marked", "every process seems to live"])
def test_a_fault_is_found(tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one of the rules, some order does harm."""
    if fault == "starts are not marked":
        monkeypatch.setattr(starting, "is_under_way", lambda folder: False)
    else:
        monkeypatch.setattr(run_lock.Holder, "is_alive", lambda holder: True)
    assert wrong(tmp_path, range(SOON), 1) != []
