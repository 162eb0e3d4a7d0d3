"""HTML of the page from Jinja2 templates in templates/: every value is escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

FOLDER = Path(__file__).parent / "templates"
ENVIRONMENT = Environment(
    loader=FileSystemLoader(FOLDER),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)


def render(template: str, /, **values: Any) -> str:
    """Return templates/<template>.html filled with values."""
    return ENVIRONMENT.get_template(f"{template}.html").render(values).strip()


def note(text: str) -> str:
    """A remark below or beside something."""
    return render("note", text=text)


def empty(text: str) -> str:
    """What stands where there is nothing to show yet."""
    return render("empty", text=text)
