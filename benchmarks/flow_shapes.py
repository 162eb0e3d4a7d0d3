"""Transformers of true size, as their published configs have them, and what captions say to them.

Of each class its own defaults, and what is different of a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from training.models import chroma, flux, flux2, krea2, qwen_image, sd3, z_image
from training.models.conditioning import Said, States, Varied
from training.models.family import Family, Parts
from training.models.files import library
from training.models.latent_space import LatentSpace

DUAL = "dual_attention_layers"


@dataclass(frozen=True)
class FlowShape:
    """tokens: of a caption; width: of the states of a token; pooled: of a summary; channels: of
    latents, step: px of a latent's side; blocks: key of the config -> how many blocks of that kind
    there are. Of those with a second attention (SD 3.5 medium) the config lists which they are.
    """

    family: Family
    tokens: int
    width: tuple[int, ...]
    blocks: Mapping[str, int]
    pooled: int = 0
    channels: int = 16
    step: int = 8
    config: Mapping[str, Any] = field(default_factory=dict)

    def with_blocks(self, counts: Mapping[str, int]) -> FlowShape:
        """The same with so many blocks."""
        return replace(self, blocks={**self.blocks, **counts})

    def denoiser(self) -> nn.Module:
        """The transformer, on the device that is the default."""
        kind = getattr(library(), self.family.classes["transformer"])
        listed = {DUAL: tuple(range(self.blocks[DUAL]))} if DUAL in self.blocks else {}
        return kind.from_config({**self.config, **self.blocks, **listed})

    def words(self, rows: int, dtype: torch.dtype) -> Said | States | Varied:
        """What captions say, of the right shape."""
        states = torch.randn((rows, self.tokens, *self.width), dtype=dtype)
        if self.family.says is Varied:
            return Varied(tuple(states))
        if self.family.says is States:
            return States(states)
        return Said(states, torch.randn((rows, self.pooled), dtype=dtype))

    def predicted(self, network: nn.Module, rows: int, px: int, dtype: torch.dtype) -> Tensor:
        """What the network says to pictures of that side."""
        side = px // self.step
        noisy = torch.randn((rows, self.channels, side, side), dtype=dtype)
        parts = cast(Parts, SimpleNamespace(denoiser=network, space=LatentSpace(self.channels)))
        return self.family.predict(parts, noisy, torch.rand(rows), self.words(rows, dtype))


def _klein(heads: int, words: int) -> dict[str, Any]:
    return {"num_attention_heads": heads, "joint_attention_dim": words, "guidance_embeds": False}


def _sd35(heads: int, places: int) -> dict[str, Any]:
    return {
        "sample_size": 128,
        "in_channels": 16,
        "out_channels": 16,
        "num_attention_heads": heads,
        "attention_head_dim": 64,
        "joint_attention_dim": 4096,
        "caption_projection_dim": 64 * heads,
        "pooled_projection_dim": 2048,
        "pos_embed_max_size": places,
        "qk_norm": "rms_norm",
    }


def _two(double: int, single: int) -> dict[str, int]:
    return {"num_layers": double, "num_single_layers": single}


_KLEIN: dict[str, Any] = {"channels": 128, "step": 16}
FLOWS = {
    "flux": FlowShape(flux.FLUX, 512, (4096,), _two(19, 38), 768, config={"guidance_embeds": True}),
    "chroma": FlowShape(chroma.CHROMA, 64, (4096,), _two(19, 38)),
    "klein4": FlowShape(flux2.KLEIN, 512, (7680,), _two(5, 20), config=_klein(24, 7680), **_KLEIN),
    "klein9": FlowShape(
        flux2.KLEIN, 512, (12288,), _two(8, 24), config=_klein(32, 12288), **_KLEIN
    ),
    "z-image": FlowShape(z_image.Z_IMAGE, 64, (2560,), {"n_layers": 30}),
    "sd35-medium": FlowShape(
        sd3.SD3, 333, (4096,), {"num_layers": 24, DUAL: 13}, 2048, config=_sd35(24, 384)
    ),
    "sd35-large": FlowShape(sd3.SD3, 333, (4096,), {"num_layers": 38}, 2048, config=_sd35(38, 192)),
    "qwen-image": FlowShape(qwen_image.QWEN_IMAGE, 64, (3584,), {"num_layers": 60}),
    "krea2": FlowShape(krea2.KREA2, 64, (12, 2560), {"num_layers": 28}),
}
