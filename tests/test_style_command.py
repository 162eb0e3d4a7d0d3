"""The style-file command, as a user and a script meet it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.cli import style_io
from training.cli.style_file import main
from training.config.loading import from_mapping
from training.models.loader import base_shapes
from training.style_files.metadata import Made, metadata_for
from training.style_files.reading import Lora, canonical_name, read_style
from training.style_files.writing import write_style

SIZES = {
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_k": (8, 768),
    "mid_block.attentions.0.proj_in": (8, 8, 1, 1),
}


@pytest.fixture
def style(tmp_path: Path) -> Path:
    """An SD 1.5 style of rank 2 and alpha 3 on two layers of the UNet."""
    path = tmp_path / "ink.safetensors"
    config = from_mapping({"data": {"trigger": "inkwash"}, "save": {"name": "Ink"}})
    known = {
        "base_name": "mini",
        "base_hash": "",
        "prediction": "epsilon",
        "resolution": 64,
        "version": "0",
    }
    metadata = metadata_for(
        config, Made(family="sd1", steps=9, pictures=3, started=0.0, finished=1.0, **known)
    )
    write_style(path, random_modules(SIZES), metadata, dtype="float32")
    return path


def random_modules(shapes: dict[str, tuple[int, ...]]) -> dict[str, Lora]:
    generator = np.random.default_rng(0)

    def draw(*shape):
        return generator.standard_normal(shape, np.float32)

    return {
        canonical_name("unet", module, "sd1"): Lora(
            draw(2, *shape[1:]), draw(shape[0], 2, *(1,) * (len(shape) - 2)), 3.0
        )
        for module, shape in shapes.items()
    }


def test_inspect_tells_a_person_what_matters(
    style: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "4000")
    assert main(["inspect", str(style)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(
        word in shown
        for word in (
            "ink.safetensors",
            "inkwash",
            "SD 1.5",
            "2 layers of the UNet",
            "optim.steps 1000",
            "epsilon",
        )
    )


def test_inspect_tells_a_script_everything(style: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(style), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["trigger"], found["family"], found["ranks"], found["layers"]) == (
        "inkwash",
        "sd1",
        "2",
        2,
    )
    assert found["recipe"]["data"]["trigger"] == "inkwash" and found["metadata"]["ss_steps"] == "9"


def test_hostile_metadata_stays_text(style: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nasty = {
        "modelspec.title": "[red]x[/nope]\x1b[2J",
        "modelspec.trigger_phrase": "\u202eevil :smile:",
        "a": "y" * 500_000,
    }
    write_style(style, read_style(style).modules, nasty)
    assert main(["inspect", str(style)]) == 0
    shown = capsys.readouterr().out
    assert (
        "[red]x[/nope]" in shown
        and ":smile:" in shown
        and "\x1b" not in shown
        and "\u202e" not in shown
    )
    assert main(["inspect", str(style), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["metadata"]["a"]) <= 64 * 1024 + 1


def test_convert_writes_the_other_dialect_and_keeps_what_is_there(
    style: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, back = style.with_name("out.safetensors"), style.with_name("back.safetensors")
    assert main(["convert", str(style), "--to", "diffusers", "--out", str(out)]) == 0
    assert main(["convert", str(out), "--to", "kohya", "--out", str(back)]) == 0
    assert read_style(out).dialect == "diffusers" and read_style(out).trigger == "inkwash"
    before, after = read_style(style).modules, read_style(back).modules
    assert before.keys() == after.keys() and all(
        np.allclose(before[n].delta(), after[n].delta(), atol=1e-6) for n in before
    )
    kept = back.read_bytes()
    assert main(["convert", str(out), "--to", "kohya", "--out", str(back)]) == 2
    assert "--force" in capsys.readouterr().err and back.read_bytes() == kept
    assert main(["convert", str(out), "--to", "kohya", "--out", str(back), "--force"]) == 0


def test_convert_asks_for_the_family_it_cannot_see(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    write_style(path, random_modules({"mid_block.resnets.0.conv1": (8, 8, 3, 3)}), {})
    assert main(["convert", str(path), "--to", "diffusers", "--out", str(out)]) == 2
    assert "--family" in capsys.readouterr().err
    assert (
        main(["convert", str(path), "--to", "diffusers", "--out", str(out), "--family", "sd1"]) == 0
    )


def test_errors_are_messages_with_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tmp_path / "none.safetensors")]) == 2
    assert "is not there" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["nonsense"])
    assert stopped.value.code == 2


def test_check_says_whether_a_base_can_load_it(
    style: Path, base_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    family, parts = base_shapes(str(base_folder))
    fitting = {
        canonical_name("unet", m, family): lora
        for m, lora in zip(parts["unet"], random_modules(parts["unet"]).values(), strict=True)
    }
    path = style.with_name("fits.safetensors")
    write_style(path, fitting, {})
    assert main(["check", str(path), "--base", str(base_folder)]) == 0
    assert f"{len(fitting)} layers of the UNet" in capsys.readouterr().out
    assert main(["check", str(style), "--base", str(base_folder)]) == 2
    assert "cross-attention reads text 768 wide" in capsys.readouterr().err


def test_check_warns_of_a_style_that_is_more_than_its_base(
    style: Path, base_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, parts = base_shapes(str(base_folder))
    name, shape = next(
        (name, shape) for name, shape in parts["text_encoder"].items() if name.endswith("q_proj")
    )
    path = style.with_name("much.safetensors")
    for size, said in ((1e-3, False), (10.0, True)):
        lora = Lora(
            np.full((1, shape[1]), size, np.float32), np.ones((shape[0], 1), np.float32), 1.0
        )
        write_style(path, {canonical_name("text_encoder", name, "sd1"): lora}, {})
        assert main(["check", str(path), "--base", str(base_folder)]) == 0
        assert ("more than the base itself" in capsys.readouterr().out) == said


def test_looking_into_a_file_loads_no_torch(style: Path) -> None:
    program = (
        "import sys; from training.cli.style_file import main; main(['inspect', "
        f"{str(style)!r}]); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


@pytest.mark.parametrize("damage", ["half as strong", "a layer less"])
def test_nothing_is_written_that_does_not_read_back_the_same(
    style: Path, damage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right, out = style_io.style_bytes, style.with_name("new.safetensors")

    def wrong(name: str, modules: dict[str, Lora], *rest: Any, **more: Any) -> bytes:
        weaker = {key: replace(lora, alpha=lora.alpha / 2) for key, lora in modules.items()}
        return right(
            name,
            weaker if damage == "half as strong" else dict(list(modules.items())[1:]),
            *rest,
            **more,
        )

    assert (
        main(["convert", str(style), "--to", "kohya", "--dtype", "bfloat16", "--out", str(out)])
        == 0
    )
    assert "read back and the same" in capsys.readouterr().out
    out.unlink()
    monkeypatch.setattr(style_io, "style_bytes", wrong)
    assert main(["convert", str(style), "--to", "kohya", "--out", str(out)]) == 2
    assert "would not give back" in capsys.readouterr().err and not out.exists()
