"""Several folders of pictures in one run: [[data.folders]]."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from studio.page import forms
from tests.test_augmentation import request as run_config
from tests.test_training import broken_off, equal
from tests.tiny import tiny_base
from training.cli.train_arguments import config_from
from training.config.loading import from_mapping, to_toml
from training.config.places import absolute
from training.config.schema import RunConfig
from training.data.several_folders import counted
from training.errors import ConfigError, DataError
from training.style_files.family_spec import SPECS
from training.style_files.metadata import Made, metadata_for
from training.style_files.reading import recipe_of
from training.trainer import setup
from training.trainer.loop import train
from training.trainer.plan import check_folders, planned, read_pictures
from training.trainer.trainer import Trainer


def picture(path: Path, shade: int, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(shade).integers(0, 255, (48, 48, 3), np.uint8)
    Image.fromarray(colours).save(path)
    if text:
        path.with_suffix(".txt").write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i, name in enumerate(["own/a", "own/b", "ink/a", "cat/a", "cat/b", "x/cat/a", "kept/k"]):
        picture(tmp_path / f"{name}.png", i, f"a {name}")
    picture(tmp_path / "many" / "3_sks dog" / "a.png", 20)
    picture(tmp_path / "many" / "2_" / "a.png", 21, "a lake")
    return tmp_path


def asked(root: Path, *tables: dict[str, Any], **data: Any) -> RunConfig:
    folders = [{**one, "folder": str(root / one["folder"])} for one in tables]
    return from_mapping({"data": {"folders": folders, "trigger": "sks", **data}})


def test_several_folders_are_one_set(root: Path) -> None:
    config = asked(
        root,
        {"folder": "ink", "repeats": 3, "trigger": "inky", "template": "{trigger}: {caption}"},
        {"folder": "many", "repeats": 2, "weight": 2},
        {"folder": "kept", "kind": "class"},
        folder=str(root / "own"),
    )
    assert config.data.triggers == ("sks", "inky")
    found = read_pictures(config)
    assert [(e.name, e.repeats, e.weight, e.caption) for e in found.examples] == [
        ("a.png", 1, 1.0, "a own/a, sks style"),
        ("b.png", 1, 1.0, "a own/b, sks style"),
        ("ink/a.png", 3, 1.0, "inky: a ink/a"),
        ("many/2_/a.png", 4, 2.0, "a lake, sks style"),
        ("many/3_sks dog/a.png", 6, 2.0, "sks dog"),
    ]
    assert [(e.name, e.caption, e.is_class) for e in found.class_examples] == [
        ("kept/k.png", "a kept/k", True)
    ]
    assert counted(found.examples).startswith("2 of data.folder; 1 of ink, 3 times each; 1 of many")


def test_folders_of_one_name_have_pictures_of_different_names(root: Path) -> None:
    found = read_pictures(asked(root, {"folder": "cat"}, {"folder": "x/cat"}))
    names = [e.name for e in found.examples]
    assert names == [f"{root.name}/cat/a.png", f"{root.name}/cat/b.png", "x/cat/a.png"]
    recorded = [e.recorded for e in found.examples]
    assert recorded == ["data.folders 1/a.png", "data.folders 1/b.png", "data.folders 2/a.png"]


def test_balanced_folders_count_alike(root: Path) -> None:
    for i in range(5):
        picture(root / "ink" / f"more{i}.png", 30 + i)
    config = asked(
        root, {"folder": "ink"}, {"folder": "cat", "weight": 0.5}, {"folder": "own"}, balance=True
    )
    examples = read_pictures(config).examples
    counts: Counter[str] = Counter()
    for example in examples:
        counts[example.within] += example.repeats * example.weight
    assert counts == pytest.approx({"ink": 6.0, "cat": 3.0, "own": 6.0})
    assert {e.within: e.repeats for e in examples} == {"ink": 1, "cat": 3, "own": 3}
    many = read_pictures(from_mapping({"data": {"folder": str(root / "many"), "balance": True}}))
    assert [(e.repeats, e.weight) for e in many.examples] == [(1, 1.0)] * 2


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ([{"folder": "gone"}], "gone: the folder is not there"),
        ([{"folder": "ink"}, {"folder": "ink/../ink"}], "data.folders 2 reads .*ink, which"),
        ([{"folder": "many"}, {"folder": "many/3_sks dog"}], "data.folders 1 reads already"),
        ([{"folder": "ink", "kind": "class"}], "Every folder holds class pictures"),
        ([{"folder": "ink"}, {"folder": "x"}], "holds no pictures.* Set folder to"),
    ],
)
def test_folders_that_cannot_be_read_are_named(
    root: Path, tables: list[dict[str, Any]], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        read_pictures(asked(root, *tables))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("folders = [5]", "data.folders, table 1 is 5, a table was expected"),
        ("folders = 'a'", "data.folders is 'a': a list was expected"),
        ("folders = [{repeat = 2}]", "table 1, repeat is not a setting, did you mean repeats"),
        ("folders = [{x = 2}]", "table 1, x is not a setting, there is folder, repeats, weight"),
        (
            "folders = [{}, {repeats = -1}]",
            "table 2, repeats is -1: a whole number from 1 to",
        ),
        ("folders = [{weight = 0}]", "data.folders, table 1, weight is 0.0: a number above 0"),
        ("folders = [{weight = nan}]", "data.folders, table 1, weight is nan"),
        ("folders = [{folder = 3}]", "data.folders, table 1, folder is 3: text was expected"),
        ("folders = [{kind = 'x'}]", "kind is 'x': one of style, class was expected"),
        ("folders = [{folder = '~nobody-of-that-name/x'}]", "there is no user of that name"),
        ('folders = [{folder = "a\\u0000"}]', "data.folders holds a NUL character"),
        ("folders = [{trigger = 'a', template = '{caption}'}]", "table 1: data.trigger is 'a'"),
        ("folders = [{kind = 'class', trigger = 'a'}]", "holds class pictures, which are shown"),
        ("balance = true\nfolders = [{repeats = 2}]", "with data.balance, which chooses repeats"),
    ],
)
def test_wrong_tables_are_named(data: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_mapping(tomllib.loads(f"[data]\n{data}"))
    assert said in str(caught.value)


def test_a_table_without_a_folder_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ConfigError, match=r"data\.folders, table 1 names no folder"):
        check_folders(from_mapping({"data": {"folders": [{"repeats": 2}]}}))
    with pytest.raises(ConfigError, match=r"data\.folder is empty"):
        check_folders(RunConfig())


def test_tables_go_through_files_flags_and_the_page(root: Path) -> None:
    config = asked(root, {"folder": 'i"nk', "repeats": 2, "weight": 0.5}, {"folder": "cat"})
    assert from_mapping(tomllib.loads(to_toml(config))) == config
    shown = dict(zip(["data.folders"], forms.from_config(config, ["data.folders"]), strict=True))
    mapping = forms.to_mapping(list(shown), list(shown.values()))
    assert from_mapping(mapping).data.folders == config.data.folders
    with pytest.raises(ConfigError, match="table 1 is 'pictures'"):
        from_mapping(forms.to_mapping(["data.folders"], ["pictures\n"]))
    lines = shown["data.folders"].splitlines()
    found, _ = config_from(["--data.folders", *lines, "--data.trigger", "sks"])
    assert found == config
    moved = absolute({"data": {"folders": [{"folder": "ink"}, 5]}}, root)
    assert moved["data"]["folders"] == [{"folder": str(root / "ink")}, 5]


def test_a_style_file_names_no_folders(root: Path) -> None:
    config = asked(root, {"folder": "ink", "trigger": "inky"})
    made = Made(next(iter(SPECS)), "b", "", "epsilon", 64, 1, 1, 0.0, 1.0, "0")
    found = metadata_for(config, made)
    assert found["modelspec.trigger_phrase"] == "sks, inky" and str(root) not in str(found)
    assert from_mapping(recipe_of(found)).data.folders[0].trigger == "inky"


# --- in a run ---


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "base")


def run_of(base: Path, root: Path, name: str, ink: str = "ink", repeats: int = 2) -> RunConfig:
    tables: list[dict[str, Any]] = [
        {"folder": str(root / ink), "repeats": repeats, "weight": 0.5, "trigger": "inky"},
        {"folder": str(root / "kept"), "kind": "class", "weight": 3.0},
    ]
    return run_config(base, root, name, mask="none", trigger="sks", folders=tables)


def ready(config: RunConfig) -> Trainer:
    return setup.without_notes(setup.set_up(planned(config), trial=True))


def test_each_folder_has_its_repeats_weights_and_words(base: Path, root: Path) -> None:
    trainer = ready(run_of(base, root, "s"))
    order = trainer.maker.order
    seen = Counter(i for number in range(order.passes) for i in order.rows(number))
    assert seen[3] == 2 and {*seen} == {0, 1, 2, 3}  # what fills a batch is seen again
    rows = [trainer.maker.batch(number, trainer.place)[0] for number in range(12)]
    said = {caption for batch in rows for caption in batch.captions} - {""}
    own = {e.caption for e in trainer.data.examples[:3]}
    assert len(own) == 3 and all(caption.endswith("sks style") for caption in own)
    assert said == own | {"a ink/a, inky style", "a kept/k"}
    ratio = set()
    for number, batch in enumerate(rows):
        plain = trainer.parts.objective.weights(batch.t, trainer.config.optim.min_snr, False)
        wanted = [trainer.data.examples[i].weight for i in order.rows(number)]
        wanted += [3.0 * trainer.config.prior.weight] * (len(batch.t) - len(wanted))
        assert (batch.weights / plain).tolist() == pytest.approx(wanted)
        ratio |= set(wanted)
    assert ratio == {0.5, 1.0, 3.0}


def test_a_run_of_folders_resumes_to_the_bit_also_where_one_was_renamed(
    base: Path, root: Path
) -> None:
    straight, halved = (run_of(base, root, name) for name in ("one", "two"))
    list(train(straight))
    broken_off(halved, 3)
    (root / "ink").rename(root / "drawings")
    list(train(run_of(base, root, "two", "drawings")))
    assert equal(straight, halved)
    with pytest.raises(ConfigError, match=r"data\.folders: .* then"):
        list(train(run_of(base, root, "two", "drawings", repeats=3)))
    (root / "drawings" / "a.txt").write_text("something else")
    with pytest.raises(DataError, match=r"captions that were changed: data\.folders 1/a\.png"):
        list(train(run_of(base, root, "two", "drawings")))
