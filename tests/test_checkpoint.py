from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch

from training.errors import SpaceError
from training.trainer import checkpoint

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1], dtype=torch.int64)}


def test_round_trip_is_exact(tmp_path: Path) -> None:
    checkpoint.write(tmp_path, 5, TENSORS, {"x": [1, "é"]}, keep=2)
    found, complaints = checkpoint.newest(tmp_path)
    assert (
        found is not None and found.step == 5 and found.state == {"x": [1, "é"]} and not complaints
    )
    assert all(torch.equal(found.tensors[k], v) for k, v in TENSORS.items())


def test_the_folders_of_the_first_one_are_written_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their names stand in folders of their own, which an fsync of files does not cover."""
    synced, fsync = set(), os.fsync

    def noted(handle: int) -> None:
        synced.add(os.fstat(handle).st_ino)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    checkpoint.write(tmp_path / "r" / "checkpoints", 1, TENSORS, {}, keep=1)
    above = (tmp_path, tmp_path / "r", tmp_path / "r" / "checkpoints")
    assert not [folder for folder in above if folder.stat().st_ino not in synced]


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
        file.write_bytes(
            {
                "cut": data[:-1],
                "empty": b"",
                "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            }[damage]
        )
    found, complaints = checkpoint.newest(tmp_path)
    assert found is not None and found.step == 1
    assert len(complaints) == 1 and "step-0000002" in complaints[0]


def test_a_full_disk_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.write(tmp_path, 1, TENSORS, {}, keep=1)

    def full(path: Path, data: bytes | str) -> None:
        raise SpaceError(f"{path} could not be written (No space left on device)") from OSError(
            errno.ENOSPC, "No space left on device"
        )

    monkeypatch.setattr(checkpoint, "write_whole", full)
    with pytest.raises(SpaceError):
        checkpoint.write(tmp_path, 2, TENSORS, {}, keep=1)
    monkeypatch.undo()
    found, _ = checkpoint.newest(tmp_path)
    assert found is not None and found.step == 1
    assert [p.name for p in tmp_path.iterdir()] == ["step-0000001"]


def test_on_a_disk_that_is_too_small_the_old_one_stays_and_no_scraps(small_disk: Path) -> None:
    checkpoint.write(small_disk, 1, TENSORS, {}, keep=1)
    for _ in range(3):  # what a failed save leaves would add up
        with pytest.raises(SpaceError, match="could not be written"):
            checkpoint.write(small_disk, 2, {"a": torch.ones(50_000)}, {}, keep=1)
    found, complaints = checkpoint.newest(small_disk)
    assert found is not None and found.step == 1 and not complaints
    assert [p.name for p in small_disk.iterdir()] == ["step-0000001"]
    checkpoint.write(small_disk, 2, TENSORS, {}, keep=1)
    assert checkpoint.newest(small_disk)[0].step == 2


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "nowhere") == (None, [])


def test_a_file_cut_at_any_byte_or_with_any_bit_changed_is_passed_over(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.write(tmp_path, step, {"a": torch.arange(3.0)}, {"step": step}, keep=2)
    last = tmp_path / "step-0000002"
    for name in (*checkpoint.FILES, "manifest.json"):
        data = (last / name).read_bytes()
        cut = [data[:end] for end in range(len(data))]
        flipped = [
            data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1 :] for i in range(len(data))
        ]
        for damaged in [*cut, *flipped, data + b" "]:
            (last / name).write_bytes(damaged)
            with pytest.raises(checkpoint.DAMAGED):
                checkpoint.read(last)
        (last / name).write_bytes(damaged)
        found, complaints = checkpoint.newest(tmp_path)
        assert found is not None and found.step == 1 and "step-0000002 is damaged" in complaints[0]
        (last / name).write_bytes(data)
    assert checkpoint.newest(tmp_path)[0].step == 2


def test_the_order_of_writes_survives_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is on disk before its name is, the folder's content before the folder's name, and
    that before an old one goes.
    """
    checkpoint.write(tmp_path, 1, TENSORS, {}, keep=1)
    calls: list[tuple[str, str]] = []
    fsync, rename, replace, rmtree = os.fsync, os.rename, os.replace, shutil.rmtree

    def shown(path):
        return Path(os.fsdecode(path)).relative_to(tmp_path).as_posix()

    monkeypatch.setattr(
        os,
        "fsync",
        lambda fd: (
            calls.append(("fsync", shown(Path(f"/proc/self/fd/{fd}").readlink()))),
            fsync(fd),
        )[1],
    )
    monkeypatch.setattr(
        os, "rename", lambda a, b: (calls.append(("rename", shown(b))), rename(a, b))[1]
    )
    monkeypatch.setattr(
        os, "replace", lambda a, b: (calls.append(("rename", shown(b))), replace(a, b))[1]
    )
    monkeypatch.setattr(
        shutil,
        "rmtree",
        lambda path, **keys: (calls.append(("remove", shown(path))), rmtree(path, **keys))[1],
    )
    checkpoint.write(tmp_path, 2, TENSORS, {}, keep=1)
    new, named = ".step-0000002.tmp", calls.index(("rename", "step-0000002"))
    for name in (*checkpoint.FILES, "manifest.json"):
        at = calls.index(("rename", f"{new}/{name}"))
        assert calls[at - 1][0] == "fsync" and calls[at - 1][1].startswith(
            f"{new}/.{name}"
        )  # the content, before it has its name
        assert ("fsync", new) in calls[at:named]  # the name, before the folder has its own
    assert ("fsync", ".") in calls[named:]
    assert calls.index(("remove", "step-0000001")) > calls.index(("fsync", "."), named)


def test_a_crash_while_one_is_replaced_leaves_the_one_or_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.write(tmp_path, 1, TENSORS, {"which": "old"}, keep=1)
    rename, left = Path.rename, [0]

    def dies(self: Path, target: Path) -> Path:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dies)
    for renames in (1, 2):
        left[0] = renames
        with pytest.raises(KeyboardInterrupt):
            checkpoint.write(tmp_path, 1, TENSORS, {"which": "new"}, keep=1)
        found, complaints = checkpoint.newest(tmp_path)
        assert found is not None and found.state == {"which": "old"} and not complaints
    monkeypatch.undo()
    checkpoint.write(tmp_path, 1, TENSORS, {"which": "new"}, keep=1)
    assert checkpoint.newest(tmp_path)[0].state == {"which": "new"} and [
        p.name for p in tmp_path.iterdir()
    ] == ["step-0000001"]


def test_what_does_not_read_back_deletes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that lies: bytes change on their way."""
    checkpoint.write(tmp_path, 1, TENSORS, {}, keep=1)
    written = checkpoint.write_whole
    monkeypatch.setattr(
        checkpoint,
        "write_whole",
        lambda path, data: written(path, data[:-1] if path.suffix == ".safetensors" else data),
    )
    with pytest.raises(SpaceError, match="does not read back"):
        checkpoint.write(tmp_path, 2, TENSORS, {}, keep=1)
    assert checkpoint.newest(tmp_path)[0].step == 1


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fails_at_any_flush_leaves_one_that_verifies(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EIO-like failures at the first, second, ...

    fsync of a save, until one save needs no more of them.
    """
    fsync, left = os.fsync, [0]

    def fails(handle: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise OSError(number, os.strerror(number))
        fsync(handle)

    checkpoint.write(tmp_path, 1, TENSORS, {"step": 1}, keep=1)
    monkeypatch.setattr(os, "fsync", fails)
    for flush in range(1, 50):
        left[0] = flush
        try:
            checkpoint.write(tmp_path, 2, TENSORS, {"step": 2}, keep=1)
        except SpaceError as error:
            assert os.strerror(number) in str(error)
            found, complaints = checkpoint.newest(tmp_path)
            assert found is not None and found.step in (1, 2) and not complaints
            continue
        break
    assert flush > 5 and checkpoint.newest(tmp_path)[0].step == 2
