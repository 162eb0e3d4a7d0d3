"""The type checker's word on training and studio for every system: `python -m tests.types [SYSTEM
...]`. Settings stand in pyproject.toml under tool.basedpyright.

All systems at once, as many as there are cores: one takes about half a minute of a core.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SYSTEMS = ("Linux", "Windows", "Darwin")


def checked(system: str) -> subprocess.CompletedProcess[str]:
    """What basedpyright says of one system."""
    command = [sys.executable, "-m", "basedpyright", "--warnings", "--pythonplatform", system]
    return subprocess.run(
        [*command, "--pythonpath", sys.executable],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
    )


def main(systems: list[str]) -> int:
    chosen = systems or [*SYSTEMS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(checked, chosen))
    for system, answer in zip(chosen, found, strict=True):
        print(f"{system}: {answer.stdout.strip()}{answer.stderr.strip()}")
    return int(any(answer.returncode for answer in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
