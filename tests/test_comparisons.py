"""Tests of studio.library.comparisons and studio.library.reload_grid: wishes on disk, picks of a
blind look, and a grid that leads back to its settings."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from studio.grid_spec import grid_spec_from
from studio.library import comparisons, import_export, library, reload_grid
from studio.library.comparisons import ComparisonSpec
from tests.test_library import finished_run, style_file
from training.errors import DataError, StudioError
from training.prompt import KEY
from training.storage.paths import Workspace

SPEC = ComparisonSpec(
    "mini",
    (("run:ink", 1.0), ("run:ink", 0.5), ("step:ink:200", 1.0)),
    ("a cat", "-a dog"),
    (1, 2),
    9,
    4.0,
    0,
)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path / "workspace")
    run = finished_run(made, "ink")
    style_file(run / "steps" / "ink-000200.safetensors", step="200")
    return made


def kept(workspace: Workspace, name: str = "one", spec: ComparisonSpec = SPEC) -> Path:
    folder = workspace.comparisons() / name
    folder.mkdir(parents=True)
    (folder / "process.json").touch()
    (folder / "wish.json").write_text(json.dumps(asdict(spec)))
    return folder


def test_a_spec_is_read_as_it_was_written_and_names_its_columns(workspace: Workspace) -> None:
    assert comparisons.read_spec(kept(workspace)) == SPEC
    assert SPEC.columns == ["base", "ink", "ink × 0.5", "ink after 200"]


def test_checkpoints_and_strengths_are_columns_of_the_command(
    workspace: Workspace, tmp_path: Path
) -> None:
    argv = comparisons.command(workspace, SPEC, tmp_path)
    run = workspace.runs() / "ink"
    at = argv.index("--style")
    assert argv[at + 1 : at + 4] == [
        f"{run / 'ink.safetensors'}:1",
        f"{run / 'ink.safetensors'}:0.5",
        f"{run / 'steps/ink-000200.safetensors'}:1",
    ]
    from studio.grid_spec import grid_spec_from

    assert [
        [taken.weight.unet for taken in c.styles] for c in grid_spec_from(argv[3:]).columns
    ] == [[], [1.0], [0.5], [1.0]]


@pytest.mark.parametrize(
    "id", ["step:ink:201", "step:ink:../x", "step::200", "step:../ink:200", "step:ink"]
)
def test_a_checkpoint_that_is_not_listed_is_refused(
    workspace: Workspace, tmp_path: Path, id: str
) -> None:
    with pytest.raises(StudioError):
        comparisons.command(
            workspace, ComparisonSpec("mini", ((id, 1.0),), ("a",), (0,), 9, 4.0, 0), tmp_path
        )


def test_picks_are_kept(workspace: Workspace) -> None:
    folder = kept(workspace)
    assert comparisons.picks(folder) == []
    comparisons.keep_picks(folder, [0, None, 3, 1])
    assert comparisons.picks(folder) == [0, None, 3, 1]


@pytest.mark.parametrize(
    "bad", [[], [0], [0, 0, 0, 4], [0, 0, 0, -1], [0, 0, 0, "1"], [0, 0, 0, True], [0, 0, 0, 1.0]]
)
def test_picks_of_another_comparison_are_refused_and_not_read(
    workspace: Workspace, bad: list[Any]
) -> None:
    folder = kept(workspace)
    with pytest.raises(StudioError):
        comparisons.keep_picks(folder, bad)
    (folder / "picks.json").write_text(json.dumps(bad))
    assert comparisons.picks(folder) == []


def test_pictures_of_a_style_come_from_its_own_column(workspace: Workspace) -> None:
    folder = kept(workspace)
    (folder / "cells").mkdir()
    for row in range(4):
        comparisons.cell(folder, row, 1).touch()
        comparisons.cell(folder, row, 3).touch()
    assert list(comparisons.with_style(workspace, "step:ink:200", 3)) == [
        (comparisons.cell(folder, r, 3), SPEC.rows[r][0]) for r in range(3)
    ]
    assert list(comparisons.with_style(workspace, "file:other", 3)) == []


def test_a_mix_is_one_more_column_and_survives_the_disk_and_a_grid(
    workspace: Workspace, tmp_path: Path
) -> None:
    active = (("run:ink", 0.7), ("step:ink:200", 0.5))
    spec = replace(SPEC, styles=(("run:ink", 1.0),), mix=active)
    assert spec.columns == ["base", "ink", "ink × 0.7 + ink after 200 × 0.5"]
    folder = kept(workspace, spec=spec)
    assert comparisons.read_spec(folder) == spec
    styles = comparisons.command(workspace, spec, folder)
    paths = [library.style(workspace, id).path for id, _ in active]
    assert (
        f"{paths[0]}:0.7+{paths[1]}:0.5" in styles
        and grid_spec_from(styles[3:]).columns[2].title.count("+") == 1
    )
    drawn = metadata(workspace)
    column = {
        "title": "a + b",
        "mix": [
            {"file": p.name, "sha256": import_export.digest(p), "strength": w}
            for p, (_, w) in zip(paths, active, strict=True)
        ],
    }
    drawn["columns"] = [{"title": "base"}, column]
    found, missing = reload_grid.spec_of(workspace, sheet(tmp_path / "grid.png", drawn))
    assert (found.styles, found.mix, missing) == ((), active, [])
    column["mix"][1]["sha256"] = "0" * 64
    found, missing = reload_grid.spec_of(workspace, sheet(tmp_path / "grid.png", drawn))
    assert (found.mix, missing) == ((), [paths[1].name])  # one of two is no mix


def sheet(path: Path, metadata: object) -> Path:
    info = PngInfo()
    info.add_itxt(KEY, json.dumps(metadata))
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


def metadata(workspace: Workspace, **other: Any) -> dict[str, Any]:
    ink = import_export.digest(workspace.runs() / "ink" / "ink.safetensors")
    step = import_export.digest(workspace.runs() / "ink" / "steps" / "ink-000200.safetensors")
    columns = [{"title": "base"}] + [
        {"title": t, "sha256": h, "strength": s}
        for t, h, s in (("ink", ink, 0.5), ("gone", "0" * 64, 1), ("step", step, 1))
    ]
    numbers = {"seeds": [3], "steps": 7, "guidance": 2.5, "size": 64}
    return {
        "kind": "comparison",
        "columns": columns,
        "prompts": ["a cat"],
        "base": {"model": "mini"},
        **numbers,
        **other,
    }


def test_a_grid_leads_back_to_its_spec_and_names_what_is_missing(
    workspace: Workspace, tmp_path: Path
) -> None:
    spec, missing = reload_grid.spec_of(
        workspace, sheet(tmp_path / "grid.png", metadata(workspace))
    )
    assert spec == ComparisonSpec(
        "mini", (("run:ink", 0.5), ("step:ink:200", 1.0)), ("a cat",), (3,), 7, 2.5, 64
    )
    assert missing == ["gone"]


@pytest.mark.parametrize(
    "bad",
    [
        None,
        [],
        {"kind": "other"},
        {"prompts": []},
        {"prompts": [3]},
        {"seeds": ["x"]},
        {"steps": None},
        {"columns": [3]},
        {"base": 3},
        {"size": 1e999},
    ],
)
def test_any_other_picture_is_refused(workspace: Workspace, tmp_path: Path, bad: Any) -> None:
    content = metadata(workspace, **bad) if isinstance(bad, dict) else bad
    with pytest.raises(DataError):
        reload_grid.spec_of(workspace, sheet(tmp_path / "grid.png", content))
    (tmp_path / "no.png").write_text("<html>")
    with pytest.raises(DataError):
        reload_grid.spec_of(workspace, tmp_path / "no.png")
