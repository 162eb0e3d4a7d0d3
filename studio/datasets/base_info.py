"""What a base's small files tell without torch:

its side, its buckets, how many tokens of a caption it reads. Never asks the network.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.captions import TEMPLATE, captioned
from training.data.checks import Reader, kept, trained_caption
from training.errors import ModelError
from training.storage.disk_errors import reading_aid
from training.storage.paths import builtin_base, read_regular
from training.style_files.family_spec import SPECS, FamilySpec

USUAL_SIDE, USUAL_MULTIPLE, USUAL_TOKENS = (
    512,
    64,
    77,
)  # px, px, with the two marks: Stable Diffusion 1.x
MARKS = 2  # tokens: beginning and end
# CLIP's words, as its authors cut them: https://github.com/openai/CLIP, simple_tokenizer.py
WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


@dataclass(frozen=True)
class Tokens:
    """How a base reads a caption.

    most: tokens it can read; cut: the words it does not read any more.
    """

    count: int
    most: int
    read: str
    cut: str


@dataclass(frozen=True)
class Base:
    """side: px, of the square it was made for; multiple: px, of a bucket's sides; tokenizer: None
    where it could not be found; trigger, template: what captions are trained with, where known.
    """

    side: int = USUAL_SIDE
    multiple: int = USUAL_MULTIPLE
    most: int = USUAL_TOKENS - MARKS
    tokenizer: Any = None
    trigger: str = ""
    template: str = TEMPLATE

    def tokens(self, caption: str) -> Tokens | None:
        """None without a tokenizer."""
        if self.tokenizer is None:
            return None
        encoded = self.tokenizer.encode(caption, add_special_tokens=False)
        if len(encoded.ids) <= self.most:
            return Tokens(len(encoded.ids), self.most, caption, "")
        end = encoded.offsets[self.most - 1][1]
        return Tokens(len(encoded.ids), self.most, caption[:end], caption[end:])


def trained_tokens(base: Base, caption: str) -> Tokens | None:
    """How a base reads a caption as it is trained, with the trigger; None without a tokenizer."""
    whole = captioned(caption, base.trigger, base.template)
    tokens, reader = base.tokens(whole), reader_of(base)
    if tokens is None or reader is None or not tokens.cut:
        return tokens
    if trained_caption(caption, base.trigger, base.template, reader) == whole:
        return tokens
    read = kept(caption, base.trigger, base.template, reader)
    return Tokens(tokens.count, tokens.most, read, " ".join(caption.split())[len(read) :])


def reader_of(base: Base) -> Reader | None:
    """How a base reads captions, None without a tokenizer."""
    empty = base.tokens("")
    if empty is None:
        return None
    return Reader(lambda text: getattr(base.tokens(text), "count", 0), empty.most)


def known(model: str) -> Base:
    """What is known of a base:

    mini, a diffusers folder, or a hub id that is in the cache; else the usual values. Raises
    ModelError.
    """
    folder = folder_of(model.strip())
    if folder is None:
        return Base()
    files = [
        folder / name
        for name in (
            "model_index.json",
            "unet/config.json",
            "vae/config.json",
            "tokenizer/tokenizer_config.json",
            "tokenizer/tokenizer.json",
        )
    ]
    files += [folder / name for name in ("tokenizer/vocab.json", "tokenizer/merges.txt")]
    return _read(folder, tuple(f.stat().st_mtime_ns if f.is_file() else 0 for f in files))


@functools.lru_cache(maxsize=8)
def _read(folder: Path, _: tuple[int, ...]) -> Base:
    pipeline = _json(folder / "model_index.json").get("_class_name")
    for spec in SPECS.values():
        if spec.denoiser == "transformer" and pipeline in spec.pipelines:
            return _transformer(folder, spec)
    unet, vae, words = (
        _json(folder / f"{part}.json")
        for part in ("unet/config", "vae/config", "tokenizer/tokenizer_config")
    )
    try:
        pixel_step = 2 ** (len(vae.get("block_out_channels", (64,))) - 1)
        side = (
            unet["sample_size"] * pixel_step
            if isinstance(unet.get("sample_size"), int)
            else USUAL_SIDE
        )
        multiple = pixel_step * 2 ** (
            len(unet.get("block_out_channels", (320, 640, 1280, 1280))) - 1
        )
        most = min(int(words.get("model_max_length", USUAL_TOKENS)), 10_000) - MARKS
    except (TypeError, ValueError, OverflowError) as error:
        raise ModelError(
            f"the configs in {folder} cannot be understood ({error}). Download the base again."
        ) from None
    return Base(side, multiple, most, _tokenizer(folder / "tokenizer"))


def _transformer(folder: Path, spec: FamilySpec) -> Base:
    """Of a family of transformers, whose last text encoder reads the most."""
    own = _json(folder / "vae" / "config.json").get("sample_size")
    side = own if isinstance(own, int) and own > 0 else spec.side
    return Base(side, spec.grid, spec.tokens, _tokenizer(folder / spec.tokenizers[-1]))


def folder_of(model: str) -> Path | None:
    """Where the base's small files lie; None when they cannot be had without the network or without
    unpacking it.
    """
    if model == "mini":
        return builtin_base()
    path = Path(model or "\0").expanduser()  # "" would be the current folder
    try:
        if (path / "model_index.json").is_file():
            return path.resolve()
        exists = path.exists()
    except (OSError, ValueError):
        exists = False
    if not exists and not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise ModelError(
            f"There is no base {model[:100]!r}. Give mini, a diffusers folder, a .safetensors "
            "file or a hub id (owner/name)."
        )
    if exists:
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(model, "model_index.json")
    except HFValidationError:
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_regular(path).decode("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{path} cannot be read ({error}). {reading_aid(error) or 'Download the base again'}."
        ) from None
    return found if isinstance(found, dict) else {}


def _tokenizer(folder: Path) -> Any:
    """The base's tokenizer; None where there is none that can be read."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    try:
        if (folder / "tokenizer.json").is_file():
            found = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
        elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
            lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
            merges = [
                (a, b)
                for a, gap, b in (
                    line.partition(" ") for line in lines if not line.startswith("#version")
                )
                if gap
            ]
            found = Tokenizer(
                models.BPE(vocab, merges, end_of_word_suffix="</w>", unk_token="<|endoftext|>")
            )
            found.normalizer = normalizers.Sequence(
                [
                    normalizers.NFC(),
                    normalizers.Replace(Regex(r"\s+"), " "),
                    normalizers.Lowercase(),
                ]
            )
            split = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
            found.pre_tokenizer = pre_tokenizers.Sequence(
                [split, pre_tokenizers.ByteLevel(add_prefix_space=False)]
            )
        else:
            return None
    except Exception as error:  # the tokenizers library raises nothing narrower for a damaged file
        raise ModelError(
            f"the tokenizer in {folder} cannot be read ({error}). "
            f"{reading_aid(error) or 'Download the base again'}."
        ) from None
    found.no_truncation()
    found.no_padding()
    return found
