"""What a run would take, before it is begun: asked of a process of its own. Knows no torch and no
gradio.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.processes import process
from training.config.loading import to_toml
from training.config.schema import RunConfig
from training.errors import StudioError
from training.system import processes

LONGEST_FORECAST = 120.0  # seconds; torch alone takes several to load
LONGEST = 600.0  # seconds: a base of full size on a slow disk takes its time


@dataclass(frozen=True)
class Memory:
    """GiB that a training is predicted to take, and that are free. storage, side: with which it
    would fit; None and 0 where nothing does.
    """

    needed: float
    room: float
    storage: str | None
    side: int


def memory(config: RunConfig) -> Memory:
    """Predict what a training takes, from the small files of a base that is on this machine.

    Raises StudioError where it cannot be predicted.
    """
    answer = _asked(config, "--memory", seconds=LONGEST_FORECAST)
    try:
        return Memory(**answer)
    except TypeError:
        raise StudioError("The memory could not be predicted. Try a dry run.") from None


def measured(config: RunConfig) -> dict[str, Any]:
    """Rows and notes as training.cli.dry_run finds them.

    Raises StudioError with what the training itself would refuse.
    """
    return _asked(config)


def _asked(config: RunConfig, *options: str, seconds: float = LONGEST) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "run.toml"
        path.write_text(to_toml(config), encoding="utf-8")
        command = [sys.executable, "-m", "studio.processes.plan_worker", str(path), *options]
        # nothing is downloaded to predict
        offline = {"HF_HUB_OFFLINE": "1"} if options else {}
        try:
            said = subprocess.run(
                command,
                capture_output=True,
                encoding="utf-8",
                timeout=seconds,
                env={**process.environment(), **offline},
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise StudioError(
                f"Loading the base and two updates took more than {seconds / 60:g} minutes, so "
                "nothing was measured. Wait until other trainings have ended, or take a smaller "
                "batch or resolution."
            ) from None
        try:
            answer = json.loads(said.stdout.strip().splitlines()[-1])
        except (ValueError, IndexError):
            last = said.stderr.strip().splitlines()[-1:] or ["it said nothing"]
            raise StudioError(
                f"The dry run ended without a result ({processes.ending(said.returncode)}: "
                f"{last[0][:300]}). Run train-style with --dry-run in a terminal to see more."
            ) from None
    if "error" in answer:
        raise StudioError(answer["error"])
    return answer
