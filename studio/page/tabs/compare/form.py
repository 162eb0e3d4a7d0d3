"""The Compare tab's form <-> ComparisonSpec. Knows no components."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

from studio.library.comparisons import MOST_COLUMNS, ComparisonSpec
from training.errors import ConfigError

MOST_STYLES = 6  # rows of the form
MOST_IN_MIX = 1.5  # weight of one style
MOST_PICTURES = 400  # cells of a grid, the base's included
GUIDANCE = 5.0  # until a style was previewed with another one


@dataclass(frozen=True)
class StyleValues:
    """One row of the form. strengths: with commas, each a column; weight: in the mix, 0 = not."""

    id: str | None = None
    strengths: str | None = "1"
    weight: float | None = 0.0


@dataclass(frozen=True)
class FormValues:
    """What the form's controls hold. prompts: one a line; seeds: with commas; size: px."""

    base: str | None
    prompts: str | None
    seeds: str | None
    steps: int | None
    guidance: float | None
    size: int | None
    styles: tuple[StyleValues, ...]


@dataclass(frozen=True)
class _Parsed:
    """The form's texts in parts. strengths: of every chosen style, None where one is no number."""

    base: str
    prompts: tuple[str, ...]
    seeds: tuple[str, ...]
    strengths: tuple[tuple[str, list[float] | None], ...]
    mix: tuple[tuple[str, float], ...]

    @property
    def styles(self) -> tuple[tuple[str, float], ...]:
        """Id and strength of every column but the mix's."""
        pairs = []
        for id, found in self.strengths:
            pairs += [(id, strength) for strength in found or ()]
        return tuple(pairs)

    @property
    def columns(self) -> int:
        """How many columns of styles there would be."""
        return len(self.styles) + bool(self.mix)

    @property
    def cells(self) -> int:
        """How many pictures there would be."""
        return (1 + self.columns) * len(self.prompts) * max(1, len(self.seeds))


def values_from(found: Sequence[Any]) -> FormValues:
    """The values of the form's inputs: base, prompts, seeds, steps, guidance, size, then picker,
    strengths and weight of every row.
    """
    numbers, rows = found[:6], found[6:]
    styles = [StyleValues(*row) for row in zip(rows[::3], rows[1::3], rows[2::3], strict=True)]
    base, prompts, seeds, steps, guidance, size = numbers
    return FormValues(base, prompts, seeds, steps, guidance, size, tuple(styles))


def spec_from(values: FormValues) -> ComparisonSpec:
    """The comparison the form asks for. Raises one ConfigError that lists all that is wrong."""
    parsed = _parsed(values)
    if wrong := _complaints(values, parsed):
        raise ConfigError("\n".join(wrong))
    return ComparisonSpec(
        parsed.base,
        parsed.styles,
        parsed.prompts,
        tuple(int(seed) for seed in parsed.seeds),
        # None of them is empty: that is one of the complaints
        values.steps or 0,
        values.guidance or 0.0,
        values.size or 0,
        parsed.mix,
    )


def _parsed(values: FormValues) -> _Parsed:
    lines = [line.strip() for line in (values.prompts or "").splitlines()]
    active = mix(values.styles)
    only_mixed = {id for id, _ in active}  # whose strengths may be empty: no column of its own
    strengths: list[tuple[str, list[float] | None]] = []
    for style in values.styles:
        text = style.strengths or ""
        if style.id and style.id in only_mixed and not text.strip():
            strengths.append((style.id, []))
        elif style.id:
            strengths.append((style.id, _numbers(text)))
    return _Parsed(
        (values.base or "").strip(),
        tuple(line for line in lines if line),
        tuple((values.seeds or "").replace(",", " ").split()),
        tuple(strengths),
        active,
    )


def _complaints(values: FormValues, parsed: _Parsed) -> list[str]:
    """Everything that is wrong, in words."""
    steps, guidance, size = values.steps, values.guidance, values.size
    whole = all(seed.isascii() and seed.isdigit() for seed in parsed.seeds)
    checks = [
        (
            "Base model is empty or begins with a dash",
            not parsed.base or parsed.base.startswith("-"),
        ),
        ("Write at least one prompt, each on its own line", not parsed.prompts),
        (
            "Seeds must be whole numbers from 0, with commas between them",
            not parsed.seeds or not whole,
        ),
        (
            "Strengths must be numbers from -10 to 10, with commas between them",
            any(found is None for _, found in parsed.strengths),
        ),
        (
            "A mix needs two styles: give another style a weight above 0, or set this one to 0",
            not parsed.mix and _weighted(values.styles),
        ),
        (
            f"That makes {parsed.columns} columns of styles, and {MOST_COLUMNS} is the most",
            parsed.columns > MOST_COLUMNS,
        ),
        ("Steps must be between 1 and 200", steps is None or not 1 <= steps <= 200),
        ("Guidance must be between 1 and 30", guidance is None or not 1 <= guidance <= 30),
        (
            "Size must be 0 or between 64 and 2048 px",
            size is None or not (size == 0 or 64 <= size <= 2048),
        ),
        (
            f"That makes {parsed.cells} images, and {MOST_PICTURES} is the most: use fewer "
            "prompts, seeds or styles",
            parsed.cells > MOST_PICTURES,
        ),
    ]
    return [words for words, is_wrong in checks if is_wrong]


def mix(styles: Sequence[StyleValues]) -> tuple[tuple[str, float], ...]:
    """Id and weight of the styles that are drawn together: two or more, each once, else none."""
    found = dict(_weighted(styles))
    return tuple(found.items()) if len(found) > 1 else ()


def _weighted(styles: Sequence[StyleValues]) -> list[tuple[str, float]]:
    """The chosen styles whose slider is above 0, with its number."""
    return [
        (style.id, round(float(style.weight), 4))
        for style in styles
        if style.id and style.weight and 0 < style.weight <= MOST_IN_MIX
    ]


def _numbers(text: str) -> list[float] | None:
    """`0.5, 1` -> strengths, None when one of them is no number or too large."""
    words = text.replace(",", " ").split()
    good = all(
        re.fullmatch(r"-?(\d{1,2}(\.\d{0,4})?|\.\d{1,4})", word) and abs(float(word)) <= 10
        for word in words
    )
    return list(dict.fromkeys(float(word) for word in words)) if words and good else None


def values_of(spec: ComparisonSpec, known: Container[str]) -> FormValues:
    """The form of a comparison, without the styles that are not known any more."""
    by_style: dict[str, list[float]] = {}
    for id, strength in spec.styles:
        by_style.setdefault(id, []).append(strength)
    weights = dict(spec.mix)
    for id in weights:
        by_style.setdefault(id, [])
    rows = [
        StyleValues(
            id,
            ", ".join(f"{strength:g}" for strength in strengths),
            min(MOST_IN_MIX, max(0.0, weights.get(id, 0.0))),
        )
        for id, strengths in by_style.items()
        if id in known
    ]
    return FormValues(
        spec.base,
        "\n".join(spec.prompts),
        ", ".join(map(str, spec.seeds)),
        spec.steps,
        spec.guidance,
        spec.size,
        tuple(rows[:MOST_STYLES]),
    )


def spread(steps: Sequence[str]) -> list[str]:
    """The checkpoints beside a style: all, or as many as rows are left, the last one among them."""
    most = MOST_STYLES - 1
    if len(steps) <= most:
        return list(steps)
    return [steps[round((i + 1) * len(steps) / most) - 1] for i in range(most)]
