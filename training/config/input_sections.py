"""Settings of what a training starts from: the base, the pictures, the class pictures."""

from __future__ import annotations

from typing import Literal

from training.config.section import Section, setting
from training.data.captions import TEMPLATE


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
