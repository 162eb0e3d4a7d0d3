"""What commands say to programs: JSON lines that are the events, a schema of every setting, and
completion that the shell takes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from studio.__main__ import main as studio
from studio.compare import main as compare
from tests.tiny import tiny_training
from training.cli.style_file import main as style_file
from training.config.settings import settings
from training.train_style import main

ROOT = Path(__file__).parents[1]


@pytest.fixture
def flags(base_folder: Path, tmp_path: Path) -> list[str]:
    quick = ["--preview.every", "0", "--report.minutes", "0"]
    return [*tiny_training(base_folder, tmp_path, steps=2), *quick]


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_events_come_as_they_are_recorded(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags, "--json"]) == 0
    said = lines(capsys.readouterr().out)
    kept = lines((tmp_path / "runs" / "s" / "events.jsonl").read_text())
    assert [{**e, "time": 0} for e in said] == [{**e, "time": 0} for e in kept]
    assert said[-1]["event"] == "finished"


def test_a_plan_is_one_line(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*flags, "--dry-run", "--json"]) == 0
    (said,) = lines(capsys.readouterr().out)
    assert said["style"] == "s" and said["plan"]["pictures"].startswith("3")


def test_what_is_refused_is_no_json_and_exits_with_2(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags, "--optim.steps", "-1", "--json"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "optim.steps" in said.err


def test_a_sweep_says_which_style_each_event_is_of(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "sweep.toml"
    sweep.write_text('[[styles]]\nsave.name = "a"\n[[styles]]\nsave.name = "b"\n')
    given = [word for pair in zip(flags[::2], flags[1::2], strict=True) if pair[0] != "--save.name"
             for word in pair]  # fmt: skip
    assert main([str(sweep), "--sweep", *given, "--json"]) == 0
    said = lines(capsys.readouterr().out)
    assert {e["style"] for e in said if e.get("event") == "finished"} == {"a", "b"}
    assert [sorted(e) for e in said if "event" not in e] == [["ranking"], ["grid"]]


def test_the_schema_knows_every_setting_and_nothing_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--schema"])
    made = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0
    found = set()
    for section, given in made["properties"].items():
        table = made["$defs"][given["$ref"].rpartition("/")[2]]
        assert table["additionalProperties"] is False
        found |= {f"{section}.{name}" for name in table["properties"]}
    assert found == {setting.key for setting in settings()}
    sample = tomllib.loads((ROOT / "sample_data" / "linocut" / "style.toml").read_text())
    assert {f"{section}.{name}" for section, table in sample.items() for name in table} <= found


@pytest.mark.parametrize("command", [main, style_file, compare, studio])
def test_a_shell_takes_the_completion(command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command(["--completion", "bash"])
    script = capsys.readouterr().out
    assert ended.value.code == 0 and "--completion" in script
    bash = shutil.which("bash")
    if bash:
        done = subprocess.run(
            [bash, "-n"], input=script, text=True, capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
