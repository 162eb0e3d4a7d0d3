"""What lies in a base's folder, read with care:

configs, names of weights, and what the libraries say when files do not fit. Loads nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from training.errors import ModelError
from training.storage.disk_errors import reading_aid
from training.storage.paths import read_regular

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
# How diffusers and transformers name weights: whole or in shards, the variant before or after the
# shard's number
WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_)?model(?P<before>\.fp16)?(?:-\d{5}-of-(?P<of>\d{5}))?(?P<after>\.fp16)?\.safetensors"
)
# Keys that diffusers and transformers obey: kernels are fetched by name, and quantised weights need
# libraries of their own and cannot be trained on
CHOOSES_CODE = (
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "experts_implementation",
    "_experts_implementation",
    "_experts_implementation_internal",
    "quantization_config",
    "auto_map",
)
AGAIN = "Download it again, or choose another base.model."


def library() -> Any:
    """diffusers: its names are made when they are asked for, so that no type checker sees them."""
    import diffusers

    return diffusers


def read_json(path: Path, model: str) -> dict[str, Any]:
    try:
        found = json.loads(read_regular(path).decode("utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{model} has no {path.parent.name}/{path.name}. Download it again, or choose "
            "another base.model."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({reason(error)}). {remedy(error)}") from None
    if not isinstance(found, dict):
        raise ModelError(
            f"{path} is not a config: an object was expected. Download the base again."
        )
    return found


def check_config(config: dict[str, Any], path: Path) -> None:
    """Raise ModelError for a config by which a library would run or fetch other code."""
    nested = [part for part in config.values() if isinstance(part, dict)]
    for part in (config, *nested):
        if found := [key for key in CHOOSES_CODE if part.get(key) is not None]:
            raise ModelError(
                f"{path.parent.name}/{path.name} sets {found[0]}, which chooses code to run. "
                "Remove that line, or choose another base.model."
            )


def weights_of(folder: Path, model: str) -> tuple[list[Path], str | None]:
    """The safetensors of one part, whole or in shards, and the variant they are of:

    full precision before fp16. Raises ModelError.
    """
    found: dict[str | None, list[Path]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        if name := WEIGHTS.fullmatch(path.name):
            found.setdefault("fp16" if name["before"] or name["after"] else None, []).append(path)
    for variant in (None, "fp16"):
        if paths := found.get(variant):
            _check_shards(paths)
            return paths, variant
    pickled = [p.name for p in folder.iterdir() if p.suffix in PICKLES]
    seen = f"only {pickled[0]}, a pickle" if pickled else "no weights"
    raise ModelError(
        f"{folder} holds {seen}; .safetensors was expected. Download {model} with its "
        "safetensors files."
    )


def _check_shards(paths: list[Path]) -> None:
    expected = max(int((WEIGHTS.fullmatch(path.name) or {"of": 0})["of"] or 0) for path in paths)
    if expected and len(paths) != expected:
        raise ModelError(
            f"{paths[0].parent} holds {len(paths)} of {expected} shards of its weights. {AGAIN}"
        )


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def quiet() -> Iterator[None]:
    """While inside, diffusers and transformers draw no bars and give no advice:

    what is wrong is reported by us.
    """
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    before = [
        (log, log.get_verbosity(), log.is_progress_bar_enabled())
        for log in (of_diffusers, of_transformers)
    ]
    for log, _, _ in before:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, verbosity, bars in before:
            log.set_verbosity(verbosity)
            if bars:
                log.enable_progress_bar()


def unusable() -> tuple[type[Exception], ...]:
    """What diffusers and transformers raise for files that do not fit together."""
    from huggingface_hub.errors import StrictDataclassError

    return (
        OSError,
        ValueError,
        RuntimeError,
        KeyError,
        TypeError,
        AttributeError,
        SafetensorError,
        StrictDataclassError,
    )


def remedy(error: Exception) -> str:
    """What to do about a base's file that a library could not use."""
    aid = reading_aid(error)
    return f"{aid}." if aid else "Download the base again."


def reason(error: Exception) -> str:
    """The first line of what a library said."""
    lines = str(error).strip().splitlines()
    return shown(lines[0]).rstrip(". ") if lines else type(error).__name__


def shown(text: str) -> str:
    return text if len(text) <= 300 else text[:300] + "..."
