"""requirements.lock: every package the program needs, on every system, with hashes; the versions
are those of constraints.txt.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
LOCKED = [line for line in LINES if line and not line.startswith("#")]


def pinned(line: str) -> tuple[str, str]:
    """Name and version of a line."""
    requirement = Requirement(line.partition(" --hash")[0])
    (specifier,) = requirement.specifier
    assert specifier.operator == "=="
    return canonicalize_name(requirement.name), specifier.version


def test_every_line_is_a_version_with_hashes() -> None:
    """Otherwise pip and uv refuse the whole file with --require-hashes."""
    assert len(LOCKED) > 60
    for line in LOCKED:
        pinned(line)
        hashes = line.partition(" --hash")[2]
        assert re.fullmatch(r"=sha256:[0-9a-f]{64}( +--hash=sha256:[0-9a-f]{64})*", hashes), line


def test_the_versions_are_those_that_were_tested() -> None:
    """What constraints.txt does not name belongs to other systems, such as CUDA's libraries."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    tested = dict(pinned(line) for line in text.splitlines() if "==" in line)
    found = dict(pinned(line) for line in LOCKED)
    assert {name: tested[name] for name in found.keys() & tested.keys()} == {
        name: version for name, version in found.items() if name in tested
    }
    assert len(found.keys() & tested.keys()) > 50


def test_all_that_the_program_needs_is_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = dict(pinned(line) for line in LOCKED)
    for text in project["dependencies"]:
        requirement = Requirement(text)
        version = found[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), text
