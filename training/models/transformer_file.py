"""Single files of flow-matching transformers, told by the names in them.

Such a file holds the transformer alone, under the names of its authors' code. Text encoders,
tokenizers, VAE and sampler come from a diffusers folder of the same family, base.rest; both are put
together once, as a diffusers folder in our cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from training.errors import ModelError, SpaceError
from training.models import weight_file
from training.models.files import AGAIN, file_hash, library, quiet, read_json, reason, unusable
from training.models.weight_file import WeightFile
from training.storage.disk_errors import advice
from training.storage.paths import cache_folder
from training.style_files.family_spec import SPECS, FamilySpec
from training.style_files.safetensors_io import printable
from training.system import file_system


@dataclass(frozen=True)
class Marks:
    """has: names in all of a family's files; lacks: beginnings of names in none of them; inputs:
    the matrix that reads the latents; blocks: beginnings of numbered names -> the key of the
    transformer's config that counts them.
    """

    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    inputs: str = ""
    blocks: Mapping[str, str] = field(default_factory=dict)


_TWO_KINDS = {"double_blocks": "num_layers", "single_blocks": "num_single_layers"}
MARKS = {
    "flux": Marks(
        ("double_blocks.0.img_attn.norm.key_norm.scale",),
        ("distilled_guidance_layer.", "single_stream_modulation."),
        "img_in.weight",
        _TWO_KINDS,
    ),
    "chroma": Marks(("distilled_guidance_layer.in_proj.weight",), (), "img_in.weight", _TWO_KINDS),
    "flux2-klein": Marks(("single_stream_modulation.lin.weight",), (), "img_in.weight", _TWO_KINDS),
    "z-image": Marks(
        ("noise_refiner.0.attention.qkv.weight", "cap_embedder.0.weight"),
        blocks={"layers": "n_layers"},
    ),
    "sd3": Marks(
        ("joint_blocks.0.context_block.attn.qkv.weight",), blocks={"joint_blocks": "num_layers"}
    ),
    "qwen-image": Marks(
        ("transformer_blocks.0.img_mod.1.weight", "txt_norm.weight"),
        ("txt_in.text_norm.",),
        "img_in.weight",
        {"transformer_blocks": "num_layers"},
    ),
    "krea2": Marks(
        ("txtfusion.projector.weight", "blocks.0.attn.wq.weight"), blocks={"blocks": "num_layers"}
    ),
}


@dataclass(frozen=True)
class TransformerFile:
    """A file that was looked at: its family, and what its header says."""

    content: WeightFile
    spec: FamilySpec

    @property
    def path(self) -> Path:
        return self.content.path


def examined(path: Path) -> TransformerFile | None:
    """What a file holds, from its header; None where it is no transformer of a family that is
    trained, or cannot be read: others say why.

    Raises ModelError for weights in a form that is not read, for relatives that draw from more than
    words, and for any other GGUF file.
    """
    content = weight_file.opened(path)
    if content is None:
        return None
    family = family_of(content.shapes)
    if not family and path.suffix.lower() == ".gguf":
        raise ModelError(
            f"{path} is a GGUF file of {content.said or 'something'!r} that is no transformer "
            f"which is trained from one: {', '.join(SPECS[name].title for name in MARKS)}."
        )
    if not family:
        return None
    if content.unread:
        raise ModelError(
            f"{path} holds quantised weights ({printable(content.unread, 80)}) of a kind that is "
            "not read. Choose the file in 16 bits, in fp8 or as GGUF: base.storage = int8 or nf4 "
            "keeps it small in memory."
        )
    marks, spec = MARKS[family], SPECS[family]
    into = content.shapes.get(marks.inputs, (0, spec.in_channels))[1:2]
    if into != (spec.in_channels,):
        raise ModelError(
            f"{path} takes {into[0] if into else 0} channels, {spec.in_channels} were expected: it "
            "draws from more than words (filling, depth, edges or editing), which cannot be "
            "trained on pictures alone. Choose the text-to-image model it came from."
        )
    return TransformerFile(content, spec)


def family_of(names: Mapping[str, Any]) -> str:
    """The family whose transformers have such names, "" for none."""
    for family, marks in MARKS.items():
        if all(name in names for name in marks.has) and not any(
            name.startswith(marks.lacks) for name in names
        ):
            return family
    return ""


def earlier(file: TransformerFile) -> Path:
    """Where the file was put together with a base.rest before, the latest. Raises ModelError."""
    found = sorted(
        _bases().glob(f"{_name(file)}-*/model_index.json"), key=lambda path: path.stat().st_mtime
    )
    if not found:
        raise ModelError(
            f"{file.path} holds the transformer of a {file.spec.title} alone. Set base.rest to a "
            f"diffusers folder or hub id of {file.spec.title}, which supplies its text encoder "
            "and VAE."
        )
    return found[-1].parent


def unpacked(file: TransformerFile, rest: Path) -> Path:
    """The file and what `rest`, a diffusers folder of its family, supplies, as one diffusers folder
    in our cache. Raises ModelError or SpaceError.
    """
    check_fits(file, read_json(rest / "transformer" / "config.json", str(rest)), rest)
    changed = (rest / "model_index.json").stat().st_mtime_ns
    which = hashlib.sha256(f"{rest.resolve()} {changed}".encode()).hexdigest()[:8]
    target = _bases() / f"{_name(file)}-{which}"
    if (target / "model_index.json").exists():
        os.utime(target / "model_index.json")
        return target
    network = _opened(file, rest)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=target.parent) as scratch:
            made = Path(scratch) / "base"
            with quiet():
                network.save_pretrained(made / "transformer", safe_serialization=True)
            spec = file.spec
            others = [part for part in spec.classes if part != "transformer"]
            for part in (*others, *spec.tokenizers, "scheduler"):
                _put(rest / part, made / part)
            shutil.copyfile(rest / "model_index.json", made / "model_index.json")
            if not target.exists():
                file_system.rename(made, target)
    except OSError as error:
        raise SpaceError(
            f"{target} could not be written ({reason(error)}). "
            f"{advice(error, 'set STYLE_STUDIO_CACHE to a folder on another disk')}"
        ) from None
    return target


def check_fits(file: TransformerFile, config: Mapping[str, Any], rest: Path) -> None:
    """Raise ModelError where a transformer's config is of another size or variant than the file."""
    for start, key in MARKS[file.spec.name].blocks.items():
        numbers = (
            name.split(".")[1] for name in file.content.shapes if name.startswith(f"{start}.")
        )
        count = 1 + max(int(number) for number in numbers if number.isdigit())
        if (wanted := config.get(key, count)) != count:
            raise ModelError(
                f"{file.path} has {count} {start}, the {file.spec.title} of base.rest ({rest}) "
                f"has {wanted}: they are of different sizes. Choose the base.rest of its own size."
            )
    hears = "guidance_in.in_layer.weight" in file.content.shapes
    if file.spec.name == "flux" and hears != bool(config.get("guidance_embeds")):
        own, other = ("dev", "schnell") if hears else ("schnell", "dev")
        raise ModelError(
            f"{file.path} is a FLUX.1 {own}, base.rest ({rest}) a FLUX.1 {other}. Choose the "
            f"base.rest of a {own}."
        )


def _opened(file: TransformerFile, rest: Path) -> Any:
    """The transformer, by diffusers' own conversion, with every weight there."""
    with quiet():
        kind = getattr(library(), file.spec.classes["transformer"])
        try:
            tensors = weight_file.tensors_of(file.content)
            dtype = max(tensors.values(), key=torch.Tensor.numel).dtype
            network = kind.from_single_file(
                tensors,
                config=str(rest),
                subfolder="transformer",
                local_files_only=True,
                dtype=torch.bfloat16 if dtype.itemsize == 1 else dtype,
            )
        except (*unusable(), NotImplementedError) as error:
            raise ModelError(
                f"{file.path} cannot be opened as the transformer of {rest} ({reason(error)}). "
                f"{AGAIN}"
            ) from None
    if lacking := [name for name, p in network.named_parameters() if p.is_meta]:
        raise ModelError(
            f"{file.path} lacks {len(lacking)} weights of its transformer ({lacking[0]}). {AGAIN}"
        )
    return network


def _put(source: Path, target: Path) -> None:
    """A part's files, as links where the disk can: they are not written twice. Raises OSError."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        if not path.is_file():
            continue
        try:
            os.link(path.resolve(), target / path.name)
        except OSError:
            shutil.copyfile(path, target / path.name)


def _bases() -> Path:
    return cache_folder() / "bases"


def _name(file: TransformerFile) -> str:
    return f"{file_hash(file.path)[:24]}-{file.spec.name}"
