"""A message about a picture or a folder names the true cause and what to do."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import httpx2 as httpx
import huggingface_hub
import pytest
import torch
from huggingface_hub import errors as hub
from safetensors import SafetensorError

from studio.datasets import archives, base_info
from studio.system import doctor, storage
from tests.test_image_worker import WHITE, file_of
from training.data import file_content, image_worker
from training.data.dataset import read_dataset
from training.data.file_content import read_content
from training.data.pictures import open_picture
from training.errors import DataError, ModelError, SpaceError
from training.models import base_files, files, loader, single_file
from training.runtime.device import DeviceSpec
from training.storage.disk_errors import advice, reading_aid
from training.style_files import merge


def frame_of(marker: int, bits: int) -> bytes:
    """A JPEG whose frame says that it is of another kind."""
    good = bytearray(file_of("JPEG"))
    at = good.index(b"\xff\xc0")
    good[at + 1], good[at + 4] = marker, bits
    return bytes(good)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (frame_of(0xC1, 12), "is a JPEG of 12 bits, which is not read. Save it as PNG"),
        (frame_of(0xC3, 8), "is a lossless or hierarchical JPEG, which is not read"),
        (b"\0\0\0\x18ftypavif" + bytes(99), "is damaged or cut off"),
        (b"II+\0\x08\0\0\0" + bytes(99), "is a BigTIFF file, which is not read"),
        (b"8BPS" + bytes(99), "is a Photoshop file in spite of its name"),
        (b"\0\0\0\x18ftypisom" + bytes(99), "is a video in spite of its name"),
        (b"\0\0\0\x14ftypqt  " + bytes(99), "is a video in spite of its name"),
        (b"<?xml version='1.0'?><svg/>", "is an SVG file in spite of its name"),
        (b"\xff\x0a" + bytes(99), "is a JPEG XL file in spite of its name"),
        (b"PK\3\4" + bytes(99), "is a zip file in spite of its name"),
        (b"RIFF\x10\0\0\0AVI " + bytes(99), "is a sound or a video in spite of its name"),
        (file_of("JPEG")[:20], "is damaged or cut off"),
    ],
)
def test_what_is_no_picture_of_ours_is_called_what_it_is(
    content: bytes, said: str, tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.jpg") as caught:
        open_picture(tmp_path / "a.jpg")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.EACCES, "Allow reading it"),
        (errno.EIO, "Look whether its disk is sound"),
        (errno.ESTALE, "Look whether its disk is sound"),
    ],
)
def test_a_disk_that_fails_is_no_question_of_permission(
    code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> bytes:
        raise OSError(code, os.strerror(code))

    (tmp_path / "a.txt").write_text("a cat")
    monkeypatch.setattr(file_content, "read_regular", failing)
    with pytest.raises(DataError, match=said):
        read_content(tmp_path / "a.txt", 100)


def test_a_file_that_is_gone_is_no_link(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is gone"):
        read_content(tmp_path / "a.png", 100)
    (tmp_path / "a.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="a link to nowhere"):
        read_content(tmp_path / "a.png", 100)


@pytest.mark.parametrize("name", ["set.zip", "set.RAR", "set.tar.gz"])
def test_an_archive_as_the_folder_is_to_be_unpacked(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"PK\3\4")
    with pytest.raises(DataError, match=r"Unpack it and set data\.folder"):
        read_dataset(tmp_path / name)


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_a_decoder_that_the_system_killed_is_not_only_blamed_on_the_picture() -> None:
    image_worker.decode(file_of("PNG"), WHITE)
    worker = image_worker._pool().idle[-1]
    worker.process.kill()
    worker.process.wait()
    said = str(worker._lost())
    assert "memory was full" in said and "try again" in said


def test_a_decoder_that_cannot_start_is_not_the_pictures_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "PIL").mkdir()
    (tmp_path / "PIL" / "__init__.py").write_text("raise ImportError('half installed')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    worker = image_worker._Worker()
    with pytest.raises(DataError, match="install the program again") as caught:
        worker.ask(file_of("PNG"), {"background": WHITE, "pixels": True})
    worker.close()
    assert "damaged" not in str(caught.value)


def on_windows(code: int, winerror: int) -> OSError:
    error: Any = OSError(code, "as Windows says it")
    error.winerror = winerror
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "Allow reading it"),
        (OSError(errno.EIO, "Input/output error"), "disk is sound"),
        (OSError(errno.ESTALE, "Stale file handle"), "disk is sound"),
        (OSError(errno.EMFILE, "Too many open files"), "close other programs"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "Memory was full"),
        (MemoryError(), "Memory was full"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "Memory was full"),
        (SafetensorError("I/O error: Permission denied (os error 13)"), "Allow reading it"),
        (SafetensorError("Error while deserializing header: HeaderTooLarge"), ""),
        (on_windows(errno.EINVAL, 362), "Always keep on this device"),
        (on_windows(errno.EINVAL, 388), "Always keep on this device"),
        (on_windows(errno.EACCES, 32), "close that program"),
        (ValueError("no JSON"), ""),
        (OSError("no file named x"), ""),
    ],
)
def test_what_hindered_reading_is_not_what_is_wrong_with_a_file(
    error: Exception, said: str
) -> None:
    assert said in reading_aid(error) and bool(reading_aid(error)) == bool(said)
    assert (files.remedy(error) == "Download the base again.") == (not said)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "Too many files are open"),
        (OSError(errno.ENFILE, "Too many open files in system"), "Too many files are open"),
        (on_windows(errno.EINVAL, 395), "kept in a cloud"),
        (on_windows(errno.ENOENT, 206), "Use shorter names"),
    ],
)
def test_advice_on_writing_fits_what_other_systems_say(error: OSError, said: str) -> None:
    assert said in advice(error) and advice(error).endswith("or choose another folder.")


@pytest.mark.parametrize(
    ("code", "said"), [(errno.EACCES, "Allow reading it"), (errno.EIO, "disk is sound")]
)
def test_a_base_that_cannot_be_read_is_not_downloaded_again(
    code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> bytes:
        raise OSError(code, os.strerror(code))

    (tmp_path / "config.json").write_text("{}")
    for module in (files, base_info):
        monkeypatch.setattr(module, "read_regular", failing)
    monkeypatch.setattr(single_file, "safe_open", failing)
    for read in (
        lambda: files.read_json(tmp_path / "config.json", "base"),
        lambda: base_info._json(tmp_path / "config.json"),
        lambda: single_file.examined(tmp_path / "model.safetensors"),
    ):
        with pytest.raises(ModelError, match=said) as caught:
            read()
        assert "ownload" not in str(caught.value) and "damaged" not in str(caught.value)


def test_full_memory_is_no_damaged_base(base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(diffusers.AutoencoderKL, "from_pretrained", full)
    place = DeviceSpec(torch.device("cpu"), torch.float32)
    with pytest.raises(ModelError, match="Memory was full") as caught:
        loader.load_part(base_files.find(str(base_folder)), "vae", place)
    assert "ownload" not in str(caught.value)


@pytest.mark.skipif(os.name != "posix", reason="the bound on a file's size is POSIX's")
def test_a_disk_that_takes_no_more_is_not_the_zips_fault(tmp_path: Path) -> None:
    import resource

    with zipfile.ZipFile(tmp_path / "in.zip", "w") as file:
        file.writestr("a.png", bytes(50_000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(SpaceError, match="takes no file of this size") as caught:
            archives.unpacked(tmp_path / "in.zip", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "Pack it again" not in str(caught.value)


def refused(kind: type[hub.HfHubHTTPError], status: int) -> Exception:
    asked = httpx.Request("GET", "https://huggingface.co/api/models/someone/base")
    return kind("the hub said no", response=httpx.Response(status, request=asked))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (refused(hub.GatedRepoError, 403), "Accept its terms"),
        (refused(hub.RepositoryNotFoundError, 401), "Check the name"),
        (hub.LocalEntryNotFoundError("no connection"), "HTTPS_PROXY"),
        (httpx.ReadError("the connection ended"), "HTTPS_PROXY"),
        (OSError(errno.ENOSPC, "No space left on device"), "Free space on that disk or set HF"),
        (PermissionError(errno.EACCES, "Permission denied"), "owner and permissions"),
        (hub.HFValidationError("Repo id must be in the form"), "names such as owner/name"),
    ],
)
def test_why_the_hub_gave_nothing_is_said(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: object, **__: object) -> str:
        raise hub.LocalEntryNotFoundError("not here")

    def failed(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", nothing)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", failed)
    monkeypatch.setattr(huggingface_hub.constants, "is_offline_mode", lambda: False)
    with pytest.raises(ModelError, match=said):
        base_files._downloaded("someone/base")
    monkeypatch.setattr(huggingface_hub.constants, "is_offline_mode", lambda: True)
    if isinstance(error, hub.LocalEntryNotFoundError):
        with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
            base_files._downloaded("someone/base")


def test_a_busy_machine_is_no_reason_to_install_torch_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(storage, "LONGEST_LOOK", 0.01)
    [finding] = doctor._device()
    assert finding.state == "bad" and "no answer within" in finding.words
    assert "nstall" not in finding.advice and "doctor" not in finding.words


def test_a_cover_that_is_not_there_is_no_picture_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Give the path of a"):
        merge._thumbnail(tmp_path / "gone.png")


@pytest.mark.parametrize(
    ("pretended", "said"),
    [
        ("version_info = (3, 10, 9)", "needs Python 3.11 or newer"),
        ("version_info = (2, 7, 18)", "needs Python 3.11 or newer"),
        ("maxsize = 2**31 - 1", "of 32 bits"),
        ("modules['fcntl'] = None", "was built without fcntl"),
        ("modules['resource'] = None", "was built without resource"),
    ],
)
@pytest.mark.parametrize("module", ["studio", "training.train_style"])
def test_another_python_says_which_one_is_needed(module: str, pretended: str, said: str) -> None:
    """At once, with no traceback, at every entry."""
    script = f"import sys; sys.{pretended}; import {module}"
    done = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
