"""Names of a base's tensors in checkpoints of one file, Stability's own layout, from their names in
a diffusers folder. Pure strings and sizes.

ldm.modules.diffusionmodules (openaimodel.py, model.py) name the UNet and the VAE, transformers or
open_clip the text encoders.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from training.errors import StyleFileError
from training.style_files.base_family import bases
from training.style_files.family_spec import SPECS

Shapes = Mapping[str, tuple[int, ...]]  # tensor's name -> shape

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_EDGES = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_ATTENTION = {
    **{"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"},
    **{
        "query": "q",
        "key": "k",
        "value": "v",
        "proj_attn": "proj_out",
    },  # as older versions of diffusers saved them
}
OPEN_CLIP_EDGES = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
}
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


class Piece(NamedTuple):
    """One tensor of a checkpoint.

    of: the tensors of the part whose rows it is made of; turned: it is their transpose.
    """

    name: str
    shape: tuple[int, ...]
    part: str
    of: tuple[str, ...]
    turned: bool = False


def pieces(family: str, parts: Mapping[str, Shapes]) -> list[Piece]:
    """Every tensor of the checkpoint.

    parts: unet, vae and text encoders of a diffusers folder. Raises StyleFileError for other
    families.
    """
    encoders = SPECS[family].checkpoint_encoders if family in SPECS else {}
    if not encoders:
        kind = bases().get(family, family)
        raise StyleFileError(
            f"No other program opens {kind} as one file. Give a folder as --out, or bake into "
            "a 1.x, 2.x or XL base."
        )
    found = list(_unet(parts["unet"])) + list(_vae(parts["vae"]))
    for part, (begins, library) in encoders.items():
        name: Callable[[str, Shapes, str], Iterator[Piece]] = (
            _open_clip if library == "open_clip" else _transformers
        )
        found += name(part, parts[part], begins)
    return found


# Where a checkpoint's first convolution and its text encoders are found, whatever stands before
FIRST = "model.diffusion_model.input_blocks.0.0.weight"
CLIP_PARTS = ("embeddings.", "encoder.layers.", "final_layer_norm.")
SGM_OPEN_CLIP = "conditioner.embedders.0.model."  # of SD 2.x as Stability's later code saves it
OPEN_CLIP_WIDTH = 1024  # of the text encoder of 2.x; an SDXL refiner's there is 1280 wide


def usual_names(shapes: Shapes) -> dict[str, str]:
    """Name in a checkpoint -> what the tensor is called in those of today; names that are no
    checkpoint's stay.

    Told by where names stand: `module.` and the like before all of them; NovelAI's of SD 1.x, and
    of all that was merged from it, which have no `text_model.`; SD 2.x saved with the names of XL.
    """
    before = next((name.removesuffix(FIRST) for name in shapes if name.endswith(f".{FIRST}")), "")
    names = {name: name.removeprefix(before) for name in shapes}
    bare = [
        (begins.removesuffix("text_model."), begins)
        for spec in SPECS.values()
        for begins, library in spec.checkpoint_encoders.values()
        if library == "transformers"
    ]
    embedding = f"{SGM_OPEN_CLIP}token_embedding.weight"
    widths = [shape[-1] for name, shape in shapes.items() if names[name] == embedding and shape]
    return {
        name: _usual(usual, bare, is_sd2=widths == [OPEN_CLIP_WIDTH])
        for name, usual in names.items()
    }


def _usual(name: str, bare: Sequence[tuple[str, str]], *, is_sd2: bool) -> str:
    for short, begins in bare:
        if name.startswith(tuple(short + part for part in CLIP_PARTS)):
            return begins + name.removeprefix(short)
    if is_sd2 and name.startswith(SGM_OPEN_CLIP):
        return SPECS["sd2"].checkpoint_encoders["text_encoder"][0] + name.removeprefix(
            SGM_OPEN_CLIP
        )
    return name


def _stem(name: str) -> tuple[str, str]:
    """`conv_in.weight` -> `conv_in`, `weight`."""
    stem, _, kind = name.rpartition(".")
    return stem, kind


def _unet(shapes: Shapes) -> Iterator[Piece]:
    resnets = len(
        {
            found[1]
            for name in shapes
            if (found := re.match(r"down_blocks\.0\.resnets\.(\d+)\.", name))
        }
    )
    attends = {
        found[1] for name in shapes if (found := re.match(r"up_blocks\.(\d+)\.attentions\.", name))
    }
    for name, shape in shapes.items():
        stem, kind = _stem(name)
        yield Piece(
            f"model.diffusion_model.{_unet_place(stem, resnets, attends)}.{kind}",
            shape,
            "unet",
            (name,),
        )


def _resnet_place(rest: Sequence[str]) -> str:
    name = ".".join(rest)
    return RESNET.get(name, name)


def _unet_place(stem: str, resnets: int, attends: set[str]) -> str:
    match stem.split("."):
        case ["mid_block", "resnets", index, *rest]:
            return f"middle_block.{2 * int(index)}.{_resnet_place(rest)}"
        case ["mid_block", "attentions", "0", *rest]:
            return f"middle_block.1.{'.'.join(rest)}"
        case ["down_blocks", level, "downsamplers", "0", "conv"]:
            return f"input_blocks.{(int(level) + 1) * (resnets + 1)}.0.op"
        case ["down_blocks", level, kind, index, *rest]:
            at = int(level) * (resnets + 1) + int(index) + 1
            return (
                f"input_blocks.{at}.0.{_resnet_place(rest)}"
                if kind == "resnets"
                else f"input_blocks.{at}.1.{'.'.join(rest)}"
            )
        case ["up_blocks", level, "upsamplers", "0", "conv"]:
            block = int(level) * (resnets + 1) + resnets
            return f"output_blocks.{block}.{2 if level in attends else 1}.conv"
        case ["up_blocks", level, kind, index, *rest]:
            at = int(level) * (resnets + 1) + int(index)
            return (
                f"output_blocks.{at}.0.{_resnet_place(rest)}"
                if kind == "resnets"
                else f"output_blocks.{at}.1.{'.'.join(rest)}"
            )
    return UNET_EDGES.get(stem, stem)


def _vae(shapes: Shapes) -> Iterator[Piece]:
    levels = len(
        {found[1] for name in shapes if (found := re.match(r"decoder\.up_blocks\.(\d+)\.", name))}
    )
    for name, shape in shapes.items():
        stem, kind = _stem(name)
        stem = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", stem)
        stem = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", stem)
        stem = re.sub(
            r"up_blocks\.(\d+)\.resnets\.",
            lambda found: f"up.{levels - 1 - int(found[1])}.block.",
            stem,
        )
        stem = re.sub(
            r"up_blocks\.(\d+)\.upsamplers\.0",
            lambda found: f"up.{levels - 1 - int(found[1])}.upsample",
            stem,
        )
        stem = re.sub(
            r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", stem
        )
        stem = stem.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        if attention := re.fullmatch(r"(.*)mid_block\.attentions\.0\.(.*)", stem):
            stem = f"{attention[1]}mid.attn_1.{VAE_ATTENTION[attention[2]]}"
            shape = (*shape, 1, 1) if len(shape) == 2 else shape  # there a convolution of one pixel
        yield Piece(f"first_stage_model.{stem}.{kind}", shape, "vae", (name,))


def _transformers(part: str, shapes: Shapes, begins: str) -> Iterator[Piece]:
    for name, shape in shapes.items():
        if not name.endswith("position_ids"):
            yield Piece(begins + name.removeprefix("text_model."), shape, part, (name,))


def _open_clip(part: str, shapes: Shapes, begins: str) -> Iterator[Piece]:
    """The three projections of attention are one there, and the last projection is turned."""
    for name, shape in shapes.items():
        bare = name.removeprefix("text_model.")
        if bare in OPEN_CLIP_EDGES:
            turned = bare.startswith("text_projection")
            yield Piece(
                begins + OPEN_CLIP_EDGES[bare],
                shape[::-1] if turned else shape,
                part,
                (name,),
                turned,
            )
            continue
        found = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", bare)
        if found is None:
            continue  # position_ids
        layer = f"{begins}transformer.resblocks.{found[1]}."
        if found[2] in OPEN_CLIP:
            yield Piece(f"{layer}{OPEN_CLIP[found[2]]}.{found[3]}", shape, part, (name,))
        elif found[2] == "self_attn.q_proj":
            three = tuple(name.replace("q_proj", f"{one}_proj") for one in "qkv")
            yield Piece(f"{layer}attn.in_proj_{found[3]}", (3 * shape[0], *shape[1:]), part, three)
