"""What the Settings tab shows, as HTML: tables of facts and the doctor's findings. Knows no
gradio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from studio.page.templates import render
from studio.system.doctor import Finding


def findings(found: Sequence[Finding]) -> str:
    """What the doctor found on this machine."""
    return render("settings_findings", findings=found)


def table(rows: Mapping[str, str], note: str = "") -> str:
    """Facts by their label, with a remark below."""
    return render("settings_table", rows=rows, note=note)


def size(count: int) -> str:
    """Bytes in words: 12.3 MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
