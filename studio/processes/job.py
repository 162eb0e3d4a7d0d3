"""A training in the queue, as its row in the database. Knows no database."""

from __future__ import annotations

import os
import shutil
import sys
import tomllib
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

from training.config.loading import from_mapping
from training.config.schema import RunConfig
from training.errors import ConfigError

JobState = Literal["waiting", "interrupted", "running", "paused", "finished", "failed", "cancelled"]
CLAIMABLE = ("waiting", "interrupted")
# Where the driver's program is looked for, WSL's own folder included
SEARCHED = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/lib/wsl/lib"])
IN_LINE = ("waiting", "interrupted", "running", "paused")  # states that a job may leave


@dataclass(frozen=True)
class Job:
    """A row. run: name of the run's folder; request: "pause" or "cancel" while a training is asked
    to; tries: starts since the last new checkpoint; pid, started: of the training, 0 while there is
    none; heartbeat: when a worker last saw it alive; message: why it waits or failed. Times are
    seconds since 1970.
    """

    id: int
    run: str
    device: str
    settings: str
    state: JobState
    request: str
    place: int
    tries: int
    saved: int
    not_before: float
    pid: int
    started: float
    heartbeat: float
    message: str
    added: float

    @property
    def config(self) -> RunConfig:
        """Raises ConfigError."""
        try:
            return from_mapping(tomllib.loads(self.settings))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(
                f"The settings of “{self.run}” in the queue cannot be read ({error}). Remove it "
                "from the queue and start it again in the Train tab."
            ) from None


OLDER_NAMES = {"request": "wish"}  # fields whose column is called as in the first databases
COLUMNS = tuple(OLDER_NAMES.get(field.name, field.name) for field in fields(Job))


def job_of(row: Any) -> Job:
    """The job of a row; one whose state a damaged disk made unreadable has failed."""
    found = dict(row)
    if found["state"] not in get_args(JobState):
        found |= {"state": "failed", "message": "its place in the queue was damaged on the disk."}
    return Job(
        **{field.name: found[name] for field, name in zip(fields(Job), COLUMNS, strict=True)}
    )


def device_of(config: RunConfig) -> str:
    """The device a run will train on, as far as that can be told without torch:

    cpu, cuda:N, xpu:N or mps.
    """
    asked = config.base.device if config.base.device != "auto" else usual_device()
    return f"{asked}:0" if asked in ("cuda", "xpu") else asked


def usual_device() -> str:
    """What `auto` is here: what the installed torch was made for, which its version says, and for
    CUDA whether there is a driver, of Linux, Windows or WSL.
    """
    if sys.platform == "darwin":
        return "mps"
    try:
        build = metadata.version("torch").partition("+")[2]
    except metadata.PackageNotFoundError:
        return "cpu"
    if build.startswith("xpu"):
        return "xpu"
    is_for_cuda = build.startswith("cu") or (not build and sys.platform == "linux")
    has_driver = Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi", path=SEARCHED)
    if build.startswith("rocm") or (is_for_cuda and has_driver):
        return "cuda"
    return "cpu"
