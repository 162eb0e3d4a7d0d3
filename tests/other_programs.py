"""What other programs accept as the name of a layer and of its tensors, written down from their sources. Data; knows nothing of ours.

A1111      AUTOMATIC1111/stable-diffusion-webui, extensions-builtin/Lora/networks.py: convert_diffusers_name_to_compvis, load_network
ComfyUI    comfyanonymous/ComfyUI, comfy/lora.py: model_lora_keys_unet, model_lora_keys_clip; Forge has a copy of both
InvokeAI   invoke-ai/InvokeAI, model manager's LoRA probe and the SDXL and 1.x conversion of kohya keys
sd-scripts kohya-ss/sd-scripts, networks/lora.py: create_network_from_weights
"""

from __future__ import annotations

import re

ATTENTION = r"transformer_blocks_\d+_(attn[12]_(to_[qkv]|to_out_0)|ff_net_(0_proj|2))"
RESNET = r"(conv1|conv2|conv_shortcut|time_emb_proj)"
SGM_RESNET = r"(in_layers_2|out_layers_3|skip_connection|emb_layers_1)"
CLIP = r"text_model_encoder_layers_\d+_(self_attn_(q|k|v|out)_proj|mlp_fc[12])"

# diffusers' block names, which all of them map for 1.x and 2.x
DIFFUSERS_BLOCKS = (
    rf"lora_unet_(down_blocks_\d_attentions_\d|up_blocks_\d_attentions_\d|mid_block_attentions_0)_(proj_in|proj_out|{ATTENTION})",
    rf"lora_unet_(down_blocks_\d_resnets_\d|up_blocks_\d_resnets_\d|mid_block_resnets_\d)_{RESNET}",
    r"lora_unet_(down_blocks_\d_downsamplers_0|up_blocks_\d_upsamplers_0)_conv",
    r"lora_unet_(conv_in|conv_out|time_embedding_linear_[12])",
)
# sgm's, which all of them take as they are for XL: the places that this model has
SGM_BLOCKS = (
    rf"lora_unet_(input_blocks_[4578]_1|middle_block_1|output_blocks_[0-5]_1)_(proj_in|proj_out|{ATTENTION})",
    rf"lora_unet_(input_blocks_[124578]_0|middle_block_[02]|output_blocks_[0-8]_0)_{SGM_RESNET}",
    r"lora_unet_(input_blocks_[36]_0_op|output_blocks_[25]_2_conv)",
    r"lora_unet_(input_blocks_0_0|out_2|time_embed_[02]|label_emb_0_[02])",
)
LAYERS = {
    "sd1": (*DIFFUSERS_BLOCKS, rf"lora_te_{CLIP}"),
    "sd2": (*DIFFUSERS_BLOCKS, rf"lora_te_{CLIP}"),
    "sdxl": (*SGM_BLOCKS, rf"lora_te[12]_{CLIP}"),
}
LEAVES = {"lora_down.weight", "lora_up.weight", "alpha"}  # the first dot of a key ends the layer's name
# Words bundled in a style, split at the first dots: A1111 (networks.load_network) hands what follows to its loader of embeddings, which knows these
# three; ComfyUI and Forge pass over keys they do not know; InvokeAI takes keys of this beginning out before it looks at the rest.
WORDS = {"one encoder": {"string_to_param.*"}, "two encoders": {"clip_l", "clip_g"}}
WORDS_BEGIN = "bundle_emb."
INVOKEAI_BEGINS = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")

# Which weight of the checkpoint each program finds under a name. Stability's layout of a UNet beside diffusers' names for the same layers:
# levels from the outermost inwards, each with the depth of its transformers (ldm/modules/diffusionmodules/openaimodel.py and sgm's configs)
DEPTHS = {"sd1": (1, 1, 1, 0), "sd2": (1, 1, 1, 0), "sdxl": (0, 2, 10)}
MIDDLE = {"sd1": 1, "sd2": 1, "sdxl": 10}
RESNETS = {"in_layers_2": "conv1", "out_layers_3": "conv2", "emb_layers_1": "time_emb_proj", "skip_connection": "conv_shortcut"}
EDGES = {"input_blocks_0_0": "conv_in", "out_2": "conv_out", "time_embed_0": "time_embedding_linear_1", "time_embed_2": "time_embedding_linear_2"}
LABELS = {"label_emb_0_0": "add_embedding_linear_1", "label_emb_0_2": "add_embedding_linear_2"}
BLOCK = [f"attn{n}_to_{x}" for n in (1, 2) for x in ("q", "k", "v", "out_0")] + ["ff_net_0_proj", "ff_net_2"]


def checkpoint_layers(family: str) -> dict[str, str]:
    """diffusers' name of every UNet layer -> its name in the checkpoint, both with underscores. Resnets without a shortcut get one too many."""
    found = {theirs: name for name, theirs in (EDGES | (LABELS if family == "sdxl" else {})).items()}

    def resnet(name: str, theirs: str) -> None:
        found.update({f"{theirs}_{b}": f"{name}_{a}" for a, b in RESNETS.items()})

    def attention(name: str, theirs: str, depth: int) -> None:
        inner = ["proj_in", "proj_out", *(f"transformer_blocks_{i}_{x}" for i in range(depth) for x in BLOCK)]
        found.update({f"{theirs}_{x}": f"{name}_{x}" for x in inner} if depth else {})

    depths, at = DEPTHS[family], 1
    last = len(depths) - 1
    for level, depth in enumerate(depths):
        for i in range(2):
            resnet(f"input_blocks_{at}_0", f"down_blocks_{level}_resnets_{i}")
            attention(f"input_blocks_{at}_1", f"down_blocks_{level}_attentions_{i}", depth)
            at += 1
        if level < last:
            found[f"down_blocks_{level}_downsamplers_0_conv"] = f"input_blocks_{at}_0_op"
            at += 1
    resnet("middle_block_0", "mid_block_resnets_0")
    attention("middle_block_1", "mid_block_attentions_0", MIDDLE[family])
    resnet("middle_block_2", "mid_block_resnets_1")
    for up, depth in enumerate(reversed(depths)):
        for i in range(3):
            resnet(f"output_blocks_{3 * up + i}_0", f"up_blocks_{up}_resnets_{i}")
            attention(f"output_blocks_{3 * up + i}_1", f"up_blocks_{up}_attentions_{i}", depth)
        if up < last:
            found[f"up_blocks_{up}_upsamplers_0_conv"] = f"output_blocks_{3 * up + 2}_{2 if depth else 1}_conv"
    return found


def comfyui(name: str, family: str) -> str:
    """ComfyUI and Forge list what they take: every layer of the checkpoint, and diffusers' name for it (comfy/lora.py, comfy/utils.py)."""
    known = checkpoint_layers(family)
    accepted = {f"lora_unet_{x}": x for x in known.values()} | {f"lora_unet_{theirs}": x for theirs, x in known.items()}
    return accepted.get(name, "")


def a1111(name: str, family: str) -> str:
    """A1111 rewrites diffusers' block names by arithmetic and takes any other name as the checkpoint's (convert_diffusers_name_to_compvis)."""
    name = name.removeprefix("lora_unet_")
    edges = {theirs: x for x, theirs in EDGES.items()}
    if name in edges:
        return edges[name]
    if found := re.fullmatch(r"down_blocks_(\d)_downsamplers_0_conv", name):
        return f"input_blocks_{3 + 3 * int(found[1])}_0_op"
    if found := re.fullmatch(r"up_blocks_(\d)_upsamplers_0_conv", name):
        return f"output_blocks_{2 + 3 * int(found[1])}_{2 if int(found[1]) else 1}_conv"
    if not (found := re.fullmatch(r"(?:(down|up)_blocks_(\d)|mid_block)_(attentions|resnets)_(\d)_(.+)", name)):
        return name
    side, level, kind, index, rest = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
    inner = {theirs: x for x, theirs in RESNETS.items()}.get(rest, rest) if kind == "resnets" else rest
    if side is None:
        return f"middle_block_{1 if kind == 'attentions' else 2 * index}_{inner}"
    block = f"input_blocks_{1 + 3 * level + index}" if side == "down" else f"output_blocks_{3 * level + index}"
    return f"{block}_{int(kind == 'attentions')}_{inner}"


def invokeai(name: str, family: str) -> str:
    """InvokeAI takes diffusers' names for 1.x and 2.x. For XL it refuses a file unless every name begins with one of these of the checkpoint's."""
    known = checkpoint_layers(family)
    name = name.removeprefix("lora_unet_")
    if family != "sdxl":
        return known.get(name, "")
    begins = {x for x in known.values() if not re.match(r"(input|output|middle)_blocks?_.*(proj_|transformer_)", x)}
    begins |= {f"input_blocks_{n}_1" for n in (1, 2, 4, 5, 7, 8)} | {f"output_blocks_{n}_1" for n in range(9)} | {"middle_block_1"}
    return name if any(name == x or name.startswith(f"{x}_") for x in begins) and name in known.values() else ""


PROGRAMS = {"ComfyUI and Forge": comfyui, "A1111": a1111, "InvokeAI": invokeai}
