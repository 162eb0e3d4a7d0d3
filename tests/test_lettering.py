"""Headings in pictures: what cannot be shown is shown another way, never as an empty box."""

from __future__ import annotations

import io
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

from studio import lettering
from studio.compare import main as compare
from studio.grid import grid_of
from studio.lettering import OWN, Lettering, readable, unreadable

TEXTS = [
    *("красное яблоко", "Ελλάδα", "łódź", "Straße", "smørrebrød", "–", "naïve café", "red apple"),
    *("Đorđević", "İstanbul", "Việt Nam", "שלום", "ქართული", "Հայերեն", "“quoted” … € № ™"),
]
FOREIGN = ["一只红苹果", "한국어", "日本語", "ไทย", "हिन्दी", "🖌", "\U000f0000"]
OF_FONTCONFIG = lettering._of_fontconfig
CACHED = (
    lettering.font_with,
    lettering._readable,
    lettering._near,
    lettering._files_of_system,
    lettering._of_fontconfig,
)


@pytest.fixture
def no_system_fonts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A system without fontconfig, whose one folder of fonts is empty."""
    folder = tmp_path / "fonts"
    folder.mkdir()
    monkeypatch.setattr(lettering, "_of_fontconfig", lambda: None)
    monkeypatch.setattr(lettering, "_folders", lambda: [folder])
    for cached in CACHED:
        cached.cache_clear()
    yield folder
    monkeypatch.undo()
    for cached in CACHED:
        cached.cache_clear()


def drawn(text: str) -> Image.Image:
    picture = Image.new("L", (600, 60), "white")
    Lettering(24).draw(ImageDraw.Draw(picture), (5, 5), text, "black")
    return picture


def has_box(text: str) -> bool:
    """Whether any letter is drawn as its font's empty box."""
    for font, run in Lettering(24)._runs(text):
        simple = font.font_variant(layout_engine=ImageFont.Layout.BASIC)
        box = bytes(simple.getmask("\uffff"))
        if any(bytes(simple.getmask(letter)) == box for letter in run if not letter.isspace()):
            return True
    return False


@pytest.mark.parametrize("text", TEXTS)
def test_letters_of_the_font_that_comes_along_are_drawn_everywhere(
    text: str, no_system_fonts: Path
) -> None:
    assert readable(text) == text and not has_box(text) and not unreadable([text])
    assert drawn(text).getextrema()[0] < 128


@pytest.mark.parametrize("text", FOREIGN)
def test_letters_of_no_font_are_written_out_and_differ(text: str, no_system_fonts: Path) -> None:
    shown = readable(text)
    assert not has_box(shown) and "\\" in shown
    assert set(unreadable([text, "red"])) <= set(text) and unreadable([text])
    others = {readable(other) for other in FOREIGN if other != text}
    assert shown not in others


@pytest.mark.parametrize("text", [*TEXTS, *FOREIGN])
def test_with_this_systems_fonts_there_is_no_box_either(text: str) -> None:
    assert not has_box(readable(text))


def test_accents_that_no_font_has_are_left_out(no_system_fonts: Path) -> None:
    assert readable("ａｂｃ") == "abc" and readable("①") == "1"
    assert readable("e\u0301") == "é" and readable("x\u200bx") == "xx"


def test_a_font_of_the_system_is_found_without_fontconfig(
    no_system_fonts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(OWN, no_system_fonts / "Some-Regular.ttf")
    (no_system_fonts / "Broken.ttf").write_bytes(b"no font")
    monkeypatch.setattr(lettering, "OWN", no_system_fonts / "gone.ttf")
    assert readable("яблоко") == "яблоко"
    assert lettering.font_with("я") == (str(no_system_fonts / "Some-Regular.ttf"), 0)
    assert readable("水") == "\\u6c34"


def font_of(letters: str) -> bytes:
    """A font with these letters alone, in shapes of the one that comes along."""
    font, start = OWN.read_bytes(), ord("a")
    glyphs = cmap_of(font)
    groups = [(ord(letter), glyphs[start + n]) for n, letter in enumerate(sorted(set(letters)))]
    table = struct.pack(">HHHHL", 0, 1, 3, 10, 12)
    table += struct.pack(">HHLLL", 12, 0, 16 + 12 * len(groups), 0, len(groups))
    table += b"".join(struct.pack(">LLL", code, code, glyph) for code, glyph in groups)
    at = font.index(b"cmap")
    place = struct.pack(">LL", len(font) + -len(font) % 4, len(table))
    return font[: at + 8] + place + font[at + 16 :] + bytes(-len(font) % 4) + table


def cmap_of(font: bytes) -> dict[int, int]:
    """Number of each letter's shape, a to z."""
    simple = ImageFont.truetype(io.BytesIO(font), 20)
    shapes = {bytes(simple.getmask(chr(code))) for code in range(97, 123)}
    assert len(shapes) == 26
    at = struct.unpack(">L", font[font.index(b"cmap") + 8 :][:4])[0]
    count = struct.unpack(">H", font[at + 2 :][:2])[0]
    for n in range(count):
        start = at + struct.unpack(">L", font[at + 8 + 8 * n :][:4])[0]
        if struct.unpack(">H", font[start:][:2])[0] == 4:
            return {code: _of_segments(font[start:], code) for code in range(97, 123)}
    raise AssertionError("no table of format 4")


def _of_segments(table: bytes, code: int) -> int:
    """As the OpenType specification has it for cmap, format 4."""
    double = struct.unpack(">H", table[6:8])[0]
    columns = [table[start : start + double] for start in (14, 16 + double, 16 + 2 * double)]
    ends, starts, deltas = (struct.unpack(f">{double // 2}H", column) for column in columns)
    segment = next(n for n, end in enumerate(ends) if end >= code)
    assert starts[segment] <= code
    at = 16 + 3 * double + 2 * segment
    offset = struct.unpack(">H", table[at : at + 2])[0]
    if not offset:
        return (code + deltas[segment]) % 65536
    at += offset + 2 * (code - starts[segment])
    return (struct.unpack(">H", table[at : at + 2])[0] + deltas[segment]) % 65536


@pytest.mark.parametrize(
    "text", ["ひらがな、カナ。", "「〇々〆」", "漢字𠮷", "한글", "ㄅㄆㄇ", "ไทย"]
)
def test_every_letter_that_a_font_of_the_system_has_is_drawn_with_it(
    text: str, no_system_fonts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The middle letter of Hiragana's block is none, which hid the whole block."""
    if shutil.which("fc-list") is None:
        pytest.skip("no fontconfig")
    (no_system_fonts / "Letters.ttf").write_bytes(font_of(text))
    config = no_system_fonts / "fonts.conf"
    config.write_text(
        f"<fontconfig><dir>{no_system_fonts}</dir><cachedir>{no_system_fonts}</cachedir></fontconfig>"
    )
    monkeypatch.setenv("FONTCONFIG_FILE", str(config))
    monkeypatch.setattr(lettering, "_of_fontconfig", OF_FONTCONFIG)
    OF_FONTCONFIG.cache_clear()
    assert readable(text) == text and not unreadable([text]) and not has_box(text)
    assert readable("水") == "\\u6c34"


def test_plain_letters_look_as_before() -> None:
    wanted = Image.new("L", (600, 60), "white")
    pen = ImageDraw.Draw(wanted)
    pen.text((5, 5), "a red apple, 0.6 + b", fill="black", font=ImageFont.load_default(size=24))
    assert drawn("a red apple, 0.6 + b").tobytes() == wanted.tobytes()


def test_a_grid_of_all_scripts_is_drawn() -> None:
    cell = Image.new("RGB", (64, 64))
    rows = [(text, "seed 0") for text in [*TEXTS, *FOREIGN]]
    grid = grid_of([("base: mini", ""), ("стиль", "0.6")], rows, [[cell, cell]] * len(rows))
    assert grid.height > 64 * len(rows)


def test_the_font_has_its_licence_beside_it() -> None:
    text = (OWN.parent / "LICENSE-DejaVu.txt").read_text()
    assert "Bitstream Vera" in text and "Arev" in text and OWN.stat().st_size < 200_000


def test_a_comparison_says_once_what_it_could_not_write(
    base_folder: Path,
    tmp_path: Path,
    no_system_fonts: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--base", str(base_folder), "--steps", "1", "--out", str(tmp_path / "g.png")]
    arguments += ["--prompt", "一只红苹果", "--prompt", "łódź", "--prompt", "红"]
    assert compare(arguments) == 0
    assert capsys.readouterr().err.count("written out, as \\u4e00") == 1
