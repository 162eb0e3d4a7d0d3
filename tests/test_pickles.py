"""A pickle that would run a program is refused wherever a file is taken, and the program is not
run.
"""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from studio.datasets import store
from studio.library import library
from tests.test_bad_input import signals_as_before  # noqa: F401 - main() listens to signals
from training.errors import StudioError
from training.storage.paths import Workspace
from training.style_files.reading import read_style
from training.train_style import main
from training.trainer import checkpoint


class Evil:
    """What makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def plain(path: Path, evil: Evil) -> None:
    path.write_bytes(pickle.dumps({"state_dict": evil}))


def of_torch(path: Path, evil: Evil) -> None:
    torch.save({"state_dict": evil}, path)


def old_torch(path: Path, evil: Evil) -> None:
    torch.save({"state_dict": evil}, path, _use_new_zipfile_serialization=False)


def in_zip(path: Path, evil: Evil) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(evil))


MAKERS = (plain, of_torch, old_torch, in_zip)
each_maker = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)


@pytest.fixture
def evil(tmp_path: Path) -> Evil:
    return Evil(tmp_path / "it ran")


@each_maker
def test_it_would_run(make: Callable[[Path, Evil], None], tmp_path: Path, evil: Evil) -> None:
    """Else nothing below would show anything."""
    make(tmp_path / "a.pt", evil)
    if make is in_zip:
        with zipfile.ZipFile(tmp_path / "a.pt") as file:
            pickle.loads(file.read("archive/data.pkl"))
    elif make is plain:
        pickle.loads((tmp_path / "a.pt").read_bytes())
    else:
        torch.load(tmp_path / "a.pt", weights_only=False)
    assert evil.mark.exists()


@each_maker
@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin", ".pth", ".pkl", ".safetensors"])
def test_as_a_style_or_a_base_it_is_refused(
    suffix: str, make: Callable[[Path, Evil], None], tmp_path: Path, evil: Evil
) -> None:
    file = tmp_path / f"evil{suffix}"
    make(file, evil)
    with pytest.raises(StudioError):
        read_style(file)
    space = Workspace(tmp_path / "w")
    space.styles().mkdir(parents=True)
    shutil.copy(file, space.styles())
    library.styles(space)
    assert (
        main(
            [
                "--data.folder",
                str(tmp_path),
                "--base.model",
                str(file),
                "--save.folder",
                str(tmp_path / "runs"),
            ]
        )
        == 2
    )
    assert not evil.mark.exists()


@each_maker
@pytest.mark.parametrize("part", ["unet", "text_encoder", "tokenizer"])
def test_in_a_base_folder_it_is_never_opened(
    part: str, make: Callable[[Path, Evil], None], tmp_path: Path, base_folder: Path, evil: Evil
) -> None:
    base = shutil.copytree(base_folder, tmp_path / "base")
    weights = list((base / part).glob("*.safetensors"))
    for file in weights:
        file.unlink()
    names = (
        "diffusion_pytorch_model.bin",
        "pytorch_model.bin",
        "model.pt",
        "model.ckpt",
        "tokenizer.pkl",
        "scheduler.bin",
    )
    for name in names:
        make(base / part / name, evil)
    (tmp_path / "a").mkdir()
    Image.effect_noise((64, 64), 60).convert("RGB").save(tmp_path / "a" / "a.png")
    flags = {
        "data.folder": tmp_path / "a",
        "base.model": base,
        "base.device": "cpu",
        "save.folder": tmp_path / "runs",
        "save.name": "s",
    }
    flags |= {
        "optim.steps": 1,
        "optim.batch_size": 1,
        "preview.every": 0,
        "report.minutes": 0,
        "base.dtype": "float32",
    }
    code = main([word for key, value in flags.items() for word in (f"--{key}", str(value))])
    assert code == (2 if weights else 0), (
        "a base without safetensors is refused; what lies beside sound files changes nothing"
    )
    assert not evil.mark.exists()


@each_maker
def test_as_a_picture_or_a_checkpoint_it_is_refused(
    make: Callable[[Path, Evil], None], tmp_path: Path, evil: Evil
) -> None:
    files = [tmp_path / name for name in ("a.png", "a.zip", "a.pt")]
    for file in files:
        make(file, evil)
    assert not store.add(store.make(Workspace(tmp_path / "w"), "ink"), files).kept
    for name in (*checkpoint.FILES, "manifest.json"):
        folder = checkpoint.write(tmp_path / "checkpoints", 1, {"a": torch.ones(2)}, {}, keep=1)
        make(folder / name, evil)
        assert checkpoint.newest(tmp_path / "checkpoints")[0] is None
        shutil.rmtree(folder)
    assert not evil.mark.exists()
