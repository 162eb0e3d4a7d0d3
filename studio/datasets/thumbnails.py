"""Small copies of pictures for the page. Knows files; nothing of datasets or gradio."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from training.data.pictures import open_picture
from training.system import file_system


def thumbnail(source: Path, *, side: int, into: Path) -> Path:
    """A copy re-encoded for the page, at most side px wide and high, as the trainer sees it; made
    once for every state of the source.
    """
    stat = source.stat()
    state = f"{source}|{stat.st_mtime_ns}|{stat.st_size}|{side}"
    made = into / f"{hashlib.sha256(state.encode()).hexdigest()[:32]}.webp"
    if not made.exists():
        small = open_picture(source)
        small.thumbnail((side, side))
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=into, suffix=".tmp", delete=False) as half:
            small.save(half, "WEBP", quality=88, method=2)
        file_system.replace(Path(half.name), made)
    return made
