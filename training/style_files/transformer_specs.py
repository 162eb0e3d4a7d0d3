"""The families of flow-matching transformers as records, and what their authors' own code calls
their layers: other programs store styles under those names.
"""

from __future__ import annotations

import re

from training.style_files.black_forest_specs import FLUX, KLEIN
from training.style_files.family_record import of_blocks, transformer_spec

_Z_IMAGE_NATIVE = {
    "to_q": ("qkv", 0),
    "to_k": ("qkv", 1),
    "to_v": ("qkv", 2),
    "to_out.0": ("out", 0),
}
_Z_IMAGE_ATTENTION = tuple(f"attention.{module}" for module in _Z_IMAGE_NATIVE)
_Z_IMAGE_FEED_FORWARD = tuple(f"feed_forward.w{n}" for n in (1, 2, 3))


def _z_image_native(module: str) -> tuple[str, int] | None:
    block = re.fullmatch(
        r"((?:layers|noise_refiner|context_refiner)\.\d+\.attention)\.(.+)", module
    )
    if block:
        name, place = _Z_IMAGE_NATIVE.get(block[2], ("", 0))
        return (f"{block[1]}.{name}", place) if name else None
    return re.sub(r"^all_(x_embedder|final_layer)\.2-1", r"\1", module), 0


Z_IMAGE = transformer_spec(
    "Z-Image",
    ("ZImagePipeline", "ZImageImg2ImgPipeline"),
    name="z-image",
    transformer="ZImageTransformer2DModel",
    text_encoders={"text_encoder": "Qwen3ForCausalLM"},
    tokenizer_classes={"tokenizer": "Qwen2Tokenizer"},
    chats=True,
    tokens=500,  # 512 with the template
    in_channels=16,
    groups={
        "attention": of_blocks("layers", *_Z_IMAGE_ATTENTION),
        "feed_forward": of_blocks("layers", *_Z_IMAGE_FEED_FORWARD),
    },
    also_read=(
        "layers.*.adaLN_modulation.0",
        *of_blocks("noise_refiner", *_Z_IMAGE_ATTENTION, *_Z_IMAGE_FEED_FORWARD),
        *of_blocks("context_refiner", *_Z_IMAGE_ATTENTION, *_Z_IMAGE_FEED_FORWARD),
        "noise_refiner.*.adaLN_modulation.0",
    ),
    spelt=lambda module: f"diffusion_model.{module}",
    elsewhere=_z_image_native,
    architecture="z-image",
    version="z_image",
    claims=("z-image", "z_image", "zimage"),
    implementation="https://github.com/Tongyi-MAI/Z-Image",
)

_SD3_NATIVE = {
    "attn.to_q": ("x_block.attn.qkv", 0),
    "attn.to_k": ("x_block.attn.qkv", 1),
    "attn.to_v": ("x_block.attn.qkv", 2),
    "attn.to_out.0": ("x_block.attn.proj", 0),
    "attn.add_q_proj": ("context_block.attn.qkv", 0),
    "attn.add_k_proj": ("context_block.attn.qkv", 1),
    "attn.add_v_proj": ("context_block.attn.qkv", 2),
    "attn.to_add_out": ("context_block.attn.proj", 0),
    "attn2.to_q": ("x_block.attn2.qkv", 0),
    "attn2.to_k": ("x_block.attn2.qkv", 1),
    "attn2.to_v": ("x_block.attn2.qkv", 2),
    "attn2.to_out.0": ("x_block.attn2.proj", 0),
    "ff.net.0.proj": ("x_block.mlp.fc1", 0),
    "ff.net.2": ("x_block.mlp.fc2", 0),
    "ff_context.net.0.proj": ("context_block.mlp.fc1", 0),
    "ff_context.net.2": ("context_block.mlp.fc2", 0),
    # The last block's of the words is none: its halves are swapped there
    "norm1.linear": ("x_block.adaLN_modulation.1", 0),
}


def _sd3_native(module: str) -> tuple[str, int] | None:
    block = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", module)
    name, place = _SD3_NATIVE.get(block[2], ("", 0)) if block else ("", 0)
    return (f"joint_blocks.{block[1]}.{name}", place) if block and name else None


SD3 = transformer_spec(
    "Stable Diffusion 3 and 3.5",
    ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline"),
    name="sd3",
    short_title="SD 3",
    article="an",
    transformer="SD3Transformer2DModel",
    text_encoders={
        "text_encoder": "CLIPTextModelWithProjection",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "text_encoder_3": "T5EncoderModel",
    },
    tokenizer_classes={"tokenizer_3": "T5Tokenizer"},
    tokens=255,
    in_channels=16,
    groups={
        group: of_blocks("transformer_blocks", *(m for m in _SD3_NATIVE if m.startswith(start)))
        for group, start in (("attention", "attn"), ("feed_forward", "ff"))
    },
    elsewhere=_sd3_native,
    also_read=("transformer_blocks.*.norm1.linear",),
    architecture="stable-diffusion-3",
    version="sd3",
    claims=("sd3", "stable-diffusion-3"),
    implementation="https://github.com/Stability-AI/sd3.5",
)

TRANSFORMERS = (Z_IMAGE, KLEIN, FLUX, SD3)
