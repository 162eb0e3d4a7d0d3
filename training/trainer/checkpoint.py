"""Checkpoints: a folder that is whole or not there. Safetensors and JSON only; every file's size
and hash in a manifest.

Order of a save, so that a power cut at any moment leaves one that verifies: files written and
fsynced in a folder of another name, that folder fsynced, renamed, its parent fsynced; then it is
read back, and only then are older ones deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from training.errors import SpaceError
from training.storage.disk_errors import advice, cause
from training.storage.paths import fsync_folder, make_folder, read_regular, write_whole
from training.system import file_system

FILES = ("state.safetensors", "state.json")
DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
    SafetensorError,
)


@dataclass(frozen=True)
class Checkpoint:
    """What was read back: tensors by name and the state beside them."""

    path: Path
    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def write(
    folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, keep: int
) -> Path:
    """Write folder/step-0000123 whole, read it back, then delete all but the newest `keep`.

    Raises SpaceError; older ones stay then.
    """
    final, unfinished, replaced = (
        folder / f"step-{step:07d}",
        folder / f".step-{step:07d}.tmp",
        folder / f".step-{step:07d}.replaced",
    )
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = {"state.safetensors": save(on_cpu), "state.json": json.dumps(dict(state)).encode()}
    try:
        _finish_replacement(folder)
        _remove(unfinished)
        make_folder(folder)
        unfinished.mkdir()
        for name, data in content.items():
            write_whole(unfinished / name, data)
        write_whole(unfinished / "manifest.json", _manifest(step, content))
        fsync_folder(unfinished)
        if final.exists():  # never a moment without one of the two: see _finish_replacement
            file_system.rename(final, replaced)
        file_system.rename(unfinished, final)
        fsync_folder(folder)
        read(final)
    except OSError as error:
        _remove(unfinished)
        raise SpaceError(
            f"checkpoint {final} could not be written ({cause(error)}). {advice(error)} Older "
            "checkpoints are kept."
        ) from error
    except ValueError as error:
        raise SpaceError(
            f"checkpoint {final} does not read back as it was written ({error}). Check that "
            "disk; older ones are kept."
        ) from error
    except SpaceError:
        _remove(unfinished)
        raise
    _remove(replaced)
    for old in finished(folder)[:-keep]:
        _remove(old)
    return final


def room_needed(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of one checkpoint of these tensors, a little more than less."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) + 64 * 1024


def finished(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first, damaged ones included; also one that a crash left set aside
    while it was being replaced.
    """
    found = {
        _place(p): p
        for pattern in (".step-*.replaced", "step-*")
        for p in folder.glob(pattern)
        if p.is_dir()
    }
    return [found[place] for place in sorted(found)]


def newest(folder: Path, *, before: int | None = None) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies (of fewer updates than `before`), and a sentence for each
    damaged one that was passed over.
    """
    complaints = []
    for path in reversed(finished(folder)):
        if before is not None and _place(path).name >= f"step-{before:07d}":
            continue
        try:
            return read(path), complaints
        except DAMAGED as error:
            complaints.append(f"checkpoint {path.name} is damaged ({error}) and was passed over.")
    return None, complaints


def read(path: Path) -> Checkpoint:
    """Read one checkpoint. Raises ValueError when a file is not what the manifest says, or the
    manifest not what was written.
    """
    raw = read_regular(path / "manifest.json")
    content = {name: read_regular(path / name) for name in FILES}
    step = json.loads(raw)["step"]
    for name, entry in json.loads(raw)["files"].items():
        if hashlib.sha256(content[name]).hexdigest() != entry["sha256"]:
            raise ValueError(
                f"{name} has {len(content[name])} bytes that are not the {entry['bytes']} written"
            )
    if raw != _manifest(step, content) or _place(path).name != f"step-{step:07d}":
        raise ValueError("manifest.json is not the one written")
    return Checkpoint(
        path, step, load(content["state.safetensors"]), json.loads(content["state.json"])
    )


def _manifest(step: int, content: Mapping[str, bytes]) -> bytes:
    """One form for one content, with a hash over itself: every changed bit shows."""
    files = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in content.items()
    }
    manifest = {"step": step, "files": files}
    return json.dumps(
        {**manifest, "sha256": hashlib.sha256(json.dumps(manifest).encode()).hexdigest()}
    ).encode()


def _finish_replacement(folder: Path) -> None:
    """Undo what a crash left between the two renames of a replacement."""
    for kept in folder.glob(".step-*.replaced"):
        if _place(kept).exists():
            _remove(kept)
        else:
            file_system.rename(kept, _place(kept))


def _place(path: Path) -> Path:
    """Where a checkpoint belongs, also one that was set aside."""
    return path.with_name(path.name.removeprefix(".").removesuffix(".replaced"))


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        file_system.remove_tree(path)
