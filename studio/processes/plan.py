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
            answer = json.loads(said.stdout.strip().splitlines()[-1])
        except (subprocess.TimeoutExpired, ValueError, IndexError):
            raise StudioError(
                "The two updates that were to be measured came to no end. Is another training "
                "going on, or the memory full?"
            ) from None
    if "error" in answer:
        raise StudioError(answer["error"])
    return answer
