"""Make the finished example that a new workspace begins with:

`make example` trains the sample style, compares it and keeps what the page shows.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from studio.library import comparisons
from studio.library.comparisons import ComparisonSpec
from studio.processes import process
from training import train_style
from training.storage.paths import STEPS, Workspace

HERE = Path(__file__).resolve().parent
OUT = HERE / "example"
PROMPTS = ("red apple", "rocket", "castle", "penguin", "hamburger")


def main() -> int:
    """Exit code 0, or the training's."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        code = train_style.main(
            [
                str(HERE / "style.toml"),
                "--save.folder",
                str(workspace.runs()),
                "--report.minutes",
                "60",
            ]
        )  # a slow machine too
        if code:
            return code
        run = workspace.runs() / "linocut"
        drawn = comparisons.begin(
            workspace,
            ComparisonSpec(
                "mini", (("run:linocut", 0.6), ("run:linocut", 1.0)), PROMPTS, (1,), 25, 2.0, 0
            ),
        )
        while process.is_alive(drawn):
            time.sleep(1)
        shutil.rmtree(OUT, ignore_errors=True)
        best = json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))["best"][
            "file"
        ]  # of the checkpoints that one is enough
        for name in (
            "events.jsonl",
            "linocut.safetensors",
            "previews",
            "report",
            f"{STEPS}/{best}",
        ):
            _copied(run / name, OUT / "run" / name)
        for name in ("wish.json", "grid.png", "cells"):
            _copied(drawn / name, OUT / "comparison" / name)
        said = OUT / "run" / "events.jsonl"
        said.write_text(
            said.read_text(encoding="utf-8").replace(f"{run}/", ""), encoding="utf-8"
        )  # where it was made is nobody's business
    return 0


def _copied(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)


if __name__ == "__main__":
    sys.exit(main())
