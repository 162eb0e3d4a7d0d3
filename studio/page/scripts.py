"""The page's own JavaScript: every script lies in assets/, in a file of its own."""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"


def script(name: str) -> str:
    """Return the text of assets/<name>.js."""
    return (ASSETS / f"{name}.js").read_text(encoding="utf-8").rstrip("\n")
