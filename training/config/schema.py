"""Every setting of a run, declared once: bounds, unit and one sentence stand on the field.

The TOML file, the command's flags, the page's form and docs/settings.md are made from these
models. Knows nothing of torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from training.data.captions import TEMPLATE
from training.samplers import SAMPLERS

Group = Literal[
    "words", "author", "dates", "base", "program", "recipe", "training"
]  # groups of metadata, see style_metadata
Target = Literal["attention", "feed_forward", "projections", "convolutions"]


def setting(
    default: Any, help: str, *, unit: str = "", why: str = "", advanced: bool = True, **bounds: Any
) -> Any:
    """A field with its sentence and unit; why:

    the reason for the default; advanced=False puts it on the page's first screen.
    """
    kept = list(default) if isinstance(default, list) else default
    extra = {"unit": unit, "advanced": advanced, "why": why}
    if isinstance(kept, list):
        return Field(
            default_factory=lambda: list(kept), description=help, json_schema_extra=extra, **bounds
        )
    return Field(kept, description=help, json_schema_extra=extra, **bounds)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Base(Section):
    """The model that learns to draw in the style."""

    model: str = setting(
        "mini",
        "`mini` (built in), a diffusers folder, a single .safetensors checkpoint, or a hub id",
        advanced=False,
        min_length=1,
        why="it is there without a download",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto",
        "precision of the frozen base; auto: bfloat16 where the device has it, else float16 on "
        "a GPU and float32 on a CPU",
        why="half the memory and several times the speed, while the adapters stay in float32",
    )
    device: str = setting(
        "auto",
        "auto, cpu, cuda, cuda:N or mps",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        why="the quickest that is here",
    )


class Data(Section):
    """The pictures and the words beside them."""

    folder: str = setting(
        "",
        "folder of .png, .jpg, .jpeg or .webp pictures with .txt captions or a metadata.jsonl",
        advanced=False,
    )
    trigger: str = setting(
        "",
        "the word that calls the style, put into every caption by data.template",
        advanced=False,
        max_length=100,
    )
    template: str = setting(
        TEMPLATE,
        "how a caption is made when there is a trigger; {caption} and {trigger} are filled in",
        max_length=500,
        why="the thing first, as captions are written; the same words call the style later",
    )
    resolution: int = setting(
        0,
        "side of the square whose area every bucket has; 0 = the base's own size",
        unit="px",
        ge=0,
        le=4096,
        why="a base draws best at the size it was trained at",
    )
    buckets: bool = setting(
        True,
        "sort pictures by aspect ratio instead of cropping all to squares",
        why="a square crop cuts off what the caption names",
    )
    background: str = setting(
        "white",
        "colour put behind transparent pictures, a name or #rrggbb",
        max_length=30,
        why="most transparent drawings are meant for paper",
    )
    flip: bool = setting(
        True,
        "also learn from mirrored pictures; turn off when left and right matter (faces with "
        "marks, writing)",
        why="twice the pictures, and a hand draws both ways round",
    )
    caption_dropout: float = setting(
        0.05,
        "share of captions left empty, so that the style needs no words",
        unit="share",
        ge=0,
        le=1,
        why="without, 8 points fewer things on linocut; with six times as many, no more style",
    )


class Prior(Section):
    """DreamBooth prior preservation: pictures of the base's own, so that it does not forget."""

    folder: str = setting(
        "",
        "class pictures; missing ones are drawn by the base into the run's folder (or here, if "
        "given)",
    )
    prompt: str = setting(
        "", "what the class pictures show, for instance `an icon`", max_length=500
    )
    images: int = setting(
        0,
        "class pictures in all; 0 = off",
        unit="pictures",
        ge=0,
        le=10_000,
        why="a style has nothing to keep apart from; for a subject they keep its class",
    )
    weight: float = setting(
        1.0,
        "weight of their loss against the style's",
        ge=0,
        le=100,
        why="both losses alike, as in DreamBooth (Ruiz et al. 2023, section 3.2)",
    )
    frozen_weight: float = setting(
        0.0,
        "weight of staying with the frozen base's own answer where the trigger is not said; "
        "needs no class pictures; 0 = off",
        ge=0,
        le=100,
        why="at 0.5 it took away 38 points of style on linocut",
    )


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


class Preview(Section):
    """Pictures drawn during training, always with the same noise."""

    every: int = setting(
        100,
        "distance between previews; 0 = none",
        unit="updates",
        ge=0,
        why="ten looks in a run of 1000",
    )
    prompts: list[str] = setting(
        [],
        "what to draw; empty = three of the captions",
        max_length=16,
        why="what the pictures show tells soonest whether anything is learnt",
    )
    negative: str = setting("", "what to keep away from", max_length=1000)
    steps: int = setting(
        20,
        "denoising steps",
        unit="steps",
        ge=1,
        le=200,
        why="more sharpen little with the usual samplers",
    )
    guidance: float = setting(
        5.0,
        "guidance scale; 1 = off",
        ge=1,
        le=30,
        why="strong enough to obey, weak enough for clean grounds",
    )
    sampler: Literal["base", *SAMPLERS] = setting(
        "base",
        "how the noise is taken away; base = as the base itself does it",
        why="it is what the base was made for",
    )
    seed: int = setting(
        0,
        "noise of the first preview; the next ones count up",
        ge=0,
        le=2**63 - 1,
        why="always the same noise, so that only the style changes",
    )


class Report(Section):
    """Which checkpoint is best, and why:

    pictures of things the data does not show, measured with the base itself.
    """

    minutes: float = setting(
        10.0,
        "longest time the report at the end of a run may take; 0 = none",
        unit="min",
        ge=0,
        le=10_000,
        why="no longer than it takes to want to see the style",
    )
    prompts: list[str] = setting(
        [], "what to draw; empty = plain things that no caption names", max_length=64
    )
    most: int = setting(
        24,
        "how many prompts at most when they are chosen for you; more are surer",
        unit="prompts",
        ge=4,
        le=48,
        why="its order of checkpoints by style then mostly agrees with the truth at 0.9 (Spearman)",
    )
    weakest: float = setting(
        0.7,
        "weakest strength at which every checkpoint is tried; 1 and the one halfway are tried too",
        gt=0,
        le=1,
        why="below it little of a style is left",
    )
    held_out: str = setting(
        "",
        "folder of pictures with captions that are not trained on; the loss on them shows "
        "learning by heart",
    )


class Save(Section):
    """Where the work goes."""

    name: str = setting(
        "my-style",
        "name of the style and of its file",
        advanced=False,
        why="to be renamed on the shelf",
    )
    folder: str = setting("runs", "the run's folder is save.folder/save.name")
    every: int = setting(
        100,
        "distance between checkpoints; 0 = only at the end",
        unit="updates",
        ge=0,
        why="a crash costs at most a tenth of 1000 updates",
    )
    keep: int = setting(
        2,
        "how many checkpoints stay",
        unit="checkpoints",
        ge=1,
        le=1000,
        why="one that a crash damaged has one behind it",
    )
    styles: bool = setting(
        True,
        "also keep the style file of every checkpoint, so that the report can say which one is "
        "best",
        why="the last checkpoint is not always the best",
    )
    latents: float = setting(
        2.0,
        "room for encoded pictures that stay on disk for later runs, of all bases together; 0 "
        "= none",
        unit="GiB",
        ge=0,
        le=10_000,
        why="room for tens of thousands of pictures at 512 px",
    )
    resume: Literal["exact", "adapt", "anew"] = setting(
        "exact",
        "when a run of this name was begun with other settings or pictures: exact refuses and "
        "lists them, adapt goes on with the new ones, "
        "anew puts the earlier work aside and begins again",
        why="a run never goes on with other pictures or settings unnoticed",
    )
    author: str = setting("", "written into the style file when given", max_length=200)
    licence: str = setting("", "written into the style file when given", max_length=200)
    leave_out: list[Group] = setting(
        [], "what the style file is not to tell; captions, paths and folder names never stand in it"
    )


class RunConfig(Section):
    """Everything that decides a run:

    on a CPU, equal configs and equal pictures give equal styles bit for bit.
    """

    base: Base = Field(default_factory=Base)
    data: Data = Field(default_factory=Data)
    prior: Prior = Field(default_factory=Prior)
    adapter: Adapter = Field(default_factory=Adapter)
    optim: Optim = Field(default_factory=Optim)
    preview: Preview = Field(default_factory=Preview)
    report: Report = Field(default_factory=Report)
    save: Save = Field(default_factory=Save)

    @property
    def run_folder(self) -> Path:
        """Absolute, symbolic links followed: what lies in it can be told relative to it."""
        return (Path(self.save.folder).expanduser() / self.save.name).resolve()
