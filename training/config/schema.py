"""Every setting of a run, declared once: bounds, unit and one sentence stand on the field.

The TOML file, the command's flags, the page's form and the README's table are made from these
models. Knows nothing of torch.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo

from training.data.captions import TEMPLATE, WORD, names_in
from training.errors import ConfigError, StudioError
from training.samplers import SAMPLERS
from training.storage.paths import checked_name

PATHS = (
    "base.model",
    "data.folder",
    "prior.folder",
    "adapter.start",
    "report.held_out",
    "save.folder",
)
LONGEST_SHOWN = 200  # characters of a wrong value in a complaint
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


@dataclass(frozen=True)
class Setting:
    """One row of the settings table.

    kind: str, int, float, bool or list; choices: of a Literal or a list of them, else ().
    """

    section: str
    name: str
    kind: type
    default: Any
    choices: tuple[str, ...]
    help: str
    unit: str
    why: str  # the reason for the default, "" where there is nothing to choose
    advanced: bool
    low: float | None
    high: float | None

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}"


def settings() -> Iterator[Setting]:
    """Every setting in the order of the declaration."""
    for section, of_section in RunConfig.model_fields.items():
        for name, field in of_section.annotation.model_fields.items():
            yield _described(section, name, field)


def _described(section: str, name: str, field: FieldInfo) -> Setting:
    hint, choices = field.annotation, ()
    if get_origin(hint) is list:
        kind, inner = list, get_args(hint)[0]
        choices = get_args(inner) if get_origin(inner) is Literal else ()
    elif get_origin(hint) is Literal:
        kind, choices = str, get_args(hint)
    else:
        kind = hint
    bounds = {
        word: getattr(m, word)
        for m in field.metadata
        for word in ("ge", "gt", "le", "lt")
        if getattr(m, word, None) is not None
    }
    extra = field.json_schema_extra
    default = field.get_default(call_default_factory=True)
    low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
    return Setting(
        section,
        name,
        kind,
        default,
        choices,
        field.description or "",
        extra["unit"],
        extra["why"],
        extra["advanced"],
        low,
        high,
    )


def from_mapping(found: Mapping[str, Any], source: str = "the settings") -> RunConfig:
    """Check every value and return the config.

    Raises one ConfigError that lists everything wrong, with the nearest known names.
    """
    complaints: list[str] = []
    try:
        config = RunConfig.model_validate(_lenient(found))
    except ValidationError as error:
        complaints = [_complaint(e) for e in error.errors()]
    else:
        complaints = list(_cross_checks(config))
    if complaints:
        head = (
            f"{len(complaints)} settings are wrong" if len(complaints) > 1 else "A setting is wrong"
        )
        raise ConfigError("\n".join([f"{head} in {source}:", *(f"  - {c}" for c in complaints)]))
    return config


def _lenient(found: Mapping[str, Any]) -> dict[str, Any]:
    """TOML writes 1 for 1.0:

    let a whole number stand where a float is expected; everything else stays strict.
    """
    floats = {(s.section, s.name) for s in settings() if s.kind is float}
    lenient: dict[str, Any] = {}
    for section, values in found.items():
        if isinstance(values, Mapping):
            values = {
                k: _as_float(v) if (section, k) in floats and type(v) is int else v
                for k, v in values.items()
            }
        lenient[section] = values
    return lenient


def _as_float(whole: int) -> float:
    try:
        return float(whole)
    except OverflowError:  # TOML's integers have no end
        return math.inf if whole > 0 else -math.inf


def _complaint(error: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in error["loc"])
    value = error.get("input")
    if error["type"] == "extra_forbidden":
        known = [s.key for s in settings()] if "." in where else list(RunConfig.model_fields)
        return f"{where} is not a setting{nearest(where, known)}"
    if error["type"] in ("model_type", "model_attributes_type"):
        return (
            f"{where} is {_shown(value)}, a section of settings was expected: [{where}] "
            "with its settings below"
        )
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{where} is {_shown(value)}: {message.replace('input should', 'it should')}"


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no integers of more than some thousand digits
        return "too large a number"
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."


def nearest(word: str, known: list[str]) -> str:
    """Return ", did you mean X?" for the closest known name, or a hint where to find them all."""
    same_name = [k for k in known if k.rsplit(".", 1)[-1] == word.rsplit(".", 1)[-1]]
    close = same_name or difflib.get_close_matches(word, known, 1, 0.5)
    return f", did you mean {close[0]}?" if close else "; train_style.py --help lists all of them"


def _cross_checks(config: RunConfig) -> Iterator[str]:
    """What no single field can know."""
    try:
        checked_name(config.save.name, "save.name")
    except StudioError as error:
        yield str(error)
    if config.optim.unet_lr == 0 and config.optim.text_encoder_lr == 0:
        yield (
            "optim.unet_lr and optim.text_encoder_lr are both 0, so nothing would be "
            "trained: set one above 0"
        )
    if config.prior.images and not config.prior.prompt:
        yield (
            f"prior.images is {config.prior.images} but prior.prompt is empty: say what the "
            "class pictures show, or set prior.images = 0"
        )
    if config.adapter.tokens and not re.fullmatch(WORD, config.data.trigger):
        yield (
            f"adapter.tokens is {config.adapter.tokens} but data.trigger is "
            f"{_shown(config.data.trigger)}: one word of letters, digits, _ and - was "
            "expected, which the new vectors belong to"
        )
    yield from _template_complaints(config.data)
    for s in settings():
        yield from _text_complaints(s.key, getattr(getattr(config, s.section), s.name))


def _template_complaints(data: Data) -> Iterator[str]:
    try:
        filled_in = names_in(data.template)
    except StudioError as error:
        yield str(error)
        return
    if "caption" not in filled_in:
        yield (
            f"data.template is {data.template!r}: it must contain {{caption}}, or every "
            "picture would have the same words"
        )
    if data.trigger and "trigger" not in filled_in:
        yield (
            f"data.trigger is {data.trigger!r} but data.template has no {{trigger}}: add it, "
            "or clear the trigger"
        )


def _text_complaints(key: str, value: object) -> Iterator[str]:
    """What TOML, events and file names could not hold."""
    for text in value if isinstance(value, list) else [value]:
        if not isinstance(text, str):
            continue
        if "\0" in text:
            yield f"{key} holds a NUL character: remove it"
        elif any(
            "\ud800" <= c <= "\udfff" for c in text
        ):  # how Python tells a command's bytes that are not UTF-8
            yield f"{key} is {_shown(text)}, which is not UTF-8: rename it, or write it again"
        elif key in PATHS and text.startswith("~") and not _is_of_a_user(text):
            yield f"{key} is {text!r}: there is no user of that name. Write the whole path"


def _is_of_a_user(path: str) -> bool:
    try:
        Path(path).expanduser()
    except RuntimeError:
        return False
    return True


def read_toml(path: Path) -> dict[str, Any]:
    """Return the file's tables, unchecked. Raises ConfigError when it is not there or not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path} is not there. Give a run.toml, or only flags; train_style.py --help shows "
            "them."
        ) from None
    except IsADirectoryError:
        raise ConfigError(
            f"{path} is a folder, a TOML file was expected. Give {path / 'run.toml'}, if that "
            "is what you meant."
        ) from None
    except (
        ValueError,
        RecursionError,
    ) as error:  # ValueError: not TOML, not UTF-8, or a number of thousands of digits
        raise ConfigError(
            f"{path} is not TOML ({error}). Look at that line, or start again from a run.toml "
            "that worked."
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}).") from None


def with_overrides(found: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return found with values set by dotted key, `{"optim.steps":

    10}`; the originals stay as they are.
    """
    merged = {
        section: dict(values) if isinstance(values, Mapping) else values
        for section, values in found.items()
    }
    for key, value in overrides.items():
        section, name = key.split(".", 1)
        if isinstance(
            merged.setdefault(section, {}), dict
        ):  # else it is not a section, which the check will say
            merged[section][name] = value
    return merged


# Sections and settings that change what is shown, kept or held in memory, never what is learnt: a
# run may go on with other values of theirs
FREE_TO_CHANGE = {"preview", "report", "save", "optim.checkpointing"}


def changes(before: RunConfig, now: RunConfig) -> list[tuple[str, Any, Any]]:
    """Every setting that decides what is learnt and differs: (section.name, then, now)."""
    then, new = before.model_dump(), now.model_dump()
    decisive = [s for s in settings() if not {s.section, s.key} & FREE_TO_CHANGE]
    return [
        (s.key, then[s.section][s.name], new[s.section][s.name])
        for s in decisive
        if then[s.section][s.name] != new[s.section][s.name]
    ]


def to_toml(config: RunConfig) -> str:
    """Every setting, so that the file says all that decided the run."""
    return tomli_w.dumps(config.model_dump())


def markdown_table() -> str:
    """The README's settings table."""
    rows = ["| setting | default | what it does | why this default |", "|---|---|---|---|"]
    for s in settings():
        default = (
            {True: "on", False: "off"}.get(s.default, s.default) if s.kind is bool else s.default
        )
        shown = ", ".join(default) if isinstance(default, list) else str(default)
        unit = f" ({s.unit})" if s.unit else ""
        rows.append(
            f"| `{s.key}` | {f'`{shown}`' if shown else ''} | {s.help}{unit} | {s.why} |".replace(
                "|  |", "| |"
            )
        )
    return "\n".join(rows)
