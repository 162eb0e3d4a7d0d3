"""Settings of what a training leaves: previews, the report, checkpoints and style files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from training.config.section import Section, setting
from training.samplers import SAMPLERS

if TYPE_CHECKING:
    SamplerName = str
else:  # made of a table, which no type checker reads
    SamplerName = Literal["base", *SAMPLERS]
# Groups of metadata, as training.style_files.metadata sorts them
Tracker = Literal[
    "tensorboard",
    "wandb",
    "trackio",
    "mlflow",
    "comet_ml",
    "aim",
    "clearml",
    "dvclive",
    "swanlab",
]
Group = Literal["words", "author", "dates", "base", "program", "recipe", "training"]


class Preview(Section):
    """Pictures drawn during training, always with the same noise."""

    every: int = setting(
        100,
        "interval between previews; 0 = none",
        unit="updates",
        ge=0,
        why="ten previews in a run of 1000",
    )
    prompts: list[str] = setting(
        [],
        "prompts of the previews; empty = three of the captions",
        max_length=16,
        why="known content shows soonest whether the style is being learnt",
    )
    model: str = setting(
        "",
        "another base of the same family and size that previews are drawn with, loaded each time"
        " (a CPU holds both then): a diffusers folder or hub id, such as Krea 2 Turbo in a training"
        " on Raw; empty = the base that is trained. Not for Stable Diffusion 1, 2 and XL",
        why="what is trained is what is looked at",
    )
    negative: str = setting("", "negative prompt", max_length=1000)
    steps: int = setting(
        20,
        "denoising steps",
        unit="steps",
        ge=1,
        le=200,
        why="more improve little with the usual samplers",
    )
    guidance: float = setting(
        5.0,
        "guidance scale; 1 = off",
        ge=1,
        le=30,
        why="follows the prompt and keeps backgrounds clean",
    )
    sampler: SamplerName = setting(
        "base",
        "sampler; base = the base's own",
        why="the one the base was made for",
    )
    seed: int = setting(
        0,
        "seed of the first preview; the others count up",
        ge=0,
        le=2**63 - 1,
        why="the noise stays the same, so only the style changes",
    )


class Report(Section):
    """Which checkpoint is best, and why.

    Pictures of things that the data does not show, measured with the base itself.
    """

    minutes: float = setting(
        10.0,
        "longest time for the report at the end of a run; 0 = no report",
        unit="min",
        ge=0,
        le=10_000,
        why="short enough to wait for",
    )
    prompts: list[str] = setting(
        [], "prompts of the report; empty = plain objects that no caption names", max_length=64
    )
    most: int = setting(
        24,
        "largest number of prompts if report.prompts is empty; more give surer results",
        unit="prompts",
        ge=4,
        le=48,
        why="its ranking of checkpoints by style then mostly correlates with the truth at 0.9 "
        "(Spearman)",
    )
    weakest: float = setting(
        0.7,
        "lowest strength at which every checkpoint is tried, besides 1 and the one halfway",
        gt=0,
        le=1,
        why="lower strengths leave little of a style",
    )
    held_out: str = setting(
        "",
        "folder of pictures with captions that are not trained on; the loss on them shows "
        "overfitting",
    )


class Save(Section):
    """Where the work goes."""

    name: str = setting(
        "my-style",
        "name of the style and of its file",
        advanced=False,
        why="it can be renamed under Styles",
    )
    folder: str = setting("runs", "the run's folder is save.folder/save.name")
    every: int = setting(
        100,
        "interval between checkpoints; 0 = only at the end",
        unit="updates",
        ge=0,
        why="a crash costs at most a tenth of 1000 updates",
    )
    keep: int = setting(
        2,
        "number of checkpoints that are kept",
        unit="checkpoints",
        ge=1,
        le=1000,
        why="if a crash damages the newest, there is another",
    )
    styles: bool = setting(
        True,
        "also keep a style file for every checkpoint, so that the report can recommend one",
        why="the last checkpoint is not always the best",
    )
    latents: float = setting(
        2.0,
        "disk space for encoded pictures (latents) that later runs can use, for all bases "
        "together; 0 = none",
        unit="GiB",
        ge=0,
        le=10_000,
        why="enough for tens of thousands of pictures at 512 px",
    )
    text_states: float = setting(
        4.0,
        "disk space for what captions say (states of text encoders) that later runs can use, for "
        "all bases whose text encoders are not trained together; 0 = none",
        unit="GiB",
        ge=0,
        le=10_000,
        why="hundreds of captions of the largest text encoder; a run that finds all its captions "
        "there loads none",
    )
    resume: Literal["exact", "adapt", "anew"] = setting(
        "exact",
        "if a run of this name has other settings or pictures: exact refuses and lists them, "
        "adapt resumes with the new ones, anew moves the earlier work aside and starts again",
        why="no run resumes with other pictures or settings unnoticed",
    )
    track: list[Tracker] = setting(
        [],
        "experiment trackers that are sent the loss, the learning rate, the previews and the "
        "report's scores; each needs its own package",
        why="events.jsonl has all of it without any",
    )
    webhook: str = setting(
        "",
        "http or https address that is sent a few words in JSON when the run ends or fails",
    )
    notify: bool = setting(
        False,
        "show a notice on this machine's desktop when the run ends or fails",
        why="a server has no desktop, and the page can tell you itself",
    )
    author: str = setting("", "written into the style file if given", max_length=200)
    licence: str = setting("", "written into the style file if given", max_length=200)
    leave_out: list[Group] = setting(
        [],
        "metadata to leave out of the style file; captions, paths and folder names are never in it",
    )
