"""A tiny real base: a whole Stable Diffusion in diffusers' layout with random weights, 1 MB, made in a second. Knows nothing of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SIDE = 32  # px of a picture
LEVELS = (32, 64)  # channels of the UNet
WIDTH = 32  # of the text states


def tiny_base(folder: Path, *, prediction_type: str = "epsilon", side: int = SIDE, linear_projection: bool = False, seed: int = 0) -> Path:
    """Write a base into folder and return it: float32 safetensors, equal arguments give equal weights.

    A latent's pixel is 4 px wide, sides are multiples of 8 px. v_prediction comes with zero terminal SNR and trailing steps, as the
    built-in base has. linear_projection: proj_in and proj_out are linears (as in 2.x) instead of 1x1 convolutions (as in 1.x).
    """
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    v = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if prediction_type == "v_prediction" else {}
    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=side // 4,
            block_out_channels=LEVELS,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            norm_num_groups=8,
            use_linear_projection=linear_projection,
        )
        vae = AutoencoderKL(
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
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=WIDTH,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=tokenizer.model_max_length,
                projection_dim=WIDTH,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    noise_schedule: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
    scheduler = DDIMScheduler(**noise_schedule, set_alpha_to_one=False, steps_offset=1, prediction_type=prediction_type, **v)
    nothing = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = StableDiffusionPipeline(vae, text_encoder, tokenizer, unet, scheduler, **nothing)
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def tiny_tokenizer() -> Any:
    """A CLIP tokenizer that knows single bytes and a few whole words."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    merges = ["i c", "o n</w>", "ic on</w>", "c a", "ca t</w>", "s t", "y l", "st yl", "styl e</w>"]
    whole = [pair.replace(" ", "") for pair in merges]
    words = [*letters, *(letter + "</w>" for letter in letters), *whole, "<|startoftext|>", "<|endoftext|>"]
    known = {word: i for i, word in enumerate(dict.fromkeys(words))}
    return CLIPTokenizer(vocab=known, merges=[tuple(pair.split()) for pair in merges], model_max_length=77)
