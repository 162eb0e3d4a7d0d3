"""What is installed: every file that the program reads is in the package, and in the long run it is
built, installed into an empty environment elsewhere and used there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import time
import tomllib
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.test_page import free_port

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


def test_every_extra_is_explained() -> None:
    text = (ROOT / "docs" / "installing.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert explained == set(SETTINGS["project"]["optional-dependencies"])


@dataclass(frozen=True)
class Elsewhere:
    """A folder outside the checkout, what runs there, and what packages are made with."""

    folder: Path

    def run(self, *command: str | Path, at: Path | None = None) -> str:
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            command, cwd=at or self.folder, env=clean, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def tool(self, name: str) -> Path:
        return self.folder / "tools" / "bin" / name

    def there(self, name: str) -> Path:
        """A program of the environment that the package is installed into."""
        return self.folder / "there" / "bin" / name


@pytest.fixture
def elsewhere(tmp_path: Path) -> Elsewhere:
    found = Elsewhere(tmp_path)
    found.run(sys.executable, "-m", "venv", "tools")
    found.run(found.tool("pip"), "install", "-q", "uv", "build", "twine")
    return found


def contents(archive: Path) -> set[str]:
    """The files of a wheel or an sdist, without the folder that an sdist is in."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as opened:
            return set(opened.namelist())
    with tarfile.open(archive) as opened:
        return {one.name.partition("/")[2] for one in opened.getmembers() if one.isfile()}


def answers(address: str, page: subprocess.Popen[str]) -> None:
    """Wait for a page, which has to go on running."""
    while True:
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                assert b"<html" in answer.read().lower()
                return
        except OSError:
            assert page.poll() is None, page.communicate()[0]
            time.sleep(0.1)


@pytest.mark.long
def test_built_and_installed_elsewhere_it_trains_draws_and_opens(elsewhere: Elsewhere) -> None:
    """The wheel is built of the sdist, and uv installs it from a folder of wheels."""
    run, folder = elsewhere.run, elsewhere.folder
    run(elsewhere.tool("pyproject-build"), "--outdir", folder / "dist", ROOT)
    (wheel,), (sdist,) = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
    run(elsewhere.tool("twine"), "check", "--strict", wheel, sdist)
    for archive in (wheel, sdist):
        inside = contents(archive)
        assert data_files() <= inside and "sample_data/mini-sd/unet/config.json" in inside
        assert not any("/begun/" in name for name in inside)
        assert not any(name.startswith(("benchmarks/", "docs/")) for name in inside)
    assert not any(name.startswith("tests/") for name in contents(wheel))

    given = ["-q", "-c", ROOT / "constraints.txt", "-d", folder / "wheels", wheel]
    run(sys.executable, "-m", "pip", "download", *given)
    run(elsewhere.tool("uv"), "venv", "-q", "--python", sys.executable, "there")
    run(
        elsewhere.tool("uv"), "pip", "install", "-q", "--offline", "--no-index", "--find-links",
        folder / "wheels", "--python", elsewhere.there("python"), wheel,
    )  # fmt: skip
    asked = "import sample_data; print(list(sample_data.__path__)[0])"
    sample = Path(run(elsewhere.there("python"), "-P", "-c", asked).strip()) / "linocut"
    assert folder in sample.parents
    style = folder / "runs" / "linocut" / "linocut.safetensors"
    run(
        elsewhere.there("train-style"), sample / "style.toml", "--optim.steps", "3",
        "--report.minutes", "0", "--save.folder", folder / "runs",
    )  # fmt: skip
    run(elsewhere.there("style-file"), "inspect", style)
    run(
        elsewhere.there("compare-styles"), "--base", "mini", "--style", style, "--prompt",
        "castle", "--steps", "2", "--out", folder / "grid.png",
    )  # fmt: skip
    assert (folder / "grid.png").stat().st_size > 1000
    assert '"state": "bad"' not in run(elsewhere.there("style-studio"), "doctor", "--json")
    port = free_port()
    page = subprocess.Popen(
        [elsewhere.there("style-studio"), "--port", str(port), "--workspace", folder / "space"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        answers(f"http://127.0.0.1:{port}/", page)
    finally:
        page.terminate()
        page.communicate()
    assert (folder / "space" / "runs").is_dir()  # the linocut example of a new workspace


@pytest.mark.long
def test_every_system_that_is_promised_has_a_wheel_of_everything(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the tests, too, as the workflow for hosted runners installs them: no compiler is there.

    macOS 14 is the oldest that torch is made for.
    """
    monkeypatch.setenv("MACOSX_DEPLOYMENT_TARGET", "14.0")
    for system in ("windows", "aarch64-apple-darwin", "linux"):
        for minor in (11, 12, 13, 14):
            elsewhere.run(
                elsewhere.tool("uv"), "pip", "compile", "-q", "--python-platform", system,
                "--python-version", f"3.{minor}", "--only-binary", ":all:", "--extra", "test",
                "-c", ROOT / "constraints.txt", ROOT / "pyproject.toml",
            )  # fmt: skip
