"""What one image is drawn from, as a record that can be checked without a base. Knows no torch and
no gradio.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from dataclasses import dataclass
from typing import Any

from training.errors import ConfigError
from training.prompt import LEAST_STRENGTH, MOST_GUIDANCE, MOST_STEPS
from training.samplers import OWN, named

LONGEST_PROMPT = 1000  # characters
MOST_STRENGTH = 2.0  # of a style
MOST_SEED = 2**63 - 1
# Name on the page -> width and height
SHAPES: dict[str, tuple[int, int]] = {
    "Square": (1, 1),
    "Portrait 3:4": (3, 4),
    "Tall 9:16": (9, 16),
    "Landscape 4:3": (4, 3),
    "Wide 16:9": (16, 9),
}
SQUARE = next(iter(SHAPES))
ID = re.compile(r"[0-9a-f]{32}")  # of an image, a picture to begin with, or a mask


@dataclass(frozen=True)
class DrawRequest:
    """One image. style: id of the library, "" for the base alone; strength: of the style, 1 as
    trained; source: id of the picture to begin with, "" for noise; change: how much of it is drawn
    anew; mask: id, "" for everywhere.
    """

    base: str
    prompt: str
    style: str = ""
    strength: float = 1.0
    negative: str = ""
    seed: int = 0
    steps: int = 25
    guidance: float = 5.0
    sampler: str = OWN
    shape: str = SQUARE
    source: str = ""
    change: float = 0.6
    mask: str = ""

    def complaints(self) -> list[str]:
        """Everything that is wrong, in the page's words."""
        checks = [
            ("Choose a base model", not self.base.strip() or self.base.startswith("-")),
            ("Write a prompt: what the image should show", not self.prompt.strip()),
            (
                f"The prompt and the negative prompt may each have {LONGEST_PROMPT} characters",
                max(len(self.prompt), len(self.negative)) > LONGEST_PROMPT,
            ),
            (
                f"Strength must be between 0 and {MOST_STRENGTH:g}",
                not _within(self.strength, 0, MOST_STRENGTH),
            ),
            ("Seed must be a whole number from 0", not 0 <= self.seed <= MOST_SEED),
            (f"Steps must be between 1 and {MOST_STEPS}", not 1 <= self.steps <= MOST_STEPS),
            (
                f"Guidance must be between 1 and {MOST_GUIDANCE:g}",
                not _within(self.guidance, 1, MOST_GUIDANCE),
            ),
            ("Choose one of the shapes", self.shape not in SHAPES),
            ("Change must be between 1 and 100 %", not _within(self.change, LEAST_STRENGTH, 1)),
            (
                "The picture to begin with is not there any more. Drop it again",
                any(id and not ID.fullmatch(id) for id in (self.source, self.mask)),
            ),
        ]
        return [words for words, is_wrong in checks if is_wrong]

    def checked(self) -> DrawRequest:
        """Itself, with the sampler as it is called. Raises one ConfigError with all complaints."""
        if wrong := self.complaints():
            raise ConfigError("\n".join(wrong))
        begun = self if self.source else dataclasses.replace(self, change=0.6, mask="")
        return dataclasses.replace(begun, sampler=named(self.sampler), prompt=self.prompt.strip())

    def id(self, *of: str) -> str:
        """32 letters that equal requests have in common. of: what else decides the image, such as
        the state of the style's file.
        """
        said = json.dumps([dataclasses.asdict(self), *of], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()[:32]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

    @staticmethod
    def from_record(found: Any) -> DrawRequest:
        """Raises ValueError for anything but a record of this class that is in order."""
        if not isinstance(found, dict):
            raise ValueError("an object was expected")
        kinds = {field.name: field.type for field in dataclasses.fields(DrawRequest)}
        good = {"str": str, "int": int, "float": (int, float)}
        for name, value in found.items():
            kind = good[str(kinds[name])] if name in kinds else ()
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ValueError(f"{name[:40]} is no part of a request, or not as it should be")
        try:
            return DrawRequest(**found).checked()
        except (TypeError, ConfigError) as error:
            raise ValueError(str(error)) from error


def _within(number: float, low: float, high: float) -> bool:
    return math.isfinite(number) and low <= number <= high
