"""The documentation: every page is in the site's navigation, every link leads somewhere, every
module that is named exists, and the site asks for nothing from elsewhere.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SITE = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
PAGES = sorted(DOCS.rglob("*.md"))
WRITTEN = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
# A module may be named from the root, or from inside its package
NAMED_FROM = (ROOT, ROOT / "training", ROOT / "studio", ROOT / "studio" / "page")
FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
OF_THE_CODE = re.compile(
    r"[\w./-]+\.py|(?:training|studio|tests|docs|benchmarks|sample_data)/[\w./-]*"
)

each_document = pytest.mark.parametrize(
    "path", WRITTEN, ids=lambda path: path.relative_to(ROOT).as_posix()
)


def prose(path: Path) -> str:
    """The text of a document without its blocks of code."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def navigation(entries: list[Any]) -> Iterator[str]:
    """The pages of a navigation, in its order."""
    for entry in entries:
        for below in entry.values():
            yield from [below] if isinstance(below, str) else navigation(below)


def test_every_page_is_in_the_navigation() -> None:
    listed = list(navigation(SITE["nav"]))
    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


@each_document
def test_links_lead_somewhere(path: Path) -> None:
    targets = [link for link in LINK.findall(prose(path)) if "://" not in link]
    files = [target.split("#")[0] for target in targets if not target.startswith("#")]
    assert not [target for target in files if not (path.parent / target).exists()]


@each_document
def test_modules_that_are_named_exist(path: Path) -> None:
    named = [code for code in CODE.findall(prose(path)) if OF_THE_CODE.fullmatch(code)]
    assert not [n for n in named if not any((folder / n).exists() for folder in NAMED_FROM)]


def rows(path: Path) -> Iterator[list[str]]:
    """The cells of every row of a document's tables, heads left out."""
    for line in prose(path).splitlines():
        if line.startswith("| ") and not line.startswith("| word |"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def test_every_word_of_the_glossary_has_its_module() -> None:
    words = list(rows(DOCS / "glossary.md"))
    assert len(words) > 30
    assert [row[0] for row in words if len(row) != 3 or not OF_THE_CODE.search(row[2])] == []


class Loaded(HTMLParser):
    """Collects what a browser loads by itself when it opens a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "link" and values.get("rel") != "canonical":
            self.addresses.append(values.get("href") or "")
        self.addresses.append(values.get("src") or "")


def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(
    tmp_path: Path,
) -> None:
    if importlib.util.find_spec("zensical") is None and not os.environ.get("CI"):
        pytest.skip("zensical is not installed: pip install .[docs]")
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    built = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(PAGES)  # and one for what is not found
    for page in pages:
        loaded = Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        assert not [a for a in loaded.addresses if a.startswith(("http:", "https:", "//"))], page
