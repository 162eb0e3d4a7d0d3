"""The container, its compose file, the devcontainer and the notebook: linted, and true to what the
program asks for. None of them is built or started here.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import yaml

from studio.server import auth

ROOT = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
NOTEBOOK = nbformat.read(ROOT / "notebooks" / "style_studio.ipynb", as_version=4)
CODE = [cell.source for cell in NOTEBOOK.cells if cell.cell_type == "code"]


def linted(text: str) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "hadolint", "--no-color", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


def test_the_dockerfile_is_linted() -> None:
    found = linted((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    assert (found.returncode, found.stdout) == (0, "")
    assert linted("FROM python\nRUN cd /tmp\n").returncode  # so the line above can fail


def test_what_is_copied_is_there_and_not_kept_from_the_build() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = {name for line in re.findall(r"^COPY (.+)$", text, re.M) for name in line.split()[:-1]}
    let_in = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert all((ROOT / name).exists() and f"!{name}" in let_in for name in copied)
    assert {"training", "studio", "sample_data", "pyproject.toml", "LICENSE"} <= copied


def test_the_page_is_open_to_this_machine_alone_and_asks_for_a_password() -> None:
    for service in COMPOSE["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert ":?" in service["environment"][auth.VARIABLE]
    assert "USER 1000" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_work_and_fetched_bases_outlive_the_container() -> None:
    for service in COMPOSE["services"].values():
        named = {mount.split(":")[0] for mount in service["volumes"]}
        assert named == set(COMPOSE["volumes"])


def test_user_1000_may_write_where_the_volumes_lie() -> None:
    """Docker makes a folder that the image has not as root's, and its volume with it."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    made = re.findall(r"install --directory --owner studio --group studio ([^\n&]+)", text)
    owned = {folder for line in made for folder in line.split()}
    for service in COMPOSE["services"].values():
        mounted = {mount.split(":")[1] for mount in service["volumes"]}
        assert mounted <= owned
        parents = {str(Path(folder).parent) for folder in mounted}
        assert parents <= owned | {"/", "/home/studio"}


def test_the_container_has_no_rights_of_root() -> None:
    for service in COMPOSE["services"].values():
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["cap_drop"] == ["ALL"]


def test_the_devcontainer_is_json_and_uses_the_makefile() -> None:
    made = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    target = made["postCreateCommand"].split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)


def test_the_notebook_is_valid_and_holds_no_output() -> None:
    nbformat.validate(NOTEBOOK)
    assert all(not cell.outputs for cell in NOTEBOOK.cells if cell.cell_type == "code")
    for source in CODE:
        ast.parse(source)


@pytest.mark.parametrize("command", ["train-style", "compare-styles", "style-studio"])
def test_the_notebook_uses_flags_that_there_are(command: str) -> None:
    from studio.__main__ import _parser as studio_parser
    from studio.grid_arguments import parser as compare_parser
    from training.cli.train_arguments import parser as train_parser

    made = {
        "train-style": train_parser,
        "compare-styles": compare_parser,
        "style-studio": studio_parser,
    }[command]()
    known = {flag for action in made._actions for flag in action.option_strings}
    (source,) = (s for s in CODE if "command = [" in s and f'"{command}",' in s)
    assert set(re.findall(r'"(--[\w.-]+)"', source)) - {"--dry-run"} <= known


@pytest.mark.parametrize("address", ["", "https://x-7860.example.org/"], ids=["elsewhere", "Colab"])
def test_the_notebooks_page_takes_the_password_that_is_printed(
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A file would do only on a drive that keeps permissions, which mounted ones often do not."""
    from studio.__main__ import _parser

    begun: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, env={}: begun.append((command, env)))
    colab = SimpleNamespace(eval_js=lambda _: address) if address else None
    monkeypatch.setitem(sys.modules, "google.colab.output", colab)
    (source,) = (s for s in CODE if "Popen" in s)
    exec(source, {"WORK": tmp_path, "subprocess": subprocess})
    ((command, env),) = begun
    given = _parser().parse_args(command[1:])
    monkeypatch.setenv(auth.VARIABLE, env.get(auth.VARIABLE, ""))
    password = auth.password(given.host, given.password_file, port=given.port)
    assert password and password in capsys.readouterr().out
    assert auth.checked_public_name(given.public_name) == ("x-7860.example.org" if address else "")
