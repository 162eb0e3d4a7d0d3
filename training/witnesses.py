"""What CLIP and DINOv2 say of pictures, where their weights lie in the hub's cache already: nothing is downloaded for it.

They were trained on photographs and pictures of all kinds, so they are witnesses beside the base's own measures (training.measures).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CLIP = ("openai/clip-vit-large-patch14", "openai/clip-vit-base-patch16", "openai/clip-vit-base-patch32")
DINO = ("facebook/dinov2-large", "facebook/dinov2-base", "facebook/dinov2-small")
# Means and deviations of the colours each was trained on: Radford et al. 2021's code, and ImageNet's
CLIP_COLOURS = ((0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758))
DINO_COLOURS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DINO_SIDE = 224  # px
AT_ONCE = 16  # pictures in one pass


@dataclass(frozen=True)
class Witness:
    """features: [N, 3, H, W] in [-1, 1] -> [N, D], in which hands can be told apart; sees: pictures and words -> nearness [N, words], or None."""

    name: str
    features: Callable[[Tensor], Tensor]
    sees: Callable[[Tensor, Sequence[str]], Tensor] | None = None


def present(cache: Path | None = None) -> list[Witness]:
    """The best CLIP and the best DINOv2 that lie in the cache (the hub's own unless given), on the CPU; none of them is no error."""
    return [made for names, make in ((CLIP, _clip), (DINO, _dino)) if (made := _first(names, make, cache)) is not None]


def _first(names: Sequence[str], make: Callable[[str, dict[str, Any]], Witness], cache: Path | None) -> Witness | None:
    from huggingface_hub import try_to_load_from_cache

    for name in names:
        if isinstance(try_to_load_from_cache(name, "model.safetensors", cache_dir=cache), str):
            try:
                return make(name, {"local_files_only": True, "cache_dir": cache})
            except (OSError, ValueError):  # a download that was broken off
                continue
    return None


def _clip(name: str, where: dict[str, Any]) -> Witness:
    from transformers import CLIPModel, CLIPTokenizer

    model = CLIPModel.from_pretrained(name, use_safetensors=True, **where).eval().requires_grad_(False)
    tokenizer = CLIPTokenizer.from_pretrained(name, **where)
    side = model.config.vision_config.image_size
    seen = lambda x: model.visual_projection(model.vision_model(pixel_values=fitted(x, side, CLIP_COLOURS)).pooler_output)

    @torch.no_grad()
    def sees(x: Tensor, words: Sequence[str]) -> Tensor:
        said = tokenizer([f"a picture of {text}" for text in words], padding=True, truncation=True, return_tensors="pt")
        told = model.text_projection(model.text_model(**said).pooler_output)
        return nn.functional.normalize(_in_parts(seen, x), dim=1) @ nn.functional.normalize(told, dim=1).T

    return Witness(f"CLIP ({name.rpartition('/')[2]})", lambda x: _in_parts(seen, x), sees)


def _dino(name: str, where: dict[str, Any]) -> Witness:
    from transformers import Dinov2Model

    model = Dinov2Model.from_pretrained(name, use_safetensors=True, **where).eval().requires_grad_(False)
    side = DINO_SIDE - DINO_SIDE % model.config.patch_size

    def seen(x: Tensor) -> Tensor:
        tokens = model(pixel_values=fitted(x, side, DINO_COLOURS)).last_hidden_state
        return torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1)  # the whole, and what its parts have in common

    return Witness(f"DINOv2 ({name.rpartition('/')[2]})", lambda x: _in_parts(seen, x))


@torch.no_grad()
def _in_parts(seen: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([seen(some).float() for some in x.split(AT_ONCE)])


def fitted(x: Tensor, side: int, colours: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    """[N, 3, H, W] in [-1, 1] -> [N, 3, side, side], the colours brought to mean 0 and deviation 1 over what the network was trained on."""
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in colours)
    small = nn.functional.interpolate(x, size=(side, side), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
    return (small / 2 + 0.5 - mean) / deviation
