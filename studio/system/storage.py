"""The workspace as a whole:

how large it is, what may be cleared, which bases are on this machine, which one is offered first.
No torch.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from studio.datasets import collection
from studio.drawing import images
from studio.library import import_export, library
from studio.library.preferences import FOLDERS_OF_BASES
from studio.processes import process
from training import __version__
from training.errors import BusyError, SpaceError, StudioError
from training.storage.disk_errors import advice, cause
from training.storage.paths import (
    Workspace,
    builtin_base,
    cache_folder,
    latents_folder,
    read_regular,
)
from training.system import file_system

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "gradio", "safetensors")
LONGEST_LOOK = 120.0  # seconds; torch alone takes several to load


@dataclass(frozen=True)
class Base:
    """A base model on this machine. setting: what base.model takes; kind: in words; size: bytes."""

    setting: str
    kind: str
    size: int


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder, those that links lead to left out."""
    files = (Path(at) / name for at, _, names in os.walk(folder) for name in names)
    return sum(map(_size_of_file, files))


def _size_of_file(file: Path) -> int:
    try:
        found = file.lstat()
    except OSError:  # a training has taken its temporary file away since it was listed
        return 0
    return 0 if stat.S_ISLNK(found.st_mode) else found.st_size


def sizes(workspace: Workspace) -> dict[str, int]:
    """Bytes of each part of the workspace."""
    parts = (
        workspace.datasets(),
        workspace.runs(),
        workspace.styles(),
        workspace.comparisons(),
        images.folder(workspace),
        import_export.trash(workspace),
    )
    return {part.name: size_of(part) for part in parts}


def trashed(workspace: Workspace) -> list[str]:
    """What lies in the trash, by its name, what was deleted last first."""
    return [*import_export.all_taken(workspace), *collection.all_deleted(workspace)]


def clear_trash(workspace: Workspace) -> None:
    """Delete for good what was taken away. Raises SpaceError."""
    _clear(import_export.trash(workspace))


def clear_cache(workspace: Workspace) -> None:
    """Delete unpacked checkpoints and encoded pictures, which are made again when needed.

    Raises BusyError while something is trained or drawn.
    """
    going = [
        f
        for root in (workspace.runs(), workspace.comparisons())
        if root.is_dir()
        for f in root.iterdir()
        if process.is_alive(f)
    ]
    if going:
        raise BusyError(
            f"“{going[0].name}” is still running and may need the caches. Wait for it, or stop it."
        )
    _clear(unpacked())
    _clear(latents_folder())


def caches() -> dict[str, int]:
    """Bytes of what lies outside of any workspace and can be made again."""
    return {
        "unpacked checkpoints": size_of(unpacked()),
        "encoded pictures": size_of(latents_folder()),
    }


def unpacked() -> Path:
    """Where single-file checkpoints lie unpacked."""
    return cache_folder() / "bases"


def _clear(folder: Path) -> None:
    try:
        if folder.is_dir():
            file_system.remove_tree(folder)
    except OSError as error:
        raise SpaceError(
            f"{folder} could not be deleted ({cause(error)}). {advice(error, 'delete it by hand')}"
        ) from error


def bases(workspace: Workspace) -> list[Base]:
    """Every base that is found without the network:

    mini, those of the runs, in the workspace's models/ and in the hub's cache.
    """
    found = {"mini": Base("mini", "built in", size_of(builtin_base()))}
    for place in (workspace.root / FOLDERS_OF_BASES).glob("*"):
        if (place / "model_index.json").is_file() or (
            place.suffix == ".safetensors" and place.is_file()
        ):
            found[str(place)] = Base(str(place), _kind(place), _size_of_base(place))
    for setting in library.bases(workspace):
        place = Path(setting).expanduser()
        if setting not in found and place.exists():
            found[setting] = Base(setting, _kind(place), _size_of_base(place))
    return [*found.values(), *_of_hub(set(found))]


def _size_of_base(place: Path) -> int:
    return size_of(place) if place.is_dir() else _size_of_file(place.resolve())


def names_of_hub() -> list[str]:
    """The bases in the hub's cache, by their hub ids."""
    return [found.setting for found in _of_hub(set())]


def _of_hub(known: set[str]) -> list[Base]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except (CacheNotFound, OSError):
        return []
    places = [
        (repo, revision.snapshot_path)
        for repo in repos
        if repo.repo_type == "model"
        for revision in repo.revisions
    ]
    found = {
        repo.repo_id: Base(repo.repo_id, _kind(place), repo.size_on_disk)
        for repo, place in places
        if (place / "model_index.json").is_file()
    }
    return [found[name] for name in sorted(found) if name not in known]


def _kind(place: Path) -> str:
    """The pipeline that a base names itself; a single file is what it is."""
    if place.is_file():
        return "single file"
    try:
        index = json.loads(read_regular(place / "model_index.json").decode("utf-8"))
        return str(index["_class_name"])[:60]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return "unknown"


def versions() -> dict[str, str]:
    """Of this program, Python and the libraries it stands on."""
    found = {"Style Studio": __version__, "Python": sys.version.split()[0]}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def device() -> dict[str, str]:
    """What a training would run on.

    Asked of a process of its own, so that the page itself never loads torch. Raises StudioError.
    """
    try:
        command = [sys.executable, "-m", "studio.system.device_worker"]
        found = process.asked(command, seconds=LONGEST_LOOK)
        return {str(key): str(value) for key, value in found.items()}
    except (OSError, subprocess.SubprocessError, ValueError, IndexError, AttributeError) as error:
        raise StudioError(
            f"What torch can run on here could not be found out ({why(error)}). Run "
            "style-studio doctor in a terminal; if torch does not load, install it again."
        ) from error


def why(error: BaseException | None) -> str:
    """Why a process gave no answer: the last line it printed, or that it took too long."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"no answer within {error.timeout:g} seconds"
    said = getattr(error, "stderr", None)
    last = said.strip().splitlines()[-1:] if isinstance(said, str) else []
    return last[0][:300] if last else type(error).__name__
