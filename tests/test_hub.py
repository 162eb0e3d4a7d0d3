"""Bases from the hub: which files are fetched, what a broken download keeps, and what is said where
one cannot be had. The hub is a server on this machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_server import Hub, hub
from training.errors import ModelError, SpaceError
from training.models import base_files
from training.models import hub as bases
from training.models.base_files import EVERY_PART
from training.models.hub import HubFile, wanted

MODEL = "painters/tiny"
LARGE = 20_000  # bytes: the tiny base has networks on both sides of it


@pytest.fixture(scope="module")
def contents(base_folder: Path) -> dict[str, bytes]:
    files = [path for path in base_folder.rglob("*") if path.is_file()]
    return {path.relative_to(base_folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def there(contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(bases, "LARGE", LARGE)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with hub({MODEL: {**contents, "README.md": b"x", "extra/big.bin": b"y" * 99}}) as found:
        yield found


def names(*files: str) -> list[str]:
    return [file.name for file in wanted([HubFile(name, 1) for name in files], EVERY_PART)]


def test_of_every_part_the_weights_are_wanted_once() -> None:
    whole, half = (
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
    )
    vae, words = "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"
    rest = ("model_index.json", "unet/config.json")
    assert names(*rest, whole, half, vae, words) == [*rest, half, vae, words]
    shards = [f"unet/diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    assert names(*shards) == shards
    others = (
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "safety_checker/model.safetensors",
        "v1-5-pruned.safetensors",
        "vae_1_0/diffusion_pytorch_model.safetensors",
        "README.md",
    )
    assert names(*others) == []


def test_a_base_is_fetched_into_the_cache_and_found_there(
    there: Hub, contents: dict[str, bytes], tmp_path: Path
) -> None:
    reports: list[tuple[int, int]] = []
    folder = bases.fetch(
        MODEL,
        EVERY_PART,
        lambda *said: reports.append(said),
        endpoint=there.address,
        cache=tmp_path,
    )
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found >= set(contents) - {"README.md"} and "extra/big.bin" not in found
    for name in found:
        assert (folder / name).read_bytes() == contents[name]
    assert base_files.find(str(folder)).family.name == "mini"
    done, whole = zip(*reports, strict=True)
    assert list(done) == sorted(done) and set(whole) == {done[-1]}
    sent = there.sent
    bases.fetch(MODEL, EVERY_PART, endpoint=there.address, cache=tmp_path)
    assert there.sent == sent  # nothing is fetched twice


def test_a_broken_download_is_gone_on_with(
    there: Hub, contents: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = max(contents, key=lambda name: len(contents[name]))
    cut = len(contents[largest]) // 2

    class Killed(Exception):
        pass

    def killed(done: int, whole: int) -> None:
        if list(tmp_path.rglob(f"*{bases.PART}")) and done > cut:
            raise Killed

    with pytest.raises(Killed):
        bases.fetch(
            MODEL, [largest.partition("/")[0]], killed, endpoint=there.address, cache=tmp_path
        )
    (part,) = tmp_path.rglob(f"*{bases.PART}")
    kept = part.read_bytes()[:cut]
    part.write_bytes(kept)
    assert contents[largest].startswith(kept)
    there.sent = 0
    folder = bases.fetch(MODEL, EVERY_PART, endpoint=there.address, cache=tmp_path)
    assert (folder / largest).read_bytes() == contents[largest]
    assert f"bytes={cut}-" in there.ranges
    assert there.sent <= sum(map(len, contents.values())) - cut
    assert not list(tmp_path.rglob(f"*{bases.PART}"))


def test_what_arrives_damaged_is_refused(there: Hub, tmp_path: Path) -> None:
    there.damaged = True
    with pytest.raises(ModelError, match="did not arrive as the hub has it"):
        bases.fetch(MODEL, ["unet"], endpoint=there.address, cache=tmp_path)
    assert not list(tmp_path.rglob(f"*{bases.PART}"))
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_size > LARGE]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("painters/nobody", "painters/nobody cannot be downloaded.*Check the name"),
        ("painters/closed", "Accept its terms.*hf auth login"),
        ("painters/empty", "no model_index.json"),
    ],
)
def test_a_base_that_cannot_be_had_is_explained(model: str, said: str, tmp_path: Path) -> None:
    with hub({"painters/closed": {}, "painters/empty": {"a.json": b"{}"}}) as found:
        found.gated.add("painters/closed")
        with pytest.raises(ModelError, match=said):
            bases.fetch(model, EVERY_PART, endpoint=found.address, cache=tmp_path)


def test_without_a_network_it_is_said_and_what_has_arrived_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be downloaded.*HTTPS_PROXY.*is kept"):
        bases.fetch(MODEL, EVERY_PART, endpoint="http://127.0.0.1:9", cache=tmp_path)


def test_a_disk_without_room_is_reported_before_anything_is_fetched(
    there: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(SpaceError, match=r"GB more.*are free.*HF_HOME"):
        bases.fetch(MODEL, EVERY_PART, endpoint=there.address, cache=tmp_path)
    assert there.sent == 0


def test_a_training_names_a_base_by_its_hub_id(
    there: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    files = there.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", there.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ModelError, match=r"painters/other is not in the local cache\. .*Check the name"
    ):
        base_files.find("painters/other")
    assert base_files.find(MODEL).title == MODEL
    sent = there.sent
    assert base_files.find(MODEL).folder.is_dir() and there.sent == sent
