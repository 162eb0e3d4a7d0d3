"""What is installed: every file that the program reads is in the package, and in the long run it is
built, installed into an empty environment elsewhere and used there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("training", "studio", "sample_data")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def data_files() -> set[str]:
    """Files of the packages that are no Python, as git has them or would."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    return {
        name
        for name in listed
        if not name.endswith(".py") and "/begun/" not in name and (ROOT / name).is_file()
    }


def test_every_file_that_is_no_python_is_packaged() -> None:
    found: set[str] = set()
    for package, patterns in SETTINGS["tool"]["setuptools"]["package-data"].items():
        folder = ROOT / package.replace(".", "/")
        found |= {
            path.relative_to(ROOT).as_posix()
            for pattern in patterns
            for path in folder.glob(pattern)
            if path.is_file()
        }
    assert data_files() - found == set()


def test_the_readme_and_the_licence_travel_with_it() -> None:
    project = SETTINGS["project"]
    assert (ROOT / project["readme"]).is_file()
    assert all((ROOT / name).is_file() for name in project["license-files"])


def test_types_are_announced() -> None:
    assert all((ROOT / name / "py.typed").is_file() for name in ("training", "studio"))


@pytest.mark.long
def test_built_and_installed_elsewhere_it_trains_draws_and_opens(tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command: str | Path, at: Path = tmp_path) -> str:
        done = subprocess.run(
            command, cwd=at, env=clean, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, ".", at=ROOT)
    (wheel,) = tmp_path.glob("style_studio-*.whl")
    with zipfile.ZipFile(wheel) as opened:
        inside = set(opened.namelist())
    assert data_files() <= inside and "sample_data/mini-sd/unet/config.json" in inside
    assert not any(name.startswith(("tests/", "benchmarks/", "docs/")) for name in inside)
    assert not any("/begun/" in name for name in inside)

    run(sys.executable, "-m", "venv", "there")
    commands = tmp_path / "there" / "bin"
    run(commands / "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel)
    folder = "import sample_data; print(list(sample_data.__path__)[0])"
    sample = Path(run(commands / "python", "-P", "-c", folder).strip()) / "linocut"
    assert tmp_path in sample.parents
    style = tmp_path / "runs" / "linocut" / "linocut.safetensors"
    run(
        commands / "train-style", sample / "style.toml", "--optim.steps", "3",
        "--report.minutes", "0", "--save.folder", tmp_path / "runs",
    )  # fmt: skip
    run(commands / "style-file", "inspect", style)
    run(
        commands / "compare-styles", "--base", "mini", "--style", style, "--prompt", "castle",
        "--steps", "2", "--out", tmp_path / "grid.png",
    )  # fmt: skip
    assert (tmp_path / "grid.png").stat().st_size > 1000
    assert '"state": "bad"' not in run(commands / "style-studio", "doctor", "--json")
