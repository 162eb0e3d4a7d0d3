"""base.storage: what auto chooses on cards of every size, and that a run keeps to it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.flow_shapes import DUAL, FLOWS
from tests.test_training import changed, config, equal, of, pictures
from training.config.schema import RunConfig
from training.errors import ConfigError
from training.events import Noted, Stepped
from training.models import base_files, loader
from training.runtime import memory
from training.runtime.device import DeviceSpec
from training.style_files.reading import read_style
from training.trainer import base_storage, joint, predicted_memory
from training.trainer.loop import train
from training.trainer.plan import planned

__all__ = ("config", "pictures")  # fixtures

CONFIGS = Path(loader.__file__).parent / "configs"
GPU = DeviceSpec(torch.device("cuda"), torch.bfloat16)
CPU = DeviceSpec(torch.device("cpu"), torch.float32)
BYTES = {"sd1": 2 * 1.07e9, "sdxl": 2 * 3.47e9}  # of the published files in 16 bits


@pytest.fixture
def files(request: pytest.FixtureRequest, tmp_path: Path) -> base_files.BaseFiles:
    """A base of true size as its folder shows it: configs, and files with nothing in them."""
    for part, found in json.loads((CONFIGS / f"{request.param}.json").read_text()).items():
        names = {"model_index": "model_index.json", "scheduler": "scheduler/scheduler_config.json"}
        kind = "tokenizer_config" if part.startswith("tokenizer") else "config"
        path = tmp_path / names.get(part, f"{part}/{kind}.json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found))
        (path.parent / "vocab.json").write_text("{}")
    for part in base_files.FAMILIES[request.param].classes:
        with (tmp_path / part / "model.safetensors").open("wb") as file:
            file.truncate(int(BYTES[request.param] / 3))  # sparse
    return base_files.find(str(tmp_path))


@pytest.fixture
def flow_files(request: pytest.FixtureRequest, tmp_path: Path) -> base_files.BaseFiles:
    """The same of a transformer, up to 20 billion weights."""
    shape, family = FLOWS[request.param], FLOWS[request.param].family
    transformer = {"_class_name": family.classes["transformer"], **shape.config, **shape.blocks}
    if DUAL in shape.blocks:
        transformer[DUAL] = list(range(shape.blocks[DUAL]))
    configs: dict[str, dict[str, Any]] = {
        "transformer": transformer,
        "vae": {"block_out_channels": [128, 256, 512, 512]},
    }
    for part in (*family.classes, *family.tokenizers, "scheduler"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(configs.get(part, {})))
        for name, text in (
            ("vocab.json", "{}"),
            ("tokenizer_config.json", '{"chat_template": "x"}'),
        ):
            (tmp_path / part / name).write_text(text)
        with (tmp_path / part / "model.safetensors").open("wb") as file:
            file.truncate(10 * 2**30)  # sparse
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": family.pipeline}))
    return base_files.find(str(tmp_path))


CARDS = (8, 12, 16, 24, 32, 48, 80)  # GB


@pytest.mark.parametrize(
    ("flow_files", "chosen"),
    [
        ("flux", ["", "nf4", "nf4", "int8", "", "", ""]),
        ("chroma", ["", "nf4", "int8", "", "", "", ""]),
        ("klein4", ["int8", "", "", "", "", "", ""]),
        ("klein9", ["", "nf4", "int8", "", "", "", ""]),
        ("z-image", ["nf4", "int8", "int8", "", "", "", ""]),
        ("sd35-medium", ["", "", "", "", "", "", ""]),
        ("sd35-large", ["nf4", "int8", "int8", "", "", "", ""]),
        ("qwen-image", ["", "", "", "nf4", "int8", "", ""]),
        ("krea2", ["", "", "nf4", "int8", "", "", ""]),
    ],
    indirect=["flow_files"],
)
def test_auto_knows_transformers(
    flow_files: base_files.BaseFiles,
    chosen: list[str],
    config: RunConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At 1024 px, the most exact that fits the card; where nothing does, base.dtype stays. What is
    chosen is predicted to fit.
    """
    outline = loader.outline(flow_files, "transformer")
    monkeypatch.setattr(loader, "outline", lambda files, part: outline)
    usual = changed(config, data__resolution=1024, adapter__rank=16)
    found = []
    for gib in CARDS:
        with_gib(monkeypatch, gib)
        place = base_storage.chosen(usual, flow_files, GPU).place
        found.append(place.storage)
        if place.storage:
            assert predicted_memory.predicted(usual, flow_files, place).peak <= gib
    assert found == chosen


def with_gib(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    monkeypatch.setattr(memory, "free", lambda device: gib)
    monkeypatch.setattr(base_storage, "has_nf4", lambda: True)


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        # Where nothing fits, base.dtype stays: a prediction forbids nobody to try
        ("sd1", {1: "", 2: "nf4", 3: "int8", 4: "", 6: "", 8: "", 12: "", 24: "", 80: ""}),
        ("sdxl", {4: "", 5: "nf4", 6: "int8", 8: "int8", 10: "", 12: "", 16: "", 24: "", 80: ""}),
    ],
    indirect=["files"],
)
def test_auto_takes_the_most_exact_that_fits_the_card(
    files: base_files.BaseFiles,
    chosen: dict[int, str],
    config: RunConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: dict[str, nn.Module] = {}
    outline = loader.outline
    monkeypatch.setattr(  # once each
        loader,
        "outline",
        lambda files, part: made.get(part) or made.setdefault(part, outline(files, part)),
    )
    kept = [replace(GPU, storage=storage) for storage in base_storage.ladder(GPU)]
    peaks = [predicted_memory.predicted(config, files, place).peak for place in kept]
    assert peaks == sorted(peaks, reverse=True)
    found = {}
    for gib in chosen:
        with_gib(monkeypatch, gib)
        place, note = base_storage.chosen(config, files, GPU)
        found[gib] = place.storage
        assert bool(note) == bool(place.storage)
    assert found == chosen


@pytest.mark.parametrize("files", ["sd1"], indirect=True)
def test_what_is_learnt_and_its_size_count(files: base_files.BaseFiles, config: RunConfig) -> None:
    def peak(place: DeviceSpec = GPU, **keys: object) -> float:
        return predicted_memory.predicted(changed(config, **keys), files, place).peak

    usual = peak()
    assert peak(optim__text_encoder_lr=0.0) < usual < peak(adapter__rank=64)
    assert usual < peak(optim__ema=0.9) and usual < peak(data__resolution=1024)
    assert peak(replace(GPU, dtype=torch.float32)) > 1.8 * usual - predicted_memory.LIBRARIES
    # A CPU holds everything
    assert peak(replace(CPU, dtype=torch.bfloat16)) > usual


def test_nf4_without_its_package_is_refused_before_anything_is_loaded(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_storage, "has_nf4", lambda: False)
    monkeypatch.setattr("training.models.loader.load", None)
    with pytest.raises(ConfigError, match=r"bitsandbytes.*pip install.*nf4.*int8"):
        list(train(changed(config, base__storage="nf4")))


def test_a_run_on_int8_is_repeated_resumed_and_kept_to(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What auto chose stays when the memory has become larger, and the recipe says it."""
    config = changed(config, optim__steps=4, save__every=2)
    straight = changed(config, base__storage="int8", save__name="straight")
    whole = changed(config, save__name="whole")
    list(train(straight))
    list(train(whole))
    assert not equal(straight, whole)

    def by_memory(config: RunConfig, files: object, place: DeviceSpec) -> base_storage.Chosen:
        return base_storage.Chosen(replace(place, storage="int8"), "kept as int8")

    with monkeypatch.context() as small:
        small.setattr(base_storage, "_by_memory", by_memory)
        run = train(config)
        said = [next(run)]
        steps = 0
        for event in run:
            said.append(event)
            steps += isinstance(event, Stepped)
            if steps == 3:
                break
        run.close()
    assert any("int8" in event.message for event in of(Noted, said))
    other = changed(config, base__storage="bfloat16")
    with pytest.raises(ConfigError, match=r"base\.storage: int8 then, bfloat16 now"):
        planned(other)
    assert planned(changed(config, base__storage="int8")).place.storage == "int8"
    list(train(config))
    assert equal(straight, config)
    made = read_style(config.run_folder / "s.safetensors").metadata
    assert json.loads(made["style_studio.recipe"])["base"]["storage"] == "int8"


def test_styles_that_keep_the_base_differently_cannot_share_it(config: RunConfig) -> None:
    other = changed(config, base__storage="int8", save__name="other")
    with pytest.raises(ConfigError, match=r"kept as float32 for s and as int8 for other"):
        joint.checked([config, other])
    plans = joint.checked([changed(config, base__storage="int8"), other])
    assert [plan.place.storage for plan in plans] == ["int8", "int8"]


@pytest.mark.parametrize("files", ["sd1"], indirect=True)
def test_a_forecast_says_with_what_it_would_fit(
    files: base_files.BaseFiles, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As auto would choose, else smaller pictures, else nothing."""
    made: dict[str, nn.Module] = {}
    outline = loader.outline
    monkeypatch.setattr(
        loader,
        "outline",
        lambda files, part: made.get(part) or made.setdefault(part, outline(files, part)),
    )
    usual = changed(config, data__resolution=1024)
    place = DeviceSpec(GPU.device, GPU.dtype)
    found = {}
    for gib in (1, 2.6, 4, 6, 24):
        with_gib(monkeypatch, gib)
        found[gib] = base_storage.forecast(usual, files, place)
        stored = base_storage.chosen(usual, files, place).place.storage
        if found[gib].side == 1024:  # it is what the training does
            assert found[gib].storage == stored and found[gib].needed <= found[gib].room
        else:
            assert stored == "" and found[gib].needed > found[gib].room
    assert (found[1].storage, found[1].side) == (None, 0)
    assert found[2.6].side in (512, 768) and found[24].storage == ""
    with_gib(monkeypatch, 4)
    whole = base_storage.forecast(changed(usual, base__storage="bfloat16"), files, place)
    assert whole.needed > whole.room and whole.storage == found[4].storage
