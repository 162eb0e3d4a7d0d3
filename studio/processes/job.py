"""A training in the queue, as its row in the database. Knows no database."""

from __future__ import annotations

import functools
import subprocess
import sys
import tomllib
from dataclasses import dataclass, fields
from importlib import metadata
from typing import Any, Literal, get_args

from studio.processes import process
from training.config.loading import from_mapping
from training.config.schema import RunConfig
from training.errors import ConfigError

JobState = Literal["waiting", "interrupted", "running", "paused", "finished", "failed", "cancelled"]
CLAIMABLE = ("waiting", "interrupted")
KINDS = {kind: kind for kind in ("cuda", "xpu", "mps", "cpu")}  # ROCm's cards are cuda to torch
ASKED = (sys.executable, "-m", "studio.system.device_worker", "--kind")
IN_LINE = ("waiting", "interrupted", "running", "paused")  # states that a job may leave


@dataclass(frozen=True)
class Job:
    """A row. run: name of the run's folder; request: "pause" or "cancel" while a training is asked
    to; tries: starts since the last new checkpoint; pid, started: of the training, 0 while there is
    none, and between claim and start of the one that its folder tells of, the pid below zero, or
    where it has no record of one, 0 and the length of its events in bytes; heartbeat: when a worker
    last saw it alive; message: why it waits or failed. Times are seconds since 1970.
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
    """The device a run will train on: cpu, cuda:N, xpu:N or mps."""
    asked = config.base.device if config.base.device != "auto" else usual_device()
    return f"{asked}:0" if asked in ("cuda", "xpu") else asked


@functools.cache
def usual_device() -> str:
    """What `auto` is here. A torch that was made for CPUs, as its version says, has no other
    device; what another one finds it says itself, in a process of its own that takes seconds.
    """
    try:
        build = metadata.version("torch").partition("+")[2]
    except metadata.PackageNotFoundError:
        return "cpu"
    # Without a build in its version: of PyPI, for CUDA on Linux, for CPUs on Windows
    is_for_cpu = build == "cpu" or (not build and sys.platform == "win32")
    return "cpu" if is_for_cpu else _kind_of_torch()


def _kind_of_torch() -> str:
    """The kind of device that torch finds; cpu where it cannot be asked, as no training starts
    then.
    """
    try:
        return KINDS[process.asked(ASKED)["kind"]]
    except (OSError, subprocess.SubprocessError, ValueError, LookupError, TypeError):
        return "cpu"
