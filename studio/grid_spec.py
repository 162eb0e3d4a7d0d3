"""What a comparison draws: base, columns, prompts, seeds; and the flags that say so."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.grid_arguments import EVERY, MOST_SIZE, STRENGTH, number, parser, whole
from training.data.captions import TEMPLATE, captioned
from training.data.pictures import open_picture
from training.errors import ConfigError, DataError
from training.prompt import LEAST_STRENGTH, MOST_GUIDANCE, MOST_STEPS
from training.samplers import OWN, named
from training.storage.paths import checked_writable
from training.style_files.reading import Style, printable, read_style
from training.style_files.strengths import Weight, mix


@dataclass(frozen=True)
class Taken:
    """A style file, how strongly it is taken, and what was read from it."""

    path: Path
    weight: Weight
    style: Style

    @property
    def trigger(self) -> str:
        return printable(self.style.trigger, 200)

    @property
    def title(self) -> str:
        return printable(self.style.title, 80).strip() or self.path.stem

    def called(self, prompt: str) -> str:
        """The prompt with the trigger, as the style's own template says."""
        data = self.style.recipe.get("data")
        template = data.get("template") if isinstance(data, dict) else None
        try:
            return captioned(
                prompt,
                self.trigger,
                template if isinstance(template, str) and "{trigger}" in template else TEMPLATE,
            )
        except DataError:  # metadata of unknown origin: the usual way then
            return captioned(prompt, self.trigger)

    def described(self) -> dict[str, Any]:
        """For a picture's metadata."""
        weight = self.weight
        strength = weight.unet if weight == Weight(weight.unet, weight.unet) else str(weight)
        return {
            "file": self.path.name,
            "sha256": self.style.sha256,
            "strength": strength,
            "trigger": self.style.trigger,
        }


@dataclass(frozen=True)
class Column:
    """What a column of the grid is drawn with:

    one style, a mix of several, or none for the base.
    """

    title: str
    styles: tuple[Taken, ...] = ()
    calls: bool = False  # put the styles' triggers into prompts that lack them

    def text(self, prompt: str) -> str:
        """The words this column is drawn from."""
        for taken in self.styles if self.calls else ():
            prompt = taken.called(prompt)
        return prompt

    def remarks(self, prompts: Sequence[str]) -> list[str]:
        """What stands below the title."""
        called = any(self.text(p) != p for p in prompts)
        weights = [str(taken.weight) or "1" for taken in self.styles]
        strength = (
            [f"strength {' + '.join(weights)}"]
            if len(weights) > 1 or any(w != "1" for w in weights)
            else []
        )
        words = ", ".join(
            dict.fromkeys(printable(taken.trigger, 60) for taken in self.styles if taken.trigger)
        )
        return strength + ([f"prompt + “{words}”"] if called else [])

    def described(self) -> dict[str, Any]:
        """For a picture's metadata."""
        if len(self.styles) == 1:
            return {"title": self.title} | self.styles[0].described()
        return {"title": self.title} | (
            {"mix": [taken.described() for taken in self.styles]} if self.styles else {}
        )


@dataclass(frozen=True)
class Row:
    """A row of the grid. strength: of the picture that it begins with, None for none."""

    prompt: str
    seed: int
    strength: float | None = None

    @property
    def remark(self) -> str:
        """What stands below the prompt."""
        begun = "" if self.strength is None else f", strength {self.strength:g}"
        return f"seed {self.seed}{begun}"


@dataclass(frozen=True)
class GridSpec:
    """What to compare, checked as far as it can be without a base.

    size: px, 0 for the base's own; cells: None for no single pictures; events: file that is told
    how far the drawing is, None for none; as_json: the same and the result on stdout; image: what
    the pictures begin with, None for noise alone; strengths: shares of the noise levels that are
    gone through from there; mask: where the picture is drawn anew, None for everywhere.
    """

    base: str
    columns: tuple[Column, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    out: Path
    cells: Path | None
    negative: str = ""
    steps: int = 25
    guidance: float = 5.0
    size: int = 0
    sampler: str = OWN
    dtype: str = "auto"
    device: str = "auto"
    every: float = float(EVERY)
    events: Path | None = None
    as_json: bool = False
    image: Path | None = None
    strengths: tuple[float, ...] = ()
    mask: Path | None = None

    @property
    def rows(self) -> list[Row]:
        """Every prompt with every seed, and where it begins with a picture at every strength."""
        begun = self.strengths or (None,)
        pairs = [(prompt, seed) for prompt in self.prompts for seed in self.seeds]
        return [Row(prompt, seed, strength) for prompt, seed in pairs for strength in begun]


def grid_spec_from(argv: Sequence[str]) -> GridSpec:
    """Check the arguments and read the style files; no torch. Raises StudioError."""
    given = parser().parse_args(list(argv))
    if not given.prompt:
        raise ConfigError(
            "--prompt is missing: say what to draw, for instance --prompt 'an icon of a red apple'."
        )
    chosen = [mix(text) for text in given.style]
    if given.no_base and not chosen:
        raise ConfigError(
            "--no-base without a --style leaves nothing to draw. Give a style file, or leave "
            "out --no-base."
        )
    if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:\d+)?", given.device):
        raise ConfigError(
            f"--device is {given.device!r}: auto, cpu, cuda, cuda:N, xpu, xpu:N or mps was "
            "expected."
        )
    numbers = {
        "seeds": tuple(whole("--seed", s, 0, 2**63 - 1) for s in given.seed or ["0"]),
        "steps": whole("--steps", given.steps, 1, MOST_STEPS),
        "guidance": number("--guidance", given.guidance, 1, MOST_GUIDANCE),
        "size": whole("--size", given.size, 0, MOST_SIZE),
        "every": number("--every", given.every, 0, 3600),
    }
    begun = _begun(given)
    out = Path(given.out).expanduser()
    cells = Path(given.cells).expanduser() if given.cells else None
    events = Path(given.events).expanduser() if given.events else None
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out is {given.out!r}: a name that ends in .png was expected.")
    if out.is_dir():
        raise ConfigError(
            f"--out is {given.out!r}, which is a folder. Give the name of a .png file."
        )
    styles = [
        tuple(Taken(path, weight, read_style(path)) for path, weight in taken) for taken in chosen
    ]
    columns = _columns(styles, calls=not given.no_trigger, base=not given.no_base)
    checked_writable(out.resolve().parent, "--out's folder")
    if cells:
        checked_writable(cells, "--cells")
    if events:
        checked_writable(events.resolve().parent, "--events's folder")
    plain = {
        "events": events,
        "as_json": given.json,
        "negative": given.negative,
        "sampler": named(given.sampler),
        "dtype": given.dtype,
        "device": given.device,
    }
    return GridSpec(
        given.base, columns, tuple(given.prompt), out=out, cells=cells, **plain, **numbers, **begun
    )


def _begun(given: argparse.Namespace) -> dict[str, Any]:
    """What the pictures begin with: image, strengths, mask. Raises ConfigError, DataError."""
    strengths = tuple(
        number("--strength", text, LEAST_STRENGTH, 1) for text in given.strength or [STRENGTH]
    )
    files = {}
    for name in ("image", "mask"):
        files[name] = Path(text).expanduser() if (text := getattr(given, name)) else None
    if files["image"] is None:
        for name in ("strength", "mask"):
            if getattr(given, name):
                raise ConfigError(
                    f"--{name} needs --image, the picture to begin with. Add it, or leave out "
                    f"--{name}."
                )
        return {}
    for path in filter(None, files.values()):
        open_picture(path)  # what cannot be read is refused before a base is loaded
    return {**files, "strengths": tuple(dict.fromkeys(strengths))}


def _columns(chosen: Sequence[tuple[Taken, ...]], *, calls: bool, base: bool) -> tuple[Column, ...]:
    """The base's column, then every style's or mix's.

    Named by titles, or by files where titles are missing or the same.
    """
    all_taken = [taken for styles in chosen for taken in styles]
    paths = {
        taken.title: {t.path.resolve() for t in all_taken if t.title == taken.title}
        for taken in all_taken
    }
    active = []
    for styles in chosen:
        names = [t.path.stem if len(paths[t.title]) > 1 else t.title for t in styles]
        active.append(Column(" + ".join(names), styles, calls))
    return (Column("base"), *active) if base else tuple(active)
