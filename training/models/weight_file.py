"""Weights of a single file in any form that is read: 32 and 16 bits, fp8 with or without a scale
for each matrix, and GGUF. What comes out is in 16 or 32 bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from training.errors import ModelError
from training.models import gguf_file
from training.style_files.safetensors_io import json_object, printable

PREFIXES = ("model.diffusion_model.", "diffusion_model.")  # of every name, in some files
FP8 = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
# What ComfyUI calls the scale of a matrix in fp8, earlier and today: weight = scale * what is kept
SCALES = (".scale_weight", ".weight_scale")
# What stands beside it and says nothing of the weights, but for the mark, which names the form
BESIDE = (".scale_input", ".input_scale", "scaled_fp8")
MARK = ".comfy_quant"
MARKED = ("float8_e4m3fn", "float8_e5m2")
LONGEST_MARK = 4096  # bytes
# Endings of names that only other quantised weights have
OTHERS = (".absmax", ".quant_map", "__nf4")


@dataclass(frozen=True)
class WeightFile:
    """A file whose header was read. shapes: of every weight, by its bare name; unread: a name that
    shows a form which is not read, "" for none; said: what a GGUF file calls itself.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    unread: str = ""
    said: str = ""
    scales: Mapping[str, str] = field(default_factory=dict)  # bare name of a weight -> its scale's


def bare(name: str) -> str:
    """A tensor's name as the authors' code has it."""
    return next((name.removeprefix(p) for p in PREFIXES if name.startswith(p)), name)


def opened(path: Path) -> WeightFile | None:
    """What a file's header says; None where it cannot be read: others say why. Raises ModelError
    for a GGUF file that is not sound.
    """
    try:
        if path.suffix.lower() == ".gguf":
            head = gguf_file.read_head(path)
            shapes = {bare(name): entry.shape for name, entry in head.tensors.items()}
            return WeightFile(path, shapes, said=head.architecture)
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_slice(name) for name in file.keys()}
            kinds = {name: slice.get_dtype() for name, slice in found.items()}
            sides = {name: tuple(slice.get_shape()) for name, slice in found.items()}
            marks = [name for name in found if name.endswith(MARK)]
            odd = next((name for name in marks if not _is_fp8(file, name, sides[name])), "")
    except (OSError, SafetensorError):
        return None
    scales = dict(_scale_of(name) for name in found if name.endswith(SCALES))
    left = {*found} - {*scales.values()} - {*marks}
    weights = [name for name in found if name in left and not name.endswith(BESIDE)]
    odd = odd or next(_unread(weights, kinds, sides, scales), "")
    shapes = {bare(name): sides[name] for name in weights}
    plain = {bare(name): scale for name, scale in scales.items()}
    return WeightFile(path, shapes, odd, scales=plain)


def _is_fp8(file: safe_open, name: str, shape: tuple[int, ...]) -> bool:
    """Whether a mark of ComfyUI's names one of the forms that are read."""
    if math.prod(shape) > LONGEST_MARK:
        return False
    content = bytes(file.get_tensor(name).flatten().to(torch.uint8).tolist())
    return json_object(content.decode("utf-8", "replace")).get("format") in MARKED


def _scale_of(name: str) -> tuple[str, str]:
    """The weight that a scale is of, and the scale."""
    return f"{name.rpartition('.')[0]}.weight", name


def _unread(
    weights: Iterable[str],
    kinds: Mapping[str, str],
    sides: Mapping[str, tuple[int, ...]],
    scales: Mapping[str, str],
) -> Iterator[str]:
    """Names that show a form which is not read."""
    for name in weights:
        if name.endswith(OTHERS) or ".quant_state." in name or kinds[name] in ("U8", "I8"):
            yield name
    for name, scale in scales.items():
        shape = sides.get(name, ())
        rows = shape[:1] if len(shape) == 2 else (1,)
        if kinds.get(name) not in FP8 or sides[scale] not in ((), (1,), (1, 1), rows, (*rows, 1)):
            yield scale


def tensors_of(file: WeightFile) -> dict[str, Tensor]:
    """Every weight, by its bare name. Raises ModelError, SafetensorError or OSError."""
    if file.path.suffix.lower() == ".gguf":
        head = gguf_file.read_head(file.path)
        return {bare(name): tensor for name, tensor in gguf_file.tensors_of(file.path, head)}
    found: dict[str, Tensor] = {}
    with safe_open(file.path, framework="pt") as content:
        for name in content.keys():
            if (own := bare(name)) in file.shapes:
                found[own] = content.get_tensor(name)
        for own, scale in file.scales.items():
            factor = content.get_tensor(scale).float()
            if not factor.isfinite().all():
                raise ModelError(
                    f"{file.path} is damaged: {printable(scale, 80)} is no finite number. "
                    "Download it again."
                )
            factor = factor.view(-1, 1) if factor.numel() > 1 else factor.reshape(())
            found[own] = (found[own].float() * factor).bfloat16()
    return found
