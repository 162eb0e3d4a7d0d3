"""Checkpoints: a folder that is whole or not there. Safetensors and JSON only; every file's size and hash in a manifest."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from training.errors import SpaceError
from training.workspace import fsync_folder, write_whole


@dataclass(frozen=True)
class Checkpoint:
    """What was read back: tensors by name and the state beside them."""

    path: Path
    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def write(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, keep: int) -> Path:
    """Write folder/step-000123 whole, then delete all but the newest `keep`. Raises SpaceError; older ones stay then."""
    final, unfinished = folder / f"step-{step:07d}", folder / f".step-{step:07d}.tmp"
    shutil.rmtree(unfinished, ignore_errors=True)
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = {"state.safetensors": save(on_cpu), "state.json": json.dumps(dict(state)).encode()}
    manifest = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in content.items()}
    try:
        unfinished.mkdir(parents=True)
        for name, data in content.items():
            write_whole(unfinished / name, data)
        write_whole(unfinished / "manifest.json", json.dumps({"step": step, "files": manifest}))
        if final.exists():
            shutil.rmtree(final)
        unfinished.rename(final)
        fsync_folder(folder)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise SpaceError(f"checkpoint {final} could not be written ({error.strerror}). Free space on that disk; older ones are kept.") from error
    except SpaceError:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    for old in finished(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def finished(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    return sorted(p for p in folder.glob("step-*") if p.is_dir())


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies, and a sentence for each damaged one that was passed over."""
    complaints = []
    for path in reversed(finished(folder)):
        try:
            return read(path), complaints
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            complaints.append(f"checkpoint {path.name} is damaged ({error}); the one before it is used.")
    return None, complaints


def read(path: Path) -> Checkpoint:
    """Read one checkpoint. Raises ValueError when a file is not what the manifest says."""
    manifest = json.loads((path / "manifest.json").read_text())
    content = {}
    for name in ("state.safetensors", "state.json"):
        content[name] = (path / name).read_bytes()
        if hashlib.sha256(content[name]).hexdigest() != manifest["files"][name]["sha256"]:
            raise ValueError(f"{name} has {len(content[name])} bytes that are not the ones written")
    return Checkpoint(path, manifest["step"], load(content["state.safetensors"]), json.loads(content["state.json"]))
