"""The style report as records: what to judge, what was measured, and which checkpoint is best.

Knows nothing of how a style is trained.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from training.data.dataset import Dataset


@dataclass(frozen=True)
class Candidate:
    """A style file to judge: the updates it was made with (0 when unknown)."""

    path: Path
    step: int


@dataclass(frozen=True)
class ReportRequest:
    """What to judge.

    pictures: what the style was learnt from; held_out: pictures it has not seen, or none;
    others: more words that the base may take a picture for. The more, the harder to be right by
    chance.
    """

    candidates: tuple[Candidate, ...]
    pictures: Dataset
    held_out: Dataset | None
    negative: str
    strengths: tuple[float, ...]
    steps: int  # denoising steps
    guidance: float
    seed: int
    background: str
    others: tuple[str, ...] = ()


@dataclass
class Tried:
    """One candidate at one strength.

    style, content, copies: shares; nearest: the training picture that was come nearest to, and how
    near; bands: loss by band of timesteps over the base's; external: what other models say of
    style and content, by `style, NAME` and `content, NAME`.
    """

    step: int
    strength: float
    file: str
    style: float
    content: float
    copies: float
    content_sure: bool = True  # whether content is a figure that a person would agree with
    quality: float = 0.0  # as training.evaluation.rating gives it
    nearest: tuple[str, float] = ("", math.inf)
    bands: tuple[float, ...] = ()
    external: dict[str, float] = field(default_factory=dict)
    pictures: list[Image.Image] = field(default_factory=list, repr=False)

    def numbers(self) -> dict[str, Any]:
        """Everything but the pictures, under the names that report.json has."""
        kept = {f.name for f in dataclasses.fields(self)} - {"pictures", "content_sure"}
        names = {name: name for name in (f.name for f in dataclasses.fields(self)) if name in kept}
        names["external"] = "witnesses"
        return {shown: getattr(self, name) for name, shown in names.items()}


@dataclass
class Report:
    """Everything that was found.

    base: the base without a style, measured as the styles were; reachable: the true pictures' own
    likeness.
    """

    base: Tried
    tried: list[Tried]
    prompts: tuple[str, ...]
    best: Tried
    reason: str
    reachable: float
    seconds: float
    loss_on: str  # whose loss the bands tell
    title: str = ""
    content_by: str = ""  # what measured content, in words
    content_unsure: str = ""  # why the figures for content mean nothing here

    def to_json(self) -> str:
        scores = {
            "best": self.best.numbers(),
            "reason": self.reason,
            "base": self.base.numbers(),
            "tried": [t.numbers() for t in self.tried],
        }
        rest = {
            "prompts": self.prompts,
            "reachable": self.reachable,
            "loss_on": self.loss_on,
            "seconds": self.seconds,
            "title": self.title,
            "content_unsure": self.content_unsure,
        }
        return json.dumps(scores | rest, indent=1, ensure_ascii=False)
