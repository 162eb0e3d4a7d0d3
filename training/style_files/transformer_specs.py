"""The families of flow-matching transformers as records, and what their authors' own code calls
their layers: other programs store styles under those names.
"""

from __future__ import annotations

import re

from training.style_files.black_forest_specs import CHROMA, DOUBLE_ATTENTION, FLUX, KLEIN
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

QWEN_IMAGE = transformer_spec(
    "Qwen-Image",
    ("QwenImagePipeline",),
    name="qwen-image",
    transformer="QwenImageTransformer2DModel",
    vae="AutoencoderKLQwenImage",
    text_encoders={"text_encoder": "Qwen2_5_VLForConditionalGeneration"},
    tokenizer_classes={"tokenizer": "Qwen2Tokenizer"},
    tokens=1018,  # 1024 with what closes the template
    in_channels=64,
    groups={
        "attention": of_blocks("transformer_blocks", *DOUBLE_ATTENTION),
        "feed_forward": of_blocks(
            "transformer_blocks",
            *(f"{side}_mlp.net.{n}" for side in ("img", "txt") for n in ("0.proj", "2")),
        ),
    },
    elsewhere=lambda module: (module, 0),  # the authors' own code has diffusers' names
    also_read=of_blocks("transformer_blocks", "img_mod.1", "txt_mod.1"),
    architecture="qwen-image",
    version="qwen_image",
    claims=("qwen-image", "qwen_image", "qwen"),
    implementation="https://github.com/QwenLM/Qwen-Image",
)

_KREA2_NATIVE = {
    "attn.to_q": "attn.wq",
    "attn.to_k": "attn.wk",
    "attn.to_v": "attn.wv",
    "attn.to_out.0": "attn.wo",
    "attn.to_gate": "attn.gate",
    "ff.gate": "mlp.gate",
    "ff.up": "mlp.up",
    "ff.down": "mlp.down",
}


def _krea2_native(module: str) -> tuple[str, int] | None:
    block = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", module)
    name = _KREA2_NATIVE.get(block[2]) if block else None
    return (f"blocks.{block[1]}.{name}", 0) if block and name else None


def _krea2_spelt(module: str) -> str:
    native = _krea2_native(module)
    return f"diffusion_model.{native[0]}" if native else f"transformer.{module}"


# text_fusion is in no group: its rows are layers of tokens, which styles in one batch cannot share
KREA2 = transformer_spec(
    "Krea 2",
    ("Krea2Pipeline",),
    name="krea2",
    transformer="Krea2Transformer2DModel",
    vae="AutoencoderKLQwenImage",
    text_encoders={"text_encoder": "Qwen3VLModel"},
    tokenizer_classes={"tokenizer": "Qwen2Tokenizer"},
    tokens=507,  # 512 with what closes the template
    in_channels=64,
    groups={
        group: of_blocks("transformer_blocks", *(m for m in _KREA2_NATIVE if m.startswith(start)))
        for group, start in (("attention", "attn"), ("feed_forward", "ff"))
    },
    spelt=_krea2_spelt,
    elsewhere=_krea2_native,
    architecture="krea-2",
    version="krea2",
    claims=("krea-2", "krea2", "krea_2"),
    implementation="https://github.com/krea-ai/krea-2",
)

TRANSFORMERS = (Z_IMAGE, KLEIN, FLUX, SD3, QWEN_IMAGE, KREA2, CHROMA)
