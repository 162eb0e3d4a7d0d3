"""A tiny real base: a whole Stable Diffusion in diffusers' layout with random weights, 1 MB, made
in a second. Knows nothing of ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

SIDE = 32  # px of a picture
LEVELS = (32, 64)  # channels of the UNet
WIDTH = 32  # of the text states


def tiny_base(
    folder: Path,
    *,
    prediction_type: str = "epsilon",
    side: int = SIDE,
    linear_projection: bool = False,
    width: int = WIDTH,
    seed: int = 0,
) -> Path:
    """Write a base into folder and return it: float32 safetensors, equal arguments give equal
    weights.

    A latent's pixel is 4 px wide, sides are multiples of 8 px. v_prediction comes with zero
    terminal SNR and trailing steps, as the built-in base has. linear_projection: proj_in and
    proj_out are linears (as in 2.x) instead of 1x1 convolutions (as in 1.x).
    width: of the text states; 1024 makes it a 2.x.
    """
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel

    v = (
        {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        if prediction_type == "v_prediction"
        else {}
    )
    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=side // 4,
            block_out_channels=LEVELS,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=width,
            attention_head_dim=4,
            norm_num_groups=8,
            use_linear_projection=linear_projection,
        )
        vae = tiny_vae(side)
        text_encoder = CLIPTextModel(tiny_clip(tokenizer, width))
    noise_schedule: dict[str, Any] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
    }
    scheduler = DDIMScheduler(
        **noise_schedule,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
        **v,
    )
    nothing = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = StableDiffusionPipeline(vae, text_encoder, tokenizer, unet, scheduler, **nothing)
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def tiny_xl(folder: Path, *, side: int = SIDE, seed: int = 0) -> Path:
    """Write a tiny Stable Diffusion XL:

    encoders of 32 and 48 wide, the second with a projection, pooled states and sizes in the UNet.
    """
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=side // 4,
            block_out_channels=LEVELS,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=2,
            transformer_layers_per_block=(1, 2),
            cross_attention_dim=WIDTH + 48,
            attention_head_dim=(4, 8),
            norm_num_groups=8,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=48 + 6 * 8,
        )
        first, second = (
            CLIPTextModel(tiny_clip(tokenizer, WIDTH)),
            CLIPTextModelWithProjection(tiny_clip(tokenizer, 48)),
        )
        vae = tiny_vae(side)
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=1,
    )
    pipe = StableDiffusionXLPipeline(
        vae, first, second, tokenizer, tiny_tokenizer(), unet, scheduler, add_watermarker=False
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def tiny_training(base: Path, root: Path, *, steps: int) -> list[str]:
    """Flags of a short training on three pictures of noise, named s, in root/runs."""
    folder = root / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        values = rng.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
    return [
        "--data.folder", str(folder), "--base.model", str(base), "--base.device", "cpu",
        "--base.dtype", "float32", "--optim.steps", str(steps), "--optim.batch_size", "2",
        "--save.folder", str(root / "runs"), "--save.name", "s",
    ]  # fmt: skip


def tiny_vae(side: int) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=side,
        latent_channels=4,
        mid_block_add_attention=False,
        scaling_factor=0.5,
    )


def tiny_clip(tokenizer: Any, width: int) -> Any:
    """The config of a CLIP text encoder of two layers."""
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def tiny_tokenizer() -> Any:
    """A CLIP tokenizer that knows single bytes and a few whole words."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    merges = ["i c", "o n</w>", "ic on</w>", "c a", "ca t</w>", "s t", "y l", "st yl", "styl e</w>"]
    whole = [pair.replace(" ", "") for pair in merges]
    words = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *whole,
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    known = {word: i for i, word in enumerate(dict.fromkeys(words))}
    return CLIPTokenizer(
        vocab=known, merges=[tuple(pair.split()) for pair in merges], model_max_length=77
    )
