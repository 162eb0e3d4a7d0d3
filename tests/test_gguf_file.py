"""GGUF files: read as the package of the format's authors reads them, whole or not at all."""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from tests.test_transformer_file import own_cache, published, transformer_of
from training.errors import ModelError
from training.models import base_files, gguf_file

__all__ = ("own_cache",)  # a fixture
Kind = gguf.GGMLQuantizationType
K_BLOCKS = {Kind.Q2_K: 84, Kind.Q3_K: 110, Kind.Q4_K: 144, Kind.Q5_K: 176, Kind.Q6_K: 210}


def written(path: Path, tensors: dict[str, tuple[np.ndarray, Kind]], arch: str = "flux") -> Path:
    """A file as the authors' own writer makes it. Arrays: of bytes, of the kind."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_array("tokenizer.words", ["a", "bc"])
    writer.add_array("comfy.gguf.orig_shape.folded", [2, 16, 16])
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def some(kind: Kind) -> np.ndarray:
    """Three rows of a kind, as bytes."""
    rng = np.random.default_rng(kind)
    if kind in K_BLOCKS:  # which the package cannot make
        blocks = rng.integers(0, 256, (3, K_BLOCKS[kind]), dtype=np.uint8)
        scales = rng.normal(size=(3, 2)).astype("<f2").view(np.uint8)
        if kind in (Kind.Q4_K, Kind.Q5_K):
            blocks[:, :4] = scales
        elif kind == Kind.Q2_K:
            blocks[:, -4:] = scales
        else:
            blocks[:, -2:] = scales[:, :2]
        return blocks
    values = rng.normal(size=(3, 256)).astype(np.float32)
    if kind in (Kind.F32, Kind.F16):
        return values.astype(np.float32 if kind == Kind.F32 else np.float16)
    return gguf.quants.quantize(values, kind)


@pytest.mark.parametrize("number", gguf_file.KINDS)
def test_every_kind_is_read_as_its_authors_read_it(number: int, tmp_path: Path) -> None:
    kind, path = Kind(number), tmp_path / "a.gguf"
    folded = np.arange(512, dtype=np.float32).reshape(2, 256)
    written(path, {"first": (some(kind), kind), "folded": (folded, Kind.F32)})
    head = gguf_file.read_head(path)
    assert head.architecture == "flux"
    found = dict(gguf_file.tensors_of(path, head))
    (first, _) = gguf.GGUFReader(path).tensors
    wanted = gguf.quants.dequantize(first.data, first.tensor_type)
    assert np.isfinite(wanted).all() and found["first"].shape == (3, 256)
    exact = torch.from_numpy(np.array(wanted, np.float32))
    # Of 8 digits of bfloat16, the last is rounded
    torch.testing.assert_close(found["first"].float(), exact, rtol=2**-8, atol=0)
    assert found["folded"].shape == (2, 16, 16)
    assert torch.equal(found["folded"].flatten(), torch.arange(512.0))


@pytest.fixture
def base(flow_base: Callable[[str], Path], tmp_path: Path) -> tuple[Path, Path]:
    """A file of Z-Image whose matrices have 8 bits, and the folder that it was made of."""
    folder, tensors = flow_base("z-image"), {}
    for name, tensor in published("z-image", folder).items():
        array = tensor.numpy()
        small = array.ndim == 2 and array.shape[1] % 32 == 0
        kind = Kind.Q8_0 if small else Kind.F32
        tensors[name] = (gguf.quants.quantize(array, kind) if small else array, kind)
    return written(tmp_path / "z.gguf", tensors, "lumina2"), folder


def test_a_file_is_a_base(base: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path, folder = base
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "gguf", None)
        with pytest.raises(ModelError, match=r"Q8_0, .*pip install \"style-studio\[gguf\]\""):
            base_files.find(str(path), str(folder))
    found, wanted = transformer_of(path, folder), published("z-image", folder)
    for name in ("layers.1.feed_forward.w2.weight", "cap_embedder.0.weight"):
        largest = float(wanted[name].abs().max())
        assert 0 <= float((found[name] - wanted[name]).abs().max()) < largest / 100
    assert base_files.find(str(path)).family.name == "z-image"


def test_other_files_are_refused_in_words(tmp_path: Path) -> None:
    array = np.zeros((2, 32), np.float32)
    other = written(tmp_path / "a.gguf", {"blk.0.ffn_up.weight": (array, Kind.F32)}, "llama")
    with pytest.raises(ModelError, match="a GGUF file of 'llama' that is no transformer"):
        base_files.find(str(other))
    packed = np.zeros((2, 17), np.uint8)
    other = written(tmp_path / "b.gguf", {"a": (packed, Kind.MXFP4)})
    with pytest.raises(ModelError, match=r"holds a in a kind that is not read \(number 39"):
        base_files.find(str(other))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    """Cut off anywhere, or with any byte of its header changed: refused, or of the same shapes."""
    whole = written(tmp_path / "a.gguf", {"a": (some(Kind.Q8_0), Kind.Q8_0)}).read_bytes()
    sound, path = gguf_file.read_head(tmp_path / "a.gguf"), tmp_path / "b.gguf"

    def refused(content: bytes, message: str = "no sound GGUF file|in a kind") -> bool:
        path.write_bytes(content)
        try:
            head = gguf_file.read_head(path)
        except ModelError as error:
            assert re.search(message, str(error)) and str(path) in str(error)
            return True
        assert all(entry.begin + entry.size <= len(content) for entry in head.tensors.values())
        return False

    end = sound.tensors["a"].begin + sound.tensors["a"].size
    assert all(refused(whole[:length]) for length in range(0, end, 7))
    rng = np.random.default_rng(0)
    changed = 0
    for place in range(sound.tensors["a"].begin):
        content = bytearray(whole)
        content[place] ^= int(rng.integers(1, 256))
        changed += refused(bytes(content))
    assert changed > 50
    many = struct.pack("<4sIQQ", b"GGUF", 3, 1, 1) + struct.pack("<Q1sIIQ", 1, b"k", 9, 8, 2**62)
    assert refused(many + b"\0" * 1000)
    assert refused(struct.pack("<4sIQQ", b"GGUF", 3, 2**60, 0) + b"\0" * 64)
