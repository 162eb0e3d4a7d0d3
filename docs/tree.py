"""Write docs/tree.md: every folder and module of the code with the first sentence of its docstring.
Run it as `python docs/tree.py`.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "tree.md"
PACKAGES = ("training", "studio")
INTRODUCTION = """# File tree

Folders are subjects, modules are nouns. `python docs/tree.py` makes this page from the first
sentence of every module's docstring, and a test keeps it up to date.

"""


def summary(path: Path) -> str:
    """Return the first sentence of a module's docstring, without its full stop."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraphs = text.replace(":\n\n", ": ").replace("al.\n\n", "al. ").split("\n\n")
    return re.split(r"(?<!et al)(?<!\beq)\. ", " ".join(paragraphs[0].split()))[0].rstrip(".")


def lines(folder: Path, depth: int = 0) -> list[str]:
    """Return the rows of a package: its own, its modules', its sub-packages'."""
    found = [
        f"{'  ' * depth}{folder.name + '/':<{28 - 2 * depth}}{summary(folder / '__init__.py')}"
    ]
    for path in sorted(folder.glob("*.py")):
        if path.name != "__init__.py":
            found.append(f"{'  ' * depth}  {path.name:<{26 - 2 * depth}}{summary(path)}")
    for below in sorted(path.parent for path in folder.glob("*/__init__.py")):
        found += lines(below, depth + 1)
    return found


def page() -> str:
    """Return the whole page."""
    return (
        INTRODUCTION
        + "".join(
            "```text\n" + "\n".join(lines(ROOT / package)) + "\n```\n\n" for package in PACKAGES
        ).rstrip()
        + "\n"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
