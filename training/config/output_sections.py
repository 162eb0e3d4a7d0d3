"""Settings of what a training leaves: previews, the report, checkpoints and style files."""

from __future__ import annotations

from typing import Literal

from training.config.section import Section, setting
from training.samplers import SAMPLERS

# Groups of metadata, as training.style_files.metadata sorts them
Group = Literal["words", "author", "dates", "base", "program", "recipe", "training"]


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
    """Which checkpoint is best, and why.

    Pictures of things that the data does not show, measured with the base itself.
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
