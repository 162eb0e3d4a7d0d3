"""Words that a style brings with it (textual inversion, Gal et al. 2022): their vectors as they
stand in files. Knows numpy, not torch.

Bundled in a style file    bundle_emb.WORD.string_to_param.*  or, with two text encoders,
bundle_emb.WORD.clip_l and .clip_g A file of their own        emb_params  or  clip_l and clip_g; the
file is called as the word
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np

from training.data.captions import WORD
from training.errors import StyleFileError
from training.style_files.family_spec import SPECS
from training.style_files.safetensors_io import (
    BUNDLED,
    Dtype,
    Entry,
    header_bytes,
    printable,
    stored,
)

Vectors = Mapping[str, np.ndarray]  # text encoder part -> [n, width], float32
Words = Mapping[str, Vectors]

ENDINGS = {
    "string_to_param.*": "text_encoder",
    "clip_l": "text_encoder",
    "clip_g": "text_encoder_2",
}
ALONE = {"emb_params": "text_encoder", "clip_l": "text_encoder", "clip_g": "text_encoder_2"}
MOST = 64  # vectors of a word; a caption has room for 75


def is_alone(names: Collection[str]) -> bool:
    """Whether a file of these tensors is a word in a file of its own."""
    return set(names) in ({"emb_params"}, {"clip_l"}, {"clip_l", "clip_g"})


def word_of(name: str) -> tuple[str, str]:
    """The word that a bundled tensor belongs to, and what the tensor is of it. A word is what its
    owner typed: spaces, dots and signs of all scripts.
    """
    rest = name.removeprefix(BUNDLED)
    ending = next((end for end in ENDINGS if rest.endswith(f".{end}")), "")
    word = rest.removesuffix(f".{ending}") if ending else rest.rpartition(".")[0] or rest
    return unicodedata.normalize("NFC", word), ending


def places(names: Iterable[str], stem: str) -> dict[str, dict[str, str]]:
    """Word -> part -> tensor's name, of the tensors that are vectors of words.

    A word with anything else, with two tensors for one part or with none for the first part is not
    among them.
    stem: what the word of a file of its own is called.
    """
    names = list(names)
    if is_alone(names):
        return {stem: {ALONE[name]: name for name in names}}
    found: dict[str, dict[str, str]] = {}
    strange = set()
    for name in names:
        if not name.startswith(BUNDLED):
            continue
        word, ending = word_of(name)
        if word.strip() and ending and ENDINGS[ending] not in found.get(word, ()):
            found.setdefault(word, {})[ENDINGS[ending]] = name
        else:
            strange.add(word)
    return {
        word: parts
        for word, parts in found.items()
        if word not in strange and "text_encoder" in parts
    }


def read(
    label: str, stem: str, names: Iterable[str], array: Callable[[str], np.ndarray]
) -> dict[str, dict[str, np.ndarray]]:
    """The words of a file, checked. array(tensor's name) -> float32. Raises StyleFileError."""
    return {
        word: {part: _checked(label, word, array(name)) for part, name in sorted(found.items())}
        for word, found in sorted(places(names, stem).items())
    }


def _checked(label: str, word: str, values: np.ndarray) -> np.ndarray:
    values = values.reshape(1, -1) if values.ndim == 1 else values
    size = "x".join(map(str, values.shape))
    if values.ndim != 2 or not 1 <= len(values) <= MOST or not 1 <= values.shape[1] <= 8192:
        raise StyleFileError(
            f"{label} holds the word {printable(word, 60)!r} as {size} numbers, expected 1 to "
            f"{MOST} vectors. Export it again, or use another file."
        )
    if not np.isfinite(values).all():
        raise StyleFileError(
            f"{label} holds the word {printable(word, 60)!r} with values that are not finite. "
            "Export it again, or use another file."
        )
    return values


def family_of_words(words: Words) -> str:
    """The kind of base that vectors of these widths are for, "" when they do not show it."""
    for vectors in words.values():
        if "text_encoder_2" in vectors:
            pairs = (spec.name for spec in SPECS.values() if len(spec.text_encoders) == 2)
            return next(pairs, "")
        width = vectors["text_encoder"].shape[1]
        return next((spec.name for spec in SPECS.values() if width in spec.vector_widths), "")
    return ""


def complaint(words: Words, widths: Mapping[str, int]) -> str:
    """Why a base cannot say these words, "" when it can.

    widths: text encoder part of the base -> width of its vectors.
    """
    for word, vectors in words.items():
        own = {part: values.shape[1] for part, values in vectors.items()}
        if widths and own != dict(widths):
            return (
                f"Its word {printable(word, 60)!r} has vectors of {_sizes(own)} numbers, the "
                f"base's have {_sizes(widths)}: it was made for another base."
            )
    return ""


def _sizes(widths: Mapping[str, int]) -> str:
    return " and ".join(str(size) for _, size in sorted(widths.items()))


def joined(several: Iterable[tuple[str, Words]]) -> dict[str, Vectors]:
    """The words of several styles.

    Raises StyleFileError when two bring different ones of one name. several: (what a person calls
    it, words).
    """
    found: dict[str, Vectors] = {}
    for label, words in several:
        for word, vectors in words.items():
            before = found.setdefault(word, vectors)
            if before.keys() != vectors.keys() or any(
                not np.array_equal(before[part], vectors[part]) for part in vectors
            ):
                raise StyleFileError(
                    f"{label} brings the word {printable(word, 60)!r}, and another of these "
                    "brings a different one of that name. Use one of them at a time."
                )
    return found


def bundled(label: str, words: Words, dtype: Dtype) -> dict[str, tuple[tuple[int, ...], bytes]]:
    """Tensor's name -> shape and content, as they stand in a style file.

    Raises StyleFileError for a word that can be no tensor's name.
    """
    found = {}
    for word, vectors in words.items():
        _check_name(label, word)
        for ending, part in _endings(vectors, "string_to_param.*").items():
            name = f"{BUNDLED}{word}.{ending}"
            found[name] = (vectors[part].shape, stored(label, name, vectors[part], dtype))
    return found


def embedding_bytes(word: str, vectors: Vectors) -> bytes:
    """A file with that word alone, float32, which A1111, ComfyUI and InvokeAI read as an embedding;
    its name is the word's.
    """
    _check_name(f"{word}.safetensors", word)
    entries, data = {}, b""
    for name, part in sorted(_endings(vectors, "emb_params").items()):
        content = stored(word, name, vectors[part], "float32")
        entries[name] = Entry("F32", vectors[part].shape, len(data), len(data) + len(content))
        data += content
    return header_bytes(entries, {"modelspec.title": word, "modelspec.trigger_phrase": word}) + data


def _endings(vectors: Vectors, single: str) -> dict[str, str]:
    return (
        {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
        if "text_encoder_2" in vectors
        else {single: "text_encoder"}
    )


def _check_name(label: str, word: str) -> None:
    if not re.fullmatch(WORD, word):
        raise StyleFileError(
            f"{label} was not written: the word {printable(word, 60)!r} is none of letters, "
            "digits, _ and - only. Leave it out."
        )


def writable(words: Words) -> tuple[dict[str, Vectors], list[str]]:
    """The words that a file can be written with, and the others' names."""
    kept = {word: vectors for word, vectors in words.items() if re.fullmatch(WORD, word)}
    return kept, [word for word in words if word not in kept]


def alike(found: Words, wanted: Words) -> bool:
    """Whether two sets of words are the same, but for the rounding of half precision."""
    if {word: set(v) for word, v in found.items()} != {word: set(v) for word, v in wanted.items()}:
        return False
    pairs = [
        (found[word][part], values)
        for word, vectors in wanted.items()
        for part, values in vectors.items()
    ]
    return all(
        a.shape == b.shape and bool((abs(a - b) <= 4e-3 * abs(b).max() + 1e-7).all())
        for a, b in pairs
    )
