"""The example project: the sample pictures as a dataset of a new workspace, and the settings that train on them. Knows no gradio."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from studio import library
from training.config import RunConfig, from_mapping, read_toml
from training.errors import SpaceError
from training.workspace import Workspace, builtin_base

NAME = "linocut"
MARK = ".example"  # in the dataset's folder: these are not the user's own pictures


def source() -> Path:
    """The folder of the sample that comes with the project."""
    return builtin_base().parent / NAME


def settle(workspace: Workspace) -> None:
    """Copy the sample's pictures and captions into a workspace that never had a dataset. Raises SpaceError."""
    if workspace.datasets().exists():
        return
    try:
        workspace.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=workspace.root, prefix=".example-") as half:
            made = Path(half) / "datasets" / NAME
            made.mkdir(parents=True)
            for file in sorted(source().iterdir()):
                if file.suffix in (".png", ".txt"):
                    shutil.copyfile(file, made / file.name)
            (made / MARK).touch()
            made.parent.rename(workspace.datasets())
    except OSError as error:
        raise SpaceError(f"The example could not be copied into {workspace.root} ({error.strerror}). Free space on that disk.") from error


def is_example(workspace: Workspace, name: str | None) -> bool:
    """Whether a dataset is the example as it came."""
    return name == NAME and (workspace.datasets() / NAME / MARK).is_file()


def config(workspace: Workspace) -> RunConfig:
    """The settings that train the example in this workspace, under a name that is free."""
    told = read_toml(source() / "style.toml")
    told["data"]["folder"] = str(workspace.datasets() / NAME)
    told["save"] |= {"folder": str(workspace.runs()), "name": library.free_run_name(workspace, NAME)}
    return from_mapping(told, "the example")
