"""The scripts that set up and start: linted, run as far as they go without a network, and what they
say where they cannot go on. The long run installs from a folder of wheels into an empty home.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHELL = ("install.sh", "start.sh", "start.command")
LINTED = (*SHELL, ".ci/run")
TOOLS = ("sed", "df", "awk", "uname", "tail", "rm", "dirname", "mkdir", "cat")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="scripts for a POSIX shell")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A copy of the scripts in a folder whose name is not simple."""
    folder = tmp_path / "ein Ördner 🎨"
    folder.mkdir()
    for name in (*SHELL, "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def ran(program: Path, *given: str, path: str = "/usr/bin:/bin") -> subprocess.CompletedProcess:
    home = program.parent / "home"
    home.mkdir(exist_ok=True)
    return subprocess.run(
        ["/bin/sh", program / "install.sh", *given],
        env={"HOME": str(home), "PATH": path},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_shellcheck_finds_nothing() -> None:
    command = Path(sys.executable).parent / "shellcheck"
    found = subprocess.run(
        [command, *LINTED], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (0, "")


def test_no_script_is_left_out() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    ).stdout.split("\0")
    found = {
        name
        for name in filter(None, listed)
        if (ROOT / name).is_file() and (ROOT / name).read_bytes()[:2] == b"#!"
    }
    assert {name for name in found if not name.endswith(".py")} == {*LINTED}
    assert {name for name in listed if name.endswith((".bat", ".ps1"))} == {
        "install.ps1",
        "start.bat",
    }


def test_powershell_can_be_parsed() -> None:
    import tree_sitter
    import tree_sitter_powershell

    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))
    assert not parser.parse((ROOT / "install.ps1").read_bytes()).root_node.has_error
    assert parser.parse(b"if ($x {").root_node.has_error  # so the line above can fail
    assert (ROOT / "install.ps1").read_bytes().isascii()  # PowerShell 5 takes others for ANSI


def test_line_ends_are_those_of_the_system_that_runs_them() -> None:
    for name in SHELL:
        assert b"\r" not in (ROOT / name).read_bytes() and os.access(ROOT / name, os.X_OK)
    for name in ("start.bat", "install.ps1"):
        lines = (ROOT / name).read_bytes().split(b"\n")
        assert all(line.endswith(b"\r") for line in lines[:-1]) and lines[-1] == b""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--wheels", "/nowhere"], "/nowhere is no folder"),
        (["--wheels"], "needs a folder"),
        (["--frob"], "--frob is not known"),
        (["--update"], "no git checkout"),
    ],
)
def test_wrong_flags_are_named_before_anything_is_made(
    program: Path, given: list[str], said: str
) -> None:
    before = sorted(program.iterdir())
    found = ran(program, *given)
    assert found.returncode == 1 and said in found.stdout
    assert sorted(program.iterdir()) == before


def test_help_says_every_flag(program: Path) -> None:
    said = ran(program, "--help").stdout
    assert all(flag in said for flag in ("--wheels", "--torch", "--update", "--uninstall"))


def test_without_anything_to_install_with_it_says_what_to_get(
    program: Path, tmp_path: Path
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in TOOLS:
        (tools / name).symlink_to(shutil.which(name) or name)
    found = ran(program, path=str(tools))
    assert found.returncode == 1 and "neither uv, python3 with venv, nor curl" in found.stdout


def test_a_step_that_fails_shows_its_output_and_leaves_nothing_that_starts(
    program: Path, tmp_path: Path
) -> None:
    """An empty folder of wheels."""
    (tmp_path / "wheels").mkdir()
    found = ran(program, "--wheels", str(tmp_path / "wheels"))
    assert found.returncode == 1 and "Not installed: " in found.stdout
    if "no python3 that could unpack it" not in found.stdout:  # systems without its venv
        assert "Then run ./install.sh again" in found.stdout
        assert "uv" in (program / ".install.log").read_text(encoding="utf-8")
    assert not (program / ".venv" / ".installed").exists()


@pytest.mark.parametrize(
    ("system", "said"),
    [
        ({"uname -m": "i686"}, "no torch for a i686 processor"),
        ({"getconf LONG_BIT": "32"}, "no torch for a 32-bit system"),
        ({"getconf GNU_LIBC_VERSION": "glibc 2.17"}, "has glibc 2.17, and torch needs 2.28"),
        ({"getconf GNU_LIBC_VERSION": "ld-musl-x86_64.so.1"}, "has no glibc"),
        ({"uname -s": "Darwin", "uname -m": "x86_64"}, "Macs with an Intel processor"),
        (
            {"uname -s": "Darwin", "uname -m": "arm64", "sw_vers -productVersion": "13.6"},
            "this is macOS 13.6, and torch needs 14",
        ),
        ({"df -Pk .": "head\n/dev/x 9 9 123456 9% /"}, "only 123 MB are free on this disk"),
    ],
)
def test_a_system_without_torch_is_refused_at_once(
    program: Path, tmp_path: Path, system: dict[str, str], said: str
) -> None:
    """The programs that are asked for it are pretended."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in {question.partition(" ")[0] for question in system}:
        answers = [
            f'[ "$*" != "{question.partition(" ")[2]}" ] || {{ printf "{answer}\\n"; exit; }}\n'
            for question, answer in system.items()
            if question.startswith(name)
        ]
        (tools / name).write_text(
            f'#!/bin/sh\n{"".join(answers)}exec "{shutil.which(name)}" "$@"\n', encoding="utf-8"
        )
        (tools / name).chmod(0o755)
    before = sorted(program.iterdir())
    found = ran(program, path=f"{tools}:/usr/bin:/bin")
    assert found.returncode == 1 and said in found.stdout
    assert sorted(program.iterdir()) == before


def test_an_environment_of_the_wrong_python_is_named(program: Path) -> None:
    """What an earlier try, or another program, has left."""
    shutil.copytree(ROOT / "training", program / "training")
    old = program / ".venv" / "bin" / "python"
    old.parent.mkdir(parents=True)
    old.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -c "import sys; sys.maxsize = 2**31; $2"\n',
        encoding="utf-8",
    )
    old.chmod(0o755)
    (program.parent / "wheels").mkdir()
    uv = program.parent / "uv"
    uv.mkdir()
    (uv / "uv").symlink_to(shutil.which("true") or "/bin/true")
    found = ran(program, path=f"{uv}:/usr/bin:/bin")
    assert found.returncode == 1 and "of 32 bits" in found.stdout
    assert "Delete the folder .venv" in found.stdout


def test_half_a_download_is_named(program: Path) -> None:
    (program / "constraints.txt").unlink()
    found = ran(program)
    assert found.returncode == 1 and "Unpack the whole download" in found.stdout


def test_uninstalling_leaves_what_is_the_users(program: Path) -> None:
    (program / ".venv").mkdir()
    (program / "workspace").mkdir()
    (program / "workspace" / "a.txt").write_text("mine")
    assert ran(program, "--uninstall").returncode == 0
    assert not (program / ".venv").exists() and (program / "workspace" / "a.txt").exists()


@pytest.mark.long
def test_from_an_empty_home_and_a_folder_of_wheels(tmp_path: Path) -> None:
    """The whole program, as a stranger sets it up: doctor runs at the end."""
    wheels, program = tmp_path / "wheels", tmp_path / "ein Ördner 🎨"
    fetch = [sys.executable, "-m", "pip", "download", "-q", "-c", "constraints.txt", "-d", wheels]
    subprocess.run([*fetch, ".", "uv", "setuptools>=77", "wheel"], cwd=ROOT, check=True)
    left_out = shutil.ignore_patterns(".venv", ".git", "work", "workspace", "*.egg-info", ".*cache")
    shutil.copytree(ROOT, program, ignore=left_out)
    found = ran(program, "--wheels", str(wheels))
    assert found.returncode == 0, found.stdout
    command = [program / ".venv" / "bin" / "style-studio", "doctor"]
    doctor = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
