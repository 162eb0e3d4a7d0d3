"""What a run would take, before it is begun: asked of a process of its own. Knows no torch and no
gradio.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from studio.processes import process
from training.config.loading import to_toml
from training.config.schema import RunConfig
from training.errors import StudioError
from training.system import processes

LONGEST = 600.0  # seconds: a base of full size on a slow disk takes its time


def measured(config: RunConfig) -> dict[str, Any]:
    """Rows and notes as training.cli.dry_run finds them.

    Raises StudioError with what the training itself would refuse.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "run.toml"
        path.write_text(to_toml(config), encoding="utf-8")
        command = [sys.executable, "-m", "studio.processes.plan_worker", str(path)]
        try:
            said = subprocess.run(
                command,
                capture_output=True,
                encoding="utf-8",
                timeout=LONGEST,
                env=process.environment(),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise StudioError(
                f"Two updates took more than {LONGEST / 60:g} minutes, so nothing was measured. "
                "Wait until other trainings have ended, or take a smaller batch or resolution."
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
