"""The documentation: every page is in the site's navigation, every link leads somewhere, every
module that is named exists, and the site asks for nothing from elsewhere.
"""

from __future__ import annotations

import ast
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

from tests.test_house import ORDER

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


@pytest.mark.parametrize("path", sorted((DOCS / "how-to").glob("*.md")), ids=lambda path: path.stem)
def test_how_tos_name_what_is_there(path: Path) -> None:
    """Every name in a how-to stands in a module that the page names, or in its own examples."""
    text = path.read_text(encoding="utf-8")
    spans = CODE.findall(prose(path))
    modules = [
        ROOT / span for span in spans if OF_THE_CODE.fullmatch(span) and span.endswith(".py")
    ]
    there = "\n".join(
        [*(found[0] for found in FENCE.finditer(text)), *(m.read_text("utf-8") for m in modules)]
    )
    words = {span.removesuffix("()") for span in spans}
    names = {word for word in words if re.fullmatch(r"\w*[A-Z_]\w*", word)}
    assert {name for name in names if not re.search(rf"\b{name}\b", there)} == set()


def rows_in(text: str) -> Iterator[list[str]]:
    """The cells of every row of the tables in a text, heads among them."""
    for line in text.splitlines():
        if line.startswith("| "):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def test_every_word_of_the_glossary_has_its_module() -> None:
    words = [row for row in rows_in(prose(DOCS / "glossary.md")) if row[0] != "word"]
    assert len(words) > 30
    assert [row[0] for row in words if len(row) != 3 or not OF_THE_CODE.search(row[2])] == []


def defined_in(path: Path) -> set[str]:
    """The functions, methods, classes and constants of a module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def where_to_look() -> list[list[str]]:
    text = prose(DOCS / "architecture.md").split("## Where to look")[1]
    return [row for row in rows_in(text) if row[0].endswith("?")]


@pytest.mark.parametrize("row", where_to_look(), ids=lambda row: row[0])
def test_where_to_look_names_what_is_there(row: list[str]) -> None:
    _, modules, names = (CODE.findall(cell) for cell in row)
    assert modules and names
    there = [next(f / m for f in NAMED_FROM if (f / m).exists()) for m in modules]
    assert set(names) <= set().union(*map(defined_in, there))


def test_the_drawings_of_the_house_name_what_is_there() -> None:
    """Every `folder/name` in a drawing is a module or a folder."""
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    drawn = "\n".join(found[0] for found in FENCE.finditer(text))
    named = re.findall(rf"\b(?:studio/)?(?:{'|'.join((*ORDER, 'page', 'processes'))})/\w+", drawn)
    assert len(named) > 15
    there = [folder / name for name in named for folder in NAMED_FROM]
    found = {path for path in there if path.with_suffix(".py").exists() or path.is_dir()}
    assert [n for n in named if not found & {folder / n for folder in NAMED_FROM}] == []


def test_the_tree_of_the_house_names_every_folder() -> None:
    """The page draws every folder of both packages, training's in the order of the imports."""
    drawn = re.findall(r"^  (\w+)/ ", (DOCS / "architecture.md").read_text("utf-8"), re.MULTILINE)
    studio = {path.parent.name for path in (ROOT / "studio").glob("*/__init__.py")}
    assert drawn[: len(ORDER)] == list(ORDER) and set(drawn[len(ORDER) :]) == studio


def test_what_is_only_in_the_long_run_is_listed() -> None:
    """CONTRIBUTING names every file with tests marked `long`, and no other."""
    mark = "mark." + "long"
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    found = {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in tests}
    marked = {name for name, text in found.items() if mark in text}
    listed = [row[1] for row in rows_in(prose(ROOT / "CONTRIBUTING.md")) if len(row) == 5]
    assert {cell.strip("`") for cell in listed if cell != "file"} - {"---"} == marked


def test_the_readme_is_short_and_names_what_ci_runs() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 180
    last = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1]
    assert f"`{last}`" in text


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
