"""The tensors of a style file, in whichever form a program wrote them, as one change a layer. Pure
arithmetic; knows nothing of files or bases.

LoRA      down, up                          kohya, diffusers old and new, peft; with lora_mid: LoCon
with a Tucker core (LyCORIS) LoHa      (w1_a @ w1_b) * (w2_a @ w2_b)     LyCORIS, peft LoKr
kron(w1, w2)                      LyCORIS, peft DoRA      any of them and a magnitude       kept
beside the Lora: its meaning depends on the base's weights
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import Literal, NamedTuple

from training.errors import StyleFileError
from training.style_files.embeddings import is_alone, word_of
from training.style_files.key_names import dotted_name, is_kohya
from training.style_files.layers import HADAMARD, KRONECKER
from training.style_files.safetensors_io import BUNDLED

Dialect = Literal["kohya", "diffusers"]

MAX_LAYER = 2**27  # weights of one layer; the largest of any base in use has half as many
MAX_WEIGHTS = 2**30  # of all matrices of a style together, 4 GiB in float32

LEAVES = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_mid.weight": "mid",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    "_lora.down.weight": "down",  # attention processors: to_q_lora
    "_lora.up.weight": "up",
    ".alpha": "alpha",
    ".dora_scale": "dora_scale",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    **{f".{leaf}": leaf for leaf in (*HADAMARD, *KRONECKER)},
}
# What torch's wrappers (DDP, compile, FSDP, checkpointing) put into the names of what they wrap
WRAPPERS = re.compile(
    r"(?:(?<=[.])|^)(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)[.]"
)
# What LyCORIS trains beside layers: differences of the weights and biases of norms
NORMS = re.compile(r"\.[wb]_norm$")
UNREADABLE = {  # pattern in a tensor's name -> what it belongs to
    r"oft_(blocks|diag)|oft_R|boft_": "OFT",
    r"on_input": "IA3",
    r"[wb]_norm$": "trained norms",
    r"lora_B\.bias|bias_(indices|values|size)": "a LoRA with biases",
    r"\.diff(_b)?$": "full weight differences",
    r"vera_lambda|glora|\.[ab][12]\.weight$": "a method that is no LoRA, LoHa or LoKr",
}


class Content(NamedTuple):
    """What the tensors of a style file are."""

    dialect: Dialect
    layers: dict[str, dict[str, str]]  # layer -> role -> tensor's name
    words: list[str]  # that are brought along
    norms: list[str]  # tensors that change norms, which are left out


def sorted_out(label: str, names: Collection[str], part: str = "") -> Content:
    """Return what each tensor is. Raises StyleFileError for what is nothing that is known.

    label: what a person calls the file; part: where dotted names without one belong.
    """
    layers: dict[str, dict[str, str]] = {}
    dialects: set[Dialect] = set()
    strange, words, norms = [], set(), []
    alone = is_alone(names)
    for name in sorted(names):
        if alone or name.startswith(BUNDLED):
            words.add(word_of(name)[0] if name.startswith(BUNDLED) else PurePath(label).stem)
            continue
        dialect, layer, role = _role(name, part)
        if NORMS.search(name):
            norms.append(name)
            continue
        if not role:
            strange.append(name)
            continue
        dialects.add(dialect)
        if role in layers.setdefault(layer, {}):
            raise StyleFileError(
                f"{label} holds {layer} twice, in two spellings. Export it again with one of them."
            )
        layers[layer][role] = name
    if strange or (norms and not layers):
        raise _unsupported(label, strange or norms, bool(layers))
    of_norms = {NORMS.sub("", name) for name in norms}
    for layer in [name for name, roles in layers.items() if set(roles) == {"alpha"}]:
        if layer in of_norms:
            del layers[layer]
    if len(dialects) > 1:
        raise StyleFileError(
            f"{label} mixes kohya and diffusers names, expected one of them. Export it again "
            "in one format."
        )
    return Content(dialects.pop() if dialects else "kohya", layers, sorted(words), norms)


def is_style_layer(name: str) -> bool:
    """Whether a tensor's name ends as one of a layer's matrices does."""
    return name.endswith(tuple(leaf for leaf in LEAVES if leaf != ".alpha"))


def _role(name: str, part: str) -> tuple[Dialect, str, str]:
    """(dialect, layer, role) of a tensor's name; role is "" for an unknown one."""
    suffix = max((leaf for leaf in LEAVES if name.endswith(leaf)), key=len, default="")
    if not suffix:
        return "kohya", name, ""
    layer = name.removesuffix(suffix) + ("_lora" if suffix.startswith("_") else "")
    layer = WRAPPERS.sub("", layer)
    if is_kohya(layer):
        layer = layer.replace("__orig_mod_", "_")
    if "." in layer and is_kohya(layer):  # half converted: the last names still have their dots
        layer = layer.replace(".", "_")
    return (
        ("diffusers", dotted_name(layer, part), LEAVES[suffix])
        if "." in layer
        else ("kohya", layer, LEAVES[suffix])
    )


def _unsupported(label: str, strange: list[str], others: bool) -> StyleFileError:
    for pattern, kind in UNREADABLE.items():
        if found := next(filter(None, (re.search(pattern, name) for name in strange)), None):
            return StyleFileError(
                f"{label} holds {kind} ({found.group().strip('.')}), which cannot be read. Use "
                "a LoRA, LoHa or LoKr."
            )
    shown = ", ".join(strange[:3])
    if others:
        return StyleFileError(
            f"{label} holds tensors that no LoRA, LoHa or LoKr has ({shown}) and cannot be "
            "read whole. Use another file."
        )
    return StyleFileError(
        f"{label} is no style: it holds {shown}. If it is a whole model, give it as base.model."
    )


def check_sizes(label: str, layers: Mapping[str, Mapping[str, tuple[int, ...]]]) -> None:
    """Refuse layers that no base has, and more weights than any style, before anything is computed.

    layers: layer -> role -> shape. Raises StyleFileError.
    """
    sizes = [_size(shapes) for shapes in layers.values()]
    if any(size.rows * size.columns > MAX_LAYER for size in sizes):
        raise StyleFileError(
            f"{label} has a layer of more than {MAX_LAYER} weights, larger than any base has. "
            "Use another file."
        )
    if sum((s.rows + s.columns) * s.rank for s in sizes) > MAX_WEIGHTS:
        raise StyleFileError(
            f"{label} unfolds to more than {MAX_WEIGHTS} weights, larger than any style. Use "
            "another file."
        )


class _Size(NamedTuple):
    rows: int
    columns: int
    rank: int


def _size(shapes: Mapping[str, tuple[int, ...]]) -> _Size:
    """The size of a layer's change.

    What is malformed counts as little here and is refused later.
    """

    def side(role: str, axis: int) -> int:
        shape = shapes.get(role, ())
        return shape[axis] if axis < len(shape) else 1

    if "hada_w1_a" in shapes:
        core = shapes.get("hada_t1", ())
        rows = side("hada_w1_a", 1 if core else 0)
        columns = side("hada_w1_b", 1) * math.prod(core[2:])
        return _Size(rows, columns, side("hada_w1_b", 0) + side("hada_w2_b", 0))
    if any(role.startswith("lokr") for role in shapes):
        one = _factor_size(shapes, "lokr_w1", ())
        two = _factor_size(shapes, "lokr_w2", shapes.get("lokr_t2", ()))
        rows, columns = one[0] * two[0], one[1] * two[1]
        numbers = one[0] * one[1] + two[0] * two[1]  # its factors stay as they are
        return _Size(rows, columns, -(-numbers // max(rows + columns, 1)))
    kernel = math.prod((shapes.get("mid") or shapes.get("down", ()))[2:])
    return _Size(side("up", 0), side("down", 1) * kernel, side("down", 0))


def _factor_size(
    shapes: Mapping[str, tuple[int, ...]], name: str, core: tuple[int, ...]
) -> tuple[int, int]:
    if name in shapes:
        rows, columns = (shapes[name] or (1,))[0], math.prod(shapes[name][1:])
    else:
        a, b = shapes.get(f"{name}_a") or (1, 1), shapes.get(f"{name}_b") or (1, 1)
        rows, columns = (a[-1] if core else a[0]), math.prod(b[1:]) * math.prod(core[2:])
    return rows, columns
