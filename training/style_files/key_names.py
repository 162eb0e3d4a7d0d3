"""What style files call the layers of a base model, in two dialects. Pure text; knows nothing of
tensors or files.

kohya:     `lora_unet_down_blocks_0_…`, with the names of Stability's own code
(`input_blocks_4_1_…`) for SDXL; every program reads it
diffusers: `unet.down_blocks.0.…`, the dotted names of diffusers and peft

Read as well: `lycoris_…` (LyCORIS, SimpleTuner), `base_model.model.…` (peft), `diffusion_model.…`
(ComfyUI), `clip_l.…` and `clip_g.…` (OneTrainer), dotted names without a part, either kind of block
names, and the attention processors of 2023.

Names are built forwards from a live module's dotted name. A name in a file is looked up among
those, never taken apart at its underscores.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from training.errors import StyleFileError
from training.style_files.family_spec import SPECS
from training.style_files.transformer_names import Names as Names
from training.style_files.transformer_names import Place as Place
from training.style_files.transformer_names import (
    dotted,
    family_of_layers,
    transformer_names,
    written_name,
)

Part = Literal["unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3"]

ALSO = {
    "unet": ("lycoris_",),
    "transformer": ("lycoris_", "lora_transformer_"),
    "text_encoder": ("lora_te1_",),
}  # diffusers' own converter writes lora_te1_ for a single text encoder, too
DOTTED = {  # how dotted names begin elsewhere -> here
    "base_model.model.": "",
    "base_model.": "",
    "diffusion_model.": "unet.",
    "clip_l.": "text_encoder.",
    "clip_g.": "text_encoder_2.",
}
BARE_UNET = (
    "down_blocks.",
    "mid_block.",
    "up_blocks.",
    "conv_in",
    "conv_out",
    "time_embedding.",
    "add_embedding.",
)
BARE_TEXT = ("text_model.", "encoder.layers.", "text_projection")
PROCESSOR = re.compile(r"(?P<before>.+?)(?P<processor>\.processor)?\.to_(?P<which>q|k|v|out)_lora$")
THREE_BY_THREE = re.compile(
    r"(conv1|conv2|conv_in|conv_out|samplers_0_conv|in_layers_2|out_layers_3|_\d_0_op|_[12]_conv|input_blocks_0_0|unet_out_2)$"
)
WORDS = {
    "unet": "UNet",
    "transformer": "transformer",
    "text_encoder": "text encoder",
    "text_encoder_2": "second text encoder",
}

# SDXL's modules in sgm (Stability-AI/generative-models), as sd-scripts and diffusers write and read
# them.
SGM_SINGLES = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
SGM_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
SGM_COLUMN = {"resnets": 0, "attentions": 1}


def canonical_name(part: str, module: str, family: str) -> str:
    """Return the name a style file is written with: kohya's, and of transformers the dotted one
    that all programs read.

    module: the live dotted name. Raises StyleFileError for an unknown family or part.
    """
    if part == "transformer" and family in SPECS:
        return written_name(SPECS[family], module)
    return _prefix(part, family) + _spellings(part, module, family)[0].replace(".", "_")


def dialect_of(family: str) -> Literal["kohya", "diffusers"]:
    """The dialect that styles of a family are written in, that of its canonical names."""
    is_transformer = family in SPECS and SPECS[family].denoiser == "transformer"
    return "diffusers" if is_transformer else "kohya"


def kohya_names(part: str, modules: Iterable[str], family: str) -> dict[str, str]:
    """Return every kohya name that is accepted -> live module:

    the canonical one and what other programs write for it.
    """
    prefixes = dict.fromkeys((_prefix(part, family), *ALSO.get(part, ())))
    return {
        prefix + s.replace(".", "_"): module
        for module in modules
        for s in _spellings(part, module, family)
        for prefix in prefixes
    }


def _prefix(part: str, family: str) -> str:
    try:
        return SPECS[family].prefixes[part]
    except KeyError:
        raise StyleFileError(
            f"There are no style file names for the {part} of a {family or 'unknown'} base. "
            f"Known: {', '.join(SPECS)}."
        ) from None


def diffusers_names(part: str, modules: Iterable[str], family: str = "") -> dict[str, str]:
    """Return every dotted name that is accepted -> live module; the first of a module is the one to
    write. family: adds sgm's block names.
    """
    spelt = {
        module: [module, *_spellings(part, module, family)]
        if part == "unet"
        else _spellings(part, module, family)
        for module in modules
    }
    return {
        f"{part}.{spelling}": module
        for module, spellings in spelt.items()
        for spelling in spellings
    }


def dotted_name(name: str, part: str = "") -> str:
    """A dotted module name from elsewhere as `part.module`.

    part: where a name without one belongs, "" to tell by its blocks.
    """
    found = dotted(name) if part in ("", "transformer") else name
    if found.startswith("transformer."):
        return found
    for elsewhere, here in DOTTED.items():
        if name.startswith(elsewhere):
            name = here + name.removeprefix(elsewhere)
    if old := PROCESSOR.fullmatch(name):
        before, which = old["before"], old["which"]
        in_unet = old["processor"] or ".self_attn" not in before
        name = (
            f"{before}.to_{which}{'.0' if which == 'out' else ''}"
            if in_unet
            else f"{before}.{which}_proj"
        )
    if name.startswith(BARE_UNET):
        return f"{part or 'unet'}.{name}"
    return f"{part or 'text_encoder'}.{name}" if name.startswith(BARE_TEXT) else name


def kernel_of(name: str) -> int:
    """Side of the convolution that a name of either dialect belongs to:

    3, or 1 for linears and 1x1 convolutions. For files that do not say.
    """
    return 3 if THREE_BY_THREE.search(name.replace(".", "_")) else 1


def is_pointwise(part: str, module: str, family: str) -> bool:
    """Whether models of a family have a 1x1 convolution there.

    As matrices these look like linears, and diffusers takes them only as what they are.
    """
    names = SPECS[family].pointwise if family in SPECS else ()
    return part == "unet" and module.rpartition(".")[2] in names


def accepted_names(parts: Mapping[str, Mapping[str, tuple[int, ...]]], family: str) -> Names:
    """Return name in a file -> its place in the base, in both dialects.

    parts: part -> live module -> shape of its weight.
    """
    accepted = Names({})
    for part, shapes in parts.items():
        if part != "transformer" and dialect_of(family) == "diffusers":
            continue  # text encoders, of which styles of these families change nothing
        if part == "transformer":
            found = transformer_names(SPECS[family], shapes)
            accepted.update(found)
            accepted.fused.update(found.fused)
            continue
        for name, module in (
            kohya_names(part, shapes, family) | diffusers_names(part, shapes, family)
        ).items():
            accepted[name] = (part, module, shapes[module])
    return accepted


def standard_places(family: str) -> dict[str, tuple[str, str]]:
    """Return accepted name -> (part, module) for all that models of a family have, so that files
    convert without a model at hand.
    """
    places: dict[str, tuple[str, str]] = {}
    for part in SPECS[family].prefixes if family in SPECS else ():
        if part == "transformer":
            continue  # their number of blocks is no family's: see transformer_places
        modules = list(_standard_unet(family) if part == "unet" else _standard_text_encoder())
        places |= {
            name: (part, module)
            for name, module in (
                kohya_names(part, modules, family) | diffusers_names(part, modules, family)
            ).items()
        }
    return places


def is_kohya(name: str) -> bool:
    """Whether a name begins as kohya's do, whatever its rest looks like."""
    prefixes = {prefix for spec in SPECS.values() for prefix in spec.prefixes.values()}
    return name.startswith((*prefixes, *(prefix for also in ALSO.values() for prefix in also)))


def part_of(name: str) -> str:
    """Return the part that a name of either dialect belongs to, "" when it is none of ours."""
    if family_of_layers({name.replace(".", "_"): ()}):
        return "transformer"
    of_families = [spec.prefixes for spec in SPECS.values()]
    dotted = {part: f"{part}." for part in WORDS}
    for prefixes in (*of_families, dotted, {"unet": "lycoris_"}):
        for part, prefix in prefixes.items():
            if name.startswith(prefix):
                return part
    return ""


def counted(names: Iterable[str]) -> str:
    """In words how many layers of which part:

    `128 layers of the UNet, 72 layers of the text encoder`.
    """
    found = [part_of(name) for name in names]
    rows = [(found.count(part), words) for part, words in [*WORDS.items(), ("", "unknown part")]]
    return ", ".join(
        f"{count} layer{'s' if count > 1 else ''} of the {words}" for count, words in rows if count
    )


def _spellings(part: str, module: str, family: str) -> list[str]:
    """Dotted spellings of one module, the one to write first."""
    if part == "unet":
        spec = SPECS.get(family)
        if spec and spec.block_names == "sgm":
            return [_sgm(module), module]
        # Without attention before it, the first sampler upwards is one place earlier in 1.x and 2.x
        # than in XL; OneTrainer numbers it as XL does.
        early = (
            [_sgm(module).replace("_blocks.2.2.", "_blocks.2.1.")]
            if module == "up_blocks.0.upsamplers.0.conv"
            else []
        )
        return [module, _sgm(module), *early] if spec and spec.reads_sgm else [module]
    # transformers 5 has no `text_model` in CLIPTextModel any more, but every other program looks
    # for it.
    bare = module.removeprefix("text_model.")
    return [bare] if bare.startswith("text_projection") else [f"text_model.{bare}", bare]


def _sgm(module: str) -> str:
    """diffusers' name of a module of SDXL's UNet -> sgm's.

    All SDXL models have two resnets a level, hence the 3 (with the sampler).
    """
    match module.split("."):
        case ["mid_block", "attentions", "0", *inner]:
            block = "middle_block.1"
        case ["mid_block", "resnets", index, *inner]:
            block = f"middle_block.{2 * int(index)}"
        case ["down_blocks", level, "downsamplers", "0", "conv"]:
            return f"input_blocks.{3 * int(level) + 3}.0.op"
        case ["up_blocks", level, "upsamplers", "0", "conv"]:
            return f"output_blocks.{3 * int(level) + 2}.2.conv"
        case ["down_blocks", level, "resnets" | "attentions" as kind, index, *inner]:
            block = f"input_blocks.{3 * int(level) + int(index) + 1}.{SGM_COLUMN[kind]}"
        case ["up_blocks", level, "resnets" | "attentions" as kind, index, *inner]:
            block = f"output_blocks.{3 * int(level) + int(index)}.{SGM_COLUMN[kind]}"
        case _:
            return SGM_SINGLES.get(module, module)
    rest = ".".join(inner)
    return f"{block}.{SGM_RESNET.get(rest, rest)}"


def _standard_unet(family: str) -> Iterator[str]:
    """More modules than any one model has:

    4 levels, 2 resnets down and 3 up (one more each for mini bases), 10 transformer blocks.
    """
    yield from SGM_SINGLES
    attention = [f"attn{n}.to_{x}" for n in (1, 2) for x in ("q", "k", "v", "out.0")]
    blocks = [
        f"transformer_blocks.{n}.{inner}"
        for n in range(10)
        for inner in [*attention, "ff.net.0.proj", "ff.net.2"]
    ]
    rows = {f"resnets.{{}}.{inner}" for inner in SGM_RESNET} | {
        f"attentions.{{}}.{inner}" for inner in ["proj_in", "proj_out", *blocks]
    }
    down = SPECS[family].resnets
    for row in sorted(rows):
        yield from (
            f"down_blocks.{level}.{row.format(index)}"
            for level in range(4)
            for index in range(down)
        )
        yield from (
            f"up_blocks.{level}.{row.format(index)}"
            for level in range(4)
            for index in range(down + 1)
        )
        yield from (
            f"mid_block.{row.format(index)}"
            for index in range(2 if row.startswith("resnets") else 1)
        )
    for level in range(4):
        yield from (
            f"down_blocks.{level}.downsamplers.0.conv",
            f"up_blocks.{level}.upsamplers.0.conv",
        )


def _standard_text_encoder() -> Iterator[str]:
    for layer in range(32):
        inner = [f"self_attn.{x}_proj" for x in ("q", "k", "v", "out")] + ["mlp.fc1", "mlp.fc2"]
        yield from (f"encoder.layers.{layer}.{x}" for x in inner)
    yield "text_projection"
