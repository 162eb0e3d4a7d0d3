"""What other programs accept as the name of a layer and of its tensors, written down from their
sources. Data; knows nothing of ours.

A1111      AUTOMATIC1111/stable-diffusion-webui 873edba, extensions-builtin/Lora/networks.py:
convert_diffusers_name_to_compvis, load_network,
           network_apply_weights
Forge      lllyasviel/stable-diffusion-webui-forge 00f1cd3,
packages_3rdparty/comfyui_lora_collection/lora.py: the same two tables as ComfyUI's ComfyUI
Comfy-Org/ComfyUI 17358c8, comfy/lora.py: model_lora_keys_unet, model_lora_keys_clip InvokeAI
invoke-ai/InvokeAI 01d6f09, invokeai/backend/model_manager/configs/lora.py: what is taken for a
LoRA; 2832ca3,
           invokeai/backend/patches/lora_conversions/sdxl_lora_conversion_utils.py:
           convert_sdxl_keys_to_diffusers_format
sd-scripts kohya-ss/sd-scripts 48d368f, networks/lora.py: create_network_from_weights
"""

from __future__ import annotations

import re
from bisect import bisect_right

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
LEAVES = {
    "lora_down.weight",
    "lora_up.weight",
    "alpha",
}  # the first dot of a key ends the layer's name
# Words bundled in a style, split at the first dots: A1111 (networks.load_network) hands what
# follows to its loader of embeddings, which knows these three; ComfyUI and Forge pass over keys
# they do not know; InvokeAI takes keys of this beginning out before it looks at the rest.
WORDS = {"one encoder": {"string_to_param.*"}, "two encoders": {"clip_l", "clip_g"}}
WORDS_BEGIN = "bundle_emb."
INVOKEAI_BEGINS = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")

# Which weight of the checkpoint each program finds under a name. Stability's layout of a UNet
# beside diffusers' names for the same layers:
# levels from the outermost inwards, each with the depth of its transformers
# (ldm/modules/diffusionmodules/openaimodel.py and sgm's configs)
DEPTHS = {"sd1": (1, 1, 1, 0), "sd2": (1, 1, 1, 0), "sdxl": (0, 2, 10)}
MIDDLE = {"sd1": 1, "sd2": 1, "sdxl": 10}
RESNETS = {
    "in_layers_2": "conv1",
    "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}
EDGES = {
    "input_blocks_0_0": "conv_in",
    "out_2": "conv_out",
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
}
LABELS = {"label_emb_0_0": "add_embedding_linear_1", "label_emb_0_2": "add_embedding_linear_2"}
BLOCK = [f"attn{n}_to_{x}" for n in (1, 2) for x in ("q", "k", "v", "out_0")] + [
    "ff_net_0_proj",
    "ff_net_2",
]


def checkpoint_layers(family: str) -> dict[str, str]:
    """diffusers' name of every UNet layer -> its name in the checkpoint, both with underscores.

    Resnets without a shortcut get one too many.
    """
    found = {
        theirs: name for name, theirs in (EDGES | (LABELS if family == "sdxl" else {})).items()
    }

    def resnet(name: str, theirs: str) -> None:
        found.update({f"{theirs}_{b}": f"{name}_{a}" for a, b in RESNETS.items()})

    def attention(name: str, theirs: str, depth: int) -> None:
        inner = [
            "proj_in",
            "proj_out",
            *(f"transformer_blocks_{i}_{x}" for i in range(depth) for x in BLOCK),
        ]
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
            found[f"up_blocks_{up}_upsamplers_0_conv"] = (
                f"output_blocks_{3 * up + 2}_{2 if depth else 1}_conv"
            )
    return found


def comfyui(name: str, family: str) -> str:
    """ComfyUI and Forge list what they take:

    every layer of the checkpoint, and diffusers' name for it (comfy/lora.py, comfy/utils.py).
    """
    known = checkpoint_layers(family)
    accepted = {f"lora_unet_{x}": x for x in known.values()} | {
        f"lora_unet_{theirs}": x for theirs, x in known.items()
    }
    return accepted.get(name, "")


def a1111(name: str, family: str) -> str:
    """A1111 rewrites diffusers' block names by arithmetic and takes any other name as the
    checkpoint's (convert_diffusers_name_to_compvis).
    """
    name = name.removeprefix("lora_unet_")
    edges = {theirs: x for x, theirs in EDGES.items()}
    if name in edges:
        return edges[name]
    if found := re.fullmatch(r"down_blocks_(\d)_downsamplers_0_conv", name):
        return f"input_blocks_{3 + 3 * int(found[1])}_0_op"
    if found := re.fullmatch(r"up_blocks_(\d)_upsamplers_0_conv", name):
        return f"output_blocks_{2 + 3 * int(found[1])}_{2 if int(found[1]) else 1}_conv"
    if not (
        found := re.fullmatch(
            r"(?:(down|up)_blocks_(\d)|mid_block)_(attentions|resnets)_(\d)_(.+)", name
        )
    ):
        return name
    side, level, kind, index, rest = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
    inner = (
        {theirs: x for x, theirs in RESNETS.items()}.get(rest, rest) if kind == "resnets" else rest
    )
    if side is None:
        return f"middle_block_{1 if kind == 'attentions' else 2 * index}_{inner}"
    block = (
        f"input_blocks_{1 + 3 * level + index}"
        if side == "down"
        else f"output_blocks_{3 * level + index}"
    )
    return f"{block}_{int(kind == 'attentions')}_{inner}"


def invokeai(name: str, family: str) -> str:
    """InvokeAI takes diffusers' names for 1.x and 2.x. For XL it looks up, in its sorted table of
    blocks, the one that a name sorts behind, and refuses the file unless every name begins with the
    one that it finds."""
    known = checkpoint_layers(family)
    name = name.removeprefix("lora_unet_")
    if family != "sdxl":
        return known.get(name, "")
    begins = {
        x
        for x in known.values()
        if not re.match(r"(input|output|middle)_blocks?_.*(proj_|transformer_)", x)
    }
    begins |= {f"input_blocks_{3 * level + i}_1" for level in range(3) for i in (1, 2)} | {
        f"output_blocks_{n}_1" for n in range(9)
    }
    begins |= {x.removesuffix("_conv") for x in begins} | {"middle_block_1", "out_0"}
    begins |= {
        f"{block}_{norm}" for block in _resnets(known) for norm in ("in_layers_0", "out_layers_0")
    }
    table = sorted(begins)
    found = table[bisect_right(table, name) - 1]
    return name if name.startswith(found) and name in known.values() else ""


def _resnets(known: dict[str, str]) -> set[str]:
    return {x.removesuffix("_in_layers_2") for x in known.values() if x.endswith("_in_layers_2")}


PROGRAMS = {"ComfyUI and Forge": comfyui, "A1111": a1111, "InvokeAI": invokeai}

# The text encoders. A layer is said as (encoder, its number, which of its matrices), the matrix by
# its name in transformers.
MATRICES = (
    "self_attn_q_proj",
    "self_attn_k_proj",
    "self_attn_v_proj",
    "self_attn_out_proj",
    "mlp_fc1",
    "mlp_fc2",
)
COUNTS = {"sd1": {"te": 12}, "sd2": {"te": 23}, "sdxl": {"te1": 12, "te2": 32}}
TextLayer = tuple[str, int, str]


def comfyui_text(name: str, family: str) -> TextLayer | None:
    """A table over 32 layers and six matrices; a single encoder answers to `lora_te_` and to
    `lora_te1_`.
    """
    table = {}
    for encoder, count in COUNTS[family].items():
        for i in range(count):
            for matrix in MATRICES:
                for prefix in {
                    "te": ("lora_te", "lora_te1"),
                    "te1": ("lora_te", "lora_te1"),
                    "te2": ("lora_te2",),
                }[encoder]:
                    table[f"{prefix}_text_model_encoder_layers_{i}_{matrix}"] = (encoder, i, matrix)
    return table.get(name)


def a1111_text(name: str, family: str) -> TextLayer | None:
    """OpenCLIP's encoders (2.x, and the second of XL) have blocks of their own names, the matrices
    of the first of XL are called as in 1.x.
    """
    openclip = {"sd2": "te", "sdxl": "te2"}.get(family)
    its = {"mlp_c_fc": "mlp_fc1", "mlp_c_proj": "mlp_fc2"} | {
        f"attn_{x}_proj": f"self_attn_{x}_proj" for x in ("q", "k", "v", "out")
    }
    found = re.fullmatch(r"lora_(te|te1|te2)_text_model_encoder_layers_(\d+)_(.+)", name)
    if not found or found[1] not in COUNTS[family]:
        return None
    encoder, layer, matrix = found[1], int(found[2]), found[3]
    if encoder == openclip:
        there = (
            matrix.replace("mlp_fc1", "mlp_c_fc")
            .replace("mlp_fc2", "mlp_c_proj")
            .replace("self_attn", "attn")
        )
        matrix = its.get(there, "")
    return (
        (encoder, layer, matrix) if matrix in MATRICES and layer < COUNTS[family][encoder] else None
    )


def invokeai_text(name: str, family: str) -> TextLayer | None:
    """transformers' names with underscores behind the encoder's prefix; of XL both prefixes are
    passed through as they are.
    """
    found = re.fullmatch(r"lora_(te|te1|te2)_text_model_encoder_layers_(\d+)_(.+)", name)
    if not found or found[1] not in COUNTS[family] or found[3] not in MATRICES:
        return None
    return (found[1], int(found[2]), found[3]) if int(found[2]) < COUNTS[family][found[1]] else None


TEXTS = {"ComfyUI and Forge": comfyui_text, "A1111": a1111_text, "InvokeAI": invokeai_text}
