"""Settings of what is trained and how: the adapters, the optimisation."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from training.config.section import Section, setting

Target = Literal["attention", "feed_forward", "projections", "convolutions"]


class Adapter(Section):
    """What is trained: small matrices beside the frozen weights."""

    method: Literal["lora"] = setting(
        "lora", "lora: low-rank adaptation (Hu et al. 2021)", why="every program reads it"
    )
    rank: int = setting(
        16,
        "inner size of the adapters: more learns finer and makes a larger file",
        ge=1,
        le=512,
        why="with 8, 8 points less style and 13 fewer things on linocut; a style stays a few MB",
    )
    start: str = setting(
        "",
        "a style file to go on from: the adapters begin as it is; empty = they begin without "
        "any effect",
    )
    alpha: float = setting(
        16.0,
        "strength of the adapters; what counts is alpha / rank",
        gt=0,
        le=1024,
        why="equal to the rank the scale is 1, so that a learning rate means the same at every "
        "rank",
    )
    targets: list[Target] = setting(
        ["attention", "feed_forward", "projections"],
        "UNet parts that get adapters: attention, feed_forward, projections, convolutions",
        min_length=1,
        why="the layers that every program applies; the style preset adds convolutions, which "
        "carry strokes",
    )
    tokens: int = setting(
        0,
        "new vectors learnt for the trigger word together with the adapters (textual "
        "inversion, Gal et al. 2022); 0 = it keeps its meaning",
        unit="vectors",
        ge=0,
        le=64,
        why="a plain word does, and not every program reads words from a style file",
    )
    token_start: str = setting(
        "style",
        "plain words as which the new vectors begin",
        max_length=200,
        min_length=1,
        why="a word that already stands where the trigger will stand",
    )
    text_encoder_targets: list[Literal["attention", "feed_forward"]] = setting(
        ["attention", "feed_forward"],
        "text encoder parts that get adapters when optim.text_encoder_lr is above 0",
        min_length=1,
        why="the two that every program applies",
    )


class Optim(Section):
    """How long and how strongly to learn."""

    steps: int = setting(
        1000,
        "length of the training",
        unit="updates",
        advanced=False,
        ge=1,
        le=1_000_000,
        why="some 150 looks at each of 25 pictures; on linocut half as many left a third of "
        "the style unlearnt",
    )
    batch_size: int = setting(
        4,
        "pictures in one pass",
        unit="pictures",
        advanced=False,
        ge=1,
        le=256,
        why="a middle way: fewer make unsteady updates, more take memory",
    )
    accumulate: int = setting(
        1,
        "passes whose gradients make one update",
        unit="passes",
        ge=1,
        le=256,
        why="as many pictures an update as fit one pass",
    )
    unet_lr: float = setting(
        1e-4,
        "learning rate of the UNet's adapters",
        ge=0,
        le=1,
        why="the field's for Stable Diffusion; the small built-in base needs 1.5e-3, which its "
        "presets set",
    )
    text_encoder_lr: float = setting(
        5e-5,
        "learning rate of the text encoder's adapters; 0 = leave it alone",
        ge=0,
        le=1,
        why="slower than the UNet: three times as fast lost 8 points of style on linocut",
    )
    token_lr: float = setting(
        1e-3,
        "learning rate of adapter.tokens: vectors move by little, so it is larger than the others",
        ge=0,
        le=1,
        why="words lie far apart: vectors have further to go than matrices",
    )
    schedule: Literal["cosine", "constant", "linear"] = setting(
        "cosine",
        "course of the learning rate after the warm-up",
        why="ends in small steps, so that the last pictures seen do not stamp the style",
    )
    warmup: float = setting(
        0.05,
        "share of the updates in which the learning rate rises from 0",
        unit="share",
        ge=0,
        le=1,
        why="AdamW's moments mean little at first (Ma and Yarats 2021)",
    )
    weight_decay: float = setting(
        0.01,
        "decoupled weight decay of AdamW",
        ge=0,
        le=10,
        why="AdamW's own; it hardly counts for matrices so small",
    )
    clip: float = setting(
        1.0,
        "largest norm of the gradient; 0 = no clipping",
        ge=0,
        le=1000,
        why="one odd picture cannot throw the style off its course",
    )
    min_snr: float = setting(
        5.0,
        "gamma of min-SNR loss weights (Hang et al. 2023); 0 = off",
        ge=0,
        le=100,
        why="the authors' own; without it 8 points less style and 18 fewer things on linocut",
    )
    timestep_bias: float = setting(
        0.0,
        "what is learnt at more often: above 0 much noise, where things are laid out, below 0 "
        "little, where strokes are",
        ge=-3,
        le=3,
        why="1 and -1 both lost 10 points of things on linocut",
    )
    noise_offset: float = setting(
        0.0,
        "extra noise shared by a whole channel, for darker darks and lighter lights",
        ge=0,
        le=1,
        why="it shifts the brightness of everything; bases of zero terminal SNR need none",
    )
    ema: float = setting(
        0.0,
        "decay of an average of the adapters that is saved instead of them; 0 = off",
        ge=0,
        lt=1,
        why="the cosine course ends as quietly, without a second copy",
    )
    checkpointing: Literal["auto", "on", "off"] = setting(
        "auto",
        "recompute activations in the backward pass: less memory, slower; auto: only where the "
        "memory is too small without",
        why="what fits without is quicker by a fifth and more",
    )
    compile: Literal["off", "blocks", "whole"] = setting(
        "off",
        "have torch compile the UNet's passes: its blocks one by one, or the whole of it, on a "
        "GPU with CUDA graphs",
        why="compiling takes minutes for every size of pictures, on a CPU many; only long runs "
        "on a GPU win them back",
    )
    deterministic: bool = setting(
        False,
        "on a GPU: the same bits every time, also after a crash; slower. A CPU gives them anyway",
        why="what a picture shows does not hang on the last bit",
    )
    seed: int = setting(
        0,
        "decides noise, timesteps, order and first weights",
        ge=0,
        le=2**63 - 1,
        why="equal settings give equal styles",
    )

    @field_validator("checkpointing", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        """true and false, as it was written before there was auto."""
        return ("on" if value else "off") if isinstance(value, bool) else value
