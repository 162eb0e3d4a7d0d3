"""What can be done with finished styles: mix them, cut them to a rank, take one out of a fine-tuned
model, turn DoRA into LoRA, pack one to share.

Layer by layer, exactly where mathematics allows it; else what is lost is said. Knows numpy, not
torch.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from training.data import image_worker
from training.data.pictures import LARGEST_PICTURE_FILE
from training.errors import DataError, StyleFileError
from training.storage.disk_errors import cause, reading_aid
from training.style_files.base_weights import BaseWeights
from training.style_files.family_spec import SPECS
from training.style_files.key_names import Place
from training.style_files.layers import MAX_RANK, Magnitude
from training.style_files.lora import Change, Kron, Lora, added, cut, nearest
from training.style_files.matching import match
from training.style_files.reading import MAX_WORDS, Style, printable
from training.style_files.strengths import Weight

Changes = dict[tuple[str, str], Change]  # (part, module) -> its change
SIDE = 512  # px of the picture beside a style
PIXELS = 64 * 10**6  # the largest picture that is opened
# The two places of SDXL that B-LoRA trains: what is shown, how it is drawn (Frenkel et al. 2024,
# arXiv 2403.14572, section 4; kohya's output_blocks_0_1 and output_blocks_1_1)
B_LORA = {"content": "up_blocks.0.attentions.0.", "style": "up_blocks.0.attentions.1."}
NOTHING = 1e-7  # share of a weight's norm below which two are equal but for rounding


@dataclass(frozen=True)
class Result:
    """changes: the new style; residual:

    Frobenius norm of what was left out, as a share of the whole; notes: sentences for the user.
    """

    changes: Changes
    residual: float = 0.0
    notes: tuple[str, ...] = ()


def merged(
    styles: Sequence[tuple[Changes, Weight]],
    *,
    rank: int | None = None,
    energy: float | None = None,
    largest: int | None = MAX_RANK,
) -> Result:
    """The weighted sum of styles. Exact, ranks adding up, unless rank or energy cut it. largest:
    rank that a file can hold, None for any.

    Raises StyleFileError for styles of different bases and for a sum that is empty or of too large
    a rank.
    """
    places = dict.fromkeys(place for changes, _ in styles for place in changes)
    found: Changes = {}
    for part, module in places:
        weighted = [
            (changes[part, module], weight.of(part, module))
            for changes, weight in styles
            if (part, module) in changes
        ]
        weighted = [(lora, weight) for lora, weight in weighted if weight]
        if not weighted:
            continue
        shape = max((lora.shape for lora, _ in weighted), key=len)
        fitted = [(lora.shaped(shape), weight) for lora, weight in weighted]
        if any(lora is None for lora, _ in fitted):
            sizes = " and ".join(sorted({"x".join(map(str, lora.shape)) for lora, _ in weighted}))
            raise StyleFileError(
                f"The styles were made for different bases: {part}.{module} is {sizes}. Merge "
                "styles of one base."
            )
        found[part, module] = added([(lora, weight) for lora, weight in fitted if lora is not None])
    if not found:
        raise StyleFileError(
            "Nothing is left of the styles with these weights. Give at least one a weight "
            "other than 0."
        )
    if rank or energy:
        return resized(found, rank=rank, energy=energy)
    highest = max(lora.rank for lora in found.values())
    if largest and highest > largest:
        raise StyleFileError(
            f"Together the styles have rank {highest}, at most {largest} can be read again. "
            "Cut them with --rank or --energy."
        )
    return Result(found)


def split(changes: Changes) -> dict[str, Changes]:
    """What of a style for SDXL is of what is shown (content) and of how it is drawn (style), as
    B-LoRA divides them; layers of other blocks are in neither.

    Raises StyleFileError for a style that changes only one of the two places.
    """
    found = {
        half: {
            (part, module): change
            for (part, module), change in changes.items()
            if part == "unet" and module.startswith(block)
        }
        for half, block in B_LORA.items()
    }
    for half, block in B_LORA.items():
        if not found[half]:
            raise StyleFileError(
                f"The style changes no layer of {block.rstrip('.')}, which holds the {half}: train "
                "it with adapter.only for both places that B-LoRA has, "
                f"{' and '.join(one.rstrip('.') for one in B_LORA.values())}."
            )
    return found


def low_rank(result: Result) -> Result:
    """LoKr and LoHa as low-rank changes, for a reader that knows no others."""
    others: Changes = {p: c for p, c in result.changes.items() if not isinstance(c, Lora)}
    if not others:
        return result
    cut_down = resized(others, rank=MAX_RANK)
    kinds = {"LoKr" if isinstance(change, Kron) else "LoHa" for change in others.values()}
    kind = " and ".join(sorted(kinds))
    layers = f"{len(others)} layers of {kind}"
    note = f"{layers} were written as LoRA, since diffusers reads no {kind} here."
    return Result(result.changes | cut_down.changes, cut_down.residual, (*result.notes, note))


def resized(
    changes: Mapping[tuple[str, str], Change],
    *,
    rank: int | None = None,
    energy: float | None = None,
) -> Result:
    """The nearest style of a smaller rank, layer by layer.

    energy: share of each layer's squared norm to keep, above 0 to 1.
    """
    found, lost, whole = {}, 0.0, 0.0
    for place, lora in changes.items():
        found[place], rest = cut(lora, rank=rank, energy=energy)
        lost, whole = lost + rest**2, whole + rest**2 + found[place].square()
    return Result(found, math.sqrt(lost / whole) if whole else 0.0)


def extracted(
    tuned: BaseWeights,
    base: BaseWeights,
    *,
    rank: int | None = None,
    energy: float | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Result:
    """The style that turns a base into a fine-tuned model, as near as its rank allows.

    on_progress(done, all layers). Raises StyleFileError.
    """
    found, lost, whole, others = {}, 0.0, 0.0, 0.0
    alike = _counterparts(tuned, base)
    for i, ((part, name), own) in enumerate(alike.items()):
        if on_progress:
            on_progress(i, len(alike))
        before = base.tensor(part, name)
        change = tuned.tensor(part, own) - before
        if not np.isfinite(change).all():
            raise StyleFileError(
                f"{tuned.folder} holds values that are not finite in {part}.{own}. Download it "
                "again."
            )
        norm = float(np.sum(change.astype(np.float64) ** 2))
        if norm <= (NOTHING * float(np.linalg.norm(before))) ** 2:
            continue
        module = name.removesuffix(".weight")
        if module not in base.shapes[part]:
            others += norm
            continue
        found[part, module], rest = nearest(change, rank=rank, energy=energy)
        lost, whole = lost + rest**2, whole + norm
    if not found:
        raise StyleFileError(
            f"{tuned.folder} has the same weights as {base.folder} in every layer. Give a "
            "fine-tuned model and its base."
        )
    note = (
        "Norms, biases and embeddings changed too "
        f"({math.sqrt(others / (whole + others)):.2%} of the whole change); a LoRA cannot "
        "hold them."
    )
    return Result(found, math.sqrt(lost / whole), (note,) if others else ())


def overpowering(changes: Changes, base: BaseWeights) -> list[tuple[str, str]]:
    """The layers whose change is larger (Frobenius norm) than the weight of the base that it is
    added to: more of the picture is lost than styled.
    """
    return [
        place
        for place, lora in changes.items()
        if lora.square() > float(np.sum(base.weight(*place).astype(np.float64) ** 2))
    ]


def _counterparts(tuned: BaseWeights, base: BaseWeights) -> dict[tuple[str, str], str]:
    """(part, name in base) -> name in tuned, of every tensor of numbers.

    Raises StyleFileError when they are not the same architecture.
    """
    prefix = "text_model."  # transformers 5 writes it no more
    theirs = {(part, name.removeprefix(prefix)): name for part, name in tuned.tensors}
    found = {}
    for (part, name), tensor in base.tensors.items():
        if name.endswith("position_ids"):
            continue
        own = theirs.get((part, name.removeprefix(prefix)))
        shape = tuned.tensors[part, own].entry.shape if own else None
        if shape != tensor.entry.shape:
            own_size, size = [
                ("x".join(map(str, one)) if one is not None else "missing")
                for one in (shape, tensor.entry.shape)
            ]
            raise StyleFileError(
                f"These are two different kinds of model: {part}.{name} is {own_size} in "
                f"{tuned.folder}, {size} in {base.folder}."
                " Give a model and the base it was tuned from."
            )
        found[part, name] = own or name
    return found


def without_magnitudes(
    style: Style, names: Mapping[str, Place], base: BaseWeights, *, rank: int
) -> Result:
    """DoRA as the nearest LoRA of that rank on a base. W' = m * (W + dW) / |W + dW|, Liu et al.
    2024, eq. 5; the norm runs over all but m's axis.

    names: from accepted_names of the base's shapes. Raises StyleFileError when the style does not
    fit the base.
    """
    plain = match(Style(style.modules, style.metadata, style.sha256), names)
    magnitudes = {names[name][:2]: found for name, found in style.magnitudes.items()}
    found, lost, whole = {}, 0.0, 0.0
    for place, lora in plain.items():
        if place not in magnitudes:
            found[place] = lora
            continue
        weight = base.weight(*place)
        change = rescaled(weight + lora.delta(), magnitudes[place]) - weight
        found[place], rest = nearest(change, rank=rank)
        lost, whole = lost + rest**2, whole + float(np.sum(change.astype(np.float64) ** 2))
    return Result(found, math.sqrt(lost / whole) if whole else 0.0)


def rescaled(weight: np.ndarray, magnitude: Magnitude) -> np.ndarray:
    """A weight (out, in[, k, k]) with the norms of its rows, or of its input channels, set to the
    magnitudes.
    """
    axis = 0 if magnitude.axis == "out" else 1
    others = tuple(i for i in range(weight.ndim) if i != axis)
    norms = np.sqrt(np.sum(weight.astype(np.float64) ** 2, axis=others, keepdims=True))
    return (
        weight
        * (magnitude.values.reshape(norms.shape) / np.maximum(norms, np.finfo(np.float32).tiny))
    ).astype(np.float32)


# Sharing


def packed(stem: str, content: bytes, style: Style, family: str, picture: Path | None) -> bytes:
    """A zip with <stem>.safetensors, <stem>.json (read by A1111, Forge and InvokeAI) and, given a
    picture, <stem>.png. Equal input, equal bytes.
    """
    notes = {
        "description": printable(style.metadata.get("modelspec.description", ""), 4000),
        "sd version": SPECS[family].webui_version if family in SPECS else "Unknown",
        "activation text": style.trigger,
        "preferred weight": 1.0,
        "negative text": "",
        "notes": printable(style.metadata.get("modelspec.usage_hint", ""), MAX_WORDS),
    }
    files = {
        f"{stem}.safetensors": content,
        f"{stem}.json": json.dumps(notes, ensure_ascii=False, indent=2).encode(),
    }
    if picture:
        files[f"{stem}.png"] = _thumbnail(picture)
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name, data in files.items():
            archive.writestr(
                zipfile.ZipInfo(name), data
            )  # dated 1980, uncompressed: weights do not get smaller
    return whole.getvalue()


def _thumbnail(picture: Path) -> bytes:
    """A picture of at most 512 px as PNG, without anything that stood beside its pixels.

    Raises DataError.
    """
    try:
        if picture.stat().st_size > LARGEST_PICTURE_FILE:
            raise DataError(f"has more than {LARGEST_PICTURE_FILE:,} bytes. Give a smaller one.")
        small = image_worker.decode_as_stored(picture.read_bytes(), PIXELS)
    except OSError as error:
        aid = reading_aid(error) or "Give the path of a .png or .jpg"
        raise DataError(f"{picture} cannot be read ({cause(error)}). {aid}.") from None
    except DataError as error:
        raise DataError(f"{picture} {error}") from None
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    whole = io.BytesIO()
    Image.frombytes("RGB", small.size, small.tobytes()).save(whole, "PNG")
    return whole.getvalue()
