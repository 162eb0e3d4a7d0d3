"""A style written as a safetensors file: bytes that repeat, names of either form, hashes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from training.errors import StyleFileError
from training.storage.paths import write_whole
from training.style_files import embeddings
from training.style_files.base_family import bases as bases
from training.style_files.base_family import family_in as family_in
from training.style_files.embeddings import Words
from training.style_files.family_spec import SPECS
from training.style_files.formats import Dialect
from training.style_files.key_names import accepted_names as accepted_names
from training.style_files.key_names import canonical_name as canonical_name
from training.style_files.key_names import (
    dialect_of,
    diffusers_names,
    is_pointwise,
    standard_places,
)
from training.style_files.layers import MAX_RANK, complaint_about
from training.style_files.lora import Change, Hada, Kron, cut, zeros_of
from training.style_files.lora import Lora as Lora
from training.style_files.reading import Style, _content, style_from_bytes
from training.style_files.safetensors_io import (
    MAX_HEADER,
    STORED,
    Dtype,
    Entry,
    header_bytes,
    is_text,
    read_head,
    stored,
)
from training.style_files.safetensors_io import printable as printable
from training.style_files.transformer_places import placed_transformer

ROLES = {
    "kohya": {"down": ".lora_down.weight", "up": ".lora_up.weight"},
    "diffusers": {"down": ".lora_A.weight", "up": ".lora_B.weight"},
}


HADA = (".hada_w1_a", ".hada_w1_b", ".hada_w2_a", ".hada_w2_b")


RECOMPUTED = {
    "sshs_model_hash",
    "sshs_legacy_hash",
    "modelspec.hash_sha256",
    "lora_adapter_metadata",
}  # never copied into a file we write


EMPTY: Words = {}


def write_style(
    path: Path,
    modules: Mapping[str, Change],
    metadata: Mapping[str, str],
    *,
    dtype: Dtype = "float16",
    dialect: Dialect = "kohya",
    words: Words = EMPTY,
) -> None:
    """Write a style whole or not at all; equal input gives equal bytes. modules: keyed by the
    dialect's names; words: that it brings with it, which files in the diffusers dialect cannot
    hold.

    Hashes are computed here and added. In the diffusers dialect alpha / rank is folded into the
    weights, since it has no place for alpha. Raises StyleFileError for what read_style would refuse
    and for values that dtype cannot hold, SpaceError for a full disk.
    """
    if path.suffix.lower() != ".safetensors":
        raise StyleFileError(
            f"{path.name} does not end in .safetensors, by which other programs know a style. "
            f"Name it {path.stem}.safetensors."
        )
    write_whole(
        path, style_bytes(path.name, modules, metadata, dtype=dtype, dialect=dialect, words=words)
    )


def style_bytes(
    label: str,
    modules: Mapping[str, Change],
    metadata: Mapping[str, str],
    *,
    dtype: Dtype = "float16",
    dialect: Dialect = "kohya",
    words: Words = EMPTY,
) -> bytes:
    """The content of such a file. label: what a person calls it."""
    if words and dialect == "diffusers":
        raise StyleFileError(
            f"{label} was not written: diffusers reads words ({', '.join(words)}) from files "
            "of their own. Write them there."
        )
    if not (modules or words):
        raise StyleFileError(
            f"There are no weights to write into {label}. Train at least one part."
        )
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for name, change in modules.items():
        if complaint := complaint_about(change):
            raise StyleFileError(
                f"{label} was not written: {name} {complaint}. Train again with a lower "
                "learning rate or another seed."
            )
        for leaf, array in _leaves(change, dialect).items():
            tensors[name + leaf] = (
                STORED[dtype],
                array.shape,
                stored(label, name, array, dtype),
            )
        if not isinstance(change, Kron) and (dialect == "kohya" or isinstance(change, Hada)):
            tensors[f"{name}.alpha"] = ("F32", (), np.array(change.alpha, "<f4").tobytes())
    for name, (shape, data) in embeddings.bundled(label, words, dtype).items():
        tensors[name] = (STORED[dtype], shape, data)
    # The order of the library: wider numbers first, then by name. Hashes of the tensor area then
    # agree with other programs'.
    order = sorted(tensors, key=lambda name: (tensors[name][0] != "F32", name))
    entries, end = {}, 0
    for name in order:
        code, shape, data = tensors[name]
        entries[name] = Entry(code, shape, end, end + len(data))
        end += len(data)
    return with_metadata(label, entries, metadata, b"".join(tensors[name][2] for name in order))


def _leaves(change: Change, dialect: Dialect) -> dict[str, np.ndarray]:
    """End of a tensor's name -> the matrix. Readers take the scale of LoKr's whole factors as 1,
    whatever alpha says, so none is written.
    """
    if isinstance(change, Kron):
        return {".lokr_w1": change.one, ".lokr_w2": change.two}
    if isinstance(change, Hada):
        return dict(zip(HADA, change.matrices, strict=True))
    up = change.up if dialect == "kohya" else change.up * np.float32(change.alpha / change.rank)
    return {ROLES[dialect]["down"]: change.down, ROLES[dialect]["up"]: up}


def with_metadata(
    label: str, entries: Mapping[str, Entry], metadata: Mapping[str, str], data: bytes
) -> bytes:
    """A file of that tensor area, with hashes of it.

    Raises StyleFileError for metadata that is no text or too much.
    """
    if wrong := [key for key, value in metadata.items() if not (is_text(key) and is_text(value))]:
        raise StyleFileError(
            f"The metadata {printable(str(wrong[0]), 60)!r} for {label} is not text. Only text "
            "can be written."
        )
    kept = {key: value for key, value in metadata.items() if key not in RECOMPUTED}
    head = header_bytes(entries, kept | _hashes(entries, kept, data))
    if len(head) > MAX_HEADER:
        raise StyleFileError(
            f"The metadata for {label} makes a header of {len(head)} bytes, at most "
            f"{MAX_HEADER} are read. Shorten it."
        )
    return head + data


def _hashes(
    entries: Mapping[str, Entry], metadata: Mapping[str, str], data: bytes
) -> dict[str, str]:
    """The two hashes of sd-scripts (train_util.precalculate_safetensors_hashes) and ModelSpec's,
    which is the first one again.
    """
    area = hashlib.sha256(data).hexdigest()
    head = header_bytes(
        entries, {key: value for key, value in metadata.items() if key.startswith("ss_")}
    )
    window = (head + data[: max(0, 0x110000 - len(head))])[0x100000:0x110000]
    return {
        "sshs_model_hash": area,
        "sshs_legacy_hash": hashlib.sha256(window).hexdigest()[:8],
        "modelspec.hash_sha256": f"0x{area}",
    }


def scrubbed(path: Path, metadata: Mapping[str, str]) -> bytes:
    """The file's content with that metadata instead of its own; the weights stay as they are, byte
    for byte. Raises StyleFileError.
    """
    content = _content(path)
    style_from_bytes(content, path.name)
    head = read_head(path.name, io.BytesIO(content), len(content))
    if "lora_adapter_metadata" in head.metadata:
        raise StyleFileError(
            f"{path.name} keeps its strength in its metadata (lora_adapter_metadata). Use "
            "style-file convert, which leaves the rest out."
        )
    order = dict(sorted(head.tensors.items(), key=lambda item: item[1].begin))
    written = with_metadata(path.name, order, metadata, content[head.start :])
    back = read_head(path.name, io.BytesIO(written), len(written))
    if (
        back.tensors != head.tensors
        or memoryview(written)[back.start :] != memoryview(content)[head.start :]
    ):
        raise StyleFileError(
            f"{path.name} was not scrubbed: it would not give back its weights. Use style-file "
            "convert."
        )
    return written


def placed(style: Style, family: str) -> dict[tuple[str, str], Change]:
    """Return (part, module) -> its change without a model at hand.

    family: a name in SPECS. Raises StyleFileError for layers it does not have.
    """
    if style.magnitudes:
        raise StyleFileError(
            "This style is DoRA, whose effect depends on the base's weights. Say which with --base."
        )
    if dialect_of(family) == "diffusers":
        return placed_transformer(SPECS[family], style.modules)
    places = standard_places(family)
    if unknown := [name for name in style.modules if name not in places]:
        raise StyleFileError(
            f"{len(unknown)} of the style's {len(style.modules)} layers are none of a "
            f"{bases().get(family, family)} model, for instance {unknown[0]}."
            " Say which family it is with --family."
        )
    found: dict[tuple[str, str], Change] = {}
    for name, lora in style.modules.items():
        if places[name] in found:
            raise StyleFileError(
                f"The style holds {'.'.join(places[name])} twice, under two names. Export it "
                "again with one of them."
            )
        square = (
            (*lora.shape, 1, 1)
            if len(lora.shape) == 2 and is_pointwise(*places[name], family)
            else lora.shape
        )
        found[places[name]] = lora.shaped(square) or lora
    return found


def written_dialect(dialect: Dialect, family: str) -> Dialect:
    """The dialect in which a style of a family is written where one is asked for: transformers have
    one that all programs read.
    """
    return "diffusers" if dialect_of(family) == "diffusers" else dialect


def named(
    changes: Mapping[tuple[str, str], Change], dialect: Dialect, family: str
) -> dict[str, Change]:
    """Return name in a file -> its change.

    In kohya's dialect, attention of an OpenCLIP text encoder is written whole (see
    _whole_attention). Layers of transformers have one name, whatever the dialect.
    """
    if dialect_of(family) == "diffusers":
        return {canonical_name(*place, family): lora for place, lora in changes.items()}
    if dialect == "diffusers":
        return {
            next(iter(diffusers_names(part, [module]))): _for_diffusers(change)
            for (part, module), change in changes.items()
        }
    return {
        canonical_name(part, module, family): lora
        for (part, module), lora in _whole_attention(changes, family).items()
    }


def _for_diffusers(change: Change) -> Lora:
    """A change as the pipelines of Stable Diffusion read it, which know no other."""
    lora = change.as_lora()
    return lora if lora.rank <= MAX_RANK else cut(lora, rank=MAX_RANK)[0]


def _whole_attention(
    changes: Mapping[tuple[str, str], Change], family: str
) -> dict[tuple[str, str], Change]:
    """A1111 drops a LoRA on q, k, v or out of an OpenCLIP text encoder unless all four of a layer
    have one: the missing get zeros.
    """
    openclip = SPECS[family].openclip if family in SPECS else ""
    found = dict(changes)
    for (part, module), lora in changes.items():
        layer, _, which = module.rpartition(".")
        if part != openclip or which not in (four := ("q_proj", "k_proj", "v_proj", "out_proj")):
            continue
        for other in four:
            found.setdefault((part, f"{layer}.{other}"), zeros_of(lora.shape))
    return found


def converted(style: Style, dialect: Dialect, family: str) -> dict[str, Change]:
    """Return the style's layers under the names of another dialect, without a model at hand.

    family: a name in SPECS.
    """
    return named(placed(style, family), dialect, family)
