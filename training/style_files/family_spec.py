"""Every model family as a record without torch. `SPECS` lists the families that are trained.

What encodes and predicts is in `training/models/`.
"""

from __future__ import annotations

from training.style_files.family_record import CLIP_GROUPS as CLIP_GROUPS
from training.style_files.family_record import UNET_GROUPS as UNET_GROUPS
from training.style_files.family_record import FamilySpec as FamilySpec
from training.style_files.transformer_specs import TRANSFORMERS

_CLIP_UNET = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
}
_SINGLE = {"unet": "lora_unet_", "text_encoder": "lora_te_"}

MINI = FamilySpec(
    name="mini",
    title="the built-in mini base",
    short_title="the built-in mini base",
    style_phrase="a style for the built-in mini base",
    pipeline="StableDiffusionPipeline",
    text_encoders=("text_encoder",),
    classes=_CLIP_UNET,
    tokenizers=("tokenizer",),
    groups=UNET_GROUPS,
    text_groups=CLIP_GROUPS,
    prefixes=_SINGLE,
    pointwise=("conv_shortcut", "proj_in", "proj_out"),
    resnets=3,
    architecture="style-studio-mini",
    version="style_studio_mini",
    claims=("style_studio_mini", "style-studio-mini"),
    text_width=192,
)
SD1 = FamilySpec(
    name="sd1",
    title="Stable Diffusion 1.x",
    short_title="SD 1.5",
    style_phrase="an SD 1.5 style",
    pipeline="StableDiffusionPipeline",
    text_encoders=("text_encoder",),
    classes=_CLIP_UNET,
    tokenizers=("tokenizer",),
    groups=UNET_GROUPS,
    text_groups=CLIP_GROUPS,
    prefixes=_SINGLE,
    reads_sgm=True,
    pointwise=("conv_shortcut", "proj_in", "proj_out"),
    architecture="stable-diffusion-v1",
    version="sd_v1",
    version_v="sd_v1_v",
    claims=("sd_v1", "sd_1", "stable-diffusion-v1"),
    webui_version="SD1",
    text_width=768,
    vector_widths=(768,),
    checkpoint_encoders={
        "text_encoder": ("cond_stage_model.transformer.text_model.", "transformers"),
    },
)
SD2 = FamilySpec(
    name="sd2",
    title="Stable Diffusion 2.x",
    short_title="SD 2.x",
    style_phrase="an SD 2.x style",
    pipeline="StableDiffusionPipeline",
    text_encoders=("text_encoder",),
    classes=_CLIP_UNET,
    tokenizers=("tokenizer",),
    groups=UNET_GROUPS,
    text_groups=CLIP_GROUPS,
    prefixes=_SINGLE,
    reads_sgm=True,
    pointwise=("conv_shortcut",),
    openclip="text_encoder",
    architecture="stable-diffusion-v2-512",
    architecture_v="stable-diffusion-v2-768-v",
    version="sd_v2",
    version_v="sd_v2_v",
    claims=("sd_v2", "sd_2", "stable-diffusion-v2"),
    is_v2=True,
    webui_version="SD2",
    text_width=1024,
    vector_widths=(1024,),
    checkpoint_encoders={"text_encoder": ("cond_stage_model.model.", "open_clip")},
)
SDXL = FamilySpec(
    name="sdxl",
    title="Stable Diffusion XL",
    short_title="SDXL",
    style_phrase="an SDXL style",
    pipeline="StableDiffusionXLPipeline",
    text_encoders=("text_encoder", "text_encoder_2"),
    classes=_CLIP_UNET | {"text_encoder_2": "CLIPTextModelWithProjection"},
    tokenizers=("tokenizer", "tokenizer_2"),
    groups=UNET_GROUPS,
    text_groups=CLIP_GROUPS,
    prefixes={"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"},
    block_names="sgm",
    pointwise=("conv_shortcut",),
    openclip="text_encoder_2",
    architecture="stable-diffusion-xl-v1-base",
    version="sdxl_base_v1-0",
    claims=("sdxl", "stable-diffusion-xl"),
    implementation="https://github.com/Stability-AI/generative-models",
    webui_version="SDXL",
    text_width=2048,
    # In underscores sgm names are only used for SDXL; only it has a second text encoder or more
    # than two transformer blocks in a row.
    only_here=r"^lora_te2_|^text_encoder_2_|^lora_unet_(input|middle|output)_blocks?_"
    r"|transformer_blocks_[2-9]_",
    checkpoint_encoders={
        "text_encoder": ("conditioner.embedders.0.transformer.text_model.", "transformers"),
        "text_encoder_2": ("conditioner.embedders.1.model.", "open_clip"),
    },
)

SPECS: dict[str, FamilySpec] = {spec.name: spec for spec in (MINI, SD1, SD2, SDXL, *TRANSFORMERS)}
