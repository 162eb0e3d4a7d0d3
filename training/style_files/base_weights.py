"""The weights of a base on disk, a diffusers folder, one tensor at a time: to compare two of them,
and to write one with a style merged into it, as a folder or as one file.

Knows numpy and safetensors files, no torch; a base of any size passes through the memory of its
largest layer.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from training.errors import ModelError, SpaceError, StyleFileError
from training.storage.disk_errors import advice, cause, not_read
from training.storage.paths import fsync_folder, open_regular
from training.style_files.checkpoint_keys import Piece, pieces
from training.style_files.key_names import WORDS
from training.style_files.lora import Change
from training.style_files.safetensors_io import (
    ON_DISK,
    Dtype,
    Entry,
    Head,
    array_of,
    header_bytes,
    json_object,
    read_head,
    stored,
)
from training.system import file_system

DTYPES: dict[str, Dtype] = {"F16": "float16", "F32": "float32", "BF16": "bfloat16"}
COPIED = (
    ".json",
    ".txt",
    ".md",
    ".model",
    ".jinja",
)  # what goes along into a new base; pickles do not
EMBEDDINGS = ("token_embedding", "position_embedding")


class _Tensor(NamedTuple):
    file: Path
    entry: Entry
    start: int  # of its file's tensor area, bytes


class BaseWeights:
    """An opened diffusers folder. shapes: part -> module -> shape of every linear and 2-D
    convolution.

    Raises ModelError for a folder without a denoiser, StyleFileError for a damaged file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = {part: found for part in WORDS if (found := _weight_files(folder / part))}
        if not {"unet", "transformer"} & set(self.files):
            raise ModelError(
                f"{folder} holds no unet/ or transformer/ with .safetensors weights. Give a "
                "diffusers folder."
            )
        self.tensors: dict[tuple[str, str], _Tensor] = {}  # (part, name in the file)
        for part, files in self.files.items():
            for path in files:
                head = _head(path)
                self.tensors |= {
                    (part, name): _Tensor(path, entry, head.start)
                    for name, entry in head.tensors.items()
                }

        self.shapes = self._found_shapes()

    def _found_shapes(self) -> dict[str, dict[str, tuple[int, ...]]]:
        found: dict[str, dict[str, tuple[int, ...]]] = {part: {} for part in self.files}
        for (part, name), tensor in self.tensors.items():
            module = name.removesuffix(".weight")
            if (
                module != name
                and len(tensor.entry.shape) in (2, 4)
                and not module.endswith(EMBEDDINGS)
            ):
                found[part][module] = tensor.entry.shape
        return found

    def tensor(self, part: str, name: str) -> np.ndarray:
        """float32. Raises KeyError for what is not there, ModelError for numbers that are no floats
        of 16 or 32 bits.
        """
        path, entry, start = self.tensors[part, name]
        if entry.dtype not in ON_DISK:
            raise ModelError(_other_precision(path, name, entry.dtype))
        with open_regular(path) as file:
            file.seek(start + entry.begin)
            return array_of(entry, file.read(entry.end - entry.begin))

    def weight(self, part: str, module: str) -> np.ndarray:
        return self.tensor(part, f"{module}.weight")


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors of one part, whole or in shards; of several variants the one without
    a name.
    """
    found = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    plain = [path for path in found if ".fp16." not in path.name]
    return plain or found


def _other_precision(place: Path, name: str, found: str) -> str:
    return (
        f"{place} stores {name} as {found}, expected one of F16, BF16 and F32. Take this base in "
        "16 bits, or write it so with diffusers: load it with torch_dtype=torch.float16, then "
        "save_pretrained."
    )


def _head(path: Path) -> Head:
    try:
        with open_regular(path) as file:
            return read_head(path.name, file, path.stat().st_size)
    except OSError as error:
        raise ModelError(not_read(path, error)) from error


def write_with_style(
    base: BaseWeights,
    changes: Mapping[tuple[str, str], Change],
    out: Path,
    on_progress: Callable[[str], None] | None = None,
) -> None:
    """Write a new base, the old one with changes added to its weights: whole or not at all.
    changes: (part, module as in the base) -> its change.

    Everything keeps its precision; on_progress gets the name of each file. Raises StyleFileError
    when out exists or a value does not fit, SpaceError.
    """
    if out.exists() or out.is_symlink():
        raise StyleFileError(
            f"{out} exists. A base is written into a new folder only: choose another name."
        )
    weighed = {path for files in base.files.values() for path in files}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name[:40]}.", dir=out.parent) as unfinished:
            target = Path(unfinished) / "base"
            target.mkdir(mode=0o755)
            for path in _going_along(base):
                copy = target / path.relative_to(base.folder)
                copy.parent.mkdir(exist_ok=True)
                if on_progress:
                    on_progress(path.relative_to(base.folder).as_posix())
                if path in weighed:
                    _write_with_style(
                        path,
                        copy,
                        {
                            m: lora
                            for (part, m), lora in changes.items()
                            if part == path.parent.name
                        },
                    )
                else:
                    shutil.copyfile(path, copy)
            file_system.rename(target, out)
        fsync_folder(out.parent)
    except OSError as error:
        raise SpaceError(f"{out} could not be written ({cause(error)}). {advice(error)}") from error


def _going_along(base: BaseWeights) -> Iterator[Path]:
    """Every file of the folder that a new base needs:

    of the weights one variant, no pickles, nothing hidden, nothing deeper.
    """
    for path in sorted([*base.folder.glob("*"), *base.folder.glob("*/*")]):
        if not path.is_file() or any(
            name.startswith(".") for name in path.relative_to(base.folder).parts
        ):
            continue
        weights = (
            path.suffix == ".safetensors"
            and path.parent != base.folder
            and path in _weight_files(path.parent)
        )
        if weights or path.suffix in COPIED or path.name.startswith("LICENSE"):
            yield path


def _write_with_style(path: Path, copy: Path, changes: Mapping[str, Change]) -> None:
    """One file, tensor by tensor; the header stays as it is, since shapes and precision do."""
    head = _head(path)
    with path.open("rb") as source, copy.open("wb") as target:
        target.write(source.read(head.start))
        for name, entry in sorted(head.tensors.items(), key=lambda item: item[1].begin):
            data = source.read(entry.end - entry.begin)
            lora = changes.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
            target.write(data if lora is None else _with_style(path, name, entry, data, lora))
        target.flush()
        os.fsync(target.fileno())


def _with_style(path: Path, name: str, entry: Entry, data: bytes, lora: Change) -> bytes:
    if entry.dtype not in DTYPES:
        raise ModelError(_other_precision(path, name, entry.dtype))
    # What becomes too large is reported by stored
    with np.errstate(over="ignore", invalid="ignore"):
        changed = array_of(entry, data) + lora.delta()
    return stored(path.name, name, changed, DTYPES[entry.dtype])


def write_single(
    base: BaseWeights,
    family: str,
    changes: Mapping[tuple[str, str], Change],
    out: Path,
    on_progress: Callable[[str], None] | None = None,
) -> None:
    """Write the base with changes added as one checkpoint in Stability's layout, whole or not at
    all; tensor by tensor, in its own precision.

    The file says what the base predicts, in its metadata and by the empty tensors that ComfyUI
    looks for. Raises StyleFileError, SpaceError.
    """
    if out.exists() or out.is_symlink():
        raise StyleFileError(
            f"{out} exists. A base is written into a new file only: choose another name."
        )
    parts = {part: _tensors_of(base.folder / part) for part in (*base.files, "vae")}
    if not parts["vae"]:
        raise ModelError(
            f"{base.folder} holds no vae/ with .safetensors weights, without which no "
            "checkpoint is whole. Give a base that has one, or a folder as --out."
        )
    shapes = {
        part: {name: tensor.entry.shape for name, tensor in tensors.items()}
        for part, tensors in parts.items()
    }
    found = pieces(family, shapes)
    entries = _entries(base.folder, found, parts)
    end = max(entry.end for entry in entries.values())
    metadata, marks = _predicts(base.folder)
    entries |= {mark: Entry("F32", (0,), end, end) for mark in marks}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name[:40]}.", dir=out.parent) as unfinished:
            path = Path(unfinished) / "base.safetensors"
            with path.open("wb") as file:
                file.write(header_bytes(entries, metadata))
                for piece in found:
                    if on_progress:
                        on_progress(piece.name)
                    for name in piece.of:
                        file.write(_content_of(parts[piece.part][name], piece, name, changes))
                file.flush()
                os.fsync(file.fileno())
            file_system.rename(path, out)
        fsync_folder(out.parent)
    except OSError as error:
        raise SpaceError(f"{out} could not be written ({cause(error)}). {advice(error)}") from error


def _entries(
    folder: Path, found: Sequence[Piece], parts: Mapping[str, Mapping[str, _Tensor]]
) -> dict[str, Entry]:
    """Where each tensor of a checkpoint lies, in the base's own precision.

    Raises ModelError when the tensors of a piece differ in it, or have another one.
    """
    entries: dict[str, Entry] = {}
    end = 0
    for piece in found:
        dtypes = {parts[piece.part][name].entry.dtype for name in piece.of}
        if len(dtypes) > 1 or not dtypes <= set(DTYPES):
            raise ModelError(_other_precision(folder, piece.name, " and ".join(sorted(dtypes))))
        (dtype,) = dtypes
        size = math.prod(piece.shape) * np.dtype(ON_DISK[dtype]).itemsize
        entries[piece.name] = Entry(dtype, piece.shape, end, end + size)
        end += size
    return entries


def _tensors_of(folder: Path) -> dict[str, _Tensor]:
    found = {}
    for path in _weight_files(folder):
        head = _head(path)
        found |= {name: _Tensor(path, entry, head.start) for name, entry in head.tensors.items()}
    return found


def _content_of(
    tensor: _Tensor, piece: Piece, name: str, changes: Mapping[tuple[str, str], Change]
) -> bytes:
    path, entry, start = tensor
    with open_regular(path) as file:
        file.seek(start + entry.begin)
        data = file.read(entry.end - entry.begin)
    lora = (
        changes.get((piece.part, name.removesuffix(".weight")))
        if name.endswith(".weight")
        else None
    )
    if lora is not None:
        data = _with_style(path, name, entry, data, lora)
    if piece.turned:
        data = np.ascontiguousarray(
            np.frombuffer(data, ON_DISK[entry.dtype]).reshape(entry.shape).T
        ).tobytes()
    return data


def _predicts(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Metadata and names of empty tensors that say what a base predicts."""
    path = folder / "scheduler" / "scheduler_config.json"
    scheduler = (
        json_object(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else {}
    )
    v = scheduler.get("prediction_type") == "v_prediction"
    marks = ["v_pred"] * v + ["ztsnr"] * (scheduler.get("rescale_betas_zero_snr") is True)
    return {"modelspec.prediction_type": "v" if v else "epsilon"}, marks
