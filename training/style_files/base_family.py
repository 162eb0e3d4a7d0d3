"""Which kind of base a style was made for:

from the shapes and names of its weights, else from what its metadata claims. Pure text and shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

Shapes = Mapping[str, tuple[int, ...]]  # name in either dialect -> shape of the base's weight

BASES = {
    "mini": "the built-in mini base",
    "sd1": "SD 1.5",
    "sd2": "SD 2.x",
    "sdxl": "SDXL",
    "sdxl-refiner": "SDXL refiner",
    "sd3": "SD 3",
    "flux": "FLUX",
}
TEXT_WIDTHS = {
    192: "mini",
    768: "sd1",
    1024: "sd2",
    2048: "sdxl",
    1280: "sdxl-refiner",
}  # what cross-attention reads


def family_of_shapes(shapes: Shapes) -> str:
    """Return the kind of base that the weights show (see BASES), "" when they fit several
    or none.
    """
    names = {name.replace(".", "_"): shape for name, shape in shapes.items()}
    if any(
        word in name
        for name in names
        for word in ("double_blocks", "single_blocks", "single_transformer_blocks")
    ):
        return "flux"
    if any("joint_blocks" in name or name.startswith("transformer_") for name in names):
        return "sd3"
    if width := text_width(shapes):
        return TEXT_WIDTHS.get(width, "")
    # In underscores sgm names are only used for SDXL, and only it has a second text encoder or more
    # than two transformer blocks in a row.
    second = (
        r"^lora_te2_|^text_encoder_2_|^lora_unet_(input|middle|output)_blocks?_"
        r"|transformer_blocks_[2-9]_"
    )
    if any(re.search(second, name) for name in names):
        return "sdxl"
    # A first text encoder alone is 768 wide in SD 1.5 and SDXL; only sd-scripts' prefix for a
    # single one tells them apart.
    hidden = {
        (name.startswith("lora_te_"), shape[1])
        for name, shape in names.items()
        if name.endswith("self_attn_q_proj")
    }
    if hidden:
        return (
            "sd1"
            if (True, 768) in hidden
            else "sd2"
            if hidden & {(True, 1024), (False, 1024)}
            else ""
        )
    first = [
        shape
        for name, shape in names.items()
        if name.endswith("down_blocks_0_attentions_0_proj_in") and shape[0] == 320
    ]
    return ("sd1" if len(first[0]) == 4 else "sd2") if first else ""


def text_width(shapes: Shapes) -> int:
    """How wide the text is that cross-attention reads, 0 when no such layer is there."""
    ends = ("attn2_to_k", "attn2_to_v")
    return next(
        (shape[1] for name, shape in shapes.items() if name.replace(".", "_").endswith(ends)), 0
    )


def family_in(metadata: Mapping[str, str]) -> str:
    """Return the kind of base that the metadata claims, "" when it claims none."""
    version, architecture = (
        metadata.get("ss_base_model_version", ""),
        metadata.get("modelspec.architecture", ""),
    )
    starts = {"style_studio_mini": "mini", "style-studio-mini": "mini", "sdxl": "sdxl"}
    starts |= {
        "sd_v1": "sd1",
        "sd_1": "sd1",
        "sd_v2": "sd2",
        "sd_2": "sd2",
        "sd3": "sd3",
        "flux": "flux",
    }
    starts |= {
        "stable-diffusion-xl-v1-refiner": "sdxl-refiner",
        "stable-diffusion-xl": "sdxl",
        "stable-diffusion-v1": "sd1",
    }
    starts |= {"stable-diffusion-v2": "sd2", "stable-diffusion-3": "sd3"}
    return next(
        (
            family
            for start, family in starts.items()
            for text in (version, architecture)
            if text.startswith(start)
        ),
        "",
    )


def misfit(own: str, base: str, widths: tuple[int, int], trained_on: str) -> str:
    """In words, why a style does not fit a base.

    own, base: families, "" for unknown; widths: of the text their cross-attention reads, 0 for
    none.
    """
    made_for = f" It was trained on {trained_on!r}." if trained_on else ""
    article = "a" if own == "flux" else "an"
    kind = (
        "a style for another base"
        if not own
        else f"a style for {BASES[own]}"
        if own == "mini"
        else f"{article} {BASES[own]} style"
    )
    if own and base and own != base:
        return f"This is {kind}, your base is {BASES[base]}.{made_for}"
    if all(widths) and widths[0] != widths[1]:
        its = (
            f"your base is {BASES[base]} and has {widths[1]}"
            if base
            else f"your base's {widths[1]} wide"
        )
        return f"This is {kind} whose cross-attention reads text {widths[0]} wide, {its}.{made_for}"
    return f"This is {kind}, your base has other layers.{made_for}"
