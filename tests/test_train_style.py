"""The headless command, as a user, a script and the page meet it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
from PIL import Image

from training import events
from training.cli.train_arguments import config_from
from training.config.settings import settings
from training.style_files.reading import read_style
from training.train_style import main

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-B", str(ROOT / "training" / "train_style.py")]
MODULE = [sys.executable, "-B", "-m", "training.train_style"]


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    before = {
        kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    yield
    for kind, heard in before.items():
        signal.signal(kind, heard)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, word in enumerate(("apple", "boat", "cat", "door")):
        Image.linear_gradient("L").resize((32, 32)).rotate(90 * i).convert("RGB").save(
            folder / f"{word}.png"
        )
        (folder / f"{word}.txt").write_text(f"a {word}")
    return folder


@pytest.fixture
def run_toml(tmp_path: Path, pictures: Path, base_folder: Path) -> Path:
    """Four updates, a preview and a checkpoint every two; the pictures are named as seen from the
    file.
    """
    path = tmp_path / "set" / "run.toml"
    path.parent.mkdir()
    path.write_text(
        f"""
[base]
model = "{base_folder}"
dtype = "float32"
device = "cpu"
[data]
folder = "../{pictures.name}"
trigger = "sks"
[adapter]
rank = 4
[optim]
steps = 4
batch_size = 2
[preview]
every = 2
steps = 1
prompts = ["a cat"]
[report]
minutes = 0
[save]
name = "s"
folder = "{tmp_path / "runs"}"
every = 2
"""
    )
    return path


def said(folder: Path, *kinds: type) -> list[events.Event]:
    return [event for event in events.read(folder / "events.jsonl") if isinstance(event, kinds)]


def everything_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


# --- a whole run ---


def test_a_run_leaves_what_was_promised_and_says_when_it_is_done(
    run_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, before = tmp_path / "runs" / "s", everything_in(run_toml.parents[1] / "pictures")
    assert main([str(run_toml)]) == 0
    out = capsys.readouterr()
    assert "finished after 4 updates" in out.out and str(run / "s.safetensors") in out.out
    assert (
        "it/s" not in out.err and "Loading" not in out.err and "torchvision" not in out.err
    )  # no bars and advice of other libraries

    assert {path.name for path in run.iterdir()} == {
        "run.toml",
        "run.schema.json",
        "events.jsonl",
        "previews",
        "checkpoints",
        "steps",
        "s.safetensors",
    }
    assert sorted(p.name for p in (run / "steps").iterdir()) == [
        "s-000002.safetensors",
        "s-000004.safetensors",
    ]
    assert sorted(p.name for p in (run / "previews").iterdir()) == [
        f"step-{n:07d}-0.png" for n in (0, 2, 4)
    ]
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [
        "step-0000002",
        "step-0000004",
    ]
    written = tomllib.loads((run / "run.toml").read_text())
    assert {f"{section}.{name}" for section, values in written.items() for name in values} == {
        s.key for s in settings()
    }
    assert written["data"]["folder"] == str(run_toml.parents[1] / "pictures")

    names = [json.loads(line)["event"] for line in (run / "events.jsonl").read_text().splitlines()]
    assert names[-1] == "finished" and [name for name in names if name != "noted"] == [
        "started",
        "previewed",
        "stepped",
        "stepped",
        "saved",
        "previewed",
        "stepped",
        "stepped",
        "previewed",
        "saved",
        "finished",
    ]
    style = run / "s.safetensors"
    assert style.stat().st_size < 5_000_000 and read_style(style).trigger == "sks"
    assert everything_in(run_toml.parents[1] / "pictures") == before

    # Again: it says so and leaves the style alone
    content = style.read_bytes()
    assert main([str(run_toml)]) == 0
    assert (
        "is finished already, after 4 updates" in capsys.readouterr().out
        and style.read_bytes() == content
    )

    # The file that was written starts the same run from anywhere
    assert main([str(run / "run.toml")]) == 0
    assert "is finished already" in capsys.readouterr().out

    # What is shown or kept may change, what is learnt may not: every change is named
    assert main([str(run_toml), "--preview.every", "0", "--save.keep", "5"]) == 0
    assert main([str(run_toml), "--adapter.rank", "8", "--data.flip", "off"]) == 2
    err = capsys.readouterr().err
    assert (
        "adapter.rank: 4 then, 8 now" in err
        and "data.flip: True then, False now" in err
        and "save.name" in err
    )
    assert (
        style.read_bytes() == content
        and tomllib.loads((run / "run.toml").read_text())["adapter"]["rank"] == 4
    )


def test_the_default_folder_is_where_the_command_is_run(
    run_toml: Path, tmp_path: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths in flags, and a style folder that is a link."""
    (tmp_path / "real").mkdir()
    (tmp_path / "here").symlink_to("real")
    monkeypatch.chdir(tmp_path / "here")
    flags = [
        "--data.folder",
        "../pictures",
        "--base.model",
        os.path.relpath(base_folder, tmp_path / "real"),
        "--save.folder",
        "runs",
    ]
    assert (
        main(
            [
                str(run_toml),
                *flags,
                "--optim.steps",
                "1",
                "--preview.every",
                "0",
                "--save.every",
                "0",
            ]
        )
        == 0
    )
    assert (tmp_path / "real" / "runs" / "s" / "s.safetensors").is_file()
    written = tomllib.loads((tmp_path / "real" / "runs" / "s" / "run.toml").read_text())
    assert (written["data"]["folder"], written["base"]["model"]) == (
        str(tmp_path / "pictures"),
        str(base_folder.resolve()),
    )


def test_a_run_that_diverges_says_so_in_readable_events(
    run_toml: Path, tmp_path: Path, base_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A base with a NaN in it:

    no update is finite. NaN never reaches events.jsonl, which is JSON.
    """
    base = copied(base_folder, tmp_path / "nan-base")
    file = next((base / "unet").glob("*.safetensors"))
    weights = safetensors.torch.load_file(file)
    weights["conv_in.weight"].fill_(float("nan"))
    safetensors.torch.save_file(weights, file, metadata={"format": "pt"})
    assert (
        main(
            [
                str(run_toml),
                "--base.model",
                str(base),
                "--optim.steps",
                "50",
                "--preview.every",
                "0",
            ]
        )
        == 1
    )
    err, run = capsys.readouterr().err, tmp_path / "runs" / "s"
    assert "not finite" in err and "Traceback" not in err
    lines = (run / "events.jsonl").read_text().splitlines()
    assert all(json.loads(line, parse_constant=pytest.fail) for line in lines)
    assert said(run, events.Stepped) == [] and isinstance(
        events.from_line(lines[-1]), events.Failed
    )
    assert not (run / "s.safetensors").exists()


def copied(base: Path, to: Path) -> Path:
    for path in base.rglob("*"):
        if path.is_file():
            (to / path.relative_to(base)).parent.mkdir(parents=True, exist_ok=True)
            (to / path.relative_to(base)).write_bytes(path.read_bytes())
    return to


# --- the plan ---


def test_a_dry_run_prints_the_plan_and_leaves_nothing(
    run_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything_in(tmp_path)
    assert main([str(run_toml), "--dry-run"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(
        word in shown
        for word in (
            "plan of s",
            "pictures",
            "32x32 px: 4",
            "4 of 2 pictures",
            "weights",
            "GiB",
            "about",
            str(tmp_path / "runs"),
        )
    ), shown
    assert everything_in(tmp_path) == before and not (tmp_path / "runs").exists()


def test_a_dry_run_refuses_what_the_run_would_refuse(
    run_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    assert main([str(run_toml), "--dry-run", "--save.folder", str(tmp_path / "file" / "runs")]) == 2
    assert "save.folder" in capsys.readouterr().err
    assert main([str(run_toml), "--optim.steps", "1", "--preview.every", "0"]) == 0
    assert main([str(run_toml), "--optim.steps", "1", "--adapter.rank", "9", "--dry-run"]) == 2
    assert "adapter.rank: 4 then, 9 now" in capsys.readouterr().err


# --- stopping ---


def started(
    command: list[str], run_toml: Path, *flags: str, **options: object
) -> tuple[subprocess.Popen[str], Path]:
    """A run of 2,000 updates in a process of its own, once it has made an update."""
    run = run_toml.parents[1] / "runs" / "s"
    before = len(said(run, events.Stepped))
    long = [
        "--optim.steps",
        "2000",
        "--preview.every",
        "0",
        "--save.every",
        "0",
        "--optim.schedule",
        "constant",
        *flags,
    ]
    process = subprocess.Popen(
        [*command, str(run_toml), *long],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(PYTHONPATH=str(ROOT)),
        **options,
    )
    end = time.time() + 60
    while len(said(run, events.Stepped)) <= before:
        assert process.poll() is None and time.time() < end, process.communicate()
        time.sleep(0.02)
    return process, run


def test_a_stopped_run_keeps_its_work_and_the_second_signal_leaves_at_once(
    run_toml: Path, tmp_path: Path
) -> None:
    process, run = started(COMMAND, run_toml, cwd=tmp_path)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (
        process.returncode == 0 and "Stopping after this update" in err and "Traceback" not in err
    )
    (finished,) = said(run, events.Finished)
    assert finished.stopped and 0 < finished.step < 2000 and (run / finished.path).is_file()
    assert [p.name for p in (run / "checkpoints").iterdir()] == [f"step-{finished.step:07d}"]
    style = (run / finished.path).read_bytes()

    process, _ = started(MODULE, run_toml, cwd=tmp_path)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    process.communicate()
    steps = [event.step for event in said(run, events.Stepped)]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > finished.step
    assert [event.step for event in said(run, events.Started)] == [0, finished.step]
    assert said(run, events.Finished) == [finished] and (run / finished.path).read_bytes() == style


def test_a_stop_in_the_last_updates_goes_on_to_the_end(run_toml: Path, tmp_path: Path) -> None:
    """In one process, stopped by a signal to itself after the second update."""
    from training import train_style

    seen: list[events.Event] = []

    def watched(stream: Iterator[events.Event], folder: Path) -> Iterator[events.Event]:
        for event in recorded(stream, folder):
            seen.append(event)
            if isinstance(event, events.Stepped) and event.step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield event

    recorded = train_style.recorded
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_style, "recorded", watched)
        assert main([str(run_toml)]) == 0
    run = tmp_path / "runs" / "s"
    assert said(run, events.Finished) == [seen[-1]] and seen[-1].stopped and seen[-1].step == 2
    assert main([str(run_toml)]) == 0
    assert [event.step for event in said(run, events.Stepped)] == [1, 2, 3, 4]
    assert [(event.step, event.stopped) for event in said(run, events.Finished)] == [
        (2, True),
        (4, False),
    ]


# --- flags and files ---


def test_help_opens_at_once_and_lists_every_setting(tmp_path: Path) -> None:
    script = (
        "import sys, runpy\nsys.argv[0] = 'x'\ntry:\n    "
        "runpy.run_module('training.train_style', run_name='__main__')\nfinally:\n"
    )
    script += (
        "    print([m for m in ('torch', 'diffusers', 'transformers', 'peft', 'gradio', "
        "'numpy') if m in sys.modules], file=sys.stderr)"
    )
    shown = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert shown.returncode == 0
    text = " ".join(shown.stdout.split())
    assert all(f"--{s.key} " in text and " ".join(s.help.split()) in text for s in settings())
    light = subprocess.run(
        [sys.executable, "-B", "-c", script, "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert light.stderr.strip() == "[]" and light.stdout.startswith("usage: ")


@pytest.mark.parametrize("command", [COMMAND, MODULE], ids=["file", "module"])
def test_the_command_works_from_anywhere(command: list[str], tmp_path: Path) -> None:
    env = environment(PYTHONPATH=str(ROOT)) if command is MODULE else environment()
    shown = subprocess.run(
        [*command, "--optim.stepps", "5"], capture_output=True, text=True, cwd=tmp_path, env=env
    )
    assert (
        shown.returncode == 2
        and shown.stderr.strip() == "--optim.stepps is not a setting, did you mean optim.steps?"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_flag_overrides_the_file(run_toml: Path) -> None:
    flags = [
        "--optim.steps=9",
        "--data.flip",
        "off",
        "--optim.unet_lr",
        "1e-3",
        "--preview.prompts",
        "a dog",
        "a house",
        "--data.trigger",
        "",
    ]
    config, wanted = config_from([str(run_toml), *flags])
    assert (
        not wanted.dry_run
        and not wanted.report
        and (config.optim.steps, config.data.flip, config.optim.unet_lr, config.data.trigger)
        == (9, False, 1e-3, "")
    )
    assert config.preview.prompts == ["a dog", "a house"] and config.adapter.rank == 4


def test_paths_in_a_file_are_relative_to_it(
    run_toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    config, _ = config_from([str(run_toml)])
    assert config.data.folder == str(tmp_path / "pictures")
    run_toml.write_text('base.model = "./my-base"\nprior.folder = "priors"\nsave.folder = "out"\n')
    config, _ = config_from([str(run_toml)])
    assert (config.base.model, config.prior.folder) == (
        str(run_toml.parent / "my-base"),
        str(run_toml.parent / "priors"),
    )
    assert config.run_folder == Path("/out/my-style")  # where the command is run


@pytest.mark.parametrize("model", ["mini", "owner/name", "/nowhere/base"])
def test_names_of_bases_stay_as_they_are(model: str, run_toml: Path) -> None:
    run_toml.write_text(f'base.model = "{model}"')
    assert (
        config_from([str(run_toml)])[0].base.model
        == model
        == config_from(["--base.model", model])[0].base.model
    )


def test_what_belongs_to_no_flag_is_reported(
    run_toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(run_toml), "stray"]) == 2
    assert "'stray' belongs to no flag" in capsys.readouterr().err
    assert main([str(run_toml), "--optim.steps"]) == 2
    assert re.search(r"--optim\.steps.*expected one argument", capsys.readouterr().err)
    assert main([str(run_toml), "--lr", "1", "--adapter.rang=2"]) == 2
    assert "--adapter.rang is not a setting, did you mean adapter.rank?" in capsys.readouterr().err


# --- events.jsonl ---


def test_a_full_disk_under_the_events_is_reported_once_and_does_not_end_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from training.train_style import recorded

    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    given = [events.Noted("a"), events.Noted("b"), events.Noted("c")]
    assert list(recorded(given, tmp_path)) == given
    err = capsys.readouterr().err
    assert err.count("cannot be written") == 1 and "No space left" in err
