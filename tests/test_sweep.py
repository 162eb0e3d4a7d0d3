"""Sweeps: which styles a file stands for, and the command that trains them together, compares and
ranks them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.test_together import style
from training.cli.sweep import MOST, ranking, styles_of
from training.cli.train_arguments import sweep_from
from training.config.loading import to_toml
from training.errors import ConfigError
from training.train_style import main


def test_styles_and_grid_multiply_and_every_style_has_a_name_of_its_own() -> None:
    tables = {
        "optim": {"steps": 7},
        "styles": [
            {"data": {"folder": "a"}, "save": {"name": "ink"}},
            {"data": {"folder": "b"}, "optim": {"seed": 3}},
        ],
        "grid": {"adapter": {"rank": [4, 16]}, "optim": {"unet_lr": [1e-3, 1e-4]}},
    }
    made = styles_of(tables, "s.toml")
    assert len(made) == 8 and len({c.save.name for c in made}) == 8
    assert {(c.adapter.rank, c.optim.unet_lr) for c in made[:4]} == {
        (4, 1e-3),
        (4, 1e-4),
        (16, 1e-3),
        (16, 1e-4),
    }
    assert (
        all(c.optim.steps == 7 for c in made)
        and [c.data.folder for c in made] == ["a"] * 4 + ["b"] * 4
    )
    assert {c.optim.seed for c in made[4:]} == {3} and made[
        0
    ].save.name == "ink-rank-4-unet-lr-0.001"


@pytest.mark.parametrize(
    ("tables", "word"),
    [
        ({"optim": {"steps": 3}}, "no sweep"),
        ({"styles": {"data": {}}}, r"\[\[styles\]\]"),
        ({"styles": []}, "0 styles"),
        ({"grid": {"adapter": {"rank": 4}}}, "a list of its values"),
        ({"grid": {"adapter": {"rnk": [4]}}}, "adapter.rank"),
        ({"grid": {"save": {"name": ["a"]}}}, "cannot vary|can vary"),
        ({"grid": {"optim": {"seed": list(range(MOST + 1))}}}, str(MOST + 1)),
        ({"grid": {"adapter": {"rank": [-4]}}}, "adapter.rank"),
        ({"grid": ["rank"]}, "lists of values"),
        ({"grid": {"adapter": {"targets": ["attention"]}}}, "a list of its values"),
    ],
)
def test_what_is_wrong_is_reported(tables: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        styles_of(tables, "s.toml")


def test_the_command_refuses_what_does_not_go_with_a_sweep(tmp_path: Path) -> None:
    for argv in (
        ["--sweep"],
        ["--sweep", "s.toml", "--report"],
        ["--sweep", "s.toml", "--preset", "style"],
        ["--sweep", "s.toml", "--nothing", "1"],
    ):
        with pytest.raises(ConfigError):
            sweep_from(argv)
    assert main(["--sweep", str(tmp_path / "nowhere.toml")]) == 2


def test_a_sweep_is_trained_compared_and_ranked(
    base_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one = style(
        "one",
        base_folder,
        tmp_path,
        optim__steps=2,
        preview__guidance=2.0,
        preview__prompts=["a cat"],
    )
    file = tmp_path / "sweep.toml"
    file.write_text(to_toml(one) + "\n[grid]\noptim.seed = [1, 2]\n")
    assert main([str(file), "--sweep", "--adapter.rank", "2"]) == 0
    output = capfd.readouterr().out
    folders = sorted(path.name for path in Path(one.save.folder).iterdir() if path.is_dir())
    assert folders == ["one-seed-1", "one-seed-2"] and all(
        (Path(one.save.folder) / name / f"{name}.safetensors").is_file() for name in folders
    )
    assert all((Path(one.save.folder) / name / "events.jsonl").is_file() for name in folders)
    assert "1. one-seed-1" in output and "2. one-seed-2" in output
    with Image.open(Path(one.save.folder) / "together.png") as grid:
        assert grid.width > 2 * 32
    assert (
        main([str(file), "--sweep", "--adapter.rank", "2"]) == 0
        and "finished already" in capfd.readouterr().out
    )


def test_a_sweeps_dry_run_lists_its_styles_and_leaves_nothing(
    base_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one = style("one", base_folder, tmp_path, optim__steps=2)
    file = tmp_path / "sweep.toml"
    file.write_text(to_toml(one) + "\n[grid]\nadapter.rank = [1, 2]\n")
    before = sorted(tmp_path.rglob("*"))
    assert main([str(file), "--sweep", "--dry-run"]) == 0
    output = capfd.readouterr().out
    assert (
        "2 styles over one base, 2 at once" in output
        and "one-rank-1" in output
        and "one-rank-2" in output
    )
    assert "plan of one-rank-1" in output and "GiB" in output
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == [
        path for path in before if path.is_file()
    ]
    file.write_text(to_toml(one) + '\n[grid]\nbase.dtype = ["float32", "bfloat16"]\n')
    assert (
        main([str(file), "--sweep", "--dry-run"]) == 2
        and "share one base" in capfd.readouterr().err
    )


def test_the_ranking_follows_the_reports(base_folder: Path, tmp_path: Path) -> None:
    configs = [style(name, base_folder, tmp_path) for name in ("weak", "strong", "none", "odd")]
    for config, share in zip(configs, (0.3, 0.9), strict=False):
        (config.run_folder / "report").mkdir(parents=True)
        best = {"style": share, "content": 0.8, "file": "steps/x.safetensors", "strength": 1}
        (config.run_folder / "report" / "report.json").write_text(json.dumps({"best": best}))
    (configs[3].run_folder / "report").mkdir(parents=True)
    (configs[3].run_folder / "report" / "report.json").write_text("[]")
    output = ranking(configs)
    assert (
        output[0].startswith("1. strong: 90%")
        and output[1].startswith("2. weak")
        and "no report" in output[2]
        and "no report" in output[3]
    )
