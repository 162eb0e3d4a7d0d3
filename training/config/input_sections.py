"""Settings of what a training starts from: the base, the pictures, the class pictures."""

from __future__ import annotations

from typing import Literal

from training.config.section import Section, setting
from training.data.captions import TEMPLATE


class Base(Section):
    """The model that learns to draw in the style."""

    model: str = setting(
        "mini",
        "`mini` (built in), a diffusers folder, a single .safetensors checkpoint, a .gguf file of a"
        " transformer, or a hub id",
        advanced=False,
        min_length=1,
        why="it needs no download",
    )
    rest: str = setting(
        "",
        "for a single file that holds a transformer alone: a diffusers folder or hub id of the"
        " same family, which supplies text encoders, VAE and sampler; asked once for each file",
        why="other bases are whole",
    )
    assistant: str = setting(
        "",
        "for a distilled base: a style file that keeps it from losing its few steps (training "
        "adapter, de-distillation), active in every update, left out of previews and of what is "
        "written; not with optim.compile",
        why="other bases need none",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto",
        "precision of the frozen base; auto: bfloat16 if the device supports it, else float16"
        " on a GPU and float32 on a CPU",
        why="half the memory and several times the speed; the adapters stay in float32",
    )
    storage: Literal["auto", "bfloat16", "int8", "nf4"] = setting(
        "auto",
        "how the frozen weights are kept in memory: bfloat16 takes at most 2 bytes a weight, "
        "int8 1, nf4 0.53 (needs the package bitsandbytes); auto: as base.dtype says if the "
        "predicted memory leaves room for it, else the most exact one that fits",
        why="a base that fits is not rounded; int8 changes a layer's output by 0.5 %, nf4 by 9 %",
    )
    device: str = setting(
        "auto",
        "auto, cpu, cuda, cuda:N, xpu, xpu:N or mps",
        pattern=r"^(auto|cpu|mps|(cuda|xpu)(:\d+)?)$",
        why="the fastest device of this machine",
    )
    clip_skip: int = setting(
        0,
        "the layer of the CLIP text encoder that counts, from the end, in training, drawing and"
        " the style file: 1 the last, 2 the last but one; 0 = the base's own",
        unit="layer",
        ge=0,
        le=24,
        why="what plain bases were trained with; many anime bases of SD 1.5 were trained with 2",
    )
    text_pieces: int = setting(
        1,
        "a caption may have so many times the tokens that the CLIP text encoder reads at once "
        "(75): 2 = 150, 3 = 225; its pieces are read one by one and joined, as in A1111 and "
        "ComfyUI",
        unit="pieces",
        ge=1,
        le=3,
        why="styles are mostly drawn with short prompts; tags and long descriptions need more",
    )


class Folder(Section):
    """One more folder of pictures, a table of [[data.folders]]."""

    folder: str = setting("", "folder of pictures, as data.folder", advanced=False)
    repeats: int = setting(
        1,
        "how often each of its pictures is seen in a pass over all",
        unit="times",
        ge=1,
        le=1000,
        why="every picture counts alike",
    )
    weight: float = setting(
        1.0,
        "weight of the loss on its pictures",
        gt=0,
        le=100,
        why="every picture counts alike",
    )
    trigger: str = setting(
        "",
        "the trigger word of its pictures; empty = data.trigger",
        max_length=100,
        why="one style has one trigger",
    )
    template: str = setting(
        "",
        "how its captions are made with the trigger; empty = data.template",
        max_length=500,
        why="one pattern for all captions",
    )
    kind: Literal["style", "class"] = setting(
        "style",
        "what its pictures are for: style, to be learnt; class, class pictures with captions of"
        " their own and without a trigger, which keep what the base draws (weight: prior.weight)",
        why="class pictures are for subjects",
    )


class Data(Section):
    """The pictures and the words beside them."""

    folder: str = setting(
        "",
        "folder of pictures (.png, .jpg, .webp, .avif, .bmp, .gif, .tiff; .heic with the extra "
        "heic) with .txt captions or a metadata.jsonl",
        advanced=False,
    )
    folders: list[Folder] = setting(
        [],
        "more folders, a table of the settings below for each, so that several styles or a style"
        " and a subject are learnt in one run",
        max_length=64,
        why="most styles are one folder",
    )
    balance: bool = setting(
        False,
        "let every folder count alike, however many pictures it has, times its weight; repeats are"
        " then chosen, also those of folders such as `10_sks dog`",
        why="more pictures usually tell more",
    )
    trigger: str = setting(
        "",
        "the trigger word of the style, put into every caption by data.template",
        advanced=False,
        max_length=100,
    )
    template: str = setting(
        TEMPLATE,
        "how captions are made with a trigger; {caption} and {trigger} are filled in",
        max_length=500,
        why="the content first, as in captions; the same words call the style later",
    )
    resolution: int = setting(
        0,
        "side of a square with the area of every bucket; 0 = the base's own size",
        unit="px",
        ge=0,
        le=4096,
        why="a base draws best at the size it was trained at",
    )
    buckets: bool = setting(
        True,
        "group pictures by aspect ratio instead of cropping all of them to squares",
        why="a square crop cuts off what the caption names",
    )
    finer_buckets: bool = setting(
        False,
        "more shapes for data.buckets, some of up to a third less or a quarter more area, so that"
        " less is cut off of pictures",
        why="batches of one size cost the same; the presets turn it on",
    )
    background: str = setting(
        "white",
        "colour behind transparent pictures, a name or #rrggbb",
        max_length=30,
        why="most transparent drawings are meant for paper",
    )
    mask: Literal["none", "alpha", "file"] = setting(
        "none",
        "what of a picture counts: all of it (none), what is opaque (alpha), or what is white in"
        " NAME-masklabel.png beside it or in mask/NAME.png (file)",
        why="pictures of a style are learnt whole; a subject may stand before what is not its own",
    )
    mask_outside: float = setting(
        0.1,
        "weight of what lies outside of a mask; 0 = nothing is learnt from it",
        unit="share",
        ge=0,
        le=1,
        why="a little keeps what is drawn around the subject from falling apart (OneTrainer's)",
    )
    flip: bool = setting(
        True,
        "also train on mirrored pictures; turn it off if left and right matter (writing, "
        "asymmetric faces)",
        why="twice the pictures, and most styles do not depend on left and right",
    )
    augment_turn: float = setting(
        0.0,
        "also train on pictures turned to either side by at most so much, cropped to their shape",
        unit="degrees",
        ge=0,
        le=45,
        why="turned pictures teach slanted lines; of use for subjects on few pictures",
    )
    augment_crop: float = setting(
        0.0,
        "also train on closer views, which leave out at most this share of a side",
        unit="share",
        ge=0,
        le=0.5,
        why="closer views teach larger strokes; of use for few pictures",
    )
    augment_colour: float = setting(
        0.0,
        "also train on pictures whose brightness, contrast and saturation are changed by at most"
        " this share",
        unit="share",
        ge=0,
        le=0.5,
        why="the colours are a part of most styles",
    )
    augment_versions: int = setting(
        4,
        "versions of each picture where data.augment_... changes them; the first one is unchanged",
        unit="versions",
        ge=1,
        le=32,
        why="all of them are encoded before the training",
    )
    caption_dropout: float = setting(
        0.05,
        "share of captions left empty, so that the style does not depend on the prompt",
        unit="share",
        ge=0,
        le=1,
        why="without it 8 points less content on linocut; six times as much gave no more style",
    )
    captions: Literal["whole", "lines"] = setting(
        "whole",
        "what a caption file holds: one caption (whole), or one on every line (lines), of which one"
        " is drawn each time; a list in metadata.jsonl always is several",
        why="most caption files hold one caption, some of them on several lines",
    )
    tags: Literal["as_written", "shuffled"] = setting(
        "as_written",
        "order of tags, the words between commas; shuffled: another one each time",
        why="sentences have an order; for captions of tags alone shuffled is usual",
    )
    keep_tags: int = setting(
        1,
        "tags at the beginning that stay there and are never left out by data.tags and"
        " data.tag_dropout",
        unit="tags",
        ge=0,
        le=100,
        why="the first tag usually says what the picture is of",
    )
    tag_dropout: float = setting(
        0.0,
        "share of the tags after data.keep_tags that is left out each time; never the trigger",
        unit="share",
        ge=0,
        le=1,
        why="what is left out is learnt as a part of the style",
    )
    wildcards: bool = setting(
        False,
        "alternatives in braces with bars between them, as of dynamic prompts: another one is said"
        " each time",
        why="braces are also just braces",
    )
    variants: int = setting(
        8,
        "ways in which each caption is said with shuffled tags, tag dropout or wildcards",
        unit="captions",
        ge=1,
        le=64,
        why="the text encoder's states of all of them are computed once and kept in memory",
    )

    @property
    def triggers(self) -> tuple[str, ...]:
        """All of them, the style's own first."""
        words = [self.trigger, *(one.trigger for one in self.folders if one.kind == "style")]
        return tuple(dict.fromkeys(word for word in words if word))


class Prior(Section):
    """DreamBooth prior preservation: pictures of the base's own, so that it does not forget."""

    folder: str = setting(
        "",
        "folder of class pictures; the base draws missing ones into the run's folder",
    )
    prompt: str = setting(
        "", "prompt of the class pictures, for instance `an icon`", max_length=500
    )
    images: int = setting(
        0,
        "number of class pictures; 0 = off",
        unit="pictures",
        ge=0,
        le=10_000,
        why="a style does not need them; a subject needs them to keep its class",
    )
    weight: float = setting(
        1.0,
        "weight of the loss on class pictures, relative to the style's",
        ge=0,
        le=100,
        why="equal weights, as in DreamBooth (Ruiz et al. 2023, section 3.2)",
    )
    frozen_weight: float = setting(
        0.0,
        "weight of keeping the frozen base's prediction for captions without the trigger; "
        "needs no class pictures; 0 = off",
        ge=0,
        le=100,
        why="at 0.5 it cost 38 points of style on linocut",
    )
