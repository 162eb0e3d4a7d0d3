"""Tiny real bases of the flow families: whole pipelines of the real classes in diffusers' layout,
with random weights, 1 to 2 MB each. Knows nothing of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

SIDE = 32  # px of a picture
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random weights that do not depend on what was made before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def qwen_tokenizer() -> Any:
    """Every byte is a token."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    words = [*sorted(ByteLevel.alphabet()), *marks]
    tokenizer = Qwen2Tokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": marks[1:]})
    tokenizer.chat_template = CHAT
    return tokenizer


def qwen3(layers: int) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    return Qwen3ForCausalLM(config)


def flux_vae(**kwargs: Any) -> Any:
    """The VAE of FLUX.1 and Z-Image, and with other numbers of SD 3."""
    from diffusers import AutoencoderKL

    sizes: dict[str, Any] = {"scaling_factor": 0.3611, "shift_factor": 0.1159} | kwargs
    return AutoencoderKL(
        block_out_channels=(8, 16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=16,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=SIDE,
        **sizes,
    )


def sampler(**config: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **config})


def filled(network: Any) -> Any:
    """Give random numbers to parameters that begin as nothing in particular, or as zeros that would
    hide mistakes.
    """
    for name, parameter in network.named_parameters():
        if name.endswith(("pad_token", "scale_shift_table")) or not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return network


def clip(width: int, kind: str = "CLIPTextModel") -> Any:
    """A CLIP text encoder and its tokenizer."""
    import transformers

    from tests.tiny import tiny_clip, tiny_tokenizer

    tokenizer = tiny_tokenizer()
    return getattr(transformers, kind)(tiny_clip(tokenizer, width)), tokenizer


def t5() -> Any:
    """A T5 encoder, and a tokenizer that knows single letters."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    config = T5Config(
        vocab_size=64,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    words += [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz,"]
    return T5EncoderModel(config), T5Tokenizer(vocab=words, extra_ids=0)


def z_image() -> Any:
    from diffusers import ZImagePipeline, ZImageTransformer2DModel

    transformer = ZImageTransformer2DModel(
        in_channels=16,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=32,
        axes_dims=[4, 6, 6],
        axes_lens=[512, 64, 64],
    )
    return ZImagePipeline(
        scheduler=sampler(),
        vae=flux_vae(),
        text_encoder=qwen3(4),
        tokenizer=qwen_tokenizer(),
        transformer=filled(transformer),
    )


def klein() -> Any:
    from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel

    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 16, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=32,
        mid_block_add_attention=False,
        sample_size=SIDE,
    )
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2)
    transformer = Flux2Transformer2DModel(
        in_channels=128,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=96,
        mlp_ratio=3.0,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
        timestep_guidance_channels=16,
    )
    return Flux2KleinPipeline(
        scheduler=sampler(use_dynamic_shifting=True),
        vae=vae,
        text_encoder=qwen3(28),
        tokenizer=qwen_tokenizer(),
        transformer=filled(transformer),
    )


def flux() -> Any:
    from diffusers import FluxPipeline, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    text_encoder, tokenizer = clip(32)
    text_encoder_2, tokenizer_2 = t5()
    return FluxPipeline(
        scheduler=sampler(use_dynamic_shifting=True),
        vae=flux_vae(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        transformer=filled(transformer),
    )


def chroma() -> Any:
    from diffusers import ChromaPipeline, ChromaTransformer2DModel

    transformer = ChromaTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
        approximator_num_channels=64,
        approximator_hidden_dim=32,
        approximator_layers=2,
    )
    text_encoder, tokenizer = t5()
    return ChromaPipeline(
        scheduler=sampler(use_dynamic_shifting=True),
        vae=flux_vae(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=filled(transformer),
    )


def sd3() -> Any:
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        out_channels=16,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
        dual_attention_layers=(0,),
    )
    text_encoder, tokenizer = clip(16, "CLIPTextModelWithProjection")
    text_encoder_2, tokenizer_2 = clip(16, "CLIPTextModelWithProjection")
    text_encoder_3, tokenizer_3 = t5()
    return StableDiffusion3Pipeline(
        scheduler=sampler(),
        vae=flux_vae(scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        text_encoder_3=text_encoder_3,
        tokenizer_3=tokenizer_3,
        transformer=filled(transformer),
    )


def film_vae() -> Any:
    """The VAE of Qwen-Image and Krea 2, which was made for films."""
    from diffusers import AutoencoderKLQwenImage

    vae = AutoencoderKLQwenImage(base_dim=8, z_dim=16, dim_mult=[1, 1, 2, 2], num_res_blocks=1)
    vae.register_to_config(sample_size=SIDE)
    return vae


QWEN_TEXT: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}
VISION = {"hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}


def qwen_image() -> Any:
    from diffusers import QwenImagePipeline, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        text_config=QWEN_TEXT | {"num_hidden_layers": 2, "rope_parameters": ROPE},
        vision_config=VISION | {"depth": 1},
        image_token_id=300,
        video_token_id=301,
        vision_start_token_id=302,
        vision_end_token_id=303,
    )
    transformer = QwenImageTransformer2DModel(
        in_channels=64,
        out_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
    )
    return QwenImagePipeline(
        scheduler=sampler(
            shift=1.0,
            use_dynamic_shifting=True,
            base_shift=0.5,
            max_shift=0.9,
            max_image_seq_len=8192,
            shift_terminal=0.02,
        ),
        vae=film_vae(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=qwen_tokenizer(),
        transformer=filled(transformer),
    )


def krea2() -> Any:
    from diffusers import Krea2Pipeline, Krea2Transformer2DModel
    from transformers import Qwen3VLConfig, Qwen3VLModel

    text = {
        "num_hidden_layers": 4,
        "head_dim": 8,
        "rope_parameters": ROPE | {"mrope_interleaved": True},
    }
    config = Qwen3VLConfig(
        text_config=QWEN_TEXT | text,
        vision_config=VISION | {"depth": 2, "deepstack_visual_indexes": [0]},
    )
    transformer = Krea2Transformer2DModel(
        in_channels=64,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        timestep_embed_dim=16,
        text_hidden_dim=32,
        num_text_layers=3,
        text_num_attention_heads=4,
        text_num_key_value_heads=4,
        text_intermediate_size=64,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 6, 6),
    )
    return Krea2Pipeline(
        scheduler=sampler(shift=1.0, use_dynamic_shifting=True, max_image_seq_len=6400),
        vae=film_vae(),
        text_encoder=Qwen3VLModel(config),
        tokenizer=qwen_tokenizer(),
        transformer=filled(transformer),
        text_encoder_select_layers=(1, 2, 3),
    )


PIPELINES: dict[str, Callable[[], Any]] = {
    "z-image": z_image,
    "flux2-klein": klein,
    "flux": flux,
    "sd3": sd3,
    "qwen-image": qwen_image,
    "krea2": krea2,
    "chroma": chroma,
}


def made(family: str, folder: Path) -> Path:
    """A tiny base of a family in diffusers' layout."""
    with seeded(0):
        pipe = PIPELINES[family]()
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


# Our guidance -> what diffusers' pipeline of the family is given for it
GUIDANCE: dict[str, Callable[[float], dict[str, float]]] = {
    "z-image": lambda guidance: {"guidance_scale": guidance - 1},
    "flux2-klein": lambda guidance: {"guidance_scale": guidance},
    "flux": lambda guidance: {"guidance_scale": guidance},
    "sd3": lambda guidance: {"guidance_scale": guidance},
    "qwen-image": lambda guidance: {"true_cfg_scale": guidance},
    "krea2": lambda guidance: {"guidance_scale": guidance - 1},
    "chroma": lambda guidance: {"guidance_scale": guidance},
}
