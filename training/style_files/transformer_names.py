"""What style files call the layers of a transformer, in every dialect: dotted names of diffusers,
peft and ComfyUI, kohya's with underscores, and the names of the authors' own code, in which one
matrix may hold the rows of several layers. Pure text; knows nothing of tensors or files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from training.style_files.family_record import FamilySpec

PART = "transformer"
Place = tuple[str, str, tuple[int, ...]]  # part, live dotted module name, shape of its weight
KOHYA = ("lora_unet_", "lora_transformer_", "lycoris_")  # how names with underscores begin
# How dotted names without a part begin, in diffusers and in the authors' own code
BARE = (
    "transformer_blocks.",
    "single_transformer_blocks.",
    "double_blocks.",
    "single_blocks.",
    "joint_blocks.",
    "layers.",
    "noise_refiner.",
    "context_refiner.",
    "blocks.",
    "txtfusion.",
    "text_fusion.",
    "context_embedder",
    "x_embedder",
    "img_in",
    "txt_in",
    "time_text_embed.",
    "time_in.",
    "vector_in.",
    "guidance_in.",
    "cap_embedder.",
    "all_x_embedder.",
    "all_final_layer.",
    "final_layer.",
    "norm_out.",
)


class Names(dict[str, Place]):
    """Name in a file -> its place in a base. fused: a module of other programs -> the live modules
    whose rows it holds one below the other; its own place is the whole matrix.
    """

    def __init__(
        self, names: Mapping[str, Place], fused: Mapping[str, Sequence[Place]] | None = None
    ) -> None:
        super().__init__(names)
        self.fused: dict[str, tuple[Place, ...]] = {
            module: tuple(places) for module, places in (fused or {}).items()
        }


class _Row(NamedTuple):
    place: int
    module: str


def native_modules(spec: FamilySpec, modules: Iterable[str]) -> dict[str, list[str]]:
    """The authors' modules -> the live ones that each holds, in the order of their rows."""
    found: dict[str, list[_Row]] = {}
    for module in modules:
        if native := spec.elsewhere(module):
            found.setdefault(native[0], []).append(_Row(native[1], module))
    return {native: [row.module for row in sorted(rows)] for native, rows in found.items()}


def transformer_names(spec: FamilySpec, shapes: Mapping[str, tuple[int, ...]]) -> Names:
    """Return every name that is accepted for the linears of a transformer. shapes: of each live
    module's weight.
    """
    names: dict[str, Place] = {}
    fused: dict[str, list[Place]] = {}
    for native, modules in native_modules(spec, shapes).items():
        places = [(PART, module, shapes[module]) for module in modules]
        place = places[0]
        if len(places) > 1:
            fused[native] = places
            place = (PART, native, (sum(p[2][0] for p in places), *place[2][1:]))
        names |= dict.fromkeys(_spellings(native), place)
    for module, shape in shapes.items():
        names |= dict.fromkeys(_spellings(module), (PART, module, shape))
    return Names(names, fused)


def _spellings(module: str) -> list[str]:
    under = module.replace(".", "_")
    return [f"{PART}.{module}", *(prefix + under for prefix in KOHYA)]


def row_counts(spec: FamilySpec, native: str, rows: int, modules: int) -> list[int]:
    """How many of a fused matrix's rows are of each of its modules, without a base at hand."""
    shares = spec.shares.get(native.rpartition(".")[2], (1,) * modules)
    return [rows * share // sum(shares) for share in shares]


def family_of_layers(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The family whose transformer has such layers, "" for none or where several have. shapes: name
    in any dialect, with underscores -> shape of the weight.
    """
    bare = {
        re.sub(rf"^({'|'.join(KOHYA)}|transformer_(?!blocks_\d))", "", name): shape
        for name, shape in shapes.items()
    }

    def has(pattern: str, ratio: int = 0) -> bool:
        """Whether a layer is called so, and is so many times as high as wide if that is asked."""
        return any(
            re.search(pattern, name)
            and (not ratio or (len(shape) > 1 and shape[0] == ratio * shape[1]))
            for name, shape in bare.items()
        )

    if has(r"attn_to_qkv_mlp_proj|ff(_context)?_linear_(in|out)$") or (
        has(r"^single_blocks_\d+_linear1", 9) or has(r"^double_blocks_\d+_(img|txt)_mlp_0", 6)
    ):
        return "flux2-klein"
    if has(r"^distilled_guidance_layer"):
        return "chroma"
    if has(r"^(double_blocks|single_blocks|single_transformer_blocks)_\d"):
        return "flux"
    if has(r"^joint_blocks_\d"):
        return "sd3"
    if has(r"^(layers|noise_refiner|context_refiner)_\d+_(attention|feed_forward|adaLN)"):
        return "z-image"
    krea2 = r"^(transformer_)?blocks_\d+_(attn_(w[qkvo]|gate)|mlp_(gate|up|down))$"
    if has(krea2) or has(r"^(txtfusion|text_fusion)|_attn_to_gate$"):
        return "krea2"
    if has(r"^transformer_blocks_\d+_(img|txt)_(mlp|mod)"):
        return "qwen-image"
    if has(r"^transformer_blocks_\d+_attn2?_") and any(
        shape[1:2] in ((1536,), (2432,)) for shape in bare.values()
    ):
        return "sd3"
    return ""


def written_name(spec: FamilySpec, module: str) -> str:
    """The name that a layer of the live module has in a style file that is written here."""
    return spec.spelt(module)


def dotted(name: str) -> str:
    """A dotted name of a transformer's layer as `transformer.module`, other names as they are."""
    inner = re.sub(
        r"^(base_model\.model\.|base_model\.)?(diffusion_model\.|transformer\.)?", "", name
    )
    return f"{PART}.{inner}" if inner.startswith(BARE) else name
