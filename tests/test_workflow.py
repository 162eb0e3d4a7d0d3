"""The workflow for hosted machines: linted, and true to the project. It has never run there."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILE = ROOT / ".github" / "workflows" / "test.yml"
TEXT = FILE.read_text(encoding="utf-8")
JOBS = yaml.safe_load(TEXT)["jobs"]
NAMED = re.findall(r"tests/test_\w+\.py", TEXT)
BIN = Path(sys.executable).parent


def by_schema(path: Path) -> int:
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", path]
    return subprocess.run(command, capture_output=True, check=False).returncode


def by_zizmor(path: Path) -> int:
    command = [BIN / "zizmor", "--offline", "--no-progress", path]
    return subprocess.run(command, capture_output=True, check=False).returncode


def test_linters_find_nothing(tmp_path: Path) -> None:
    assert (by_schema(FILE), by_zizmor(FILE)) == (0, 0)
    wrong = tmp_path / "test.yml"
    wrong.write_text(TEXT.replace("timeout-minutes: 60", "timeout-minutes: soon"), "utf-8")
    assert by_schema(wrong) != 0
    wrong.write_text(re.sub(r"checkout@\w{40}", "checkout@v4", TEXT), encoding="utf-8")
    assert by_zizmor(wrong) != 0


def test_it_covers_every_system_and_every_python() -> None:
    matrix = JOBS["systems"]["strategy"]["matrix"]
    assert [name.split("-")[0] for name in matrix["system"]] == ["ubuntu", "windows", "macos"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f">={matrix['python'][0]}" == project["requires-python"]
    assert matrix["python"] == [f"3.{minor}" for minor in range(11, 15)]


def test_the_whole_run_is_that_of_ci() -> None:
    last = JOBS["whole"]["steps"][-1]["run"]
    assert last == "bash .ci/run" and (ROOT / ".ci" / "run").is_file()


@pytest.mark.parametrize("name", [*NAMED, "tests/conftest.py", "tests/tiny.py"])
def test_what_runs_on_every_system_can_be_imported_there(name: str) -> None:
    """Nothing at the top of these modules, or of those of tests/ that they name, is POSIX's own."""
    text = (ROOT / "tests" / "like_windows" / "sitecustomize.py").read_text(encoding="utf-8")
    missing = {*re.findall(r'^MODULES = "(.+)"\.split\(\)$', text, re.MULTILINE)[0].split()}
    assert "resource" in missing
    left, seen = [ROOT / name], set()
    while left:
        path = left.pop()
        seen.add(path)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            found = [one.name for one in getattr(node, "names", ())]
            found += [f"{getattr(node, 'module', '')}"]
            assert not missing & set(found), f"{path.name}: {found}"
            modules = [ROOT / f"{one.replace('.', '/')}.py" for one in found if "tests" in one]
            if getattr(node, "module", "") == "tests":
                modules += [ROOT / "tests" / f"{one}.py" for one in found]
            left += [one for one in modules if one.is_file() and one not in seen]


def test_there_is_something_to_run() -> None:
    assert len(NAMED) >= 8 and all((ROOT / name).is_file() for name in NAMED)
