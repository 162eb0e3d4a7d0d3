"""A comparison as one picture: cells, headings and a footer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw

from studio.grid_spec import GridSpec
from studio.lettering import Lettering, readable
from training.samplers import OWN
from training.style_files.reading import printable

if TYPE_CHECKING:
    pass


INK, GREY, HAIRLINE, PAPER = "#1c1c1c", "#6b6b6b", "#dedede", "white"


SMALLEST_CELL = 192  # px; smaller pictures are shown two, three, ... times as large


def headings(spec: GridSpec, base: str) -> list[tuple[str, str]]:
    """Title and remark of every column."""
    return [
        (c.title if c.styles else f"base: {base}", ", ".join(c.remarks(spec.prompts)))
        for c in spec.columns
    ]


def _footer(settings: dict[str, Any]) -> str:
    negative = f", negative “{settings['negative']}”" if settings["negative"] else ""
    sampler = "" if settings["sampler"] == OWN else f" of {settings['sampler']}"
    drawn = (
        f"{settings['size']} px, {settings['steps']} steps{sampler}, guidance "
        f"{settings['guidance']:g}{negative}, {settings['dtype']}"
    )
    return f"{settings['base']['title']}, {drawn}. The same noise along a row."


def grid_of(
    headings: Sequence[tuple[str, str]],
    rows: Sequence[tuple[str, str]],
    pictures: Sequence[Sequence[Image.Image]],
    *,
    footer: str = "",
) -> Image.Image:
    """One labelled picture.

    headings: title and remark of each column; rows: prompt and remark of each row; pictures:
    [rows][columns].
    """
    side, high = pictures[0][0].size
    cell = side * max(1, -(-SMALLEST_CELL // side))
    tall = high * cell // side
    large = min(30, max(15, cell // 15))  # px, letters
    gap, small = max(6, cell // 32), round(large * 0.82)
    margin, label = 3 * gap, min(340, max(170, round(cell * 0.75)))
    tops = (
        [_lines(title, cell, large, 2) for title, _ in headings],
        [_lines(remark, cell, small, 2) for _, remark in headings],
    )
    heading = max(_height(t, large) + _height(r, small) for t, r in zip(*tops, strict=True)) + gap
    width = margin + label + len(headings) * (gap + cell) + margin
    end = _lines(footer, width - 2 * margin, small, 2)
    footing = _height(end, small) + gap if end else 0
    height = margin + heading + len(rows) * (tall + gap) + footing + margin - gap
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    for c, (title, remark) in enumerate(zip(*tops, strict=True)):
        x = margin + label + gap + c * (cell + gap)
        y = margin + heading - gap - _height(title, large) - _height(remark, small)
        _write(pen, x, _write(pen, x, y, title, large, INK), remark, small, GREY)
    for r, (prompt, remark) in enumerate(rows):
        y = margin + heading + r * (tall + gap)
        fitting = max(1, int((tall - 2 * small) / (large * 1.3)))
        below = _write(
            pen, margin, y, _lines(prompt or "(no words)", label, large, fitting), large, INK
        )
        _write(pen, margin, below + gap // 2, [remark], small, GREY)
        for c, picture in enumerate(pictures[r]):
            shown = (
                picture if cell == side else picture.resize((cell, tall), Image.Resampling.LANCZOS)
            )
            x = margin + label + gap + c * (cell + gap)
            pen.rectangle(
                (x - 1, y - 1, x + cell, y + tall), outline=HAIRLINE
            )  # white pictures end somewhere too
            sheet.paste(shown, (x, y))
    _write(pen, margin, margin + heading + len(rows) * (tall + gap) + gap // 2, end, small, GREY)
    return sheet


def _height(lines: Sequence[str], size: int) -> int:
    return round(len(lines) * size * 1.3)


def _write(
    pen: ImageDraw.ImageDraw, x: int, y: int, lines: Sequence[str], size: int, colour: str
) -> int:
    """Draw lines from (x, y) down; return where the next one would begin."""
    for i, line in enumerate(lines):
        Lettering(size).draw(pen, (x, y + round(i * size * 1.3)), line, colour)
    return y + _height(lines, size)


def _lines(text: str, width: int, size: int, most: int) -> list[str]:
    """text in at most `most` lines of `width` px, ending in … when that is too few.

    Words too long for a line are broken.
    """
    font = Lettering(size)
    words, lines = readable(" ".join(printable(text, 2000).split())).split(), [""]
    while words:
        word = words.pop(0)
        longer = f"{lines[-1]} {word}".strip()
        if font.length(longer) <= width:
            lines[-1] = longer
        elif lines[-1]:
            lines.append("")
            words.insert(0, word)
        else:
            fits = next(
                (n for n in range(len(word) - 1, 0, -1) if font.length(word[:n]) <= width), 1
            )
            lines[-1] = word[:fits]
            words[:0] = [word[fits:]] if word[fits:] else []
            lines += [""] if words else []
        if len(lines) > most:
            break
    if len(lines) <= most:
        return [line for line in lines if line]
    last = lines[most - 1]
    while last and font.length(last + "…") > width:
        last = last[:-1]
    return [*lines[: most - 1], last.rstrip() + "…"]
