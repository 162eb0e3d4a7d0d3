"""Text in pictures: each letter in a font that has it, else written out, never as an empty box.

Pillow's own font knows little more than ASCII. The font that comes along has Latin, Greek,
Cyrillic, Armenian, Georgian and Hebrew letters; Chinese, Japanese, Korean and the rest are looked
for among the system's fonts.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import os
import subprocess
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from PIL import ImageDraw, ImageFont

OWN = Path(__file__).parent / "fonts" / "DejaVuSans-subset.ttf"
MOST_FILES = 800  # fonts of the system that are looked at
LONGEST_ASKING = 10.0  # seconds for fontconfig
TRIAL = 20  # px
# One shape a letter, to see whether a font has it: other layouts put marks on dotted circles
SIMPLE = ImageFont.Layout.BASIC
BLOCK = 128  # letters next to each other, which fonts have together
MOST_FONTS = 12  # that are tried for a letter
# Parts of the names of fonts that have the letters of a whole script, as systems bring them
LIKELY = (
    *("notosanscjk", "sourcehansans", "msyh", "simsun", "simhei", "malgun", "yugoth", "meiryo"),
    *("pingfang", "hiragino", "applesdgothic", "arialunicode", "arial unicode", "stheiti", "gulim"),
    *("wqy", "droidsansfallback", "nanumgothic", "unifont", "notosans", "dejavusans", "segoeui"),
)


class Lettering:
    """Text of one size in px."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.plain: Any = ImageFont.load_default(size=size)

    def length(self, text: str) -> float:
        """Width in px."""
        if text.isascii():
            return self.plain.getlength(text)
        return sum(font.getlength(run) for font, run in self._runs(text))

    def draw(self, pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, colour: str) -> None:
        """Draw a line of text whose upper left corner is `at`."""
        if text.isascii():
            pen.text(at, text, fill=colour, font=self.plain)
            return
        x, base = float(at[0]), at[1] + self.plain.getmetrics()[0]
        for font, run in self._runs(text):
            pen.text((x, base), run, fill=colour, font=font, anchor="ls")
            x += font.getlength(run)

    def _runs(self, text: str) -> Iterator[tuple[Any, str]]:
        """(font, letters one after another that it has); text: as `readable` returns it."""
        font, run = self.plain, ""
        for letter in text:
            own = self._font_of(letter, font)
            if run and own is not font:
                yield font, run
                run = ""
            font, run = own, run + letter
        if run:
            yield font, run

    def _font_of(self, letter: str, before: Any) -> Any:
        if unicodedata.combining(letter) and before is not self.plain:
            return before  # it goes over the letter before
        if _has(_trial(), letter):
            return self.plain
        found = font_with(letter)
        return self.plain if found is None else _opened(*found, self.size)


def readable(text: str) -> str:
    """The text with what no font here has in another spelling: without accents, else as \\u4e00."""
    return "".join(map(_readable, unicodedata.normalize("NFC", text)))


def unreadable(texts: Iterable[str]) -> str:
    """The letters of these texts that no font here has."""
    found = dict.fromkeys(unicodedata.normalize("NFC", "".join(texts)))
    return "".join(letter for letter in found if readable(letter).startswith("\\"))


@functools.lru_cache(maxsize=4096)
def _readable(letter: str) -> str:
    if letter.isascii() or _is_known(letter):
        return letter
    if unicodedata.category(letter) in ("Cf", "Mn", "Me"):
        return ""  # it changes how others are shown and has no shape of its own
    bare = "".join(c for c in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(c))
    if bare and all(part.isascii() or _is_known(part) for part in bare):
        return bare
    return letter.encode("unicode_escape").decode()


def _is_known(letter: str) -> bool:
    return _has(_trial(), letter) or font_with(letter) is not None


@functools.cache
def _trial() -> Any:
    font = cast(ImageFont.FreeTypeFont, ImageFont.load_default(size=TRIAL))
    return font.font_variant(layout_engine=SIMPLE)


@functools.lru_cache(maxsize=4096)
def font_with(letter: str) -> tuple[str, int] | None:
    """A font that has a letter, as its file and the number in it; None when there is none."""
    for place in ((str(OWN), 0), *_of_system(letter)):
        try:
            if _has(_tried(*place), letter):
                return place
        except (OSError, ValueError):  # damaged, or of pictures of one size
            continue
    return None


def _of_system(letter: str) -> Sequence[tuple[str, int]]:
    """The system's fonts that have a letter, or where nobody says so any one next to it, the likely
    ones first.
    """
    known = _of_fontconfig()
    if known is None:
        return _near(ord(letter) // BLOCK * BLOCK)
    said = (place for place, letters in known if _is_among(letter, letters))
    return [*itertools.islice(said, MOST_FONTS)]


@functools.lru_cache(maxsize=64)
def _near(block: int) -> tuple[tuple[str, int], ...]:
    places = ((path, 0) for path in _files_of_system())
    return tuple(place for place in places if _covers(place, block))[:MOST_FONTS]


def _covers(place: tuple[str, int], block: int) -> bool:
    try:
        font = _tried(*place)
        return any(_has(font, chr(code)) for code in range(block, block + BLOCK, 4))
    except (OSError, ValueError):
        return False


@functools.cache
def _of_fontconfig() -> list[tuple[tuple[str, int], str]] | None:
    """The fonts that fontconfig knows, the likely ones first, and the letters of each as
    "20-7e 3041-3096"; None where there is no fontconfig.
    """
    asked = ["fc-list", "--format", "%{file}\n%{index}\n%{charset}\n"]
    try:
        done = subprocess.run(
            asked, capture_output=True, timeout=LONGEST_ASKING, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = os.fsdecode(done.stdout).splitlines()
    # In the upper half of the index is the number of a variable font's instance
    found = {
        (file, int(index) & 0xFFFF): letters
        for file, index, letters in zip(lines[::3], lines[1::3], lines[2::3], strict=False)
        if index.isdigit()
    }
    return sorted(found.items(), key=lambda font: (*_likeliness(font[0][0]), font[0][1]))


def _is_among(letter: str, letters: str) -> bool:
    starts, ends = _ranges(letters)
    at = bisect.bisect_right(starts, ord(letter)) - 1
    return at >= 0 and ord(letter) <= ends[at]


@functools.lru_cache(maxsize=4096)
def _ranges(letters: str) -> tuple[list[int], list[int]]:
    """First and last numbers of ranges of letters in rising order."""
    pairs = [part.partition("-") for part in letters.split()]
    return (
        [int(first, 16) for first, _, _ in pairs],
        [int(last or first, 16) for first, _, last in pairs],
    )


@functools.cache
def _files_of_system() -> tuple[str, ...]:
    """Font files in the usual folders."""
    found: list[str] = []
    for folder in _folders():
        for root, _, names in os.walk(folder):
            found += [
                str(Path(root, name))
                for name in names
                if name.lower().endswith((".ttf", ".otf", ".ttc", ".otc"))
            ]
            if len(found) > MOST_FILES:
                break
    return tuple(sorted(found[:MOST_FILES], key=_likeliness))


def _folders() -> list[Path]:
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home raises where there is none
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA", "")
        windows = Path(os.environ.get("WINDIR", "C:\\Windows"), "Fonts")
        return [windows, Path(local, "Microsoft", "Windows", "Fonts")] if local else [windows]
    if sys.platform == "darwin":
        places = ["/System/Library/Fonts", "/Library/Fonts"]
        return [*map(Path, places), home / "Library" / "Fonts"]
    places = ["/usr/share/fonts", "/usr/local/share/fonts", "/run/host/fonts"]
    return [*map(Path, places), home / ".local" / "share" / "fonts", home / ".fonts"]


def _likeliness(path: str) -> tuple[int, int, str]:
    """Plain sans-serif fonts of whole scripts come first."""
    name = Path(path).stem.lower().replace("-", "").replace("_", "")
    rank = next((i for i, part in enumerate(LIKELY) if part in name), len(LIKELY))
    odd = ("bold", "italic", "oblique", "light", "black", "thin", "mono", "serif", "condensed")
    return sum(word in name for word in odd), rank, path


@functools.lru_cache(maxsize=64)
def _opened(path: str, index: int, size: int) -> Any:
    return ImageFont.truetype(path, size, index=index)


@functools.lru_cache(maxsize=64)
def _tried(path: str, index: int) -> Any:
    return ImageFont.truetype(path, TRIAL, index=index, layout_engine=SIMPLE)


def _has(font: Any, letter: str) -> bool:
    """Whether a font has a shape for a letter. One that it lacks is drawn as its empty box."""
    if letter.isspace():
        return True
    shape = bytes(font.getmask(letter))
    return shape != _box(font) and any(shape)


@functools.lru_cache(maxsize=64)
def _box(font: Any) -> bytes:
    return bytes(font.getmask("\uffff"))
