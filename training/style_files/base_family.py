"""Which kind of base a style was made for:

from the shapes and names of its weights, else from what its metadata claims. Pure text and shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from training.style_files.family_spec import SPECS
from training.style_files.transformer_names import family_of_layers

Shapes = Mapping[str, tuple[int, ...]]  # name in either dialect -> shape of the base's weight

# Kinds of base that are recognised and not trained: name -> as it is shown
OTHERS = {
    "sdxl-refiner": "SDXL refiner",
}
SAME_LAYERS = {"chroma": "flux"}  # as all of the other's, where both are the same to weights
REFINER_WIDTH = 1280  # of the text that its cross-attention reads
OTHER_CLAIMS = {
    "flux": "flux",
    "krea": "krea2",
    "stable-diffusion-xl-v1-refiner": "sdxl-refiner",
}


def bases() -> dict[str, str]:
    """Return every kind of base that is recognised, and as it is shown."""
    return OTHERS | {spec.name: spec.short_title for spec in SPECS.values()}


def family_of_shapes(shapes: Shapes) -> str:
    """Return the kind of base that the weights show (see bases), "" when they fit several
    or none.
    """
    names = {name.replace(".", "_"): shape for name, shape in shapes.items()}
    if family := family_of_layers(names):
        return family
    if width := text_width(shapes):
        widths = {REFINER_WIDTH: "sdxl-refiner"}
        widths |= {spec.text_width: spec.name for spec in SPECS.values() if spec.text_width}
        return widths.get(width, "")
    for spec in SPECS.values():
        if spec.only_here and any(re.search(spec.only_here, name) for name in names):
            return spec.name
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
    starts = OTHER_CLAIMS | {claim: spec.name for spec in SPECS.values() for claim in spec.claims}
    for text in (version, architecture):
        if found := [start for start in starts if text.startswith(start)]:
            return starts[max(found, key=len)]
    return ""


def settled(by_weights: str, by_words: str) -> str:
    """The kind of base that weights and metadata show together: weights count, but where two
    families have the same layers, metadata chooses.
    """
    return by_words if SAME_LAYERS.get(by_words, "") == by_weights else by_weights or by_words


def misfit(own: str, base: str, widths: tuple[int, int], trained_on: str) -> str:
    """In words, why a style does not fit a base.

    own, base: families, "" for unknown; widths: of the text their cross-attention reads, 0 for
    none.
    """
    made_for = f" It was trained on {trained_on!r}." if trained_on else ""
    kind = "a style for another base"
    if own:
        article = "an" if OTHERS.get(own, "").startswith("S") else "a"
        kind = SPECS[own].style_phrase if own in SPECS else f"{article} {OTHERS[own]} style"
    if own and base and own != base:
        return f"This is {kind}, your base is {bases()[base]}.{made_for}"
    if all(widths) and widths[0] != widths[1]:
        its = (
            f"your base is {bases()[base]} and has {widths[1]}"
            if base
            else f"your base's {widths[1]} wide"
        )
        return f"This is {kind} whose cross-attention reads text {widths[0]} wide, {its}.{made_for}"
    return f"This is {kind}, your base has other layers.{made_for}"
