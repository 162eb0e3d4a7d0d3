"""A finished style on disk: a safetensors file of small matrices, with metadata that says what they
are.

Files are read as what they are, downloads of unknown origin: nothing of them is run, trusted or
used as a path. Every tensor is accounted for; training.style_files.formats knows the names. Knows
numpy, not torch.
"""

from __future__ import annotations

import hashlib
import io
import stat
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from training.errors import StyleFileError
from training.storage.disk_errors import not_read
from training.storage.paths import mode_of, open_regular, read_regular
from training.style_files import embeddings, remarks
from training.style_files.base_family import bases as bases
from training.style_files.base_family import family_in as family_in
from training.style_files.base_family import family_of_shapes, settled
from training.style_files.embeddings import Words, family_of_words
from training.style_files.formats import Dialect, check_sizes, sorted_out
from training.style_files.key_names import WORDS
from training.style_files.key_names import accepted_names as accepted_names
from training.style_files.key_names import canonical_name as canonical_name
from training.style_files.layers import Layer, Magnitude, Settings, layer_of
from training.style_files.lora import Change as Change
from training.style_files.lora import Lora as Lora
from training.style_files.metadata import read_as
from training.style_files.safetensors_io import (
    MAX_TEXT,
    STORED,
    Dtype,
    Head,
    array_of,
    checked_place,
    damaged,
    json_object,
    read_head,
)
from training.style_files.safetensors_io import printable as printable

MAX_FILE = 2 * 2**30  # bytes
MAX_CONFIG = 2**20  # bytes of an adapter_config.json or lora_adapter_metadata
HIGH_RANK = 256  # above it a rank is remarked on
MAX_WORDS = 200  # characters of a title, a trigger or a base's name
PEFT = "adapter_config.json"


@dataclass(frozen=True, eq=False)
class Style:
    """A style file, read and checked.

    modules: keyed as in the file; metadata: unchecked text, for display; warnings: sentences for
    the user.
    """

    modules: dict[str, Change]
    metadata: dict[str, str]
    sha256: str
    dialect: Dialect = "kohya"
    dtype: Dtype = "float16"
    warnings: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("LoRA",)  # what the file holds
    # DoRA's; a style with any cannot be matched without the base's weights
    magnitudes: Mapping[str, Magnitude] = field(default_factory=dict)
    # That it brings with it (textual inversion): word -> text encoder -> vectors
    words: Words = field(default_factory=dict)

    @property
    def title(self) -> str:
        return printable(
            self.metadata.get("modelspec.title") or self.metadata.get("ss_output_name", ""),
            MAX_WORDS,
        )

    @property
    def trigger(self) -> str:
        return printable(self.metadata.get("modelspec.trigger_phrase", ""), MAX_WORDS)

    @property
    def base(self) -> str:
        """Name of the base it was trained on, "" when the file does not say."""
        return printable(self.metadata.get("ss_sd_model_name", ""), MAX_WORDS)

    @property
    def family(self) -> str:
        """The kind of base, one of bases(); "" when it cannot be found out.

        From the weights, else from the metadata.
        """
        by_weights = family_of(self.modules) or family_of_words(self.words)
        return settled(by_weights, family_in(self.metadata))

    @property
    def prediction(self) -> str:
        """epsilon or v_prediction, "" when the file does not say: weights do not show it."""
        return {"epsilon": "epsilon", "v": "v_prediction"}.get(
            self.metadata.get("modelspec.prediction_type", ""), ""
        )

    @property
    def reading(self) -> tuple[int, int]:
        """Clip skip and pieces of captions that it was trained with: see metadata.read_as."""
        return read_as(self.metadata)

    @property
    def ranks(self) -> str:
        """`16`, or `4 to 32` when they differ; "" for words and products of other kinds alone."""
        ranks = sorted({c.rank for c in self.modules.values() if isinstance(c, Lora)})
        return "".join(map(str, ranks)) if len(ranks) < 2 else f"{ranks[0]} to {ranks[-1]}"

    @property
    def recipe(self) -> dict[str, Any]:
        """What recipe_of reads in its metadata."""
        return recipe_of(self.metadata)


def family_of(modules: Mapping[str, Change]) -> str:
    """Return the kind of base that the weights show (see bases), "" when they fit several
    or none.
    """
    return family_of_shapes({name: change.shape for name, change in modules.items()})


def read_style(path: Path) -> Style:
    """Return the style in a file, or in a folder that peft wrote, after checking all of it.

    Raises StyleFileError for what cannot be read whole.
    """
    if stat.S_ISDIR(mode_of(path)) and (folders := _peft_folders(path)):
        return _joined([_read_peft(folder, part) for part, folder in folders.items()])
    return style_from_bytes(_content(path), path.name)


def style_from_bytes(
    content: bytes, label: str, *, settings: Settings | None = None, part: str = ""
) -> Style:
    """Return the style in a file's bytes, checked as read_style does.

    label: what a person calls the file; settings: of the adapter, where they are in a file of their
    own; part: where dotted names without one belong.
    """
    head = read_head(label, io.BytesIO(content), len(content))
    dialect, layers, brought, norms = sorted_out(label, head.tensors, part)
    _check_dtypes(label, head)
    shapes = {
        name: {role: head.tensors[key].shape for role, key in keys.items()}
        for name, keys in layers.items()
    }
    check_sizes(label, shapes)
    settings = settings or _recorded_settings(label, head, dialect)
    data = memoryview(content)[head.start :]

    def array(key: str) -> np.ndarray:
        entry = head.tensors[key]
        return array_of(entry, data[entry.begin : entry.end])

    # The hash of a large file takes as long as all else, and both release Python's lock
    with ThreadPoolExecutor(1) as pool:
        sha256 = pool.submit(lambda: hashlib.sha256(content).hexdigest())
        read: dict[str, Layer] = {}
        for name, keys in layers.items():
            tensors = {role: array(key) for role, key in keys.items()}
            read[name] = layer_of(label, name, tensors, settings)
    modules = {name: layer.change for name, layer in read.items()}
    words = embeddings.read(label, PurePath(label).stem, head.tensors, array)
    unread = [word for word in brought if word not in words]
    unread_words = printable(", ".join(unread), 200)
    if not modules and not words:
        raise StyleFileError(
            f"{label} holds words ({unread_words}) in a form that cannot be read, and no style. "
            "Use another file."
        )
    warnings = _warnings(modules, head.metadata, {layer.kind for layer in read.values()})
    warnings += remarks.of_long_metadata(head.left_out) + remarks.of_norms(
        [array(name) for name in norms]
    )
    if unread:
        warnings += (
            f"It brings words of its own ({unread_words}), which are not read: prompts with them "
            "mean less here.",
        )
    return Style(
        modules,
        head.metadata,
        sha256.result(),
        dialect,
        _stored_dtype(head),
        warnings,
        _kinds(read, words),
        {name: layer.magnitude for name, layer in read.items() if layer.magnitude},
        words,
    )


def _check_dtypes(label: str, head: Head) -> None:
    for name, entry in head.tensors.items():
        allowed = {"F16", "BF16", "F32"} | ({"I64"} if name.endswith(".alpha") else set())
        if entry.dtype not in allowed:
            raise StyleFileError(
                f"{label} stores {name} as {entry.dtype}, expected F16, BF16 or F32. Convert "
                "it to float16 where it was made."
            )


def _stored_dtype(head: Head) -> Dtype:
    """The one precision of all matrices, float32 when they differ."""
    found = {entry.dtype for name, entry in head.tensors.items() if not name.endswith(".alpha")}
    for dtype, code in STORED.items():
        if found == {code}:
            return dtype
    return "float32"


def _kinds(read: Mapping[str, Layer], words: Words) -> tuple[str, ...]:
    """What the file holds, in the names of the field."""
    kinds = {layer.kind for layer in read.values()}
    if any(layer.magnitude for layer in read.values()):
        kinds.add("DoRA")
    return (*sorted(kinds), *(("textual inversion",) if words else ()))


def read_metadata(path: Path) -> dict[str, str]:
    """Return only the metadata, quickly. Checks the header as read_style does, not the weights."""
    checked_place(path)
    try:
        with open_regular(path) as file:
            return read_head(path.name, file, path.stat().st_size).metadata
    except OSError as error:
        raise _unreadable(path, error) from error


def recipe_of(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The RunConfig that made a style as nested tables, {} when it was made elsewhere.

    Unchecked: give it to config.from_mapping.
    """
    return json_object(metadata.get("style_studio.recipe", "")[:MAX_TEXT])


def _unreadable(path: Path, error: OSError) -> StyleFileError:
    return StyleFileError(not_read(path, error))


def _content(path: Path, most: int = MAX_FILE) -> bytes:
    """The whole file at once, so that nobody can change it between check and use."""
    if most == MAX_FILE:
        checked_place(path)
    try:
        content = read_regular(path, most)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(content) > most:
        raise StyleFileError(
            f"{path.name} is larger than {most // 2**20} MiB, which no style is. Is it a whole "
            "model? Then give it as base.model."
        )
    return content


def _recorded_settings(label: str, head: Head, dialect: Dialect) -> Settings:
    """The settings that diffusers writes beside peft weights, none when there are none."""
    text = head.metadata.get("lora_adapter_metadata", "") if dialect == "diffusers" else ""
    found = json_object(text) if len(text) <= MAX_CONFIG else {}
    if text and not found:
        raise damaged(
            label,
            "its lora_adapter_metadata, which says how strong the style is, is not sound JSON",
        )
    return Settings(label, found)


def _peft_folders(path: Path) -> dict[str, Path]:
    """part -> folder with an adapter_config.json; part is "" for the folder itself."""
    if (path / PEFT).is_file():
        return {path.name if path.name in WORDS else "": path}
    return {part: path / part for part in WORDS if (path / part / PEFT).is_file()}


def _read_peft(folder: Path, part: str) -> Style:
    path = folder / "adapter_model.safetensors"
    config = json_object(_content(folder / PEFT, MAX_CONFIG).decode("utf-8", "replace"))
    kind = config.get("peft_type")
    if kind not in ("LORA", "LOHA", "LOKR"):
        raise StyleFileError(
            f"{folder / PEFT} describes {printable(str(kind), 40)}, expected LORA, LOHA or "
            "LOKR. Use another file."
        )
    values = {
        f"{p}.{key}": value for p in ([part] if part else WORDS) for key, value in config.items()
    }
    return style_from_bytes(
        _content(path), path.name, settings=Settings(path.name, values), part=part
    )


def _joined(styles: list[Style]) -> Style:
    """Parts of one style that lie in several files."""
    first = styles[0]
    if len(styles) == 1:
        return first
    modules = {name: change for style in styles for name, change in style.modules.items()}
    if len(modules) != sum(len(style.modules) for style in styles):
        raise StyleFileError(
            "Two of the folder's adapters change the same layers. Give one of them."
        )
    return replace(
        first,
        modules=modules,
        sha256=hashlib.sha256("".join(style.sha256 for style in styles).encode()).hexdigest(),
        dtype=first.dtype if len({style.dtype for style in styles}) == 1 else "float32",
        warnings=tuple(dict.fromkeys(warning for style in styles for warning in style.warnings)),
        kinds=tuple(sorted({kind for style in styles for kind in style.kinds})),
        magnitudes={name: found for style in styles for name, found in style.magnitudes.items()},
    )


def _warnings(
    modules: Mapping[str, Change], metadata: Mapping[str, str], kinds: Collection[str]
) -> tuple[str, ...]:
    """What the user should know. kinds: what the file holds."""
    found = []
    if modules and all(change.is_zero for change in modules.values()):
        found.append("All its weights are zero: it changes nothing.")
    if wasteful := sum(
        lora.rank > min(lora.shape[0], lora.down[0].size)
        for lora in modules.values()
        if isinstance(lora, Lora)
    ):
        found.append(
            f"{wasteful} layers have a larger rank than their size allows: `style-file resize` "
            "makes the file smaller without loss."
        )
    loras = [c for c in modules.values() if isinstance(c, Lora)] if "LoRA" in kinds else []
    if high := sum(lora.rank > HIGH_RANK for lora in loras):
        found.append(
            f"{high} layers have a rank above {HIGH_RANK}, far more than a style needs: "
            "`style-file resize` makes the file smaller."
        )
    by_words = family_in(metadata)
    by_weights = settled(family_of(modules), by_words)
    if by_weights and by_words and by_weights != by_words:
        found.append(
            f"Its metadata says {bases()[by_words]}, its weights are those of "
            f"{bases()[by_weights]}: the weights count."
        )
    return tuple(found) + remarks.of_clip_skip(metadata, (by_weights, by_words))
