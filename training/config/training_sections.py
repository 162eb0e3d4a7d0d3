"""Settings of what is trained and how: the adapters, the optimisation."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import field_validator

from training.config.section import Section, setting

Target = Literal["attention", "feed_forward", "projections", "convolutions"]


Method = Literal[
    "adamw", "adamw8bit", "prodigy", "schedule-free", "adafactor", "lion", "came", "other", "muon"
]


class Adapter(Section):
    """What is trained: small matrices beside the frozen weights."""

    method: Literal["lora", "lokr", "loha"] = setting(
        "lora",
        "lora: low-rank adaptation (Hu et al. 2021); lokr: a Kronecker product of two matrices "
        "and loha: two low-rank products multiplied element by element (Yeh et al. 2024), both "
        "read by ComfyUI, A1111, Forge and InvokeAI, by diffusers not for Stable Diffusion",
        why="every program can read it",
    )
    rank: int = setting(
        16,
        "rank of the adapters (lora, loha); a higher one learns finer detail and makes a larger "
        "file",
        ge=1,
        le=512,
        why="rank 8 had 8 points less style and 13 less content on linocut; the file stays at a "
        "few MB",
    )
    factor: int = setting(
        8,
        "of lokr: outputs and inputs of a layer are divided by it, or by the largest number below "
        "it that goes; 0 = as near the root as can be, for small files (LyCORIS's -1)",
        ge=0,
        le=512,
        why="what guides use: a 64th of a layer's weights, of nearly any rank",
    )
    start: str = setting(
        "",
        "a style file to start from; empty = new adapters, which change nothing at first",
    )
    alpha: float = setting(
        16.0,
        "the adapters are scaled by alpha / rank: see adapter.scale",
        gt=0,
        le=1024,
        why="alpha = rank is a scale of 1, so a learning rate means the same at every rank",
    )
    scale: Literal["alpha_over_rank", "alpha_over_root"] = setting(
        "alpha_over_rank",
        "what the adapters are scaled by: alpha / rank, or alpha / the root of the rank "
        "(rsLoRA, Kalajdzievski 2023); style files hold the alpha that gives the same scale",
        why="alpha / rank is what every guide means; the root is for ranks of 64 and more, which "
        "learn too slowly otherwise",
    )
    targets: list[Target] = setting(
        ["attention", "feed_forward", "projections"],
        "layers of the UNet that get adapters: attention, feed_forward, projections, convolutions",
        min_length=1,
        why="what every program applies; the style preset adds convolutions, which carry texture "
        "and strokes",
    )
    only: list[str] = setting(
        [],
        "patterns of layer names, of which one must fit, for instance `up_blocks.0.attentions.1` "
        "or `attn2`; empty = all that adapter.targets stands for",
        why="a style may live in a few blocks: B-LoRA (Frenkel et al. 2024) trains two of SDXL's",
    )
    without: list[str] = setting(
        [],
        "patterns of layer names that get no adapter",
        why="nothing is left out",
    )
    ranks: list[str] = setting(
        [],
        "ranks of their own, as `PATTERN=RANK`, for instance `conv*=4`; the last that fits counts, "
        "the scale stays",
        why="one rank is enough where nothing is known of the layers",
    )
    tokens: int = setting(
        0,
        "new embedding vectors for the trigger word, trained with the adapters (textual "
        "inversion, Gal et al. 2022); 0 = it keeps its meaning",
        unit="vectors",
        ge=0,
        le=64,
        why="a plain word is enough, and not every program reads embeddings from a style file",
    )
    token_start: str = setting(
        "style",
        "existing words from which the new vectors start",
        max_length=200,
        min_length=1,
        why="a word that is used where the trigger will be",
    )
    text_encoder_targets: list[Literal["attention", "feed_forward"]] = setting(
        ["attention", "feed_forward"],
        "layers of the text encoder that get adapters if optim.text_encoder_lr is above 0",
        min_length=1,
        why="what every program applies",
    )

    @property
    def multiplier(self) -> float:
        """What a layer's `up @ down` is multiplied with."""
        root = self.scale == "alpha_over_root"
        return self.alpha / (math.sqrt(self.rank) if root else self.rank)

    def file_alpha(self, rank: int) -> float:
        """The alpha that a style file holds for a layer of this rank, by which every program
        divides it.
        """
        as_set = self.scale == "alpha_over_rank" and rank == self.rank
        return self.alpha if as_set else self.multiplier * rank


class Optim(Section):
    """How long and how strongly to learn."""

    method: Method = setting(
        "adamw",
        "optimiser; prodigy finds the learning rate itself, schedule-free needs no schedule; all "
        "but adamw, adafactor and muon need a package of the extra `optim`; other: see optim.other",
        why="AdamW is what every guide's rates are for, and needs no package",
    )
    other: str = setting(
        "",
        "for optim.method = other: the name under which an installed package offers an optimiser "
        "(entry points `style_studio.optimizers`: make(matrices, lr, weight_decay))",
        max_length=100,
        why="only what you installed yourself is ever loaded",
    )

    steps: int = setting(
        1000,
        "length of the training",
        unit="updates",
        advanced=False,
        ge=1,
        le=1_000_000,
        why="about 150 epochs of 25 pictures; half as many left a third of the style unlearnt on "
        "linocut",
    )
    batch_size: int = setting(
        4,
        "pictures at once",
        unit="pictures",
        advanced=False,
        ge=1,
        le=256,
        why="a compromise: fewer make noisy updates, more take memory",
    )
    accumulate: int = setting(
        1,
        "batches whose gradients are added up for one update",
        unit="passes",
        ge=1,
        le=256,
        why="one batch an update, if it fits into memory",
    )
    unet_lr: float = setting(
        1e-4,
        "learning rate of the UNet's adapters",
        ge=0,
        le=1,
        why="usual for Stable Diffusion; the small built-in base needs 1.5e-3, which its presets "
        "set",
    )
    text_encoder_lr: float = setting(
        5e-5,
        "learning rate of the text encoder's adapters; 0 = do not train it",
        ge=0,
        le=1,
        why="lower than the UNet's: three times as much cost 8 points of style on linocut",
    )
    token_lr: float = setting(
        1e-3,
        "learning rate of the vectors of adapter.tokens",
        ge=0,
        le=1,
        why="embeddings are far apart, so vectors have further to go than matrices",
    )
    up_ratio: float = setting(
        1.0,
        "how many times as fast the adapters' up matrices learn as the down ones (LoRA+, Hayou et "
        "al. 2024)",
        ge=1,
        le=64,
        why="1 is plain LoRA; 4 to 16 learn faster, and go wrong sooner",
    )
    schedule: Literal["cosine", "constant", "linear", "rex", "restarts"] = setting(
        "cosine",
        "schedule of the learning rate after the warm-up; rex: high for longer than linear (Chen "
        "et al. 2021); restarts: optim.cycles cosines, one after another",
        why="ends with a small learning rate, so the last pictures do not dominate",
    )
    cycles: int = setting(
        3,
        "cosines of the schedule restarts",
        ge=1,
        le=1000,
        why="as many as guides use; the style of the end of every cycle is worth a look",
    )
    warmup: float = setting(
        0.05,
        "share of the updates in which the learning rate rises from 0",
        unit="share",
        ge=0,
        le=1,
        why="AdamW's moments are poor estimates at first (Ma and Yarats 2021)",
    )
    weight_decay: float = setting(
        0.01,
        "decoupled weight decay of AdamW",
        ge=0,
        le=10,
        why="AdamW's default; it matters little for matrices this small",
    )
    clip: float = setting(
        1.0,
        "largest norm of the gradient; 0 = no clipping",
        ge=0,
        le=1000,
        why="a single odd picture cannot make a large update",
    )
    loss: Literal["mse", "huber", "smooth_l1"] = setting(
        "mse",
        "what is made of an error: its square, or huber and smooth_l1, for which errors far above "
        "optim.huber count less",
        why="the square is what the base was trained with",
    )
    huber: float = setting(
        0.1,
        "size from which errors count less, for huber and smooth_l1",
        gt=0,
        le=10,
        why="the one of sd-scripts",
    )
    min_snr: float = setting(
        5.0,
        "gamma of min-SNR loss weights (Hang et al. 2023); 0 = off",
        ge=0,
        le=100,
        why="the authors' value; without it 8 points less style and 18 less content on linocut",
    )
    weighting: Literal["min_snr", "debiased"] = setting(
        "min_snr",
        "how much each timestep counts: min_snr as optim.min_snr says; debiased: less the cleaner "
        "it is (debiased estimation, Yu et al. 2024); neither changes flow matching bases",
        why="min-SNR is what was measured here",
    )
    timestep_bias: float = setting(
        0.0,
        "which timesteps are drawn more often: above 0 noisy ones (layout), below 0 clean "
        "ones (strokes, detail)",
        ge=-3,
        le=3,
        why="1 and -1 both cost 10 points of content on linocut",
    )
    noise_offset: float = setting(
        0.0,
        "extra noise, constant over each channel, for darker darks and lighter lights",
        ge=0,
        le=1,
        why="it shifts the brightness of all drawings; bases with zero terminal SNR do not need it",
    )
    multires: float = setting(
        0.0,
        "multi-resolution noise: how much each coarser level counts of the one before; 0 = off; "
        "made for Stable Diffusion",
        ge=0,
        lt=1,
        why="0.3 to 0.4 in guides; like optim.noise_offset it changes the brightness of drawings",
    )
    multires_levels: int = setting(
        6,
        "levels of multi-resolution noise",
        ge=1,
        le=10,
        why="as in sd-scripts; a picture of one pixel ends them anyway",
    )
    ema: float = setting(
        0.0,
        "decay of an exponential moving average of the adapters, which is saved in their "
        "place; 0 = off",
        ge=0,
        lt=1,
        why="the cosine schedule has a similar effect and needs no second copy",
    )
    checkpointing: Literal["auto", "on", "off"] = setting(
        "auto",
        "gradient checkpointing: recompute activations in the backward pass to save memory, "
        "which is slower; auto: only if memory is short",
        why="a step is at least a fifth faster without",
    )
    compile: Literal["off", "blocks", "whole"] = setting(
        "off",
        "torch.compile for the UNet: block by block, or whole (with CUDA graphs on a GPU)",
        why="compiling takes minutes for each picture size; only long runs on a GPU make up for it",
    )
    deterministic: bool = setting(
        False,
        "the same bits every time on a GPU, also after a crash; slower. On a CPU they are the"
        " same anyway",
        why="nobody sees the last bit of a weight",
    )
    seed: int = setting(
        0,
        "seed of noise, timesteps, order and first weights",
        ge=0,
        le=2**63 - 1,
        why="equal settings give equal styles",
    )

    @field_validator("checkpointing", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        """true and false, as it was written before there was auto."""
        return ("on" if value else "off") if isinstance(value, bool) else value
