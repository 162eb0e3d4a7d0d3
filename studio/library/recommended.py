"""The checkpoint that a run's report recommends, and which one stands for the run in the library.
Knows no torch and no gradio.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from training.errors import StudioError
from training.storage.paths import STEPS, read_regular, write_whole

LARGEST_REPORT = 2**22  # bytes of report.json


@dataclass(frozen=True)
class Recommended:
    """step: 0 where the report judged only the style itself; path: its file; in_use: whether the
    run's style is that file.
    """

    step: int
    strength: float
    path: Path
    in_use: bool


def recommended(run: Path) -> Recommended | None:
    """What the report of a run recommends; None without a report, or where its file is gone."""
    try:
        report = json.loads(read_regular(run / "report" / "report.json", LARGEST_REPORT))
        best = report["best"]
        step, strength, name = int(best["step"]), float(best["strength"]), str(best["file"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    style = style_of(run)
    if name == style.name and style.is_file():
        return Recommended(step, strength, style, True)
    path = run / STEPS / name
    if Path(name).name != name or not path.is_file():
        return None
    return Recommended(step, strength, path, _same(path, style))


def style_of(run: Path) -> Path:
    """The file that stands for a run in the library."""
    return run / f"{run.name}.safetensors"


def checkpoint_of(run: Path, step: int) -> Path:
    """The style file of a checkpoint."""
    return run / STEPS / f"{run.name}-{step:06d}.safetensors"


def use(run: Path, last: int) -> Recommended:
    """Let the recommended checkpoint stand for the run. last: the run's last step, whose file is
    kept among the checkpoints. Raises StudioError.
    """
    found, style = recommended(run), style_of(run)
    if found is None or not style.is_file():
        raise StudioError(
            f"“{run.name}” has no report that recommends a checkpoint. Make one with "
            f"train-style {run / 'run.toml'} --report."
        )
    kept = checkpoint_of(run, last)
    if not kept.exists():
        write_whole(kept, style.read_bytes())
    write_whole(style, found.path.read_bytes())
    return found


def use_last(run: Path, last: int) -> None:
    """Let the last checkpoint stand for the run again. Raises StudioError."""
    kept = checkpoint_of(run, last)
    if not kept.is_file():
        raise StudioError(
            f"“{run.name}” no longer has the style of step {last}. Take another checkpoint."
        )
    write_whole(style_of(run), kept.read_bytes())


def _same(one: Path, other: Path) -> bool:
    if not other.is_file() or one.stat().st_size != other.stat().st_size:
        return False
    return one.read_bytes() == other.read_bytes()
