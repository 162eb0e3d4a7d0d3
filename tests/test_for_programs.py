"""What commands say to programs: JSON lines that are the events, a schema of every setting, and
completion that the shell takes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib
from pathlib import Path

import jsonschema
import pytest

from studio.__main__ import main as studio
from studio.compare import main as compare
from tests.test_apply_styles import some_style
from tests.tiny import tiny_training
from training.cli.style_file import main as style_file
from training.config.schema import json_schema
from training.config.settings import settings
from training.models.family import Parts
from training.style_files.reading import canonical_name, read_style
from training.style_files.writing import write_style
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


def test_a_written_run_names_the_schema_that_lies_beside_it(
    flags: list[str], tmp_path: Path
) -> None:
    """Where it lies, moved along with the run, and as `train-style --schema` prints it."""
    assert main(flags) == 0
    run = (tmp_path / "runs" / "s").rename(tmp_path / "moved")
    first, rest = (run / "run.toml").read_text().split("\n", 1)
    assert first.startswith("#:schema ")
    schema = (run / first.removeprefix("#:schema ")).read_text()
    assert schema == json_schema()
    jsonschema.validate(tomllib.loads(rest), json.loads(schema))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"optim": {"stepps": 3}}, json.loads(schema))


def test_a_comparison_is_reported_in_lines(
    base_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, cells, kept = tmp_path / "g.png", tmp_path / "cells", tmp_path / "events.jsonl"
    given = ["--base", str(base_folder), "--prompt", "word " * 200, "--steps", "2", "--every", "0"]
    given += ["--out", str(out), "--cells", str(cells), "--events", str(kept), "--device", "cpu"]
    assert compare([*given, "--json"]) == 0
    *said, last = lines(capsys.readouterr().out)
    assert last == {"grid": str(out), "cells": str(cells)} and out.is_file()
    assert {one["event"] for one in said} == {"noted", "drawn"}
    assert [{**e, "time": 0} for e in said] == [{**e, "time": 0} for e in lines(kept.read_text())]
    assert compare([*given, "--steps", "0", "--json"]) == 2
    refused = capsys.readouterr()
    assert refused.out == "" and "--steps" in refused.err


@pytest.fixture
def style(parts: Parts, tmp_path: Path) -> Path:
    """A style for the tiny base."""
    modules = some_style(parts, rank=4, seed=1, keep=lambda name: name.endswith(("to_q", "fc1")))
    named = {canonical_name(part, name, "sd1"): lora for (part, name), lora in modules.items()}
    metadata = {"modelspec.trigger_phrase": "zorp", "modelspec.author": "Anna"}
    write_style(tmp_path / "zorp.safetensors", named, metadata)
    return tmp_path / "zorp.safetensors"


def answer(capsys: pytest.CaptureFixture[str], *given: object, code: int = 0) -> dict:
    """The one line that a command of style-file prints for a program."""
    assert style_file([*map(str, given), "--json"]) == code
    (said,) = lines(capsys.readouterr().out)
    return said


def test_style_file_answers_in_one_line(
    style: Path, base_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def new(name: str) -> Path:
        return tmp_path / name

    layers = answer(capsys, "inspect", style)["layers"]
    assert answer(capsys, "inspect", style, "--published")["published"][0].keys() == {
        "group",
        "key",
        "value",
    }
    fits = answer(capsys, "check", style, "--base", base_folder)
    assert fits["fits"] is True and fits["layers"] == layers
    kind = ["--family", "sd1"]
    made = [
        answer(capsys, "convert", style, *kind, "--to", "diffusers", "--out", new("c.safetensors")),
        answer(capsys, "merge", f"{style}:0.5", style, *kind, "--out", new("m.safetensors")),
        answer(capsys, "resize", style, *kind, "--rank", 2, "--out", new("r.safetensors")),
        answer(capsys, "scrub", style, "--out", new("s.safetensors")),
        answer(capsys, "export", style, *kind, "--out", new("e.zip")),
        answer(capsys, "bake", style, "--base", base_folder, "--out", new("b")),
    ]
    assert all(Path(one["file"]).exists() for one in made)
    converted, merged, resized, scrubbed, *_ = made
    assert converted["layers"] == merged["layers"] == layers and converted["left_out"] == 0
    assert 0 < resized["left_out"] < 1
    assert "modelspec.author" in scrubbed["left_out"]
    baked = new("b")
    given = ["--tuned", baked, "--base", base_folder, "--rank", 4, "--out", new("x.safetensors")]
    assert answer(capsys, "extract", *given)["layers"] == layers


def test_style_file_tells_a_program_what_does_not_fit(
    style: Path, v_base_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = tmp_path / "foreign.safetensors"
    named = {f"{name}_more": lora for name, lora in list(read_style(style).modules.items())[:2]}
    write_style(foreign, named, {})
    said = answer(capsys, "check", foreign, "--base", v_base_folder, code=2)
    assert said["fits"] is False and len(said["layers"]) == 2 and said["reason"]
    assert style_file(["words", str(style), "--out", str(tmp_path / "w"), "--json"]) == 2
    refused = capsys.readouterr()
    assert refused.out == "" and "no words" in refused.err


COMMANDS = {
    "train-style": main,
    "style-file": style_file,
    "compare-styles": compare,
    "style-studio": studio,
}


def completion(command: str, shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        COMMANDS[command](["--completion", shell])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_takes_the_completion(
    command: str, shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The name that is typed is the one that is completed."""
    script = completion(command, shell, capsys)
    assert "--completion" in script and command in script
    assert "train_style.py" not in script
    if program := shutil.which(shell):
        done = subprocess.run(
            [program, "-n"], input=script, text=True, capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_powershell_takes_the_completion(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    import tree_sitter
    import tree_sitter_powershell

    script = completion(command, "powershell", capsys)
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))
    assert not parser.parse(script.encode()).root_node.has_error
    assert f"Register-ArgumentCompleter -Native -CommandName {command} " in script


def test_bash_completes_what_is_begun(capsys: pytest.CaptureFixture[str]) -> None:
    if (bash := shutil.which("bash")) is None:
        pytest.skip("there is no bash here")
    script = completion("train-style", "bash", capsys)
    asked = """
COMP_WORDS=(train-style --optim.sche); COMP_CWORD=1; COMP_LINE="train-style --optim.sche"
$(complete -p train-style | sed 's/.*-F \\([^ ]*\\).*/\\1/') train-style --optim.sche train-style
printf '%s\\n' "${COMPREPLY[@]}"
"""
    done = subprocess.run([bash], input=script + asked, text=True, capture_output=True, check=False)
    assert done.stdout.split() == ["--optim.schedule"], done.stderr
