"""The families of Black Forest Labs' transformers as records: double blocks and then single ones,
and what the authors' own code calls their layers. Other programs store styles under those names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from training.style_files.family_record import of_blocks, transformer_spec

# Live module of a double block -> its matrix in Black Forest Labs' own code, and the place of its
# rows there
DOUBLE_ATTENTION = {
    "attn.to_q": ("img_attn.qkv", 0),
    "attn.to_k": ("img_attn.qkv", 1),
    "attn.to_v": ("img_attn.qkv", 2),
    "attn.to_out.0": ("img_attn.proj", 0),
    "attn.add_q_proj": ("txt_attn.qkv", 0),
    "attn.add_k_proj": ("txt_attn.qkv", 1),
    "attn.add_v_proj": ("txt_attn.qkv", 2),
    "attn.to_add_out": ("txt_attn.proj", 0),
}
_FLUX_DOUBLE = DOUBLE_ATTENTION | {
    "ff.net.0.proj": ("img_mlp.0", 0),
    "ff.net.2": ("img_mlp.2", 0),
    "ff_context.net.0.proj": ("txt_mlp.0", 0),
    "ff_context.net.2": ("txt_mlp.2", 0),
    "norm1.linear": ("img_mod.lin", 0),
    "norm1_context.linear": ("txt_mod.lin", 0),
}
_FLUX_SINGLE = {
    "attn.to_q": ("linear1", 0),
    "attn.to_k": ("linear1", 1),
    "attn.to_v": ("linear1", 2),
    "proj_mlp": ("linear1", 3),
    "proj_out": ("linear2", 0),
    "norm.linear": ("modulation.lin", 0),
}
_FLUX_EDGES = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "proj_out": "final_layer.linear",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
}
_KLEIN_DOUBLE = DOUBLE_ATTENTION | {
    "ff.linear_in": ("img_mlp.0", 0),
    "ff.linear_out": ("img_mlp.2", 0),
    "ff_context.linear_in": ("txt_mlp.0", 0),
    "ff_context.linear_out": ("txt_mlp.2", 0),
}
_KLEIN_SINGLE = {"attn.to_qkv_mlp_proj": ("linear1", 0), "attn.to_out": ("linear2", 0)}
_KLEIN_EDGES = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "proj_out": "final_layer.linear",
}


def _black_forest(
    double: Mapping[str, tuple[str, int]],
    single: Mapping[str, tuple[str, int]],
    edges: Mapping[str, str],
) -> Callable[[str], tuple[str, int] | None]:
    """Names of Black Forest Labs' own code, of double blocks, single blocks and what lies around
    them. What has none is norm_out, whose halves are swapped there.
    """

    def native(module: str) -> tuple[str, int] | None:
        block = re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.(.+)", module)
        if block is None:
            return (edges[module], 0) if module in edges else None
        table, blocks = (single, "single_blocks") if block[1] else (double, "double_blocks")
        name, place = table.get(block[3], ("", 0))
        return (f"{blocks}.{block[2]}.{name}", place) if name else None

    return native


FLUX = transformer_spec(
    "FLUX.1",
    ("FluxPipeline", "FluxImg2ImgPipeline"),
    name="flux",
    transformer="FluxTransformer2DModel",
    text_encoders={"text_encoder": "CLIPTextModel", "text_encoder_2": "T5EncoderModel"},
    tokenizer_classes={"tokenizer_2": "T5Tokenizer"},
    tokens=511,
    in_channels=64,
    groups={
        "attention": (
            *of_blocks("transformer_blocks", *DOUBLE_ATTENTION),
            *of_blocks("single_transformer_blocks", "attn.to_q", "attn.to_k", "attn.to_v"),
        ),
        "feed_forward": (
            *of_blocks("transformer_blocks", "ff.net.0.proj", "ff.net.2"),
            *of_blocks("transformer_blocks", "ff_context.net.0.proj", "ff_context.net.2"),
            *of_blocks("single_transformer_blocks", "proj_mlp", "proj_out"),
        ),
    },
    elsewhere=_black_forest(_FLUX_DOUBLE, _FLUX_SINGLE, _FLUX_EDGES),
    also_read=(
        *of_blocks("transformer_blocks", "norm1.linear", "norm1_context.linear"),
        *of_blocks("single_transformer_blocks", "norm.linear"),
        *_FLUX_EDGES,
    ),
    shares={"linear1": (1, 1, 1, 4)},
    architecture="flux-1-dev",
    version="flux1",
    claims=("flux1", "flux-1", "flux_1"),
    implementation="https://github.com/black-forest-labs/flux",
)
KLEIN = transformer_spec(
    "FLUX.2 klein",
    ("Flux2KleinPipeline",),
    name="flux2-klein",
    short_title="FLUX.2",
    transformer="Flux2Transformer2DModel",
    vae="AutoencoderKLFlux2",
    text_encoders={"text_encoder": "Qwen3ForCausalLM"},
    tokenizer_classes={"tokenizer": "Qwen2Tokenizer"},
    chats=True,
    tokens=500,  # 512 with the template
    in_channels=128,
    groups={
        "attention": (
            *of_blocks("transformer_blocks", *DOUBLE_ATTENTION),
            *of_blocks("single_transformer_blocks", *_KLEIN_SINGLE),
        ),
        "feed_forward": (
            *of_blocks("transformer_blocks", "ff.linear_in", "ff.linear_out"),
            *of_blocks("transformer_blocks", "ff_context.linear_in", "ff_context.linear_out"),
        ),
    },
    elsewhere=_black_forest(_KLEIN_DOUBLE, _KLEIN_SINGLE, _KLEIN_EDGES),
    also_read=tuple(_KLEIN_EDGES),
    architecture="flux-2-klein",
    version="flux2_klein",
    claims=("flux2", "flux-2", "flux_2"),
    implementation="https://github.com/black-forest-labs/flux2",
)
# FLUX.1's blocks; what modulates them is one small network, which styles leave alone
CHROMA = transformer_spec(
    "Chroma",
    ("ChromaPipeline", "ChromaImg2ImgPipeline"),
    name="chroma",
    transformer="ChromaTransformer2DModel",
    text_encoders={"text_encoder": "T5EncoderModel"},
    tokenizer_classes={"tokenizer": "T5Tokenizer"},
    tokens=511,
    in_channels=64,
    groups=FLUX.groups,
    elsewhere=FLUX.elsewhere,
    also_read=tuple(_KLEIN_EDGES),
    shares=FLUX.shares,
    architecture="chroma",
    version="chroma",
    claims=("chroma",),
    implementation="https://github.com/lodestone-rock/flow",
)
