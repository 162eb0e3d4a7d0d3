"""FLUX.1: CLIP's summary and T5's states, a transformer of double and single blocks, flow matching.

Dev hears its guidance as a number; schnell hears none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from training.models.conditioning import Said, gathered
from training.models.family import Family, Parts, padded_ids
from training.models.latent_space import packed, position_ids, unpacked
from training.models.objective import Flow, Shift
from training.style_files import family_spec

TOKENS = 512  # of T5, padding as well: the transformer knows no mask
# Guidance in training: dev was distilled from pictures that were drawn with more, and what is
# learnt from here are pictures as they are
IN_TRAINING = 1.0


def encode_text(parts: Parts, captions: Sequence[str], tokens: Sequence[object] = ()) -> Said:
    """Return T5's states [B, 512, width] and CLIP's summary [B, width]."""
    clip, t5 = parts.networks["text_encoder"], parts.networks["text_encoder_2"]
    long = padded_ids(parts, "tokenizer_2", captions, TOKENS).to(t5.device)
    short = padded_ids(parts, "tokenizer", captions).to(clip.device)
    return Said(t5(long)[0], clip(short).pooler_output)


def predict(
    parts: Parts, noisy: Tensor, levels: Tensor, conditioning: Said, guidance: float = IN_TRAINING
) -> Tensor:
    """Return the velocity towards noise, [B, C, h, w]."""
    height, width = noisy.shape[2:]
    hears = parts.denoiser.config.guidance_embeds
    said = parts.denoiser(
        hidden_states=packed(noisy),
        timestep=levels,  # the network multiplies by 1000 itself
        guidance=levels.new_full((len(noisy),), guidance) if hears else None,
        pooled_projections=conditioning.pooled,
        encoder_hidden_states=conditioning.states,
        txt_ids=levels.new_zeros(conditioning.states.shape[1], 3),
        img_ids=position_ids(height // 2, width // 2, 3, noisy),
        return_dict=False,
    )[0]
    return unpacked(said, height, width)


def distilled(transformer: Mapping[str, Any], index: Mapping[str, Any]) -> bool:
    """Schnell is drawn without guidance, and hears none."""
    return not transformer.get("guidance_embeds")


FLUX = Family(
    family_spec.SPECS["flux"],
    encode_text=encode_text,
    predict=predict,
    gather=gathered,
    says=Said,
    flow=Flow(Shift((256, 0.5), (4096, 1.15))),
    guided="number",
    distilled=distilled,
)
