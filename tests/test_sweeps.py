"""Several styles from the page: what they stand for, what is refused, and that they are trained."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from studio.datasets import store
from studio.library import comparisons, library, sweeps
from studio.processes import process
from tests.test_jobs import until
from tests.test_page import drawn_pictures
from training.config.loading import from_mapping
from training.config.schema import RunConfig
from training.errors import BusyError, ConfigError, DataError
from training.storage.paths import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path / "w")
    pictures = [
        Path(p) for p in drawn_pictures(tmp_path / "pictures") if not p.endswith("page.png")
    ]
    for name in ("balls", "more balls"):
        store.add(store.make(made, name), pictures)
    return made


@pytest.fixture
def config(workspace: Workspace, base_folder: Path) -> RunConfig:
    return from_mapping(
        {
            "base": {"model": str(base_folder), "dtype": "float32", "device": "cpu"},
            "data": {"folder": str(workspace.datasets() / "balls")},
            "adapter": {"rank": 2},
            "optim": {"steps": 2, "batch_size": 1},
            "preview": {"every": 0, "steps": 1, "prompts": ["a ball"]},
            "report": {"minutes": 0.0},
            "save": {"name": "many", "folder": str(workspace.runs()), "every": 0},
        }
    )


def test_datasets_and_values_make_every_combination(
    workspace: Workspace, config: RunConfig
) -> None:
    _, configs = sweeps.planned(
        workspace,
        config,
        ["balls", "more balls"],
        {"adapter.rank": "2, 4", "optim.unet_lr": "1e-3,1"},
    )
    assert len(configs) == 8 and len({c.save.name for c in configs}) == 8
    assert {(Path(c.data.folder).name, c.adapter.rank, c.optim.unet_lr) for c in configs} == {
        (name, rank, lr)
        for name in ("balls", "more balls")
        for rank in (2, 4)
        for lr in (1e-3, 1.0)
    }
    assert all(c.save.folder == str(workspace.runs()) for c in configs)


@pytest.mark.parametrize(
    ("sets", "tries", "words"),
    [
        ([], {}, "no sweep"),
        (["balls"], {}, "no sweep"),
        (["balls"], {"adapter.rank": ""}, "1 to 16 values"),
        (["balls"], {"adapter.rank": ", ".join(["2"] * 17)}, "1 to 16 values"),
        (["balls"], {"adapter.rank": "two"}, "no value"),
        (["balls"], {"adapter.rank": "0"}, "rank"),
        (["balls"], {"adapter.rank": "2]\n[x"}, "no value"),
        (["balls"], {"save.folder": "/tmp"}, "cannot vary|can vary"),
        (["balls"], {"nonsense": "1"}, "can vary"),
        (
            ["balls"],
            {
                "adapter.rank": ", ".join(map(str, range(1, 17))),
                "optim.seed": ", ".join(map(str, range(16))),
            },
            "256 styles",
        ),
    ],
)
def test_what_cannot_be_swept_is_reported(
    workspace: Workspace, config: RunConfig, sets: list[str], tries: dict[str, str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        sweeps.planned(workspace, config, sets, tries)
    assert not (workspace.root / "sweeps").exists()


def test_a_dataset_without_pictures_is_reported(workspace: Workspace, config: RunConfig) -> None:
    store.make(workspace, "empty")
    with pytest.raises(DataError, match="no pictures"):
        sweeps.planned(workspace, config, ["balls", "empty"], {})


def test_they_are_trained_and_drawn_and_found(workspace: Workspace, config: RunConfig) -> None:
    tables, configs = sweeps.planned(workspace, config, ["balls", "more balls"], {})
    folder = sweeps.begin(workspace, tables)
    with pytest.raises(BusyError):
        sweeps.begin(workspace, tables)
    assert (
        sweeps.newest(workspace) == folder
        and tomllib.loads((folder / "sweep.toml").read_text())["styles"]
    )
    until(lambda: not process.is_alive(folder), 180)
    names = sweeps.runs_of(folder)
    assert names == [c.save.name for c in configs] and set(names) <= set(library.runs(workspace)), (
        process.log_tail(folder)
    )
    assert all(process.state(workspace.runs() / name) == "finished" for name in names), (
        process.log_tail(folder)
    )
    assert (workspace.runs() / "together.png").is_file()
    for _ in range(2):  # kept among the comparisons, once
        sweeps.keep_grid(workspace, folder)
    [name] = comparisons.names(workspace)
    kept = comparisons.folder(workspace, name)
    assert kept is not None and (kept / "grid.png").is_file()
    spec = comparisons.read_spec(kept)
    assert spec is not None and len(spec.styles) == len(sweeps.runs_of(folder))
    again, _ = sweeps.planned(
        workspace, config, ["balls", "more balls"], {}
    )  # the same once more gets names of its own
    assert not {one["save"]["name"] for one in again["styles"]} & set(names)
    taken = config.model_copy(
        update={"save": config.save.model_copy(update={"name": names[0].removesuffix("-balls")})}
    )
    (workspace.runs() / f"{taken.save.name}-rank-2").mkdir()
    (workspace.runs() / f"{taken.save.name}-rank-2" / "events.jsonl").touch()
    with pytest.raises(ConfigError, match="already"):
        sweeps.planned(workspace, taken, ["balls"], {"adapter.rank": "2, 3"})
