"""Write the table in docs/settings.md from the declaration of the settings.
Run it as `python docs/settings.py`.
"""

from __future__ import annotations

from pathlib import Path

from training.config.settings import markdown_table

PAGE = Path(__file__).with_name("settings.md")
FIRST, LAST = "<!-- settings -->", "<!-- /settings -->"


def page() -> str:
    """Return the whole page with the table as it should be."""
    before, rest = PAGE.read_text(encoding="utf-8").split(FIRST)
    after = rest.split(LAST)[1]
    return f"{before}{FIRST}\n{markdown_table()}\n{LAST}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
