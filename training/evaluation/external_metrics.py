"""Style and content as CLIP, DINOv2 and CSD measure them, where they are in the hub's cache.

Nothing is downloaded. They were trained on photographs and pictures of all kinds, so they are a
second opinion beside the base's own measures (training.evaluation.metrics).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CLIP = (
    "openai/clip-vit-large-patch14",
    "openai/clip-vit-base-patch16",
    "openai/clip-vit-base-patch32",
)
CSD = (
    "yuxi-liu-wired/CSD",
    # the published weights (Somepalli et al. 2024, arXiv 2404.01292) as safetensors; the authors'
    # own file is a pickle
)
DINO = ("facebook/dinov2-large", "facebook/dinov2-base", "facebook/dinov2-small")
# Means and deviations of the colours each was trained on: Radford et al. 2021's code, and
# ImageNet's
CLIP_COLOURS = ((0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758))
DINO_COLOURS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DINO_SIDE = 224  # px
AT_ONCE = 16  # pictures in one pass


@dataclass(frozen=True)
class ExternalMetric:
    """A pretrained network.

    features: [N, 3, H, W] in [-1, 1] -> [N, D], by which styles differ; sees: pictures and words
    -> nearness [N, words], or None.
    """

    name: str
    features: Callable[[Tensor], Tensor]
    sees: Callable[[Tensor, Sequence[str]], Tensor] | None = None


Maker = Callable[[str, Path, dict[str, Any]], ExternalMetric]


def present(cache: Path | None = None) -> list[ExternalMetric]:
    """The best CLIP and DINOv2, and CSD, as far as they lie in the cache (the hub's own unless
    given), on the CPU; none of them is no error.
    """
    kinds: tuple[tuple[Sequence[str], Maker], ...] = ((CLIP, _clip), (DINO, _dino), (CSD, _csd))
    return [made for names, make in kinds if (made := _first(names, make, cache)) is not None]


def _first(names: Sequence[str], make: Maker, cache: Path | None) -> ExternalMetric | None:
    from huggingface_hub import try_to_load_from_cache
    from safetensors import SafetensorError

    for name in names:
        if isinstance(
            file := try_to_load_from_cache(name, "model.safetensors", cache_dir=cache), str
        ):
            try:
                return make(name, Path(file), {"local_files_only": True, "cache_dir": cache})
            except (
                OSError,
                ValueError,
                KeyError,
                RuntimeError,
                SafetensorError,
            ):  # a download that was broken off, or other weights of that name
                continue
    return None


def _clip(name: str, file: Path, where: dict[str, Any]) -> ExternalMetric:
    from transformers import CLIPModel, CLIPTokenizer

    model = (
        CLIPModel.from_pretrained(name, use_safetensors=True, **where).eval().requires_grad_(False)
    )
    tokenizer = CLIPTokenizer.from_pretrained(name, **where)
    vision: Any = model.config.vision_config
    side: int = vision.image_size

    def seen(x: Tensor) -> Tensor:
        pooled = model.vision_model(pixel_values=fitted(x, side, CLIP_COLOURS)).pooler_output
        return model.visual_projection(pooled)

    @torch.no_grad()
    def sees(x: Tensor, words: Sequence[str]) -> Tensor:
        said = tokenizer(
            [f"a picture of {text}" for text in words],
            padding=True,
            truncation=True,
            return_tensors="pt",
        )
        text_features = model.text_projection(model.text_model(**said).pooler_output)
        return (
            nn.functional.normalize(_in_parts(seen, x), dim=1)
            @ nn.functional.normalize(text_features, dim=1).T
        )

    return ExternalMetric(f"CLIP ({name.rpartition('/')[2]})", lambda x: _in_parts(seen, x), sees)


def _dino(name: str, file: Path, where: dict[str, Any]) -> ExternalMetric:
    from transformers import Dinov2Model

    model = (
        Dinov2Model.from_pretrained(name, use_safetensors=True, **where)
        .eval()
        .requires_grad_(False)
    )
    config: Any = model.config
    side = DINO_SIDE - DINO_SIDE % config.patch_size

    def seen(x: Tensor) -> Tensor:
        tokens = model(pixel_values=fitted(x, side, DINO_COLOURS)).last_hidden_state
        return torch.cat(
            [tokens[:, 0], tokens[:, 1:].mean(1)], 1
        )  # the whole, and what its parts have in common

    return ExternalMetric(f"DINOv2 ({name.rpartition('/')[2]})", lambda x: _in_parts(seen, x))


def _csd(name: str, file: Path, where: dict[str, Any]) -> ExternalMetric:
    """CLIP's picture encoder, trained further to tell styles apart, and its style projection."""
    from safetensors.torch import load_file
    from transformers import CLIPVisionConfig, CLIPVisionModel

    found = {
        name.removeprefix("model."): tensor.float() for name, tensor in load_file(file).items()
    }
    projection, seen = (
        found["last_layer_style"],
        {n.removeprefix("backbone."): t for n, t in found.items() if n.startswith("backbone.")},
    )
    width, _, patch, _ = seen["conv1.weight"].shape
    side = round((len(seen["positional_embedding"]) - 1) ** 0.5) * patch
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=len(seen["transformer.resblocks.0.mlp.c_fc.bias"]),
        num_hidden_layers=sum(name.endswith(".attn.in_proj_bias") for name in seen),
        num_attention_heads=max(1, width // 64),  # in every CLIP
        image_size=side,
        patch_size=patch,
    )
    model = CLIPVisionModel(config).eval().requires_grad_(False)
    own = model.state_dict()
    model.load_state_dict(
        {name: _from_openai(name.removeprefix("vision_model."), seen, own[name]) for name in own}
    )
    return ExternalMetric(
        "CSD",
        lambda x: _in_parts(
            lambda some: (
                model(pixel_values=fitted(some, side, CLIP_COLOURS)).pooler_output @ projection
            ),
            x,
        ),
    )


# transformers' names of a picture encoder -> those of the code that CLIP was published with
OPENAI = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding": "conv1",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm": "ln_pre",
    "post_layernorm": "ln_post",
    "encoder.layers": "transformer.resblocks",
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm": "ln_",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def _from_openai(name: str, found: dict[str, Tensor], own: Tensor) -> Tensor:
    """The tensor that transformers calls so; there the projections of queries, keys and values are
    three, in CLIP's own code one.
    """
    if name.endswith("position_ids"):
        return own
    for ours, theirs in OPENAI.items():
        name = name.replace(ours, theirs)
    before, three, kind = name.partition(".self_attn.")
    if not three:
        return found[name]
    return found[f"{before}.attn.in_proj_{kind.rpartition('.')[2]}"].chunk(3)["qkv".index(kind[0])]


@torch.no_grad()
def _in_parts(seen: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([seen(some).float() for some in x.split(AT_ONCE)])


def fitted(x: Tensor, side: int, colours: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    """[N, 3, H, W] in [-1, 1] -> [N, 3, side, side], the colours brought to mean 0 and deviation 1
    over what the network was trained on.
    """
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in colours)
    small = nn.functional.interpolate(
        x, size=(side, side), mode="bicubic", antialias=True, align_corners=False
    ).clamp(-1, 1)
    return (small / 2 + 0.5 - mean) / deviation
