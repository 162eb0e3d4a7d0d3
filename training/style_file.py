"""A finished style on disk: a safetensors file of small matrices, with metadata that says what they are.

Files are read as what they are, downloads of unknown origin: nothing of them is run, trusted or used as a path. Knows numpy, not torch.

Written: the kohya dialect (see style_names), per layer exactly `lora_down.weight`, `lora_up.weight` and `alpha`, which every program reads.
Read: that, and the dotted names of diffusers and peft.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PureWindowsPath
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np

from training.config import RunConfig
from training.errors import StyleFileError
from training.style_names import Place, diffusers_names, standard_places
from training.style_names import accepted_names as accepted_names
from training.style_names import canonical_name as canonical_name
from training.workspace import write_whole

Dtype = Literal["float16", "float32", "bfloat16"]
Dialect = Literal["kohya", "diffusers"]

MAX_FILE = 2 * 2**30  # bytes
MAX_HEADER = 8 * 2**20  # bytes
MAX_TENSORS = 8192
MAX_RANK = 1024
MAX_TEXT = 64 * 2**10  # characters of one metadata value that are read as JSON or shown
MAX_WORDS = 200  # characters of a title, a trigger or a base's name

STORED = {"float16": "F16", "float32": "F32", "bfloat16": "BF16"}
ON_DISK = {"F16": "<f2", "F32": "<f4", "BF16": "<u2", "I64": "<i8"}  # numpy has no bfloat16: its bits are the upper half of a float32's
ROLES = {"kohya": {"down": ".lora_down.weight", "up": ".lora_up.weight"}, "diffusers": {"down": ".lora_A.weight", "up": ".lora_B.weight"}}
DOTTED = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".alpha": "alpha",
}
NOT_YET = {  # pattern in a tensor's name -> what it belongs to
    r"hada_\w+": "LoHa",
    r"lokr_\w+": "LoKr",
    r"dora_scale|lora_magnitude_vector": "DoRA",
    r"lora_mid": "LoCon with a Tucker core",
    r"^bundle_emb\.[^.]+": "a bundled textual inversion",
    r"^emb_params$|^clip_[lg]$": "a textual inversion",
    r"oft_(blocks|diag)": "OFT",
    r"on_input": "IA3",
    r"[wb]_norm$": "trained norms",
    r"lora_B\.bias": "a LoRA with biases",
    r"to_(q|k|v|out)_lora": "an attention-processor LoRA of 2023",
    r"\.diff(_b)?$": "full weight differences",
}
BASES = {
    "mini": "the built-in mini base",
    "sd1": "SD 1.5",
    "sd2": "SD 2.x",
    "sdxl": "SDXL",
    "sdxl-refiner": "SDXL refiner",
    "sd3": "SD 3",
    "flux": "FLUX",
}
TEXT_WIDTHS = {192: "mini", 768: "sd1", 1024: "sd2", 2048: "sdxl", 1280: "sdxl-refiner"}  # what cross-attention reads
RECOMPUTED = {"sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256", "lora_adapter_metadata"}  # never copied into a file we write


@dataclass(frozen=True, eq=False)
class Lora:
    """One layer's change. down: (r, in) or (r, in, k, k); up: (out, r) or (out, r, 1, 1); both float32. Hu et al. 2021."""

    down: np.ndarray
    up: np.ndarray
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the base's weight."""
        return (self.up.shape[0], *self.down.shape[1:])

    def delta(self) -> np.ndarray:
        """alpha / rank * up @ down, float32, in the shape of the base's weight."""
        product = self.up.reshape(self.up.shape[0], -1) @ self.down.reshape(self.rank, -1)
        return (product * np.float32(self.alpha / self.rank)).astype(np.float32, copy=False).reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Style:
    """A style file, read and checked. modules: keyed as in the file; metadata: unchecked text, for display; warnings: sentences for the user."""

    modules: dict[str, Lora]
    metadata: dict[str, str]
    sha256: str
    dialect: Dialect = "kohya"
    dtype: Dtype = "float16"
    warnings: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return printable(self.metadata.get("modelspec.title") or self.metadata.get("ss_output_name", ""), MAX_WORDS)

    @property
    def trigger(self) -> str:
        return printable(self.metadata.get("modelspec.trigger_phrase", ""), MAX_WORDS)

    @property
    def base(self) -> str:
        """Name of the base it was trained on, "" when the file does not say."""
        return printable(self.metadata.get("ss_sd_model_name", ""), MAX_WORDS)

    @property
    def family(self) -> str:
        """mini, sd1, sd2, sdxl, sdxl-refiner, sd3 or flux: from the weights, else from the metadata; "" when neither tells."""
        return family_of(self.modules) or family_in(self.metadata)

    @property
    def prediction(self) -> str:
        """epsilon or v_prediction, "" when the file does not say: weights do not show it."""
        return {"epsilon": "epsilon", "v": "v_prediction"}.get(self.metadata.get("modelspec.prediction_type", ""), "")

    @property
    def ranks(self) -> str:
        """`16`, or `4 to 32` when they differ."""
        ranks = sorted({lora.rank for lora in self.modules.values()})
        return str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"

    @property
    def recipe(self) -> dict[str, Any]:
        """The RunConfig that made it as nested tables, {} when it was made elsewhere. Unchecked: give it to config.from_mapping."""
        return _json_object(self.metadata.get("style_studio.recipe", "")[:MAX_TEXT])


# Reading


def read_style(path: Path) -> Style:
    """Return the style in a file after checking all of it. Raises StyleFileError for anything that is not a sound LoRA."""
    content = _content(path)
    head = _head(path, io.BytesIO(content), len(content))
    dialect, layers = _layers(path, head.tensors)
    for name, entry in head.tensors.items():
        allowed = {"F16", "BF16", "F32"} | ({"I64"} if name.endswith(".alpha") else set())
        if entry.dtype not in allowed:
            raise StyleFileError(f"{path.name} stores {name} as {entry.dtype}, expected F16, BF16 or F32. Convert it to float16 where it was made.")
    data = memoryview(content)[head.start :]
    arrays = {name: _array(entry, data) for name, entry in head.tensors.items()}
    adapter = _adapter(path, head.metadata) if dialect == "diffusers" else {}
    modules = {name: _lora(path, name, {role: arrays[key] for role, key in keys.items()}, adapter) for name, keys in layers.items()}
    kinds = {entry.dtype for name, entry in head.tensors.items() if not name.endswith(".alpha")}
    dtype = next((dtype for dtype, stored in STORED.items() if kinds == {stored}), "float32")
    return Style(modules, head.metadata, hashlib.sha256(content).hexdigest(), dialect, dtype, _warnings(modules, head.metadata))


def read_metadata(path: Path) -> dict[str, str]:
    """Return only the metadata: quick, for lists. Checks the header as read_style does, not the weights."""
    _checked_place(path)
    try:
        with path.open("rb") as file:
            return _head(path, file, path.stat().st_size).metadata
    except OSError as error:
        raise StyleFileError(f"{path} cannot be read ({error.strerror}). Check its permissions and its disk.") from error


def _checked_place(path: Path) -> None:
    if path.is_dir():
        raise StyleFileError(f"{path} is a folder, a style file was expected. Give the .safetensors file inside it.")
    if not path.is_file():
        what = "is not a regular file" if path.exists() else "is not there"
        raise StyleFileError(f"{path} {what}. Give the path of a .safetensors style file.")
    if path.suffix.lower() != ".safetensors":
        raise StyleFileError(
            f"{path.name} is a {path.suffix or 'nameless'} file, expected .safetensors. Formats such as .pt, .bin and .ckpt can run"
            " programs hidden in them and are never opened: get the style as .safetensors."
        )


def _content(path: Path) -> bytes:
    _checked_place(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise StyleFileError(f"{path} cannot be read ({error.strerror}). Check its permissions and its disk.") from error
    if len(content) > MAX_FILE:
        raise StyleFileError(f"{path.name} is larger than 2 GiB, which no style is. Is it a whole model? Then give it as base.model.")
    return content


class _Entry(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    begin: int  # bytes from the start of the tensor area
    end: int


class _Head(NamedTuple):
    metadata: dict[str, str]
    tensors: dict[str, _Entry]
    start: int  # of the tensor area, bytes from the start of the file


def _head(path: Path, file: BinaryIO, size: int) -> _Head:
    """Parse and check a safetensors header: 8 bytes of length, then JSON. size: of the whole file, bytes."""
    first = file.read(64)
    length = int.from_bytes(first[:8], "little")
    if len(first) < 9 or first[8:9] != b"{":  # looked at before any magic number: a header may well be 0x80 or "PK" long
        raise StyleFileError(f"{path.name} is {_disguised(first)}. Get the style as .safetensors and check the download.")
    if length > MAX_HEADER:
        raise StyleFileError(f"{path.name} claims a header of {length} bytes, at most {MAX_HEADER} are read. It is damaged or hostile: get another.")
    file.seek(8)
    raw = file.read(length)
    if len(raw) < length:
        raise _damaged(path, f"it ends after {size} bytes, inside its header")
    metadata, tensors = _parsed(path, raw)
    end = 0
    for name, entry in sorted(tensors.items(), key=lambda item: item[1].begin):
        width = np.dtype(ON_DISK[entry.dtype]).itemsize if entry.dtype in ON_DISK else None
        wrong_size = 0 in entry.shape or (width is not None and entry.end - entry.begin != math.prod(entry.shape) * width)
        if entry.begin != end or entry.end < entry.begin or wrong_size:
            raise _damaged(path, f"the bytes of {name} overlap others, leave a gap or do not fit its shape")
        end = entry.end
    if end != size - 8 - length:
        raise _damaged(path, f"it has {size} bytes, its header promises {end + 8 + length}")
    return _Head(metadata, tensors, 8 + length)


def _disguised(first: bytes) -> str:
    """What a file that is no safetensors file looks like."""
    text = first.lstrip().lower()
    if not first:
        return "empty"
    if first.startswith((b"PK", b"\x80")):
        return "a pickle or zip file under another name, which can run programs hidden in it and is never opened"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page, not a style (perhaps the download wanted a login)"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself (run `git lfs pull`)"
    return "not a safetensors file"


def _damaged(path: Path, what: str) -> StyleFileError:
    return StyleFileError(f"{path.name} is damaged: {what}. Download or export it again.")


def _parsed(path: Path, raw: bytes) -> tuple[dict[str, str], dict[str, _Entry]]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name stands twice in it")
        return found

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except RecursionError:
        raise _damaged(path, "its header is nested too deeply") from None
    except ValueError as error:
        raise _damaged(path, f"its header is not sound JSON ({printable(str(error), 120)})") from None
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(_is_text(value) for pair in metadata.items() for value in pair):
        raise _damaged(path, "its metadata is not text")
    if not header or len(header) > MAX_TENSORS:
        raise StyleFileError(f"{path.name} holds {len(header)} tensors, expected 1 to {MAX_TENSORS}. It is no style: choose another file.")
    return metadata, {name: _entry(path, name, found) for name, found in header.items()}


def _is_text(value: object) -> bool:
    """A string that can be written as UTF-8: JSON can also spell half of a surrogate pair."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def _entry(path: Path, name: str, found: Any) -> _Entry:
    if not re.fullmatch(r"[A-Za-z0-9_.*-]{1,256}", name):
        raise StyleFileError(f"{path.name} holds a tensor named {printable(name, 60)!r}, which no style has. Do not use it.")
    numbers = [*found["shape"], *found["data_offsets"]] if _is_described(found) else [-1]
    if any(type(n) is not int or n < 0 for n in numbers):
        raise _damaged(path, f"its header does not describe {name} properly")
    return _Entry(found["dtype"], tuple(found["shape"]), *found["data_offsets"])


def _is_described(found: Any) -> bool:
    if not isinstance(found, dict) or found.keys() != {"dtype", "shape", "data_offsets"}:
        return False
    lists = isinstance(found["shape"], list) and isinstance(found["data_offsets"], list)
    return lists and isinstance(found["dtype"], str) and len(found["shape"]) <= 8 and len(found["data_offsets"]) == 2


def _layers(path: Path, names: Iterable[str]) -> tuple[Dialect, dict[str, dict[str, str]]]:
    """Return the dialect and layer -> role (down, up, alpha) -> tensor's name. Raises StyleFileError for what is not a LoRA."""
    layers: dict[str, dict[str, str]] = {}
    dialects: set[Dialect] = set()
    strange = []
    for name in sorted(names):
        dialect, layer, role = _role(name)
        if not role:
            strange.append(name)
            continue
        dialects.add(dialect)
        if role in layers.setdefault(layer, {}):
            raise StyleFileError(f"{path.name} holds {layer} twice, in two spellings. Export it again with one of them.")
        layers[layer][role] = name
    if strange:
        raise _unsupported(path, strange, bool(layers))
    if len(dialects) > 1:
        raise StyleFileError(f"{path.name} mixes kohya and diffusers names, expected one of them. Export it again in one format.")
    for layer, keys in layers.items():
        if missing := [role for role in ("down", "up") if role not in keys]:
            raise _damaged(path, f"{layer} has no {missing[0]} weight")
    return dialects.pop(), layers


def _role(name: str) -> tuple[Dialect, str, str]:
    """(dialect, layer, role) of a tensor's name; role is "" for an unknown one."""
    layer, _, leaf = name.partition(".")
    known = {"lora_down.weight": "down", "lora_up.weight": "up", "alpha": "alpha"}
    if leaf in known:
        return "kohya", layer, known[leaf]
    for suffix, role in DOTTED.items():
        if name.endswith(suffix):
            return "diffusers", name.removesuffix(suffix), role
    return "kohya", name, ""


def _unsupported(path: Path, strange: list[str], others: bool) -> StyleFileError:
    for pattern, kind in NOT_YET.items():
        if found := next(filter(None, (re.search(pattern, name) for name in strange)), None):
            return StyleFileError(f"{path.name} holds {kind} ({found.group().strip('.')}), which is not supported yet. Use a plain LoRA.")
    shown = ", ".join(strange[:3])
    if others:
        return StyleFileError(f"{path.name} holds tensors that no LoRA has ({shown}), which is not supported yet. Use a plain LoRA.")
    return StyleFileError(f"{path.name} is no style: it holds {shown}. If it is a whole model, give it as base.model.")


def _array(entry: _Entry, data: memoryview) -> np.ndarray:
    found = np.frombuffer(data[entry.begin : entry.end], ON_DISK[entry.dtype]).reshape(entry.shape)
    if entry.dtype == "BF16":
        return (found.astype(np.uint32) << 16).view(np.float32)
    return found.astype(np.float32)


def _lora(path: Path, name: str, arrays: Mapping[str, np.ndarray], adapter: Mapping[str, Any]) -> Lora:
    down, up = arrays["down"], arrays["up"]
    if "alpha" not in arrays:
        alpha = _adapter_alpha(path, name, down.shape[0], adapter) if down.ndim else 0.0
    elif arrays["alpha"].shape in ((), (1,)):
        alpha = float(arrays["alpha"].reshape(()))
    else:
        raise _damaged(path, f"the alpha of {name} has the shape {arrays['alpha'].shape}, a single number was expected")
    lora = Lora(down, up, alpha)
    if complaint := _complaint(lora):
        raise StyleFileError(f"{path.name} cannot be used: {name} {complaint}. Export it again, or use another file.")
    return lora


def _adapter(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The settings that diffusers writes beside peft weights, {} when there are none."""
    text = metadata.get("lora_adapter_metadata", "")
    found = _json_object(text)
    if text and not found:
        raise _damaged(path, "its lora_adapter_metadata, which says how strong the style is, is not sound JSON")
    return found


def _adapter_alpha(path: Path, name: str, rank: int, adapter: Mapping[str, Any]) -> float:
    """alpha of a layer in a peft file: from its adapter metadata, else the rank. Patterns are taken as plain names, never as expressions."""
    part, _, module = name.partition(".")
    module = module.removeprefix("text_model.")
    pattern = adapter.get(f"{part}.alpha_pattern") or {}
    alpha = adapter.get(f"{part}.lora_alpha", rank)
    if adapter.get(f"{part}.use_dora"):
        raise StyleFileError(f"{path.name} holds DoRA (use_dora), which is not supported yet. Use a plain LoRA.")
    if not isinstance(pattern, dict) or not all(re.fullmatch(r"[A-Za-z0-9_.]+", key) for key in pattern):
        raise StyleFileError(f"{path.name} has an alpha_pattern with expressions in it, expected plain names. Export it again in kohya format.")
    alpha = next((a for key, a in pattern.items() if f".{module}".endswith(f".{key.removeprefix('text_model.')}")), alpha)
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or abs(alpha) > 1e6:
        raise StyleFileError(f"{path.name} gives {name} an alpha that is no number. Export it again in kohya format.")
    return float(alpha) * (math.sqrt(rank) if adapter.get(f"{part}.use_rslora") is True else 1.0)


def _complaint(lora: Lora) -> str:
    """What is wrong with a layer, "" when nothing is."""
    down, up, alpha = lora.down, lora.up, lora.alpha
    shapes = f"(lora_down {down.shape}, lora_up {up.shape})"
    if down.ndim not in (2, 4) or up.ndim != down.ndim or 0 in (*down.shape, *up.shape) or up.shape[2:] not in ((), (1, 1)):
        return f"has weights of shapes that no LoRA has {shapes}"
    if up.shape[1] != lora.rank or lora.rank > MAX_RANK:
        return f"has ranks that do not agree or are above {MAX_RANK} {shapes}"
    if not (math.isfinite(alpha) and 0 < alpha <= max(64 * lora.rank, 1024)):
        return f"has an alpha of {alpha:g}, expected more than 0 and at most {max(64 * lora.rank, 1024)}"
    if not (np.isfinite(down).all() and np.isfinite(up).all()):
        return "holds values that are not finite (NaN or infinity)"
    return ""


def _warnings(modules: Mapping[str, Lora], metadata: Mapping[str, str]) -> tuple[str, ...]:
    found = []
    if not any(lora.up.any() and lora.down.any() for lora in modules.values()):
        found.append("All its weights are zero: it changes nothing.")
    by_weights, by_words = family_of(modules), family_in(metadata)
    if by_weights and by_words and by_weights != by_words:
        found.append(f"Its metadata says {BASES[by_words]}, its weights are those of {BASES[by_weights]}: the weights count.")
    return tuple(found)


def _json_object(text: str) -> dict[str, Any]:
    """JSON of unknown origin; {} for anything but an object of bearable depth."""
    try:
        found = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def printable(text: str, limit: int = MAX_TEXT) -> str:
    """Text of unknown origin for a terminal: without control and direction marks, cut to limit characters."""
    kept = "".join(c if c.isprintable() else " " for c in text[:limit])
    return f"{kept}…" if len(text) > limit else kept


# Which base


def family_of(modules: Mapping[str, Lora]) -> str:
    """Return the kind of base that the weights show (see BASES), "" when they fit several or none."""
    return _family_of_shapes({name: lora.shape for name, lora in modules.items()})


def _family_of_shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """shapes: name in either dialect -> shape of the base's weight."""
    names = {name.replace(".", "_"): shape for name, shape in shapes.items()}
    if any(word in name for name in names for word in ("double_blocks", "single_blocks", "single_transformer_blocks")):
        return "flux"
    if any("joint_blocks" in name or name.startswith("transformer_") for name in names):
        return "sd3"
    if width := _text_width(shapes):
        return TEXT_WIDTHS.get(width, "")
    # sgm names are only used for SDXL, and only SDXL has a second text encoder or more than two transformer blocks in a row.
    if any(re.search(r"^lora_te2_|^text_encoder_2_|_(input|middle|output)_blocks?_|transformer_blocks_[2-9]_", name) for name in names):
        return "sdxl"
    # A first text encoder alone is 768 wide in SD 1.5 and SDXL; only sd-scripts' prefix for a single one tells them apart.
    hidden = {(name.startswith("lora_te_"), shape[1]) for name, shape in names.items() if name.endswith("self_attn_q_proj")}
    if hidden:
        return "sd1" if (True, 768) in hidden else "sd2" if hidden & {(True, 1024), (False, 1024)} else ""
    first = [shape for name, shape in names.items() if name.endswith("down_blocks_0_attentions_0_proj_in") and shape[0] == 320]
    return ("sd1" if len(first[0]) == 4 else "sd2") if first else ""


def _text_width(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """How wide the text is that cross-attention reads, 0 when no such layer is there."""
    ends = ("attn2_to_k", "attn2_to_v")
    return next((shape[1] for name, shape in shapes.items() if name.replace(".", "_").endswith(ends)), 0)


def family_in(metadata: Mapping[str, str]) -> str:
    """Return the kind of base that the metadata claims, "" when it claims none."""
    version, architecture = metadata.get("ss_base_model_version", ""), metadata.get("modelspec.architecture", "")
    starts = {"style_studio_mini": "mini", "style-studio-mini": "mini", "sdxl": "sdxl"}
    starts |= {"sd_v1": "sd1", "sd_1": "sd1", "sd_v2": "sd2", "sd_2": "sd2", "sd3": "sd3", "flux": "flux"}
    starts |= {"stable-diffusion-xl-v1-refiner": "sdxl-refiner", "stable-diffusion-xl": "sdxl", "stable-diffusion-v1": "sd1"}
    starts |= {"stable-diffusion-v2": "sd2", "stable-diffusion-3": "sd3"}
    return next((family for start, family in starts.items() for text in (version, architecture) if text.startswith(start)), "")


def match(style: Style, names: Mapping[str, Place]) -> dict[tuple[str, str], Lora]:
    """Return (part, live module) -> its Lora, in the shape of the base's weight. names: from accepted_names.

    Strict: one layer that the base does not have, or has in another shape, and StyleFileError says what the style was made for.
    """
    matched: dict[tuple[str, str], Lora] = {}
    unfit = []
    for name, lora in style.modules.items():
        part, module, shape = names.get(name, ("", "", ()))
        fitted = _fitted(lora, shape)
        if fitted is None:
            unfit.append(f"{name} ({_size(lora.shape)} in the style, {_size(shape) if shape else 'not'} in the base)")
        elif (part, module) in matched:
            raise StyleFileError(f"The style holds {part}.{module} twice, under two names. Export it again with one of them.")
        else:
            matched[part, module] = fitted
    if unfit:
        count = f"{len(unfit)} of the style's {len(style.modules)} layers"
        listed = "\n".join(f"  - {line}" for line in unfit[:5])
        more = f"\n  and {len(unfit) - 5} more" if len(unfit) > 5 else ""
        raise StyleFileError(f"{_diagnosis(style, names)} Choose the base it was made for, or another style. {count} do not fit:\n{listed}{more}")
    return matched


def _fitted(lora: Lora, shape: tuple[int, ...]) -> Lora | None:
    """The Lora in the shape of a weight; a linear layer and a 1x1 convolution are the same thing. None when it does not fit."""
    if lora.shape == shape:
        return lora
    if lora.shape[:2] != shape[:2] or {*lora.shape[2:], *shape[2:]} != {1} or len(shape) not in (2, 4):
        return None
    ones = (1,) * (len(shape) - 2)
    return Lora(lora.down.reshape(*lora.down.shape[:2], *ones), lora.up.reshape(*lora.up.shape[:2], *ones), lora.alpha)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _diagnosis(style: Style, names: Mapping[str, Place]) -> str:
    """In words, why a style does not fit a base."""
    base_shapes = {f"{part}.{module}": shape for part, module, shape in names.values()}
    own, base = style.family, _family_of_shapes(base_shapes)
    width, base_width = _text_width({name: lora.shape for name, lora in style.modules.items()}), _text_width(base_shapes)
    made_for = f" It was trained on {style.base!r}." if style.base else ""
    article = "a" if own == "flux" else "an"
    kind = "a style for another base" if not own else f"a style for {BASES[own]}" if own == "mini" else f"{article} {BASES[own]} style"
    if own and base and own != base:
        return f"This is {kind}, your base is {BASES[base]}.{made_for}"
    if width and base_width and width != base_width:
        its = f"your base is {BASES[base]} and has {base_width}" if base else f"your base's {base_width} wide"
        return f"This is {kind} whose cross-attention reads text {width} wide, {its}.{made_for}"
    return f"This is {kind}, your base has other layers.{made_for}"


# Writing


def write_style(
    path: Path, modules: Mapping[str, Lora], metadata: Mapping[str, str], *, dtype: Dtype = "float16", dialect: Dialect = "kohya"
) -> None:
    """Write a style whole or not at all; equal input gives equal bytes. modules: keyed by the dialect's names.

    Hashes are computed here and added. In the diffusers dialect alpha / rank is folded into the weights, since it has no place for alpha.
    Raises StyleFileError for what read_style would refuse and for values that dtype cannot hold, SpaceError for a full disk.
    """
    if path.suffix.lower() != ".safetensors":
        raise StyleFileError(f"{path.name} does not end in .safetensors, by which other programs know a style. Name it {path.stem}.safetensors.")
    if not modules:
        raise StyleFileError(f"There are no weights to write into {path.name}. Train at least one part.")
    if wrong := [key for key, value in metadata.items() if not (_is_text(key) and _is_text(value))]:
        raise StyleFileError(f"The metadata {printable(str(wrong[0]), 60)!r} for {path.name} is not text. Only text can be written.")
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for name, lora in modules.items():
        if complaint := _complaint(lora):
            raise StyleFileError(f"{path.name} was not written: {name} {complaint}. Train again with a lower learning rate or another seed.")
        up = lora.up if dialect == "kohya" else lora.up * np.float32(lora.alpha / lora.rank)
        for role, array in (("down", lora.down), ("up", up)):
            tensors[name + ROLES[dialect][role]] = (STORED[dtype], array.shape, _stored(path, name, array, dtype))
        if dialect == "kohya":
            tensors[f"{name}.alpha"] = ("F32", (), np.array(lora.alpha, "<f4").tobytes())
    # The order of the library: wider numbers first, then by name. Hashes of the tensor area then agree with other programs'.
    order = sorted(tensors, key=lambda name: (tensors[name][0] != "F32", name))
    data = b"".join(tensors[name][2] for name in order)
    described = {name: tensors[name] for name in order}
    kept = {key: value for key, value in metadata.items() if key not in RECOMPUTED}
    head = _header_bytes(described, kept | _hashes(described, kept, data))
    if len(head) > MAX_HEADER:
        raise StyleFileError(f"The metadata for {path.name} makes a header of {len(head)} bytes, at most {MAX_HEADER} are read. Shorten it.")
    write_whole(path, head + data)


def _stored(path: Path, name: str, array: np.ndarray, dtype: Dtype) -> bytes:
    """The little-endian bytes of an array in dtype. Raises StyleFileError when a value does not fit."""
    array = np.ascontiguousarray(array, np.float32)
    with np.errstate(over="ignore"):
        if dtype == "bfloat16":  # round to nearest, ties to even
            bits = array.view(np.uint32)
            found = ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
            fits = bool(((found & 0x7F80) != 0x7F80).all())
        else:
            found = array.astype(ON_DISK[STORED[dtype]])
            fits = bool(np.isfinite(found).all())
    if not fits:
        largest = float(np.abs(array).max())
        raise StyleFileError(f"{path.name} was not written: {name} holds {largest:g}, too large for {dtype}. Save the style as float32.")
    return found.tobytes()


def _header_bytes(tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]], metadata: Mapping[str, str]) -> bytes:
    """Length and JSON, padded to 8 bytes. The library's own writer shuffles metadata, so files would differ from save to save."""
    header: dict[str, Any] = {"__metadata__": {key: metadata[key] for key in sorted(metadata)}}
    begin = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, begin + len(data)]}
        begin += len(data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _hashes(tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]], metadata: Mapping[str, str], data: bytes) -> dict[str, str]:
    """The two hashes of sd-scripts (train_util.precalculate_safetensors_hashes) and ModelSpec's, which is the first one again."""
    whole = hashlib.sha256(data).hexdigest()
    head = _header_bytes(tensors, {key: value for key, value in metadata.items() if key.startswith("ss_")})
    window = (head + data[: max(0, 0x110000 - len(head))])[0x100000:0x110000]
    return {"sshs_model_hash": whole, "sshs_legacy_hash": hashlib.sha256(window).hexdigest()[:8], "modelspec.hash_sha256": f"0x{whole}"}


def converted(style: Style, dialect: Dialect, family: str) -> dict[str, Lora]:
    """Return the style's layers under the names of another dialect, without a model at hand. family: sd1, sd2 or sdxl."""
    places = standard_places(family)
    if unknown := [name for name in style.modules if name not in places]:
        raise StyleFileError(
            f"{len(unknown)} of the style's {len(style.modules)} layers are none of a {BASES.get(family, family)} model, for instance {unknown[0]}."
            " Say which family it is with --family."
        )
    found: dict[str, Lora] = {}
    for name, lora in style.modules.items():
        part, module = places[name]
        new = canonical_name(part, module, family) if dialect == "kohya" else next(iter(diffusers_names(part, [module])))
        if new in found:
            raise StyleFileError(f"The style holds {part}.{module} twice, under two names. Export it again with one of them.")
        found[new] = lora
    return found


# Metadata


def metadata_for(
    config: RunConfig,
    *,
    family: str,
    base_name: str,
    base_hash: str,
    prediction: Literal["epsilon", "v_prediction"],
    resolution: int,
    steps: int,
    pictures: int,
    started: float,
    finished: float,
    version: str,
) -> dict[str, str]:
    """What a style says about itself: ModelSpec 1.0.1, the ss_ keys that other programs show, and our recipe. No paths, no captions.

    base_hash: sha256 of the base's file, "" when it has none; resolution: px; steps: updates done; started, finished: seconds since 1970.
    """
    found = _modelspec(config, family, prediction, resolution, finished, version)
    found |= _kohya_metadata(config, family, prediction, resolution)
    found |= {
        "ss_sd_model_name": _model_name(base_name),
        "ss_new_sd_model_hash": base_hash,
        "ss_steps": str(steps),
        "ss_num_train_images": str(pictures),
        "ss_training_started_at": str(float(started)),
        "ss_training_finished_at": str(float(finished)),
        "style_studio.format": "1",
        "style_studio.default_weight": "1.0",
        "style_studio.recipe": json.dumps(_recipe(config), ensure_ascii=False, sort_keys=True),
    }
    return {key: value for key, value in found.items() if value}


def _modelspec(config: RunConfig, family: str, prediction: str, resolution: int, finished: float, version: str) -> dict[str, str]:
    v_prediction = prediction == "v_prediction"
    architecture = {
        "mini": "style-studio-mini/lora",
        "sd1": "stable-diffusion-v1/lora",
        "sd2": "stable-diffusion-v2-768-v/lora" if v_prediction else "stable-diffusion-v2-512/lora",
        "sdxl": "stable-diffusion-xl-v1-base/lora",
    }[family]
    usage = config.data.template.format(caption="what to draw", trigger=config.data.trigger) if config.data.trigger else "what to draw"
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": architecture,
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models" if family == "sdxl" else "diffusers",
        "modelspec.implementation_version": f"style-studio/{version}",
        "modelspec.title": config.save.name,
        "modelspec.description": "A style, made with Style Studio.",
        "modelspec.resolution": f"{resolution}x{resolution}",
        "modelspec.date": datetime.fromtimestamp(finished, UTC).isoformat(timespec="seconds"),
        "modelspec.author": config.save.author,
        "modelspec.license": config.save.licence,
        "modelspec.tags": "style",
        "modelspec.trigger_phrase": config.data.trigger,
        "modelspec.usage_hint": f"Prompt: {usage}",
        "modelspec.prediction_type": "v" if v_prediction else "epsilon",
    }


def _kohya_metadata(config: RunConfig, family: str, prediction: str, resolution: int) -> dict[str, str]:
    base = {"mini": "style_studio_mini", "sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}[family]
    adapter, optim = config.adapter, config.optim
    convolutions = {"conv_dim": str(adapter.rank), "conv_alpha": str(adapter.alpha)} if "convolutions" in adapter.targets else {}
    return {
        "ss_base_model_version": f"{base}_v" if prediction == "v_prediction" and family in ("sd1", "sd2") else base,
        "ss_v2": str(family == "sd2"),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(adapter.rank),
        "ss_network_alpha": str(adapter.alpha),
        "ss_network_args": json.dumps(convolutions),
        "ss_output_name": config.save.name,
        "ss_resolution": f"({resolution}, {resolution})",
        "ss_learning_rate": str(optim.unet_lr),
        "ss_unet_lr": str(optim.unet_lr),
        "ss_text_encoder_lr": str(optim.text_encoder_lr),
        "ss_optimizer": "AdamW",
        "ss_lr_scheduler": optim.schedule,
        "ss_max_train_steps": str(optim.steps),
        "ss_batch_size_per_device": str(optim.batch_size),
        "ss_total_batch_size": str(optim.batch_size),
        "ss_gradient_accumulation_steps": str(optim.accumulate),
        "ss_gradient_checkpointing": str(optim.checkpointing),
        "ss_max_grad_norm": str(optim.clip),
        "ss_min_snr_gamma": str(optim.min_snr or None),
        "ss_noise_offset": str(optim.noise_offset or None),
        "ss_caption_dropout_rate": str(config.data.caption_dropout),
        "ss_num_reg_images": str(config.prior.images),
        "ss_prior_loss_weight": str(config.prior.weight),
        "ss_seed": str(optim.seed),
        "ss_clip_skip": "None",
        "ss_mixed_precision": {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}.get(config.base.dtype, ""),
    }


def _recipe(config: RunConfig) -> dict[str, Any]:
    """The settings without what is nobody else's business: folders keep their last name, preview prompts stay at home."""
    found = config.model_dump(mode="json")
    found["base"]["model"] = _model_name(config.base.model)
    for section in ("data", "prior", "save"):
        found[section]["folder"] = _last_name(found[section]["folder"])
    del found["preview"]["prompts"]
    return found


def _model_name(model: str) -> str:
    """The last part of a path; a hub id (`owner/name`) is no path and stays."""
    return model if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", model) else _last_name(model)


def _last_name(path: str) -> str:
    return PureWindowsPath(path).name  # knows / and \ alike
