"""The example project of a new workspace:

the sample pictures, the style that was trained on them, its report, a comparison. Knows no gradio.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from studio.library import library
from studio.processes import process
from training.config.loading import from_mapping, read_toml, write_run
from training.config.schema import RunConfig
from training.errors import SpaceError
from training.storage.disk_errors import advice, cause
from training.storage.paths import Workspace, builtin_base, copied_tree
from training.system import file_system

NAME = "linocut"
MARK = ".example"  # in the dataset's folder and the run's: this is not the user's own
BEGINNINGS = (
    "example",
    "pictures",
    "empty",
)  # what a new workspace may hold: the whole example, its pictures alone, nothing
# the comparison's name, before every name that is made of today's date
FIRST = "2026-01-01 00-00-00"
# seconds since 1970, that day: what the user makes comes before the example
LONG_AGO = 1_767_225_600


def source() -> Path:
    """The folder of the sample that comes with the project."""
    return builtin_base().parent / NAME


def settle(workspace: Workspace, beginning: str = "pictures") -> None:
    """Copy the example into a workspace that never had a dataset:

    as much of it as BEGINNINGS says. Raises SpaceError.
    """
    if workspace.datasets().exists() or beginning == "empty":
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
            if (
                beginning == "example"
                and not workspace.runs().exists()
                and not workspace.comparisons().exists()
            ):
                _finished(workspace, Path(half))
            file_system.rename(
                made.parent, workspace.datasets()
            )  # last: with it the example is settled
    except OSError as error:
        raise SpaceError(
            f"The example could not be copied into {workspace.root} ({cause(error)}). "
            f"{advice(error, 'choose another --workspace')}"
        ) from error


def _finished(workspace: Workspace, half: Path) -> None:
    """The run that `make example` made and its comparison, as if they had been made here
    long ago.
    """
    run, comparison = half / "runs" / NAME, half / "comparisons" / FIRST
    copied_tree(source() / "example" / "run", run)
    copied_tree(source() / "example" / "comparison", comparison)
    write_run(config(workspace), run)
    (run / MARK).touch()
    process.write_ended(comparison)
    with contextlib.suppress(OSError):  # not every drive lets a file be dated
        os.utime(run / "events.jsonl", (LONG_AGO, LONG_AGO))
    for place, target in ((comparison, workspace.comparisons()), (run, workspace.runs())):
        file_system.rename(place.parent, target)


def is_example(workspace: Workspace, name: str | None) -> bool:
    """Whether a dataset is the example as it came."""
    return name == NAME and (workspace.datasets() / NAME / MARK).is_file()


def is_example_run(run: Path) -> bool:
    """Whether a run came with the example, so that its settings are nobody's choice yet."""
    return (run / MARK).is_file()


def config(workspace: Workspace) -> RunConfig:
    """The settings that train the example in this workspace, under a name that is free."""
    recipe = read_toml(source() / "style.toml")
    recipe["data"]["folder"] = str(workspace.datasets() / NAME)
    recipe["save"] |= {
        "folder": str(workspace.runs()),
        "name": library.free_run_name(workspace, NAME),
    }
    return from_mapping(recipe, "the example")
