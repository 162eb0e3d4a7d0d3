"""Hundreds of bad inputs, made by tables:

each is refused in words, or read if it can be; none is a traceback, none a hang.
"""

from __future__ import annotations

import io
import json
import math
import random
import signal
import stat
import struct
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import tomli_w
from PIL import Image

from studio.datasets import store
from studio.library import reload_grid
from tests.test_style_file import BAD as BAD_STYLES
from tests.test_style_file import PAIR, raw, tensors
from training.config.loading import from_mapping, read_toml
from training.config.settings import settings
from training.data.dataset import read_dataset
from training.data.pictures import open_picture
from training.errors import DataError, StudioError
from training.storage.paths import Workspace
from training.style_files.reading import read_style

SLOWEST = 20  # seconds of one case, on a machine that has other things to do
Cases = dict[str, tuple[bytes, bool]]  # name -> the file's bytes, whether it has to be refused


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    def over(*_: object) -> None:
        raise TimeoutError(f"took more than {SLOWEST} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(SLOWEST)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def picture(
    kind: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (48, 40), **options: object
) -> bytes:
    file = io.BytesIO()
    Image.effect_noise(size, 60).convert(mode).save(file, kind, **options)
    return file.getvalue()


def spoilt(content: bytes, name: str, flips: int) -> Cases:
    """Cut at shares of its length, which has to be seen, and with single bytes changed, which can
    be harmless.
    """
    rng = random.Random(name)
    cut = {
        f"{name} cut at {share:.0%}": (content[: int(len(content) * share)], True)
        for share in (0, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9)
    }
    changed = {}
    for number in range(flips):
        # Half of the changes are in the first 64 bytes, where formats keep what they are
        place = rng.randrange(min(64, len(content)) if number % 2 else len(content))
        other = bytes([content[place] ^ 1 << rng.randrange(8)])
        changed[f"{name} changed at {place} ({number})"] = (
            content[:place] + other + content[place + 1 :],
            False,
        )
    return cut | changed


# --- pictures ---


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def header(
    width: int = 16, height: int = 16, depth: int = 8, colours: int = 2, interlaced: int = 0
) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, interlaced))


def png(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


ROWS = chunk(b"IDAT", zlib.compress((b"\0" + b"\x40\x80\xc0" * 16) * 16))
BOMB = zlib.compress(b"\0" * 80_000_000, 9)
DISGUISES = {
    "half a GIF": picture("GIF", "P")[:40],
    "half a BMP": picture("BMP")[:40],
    "half a TIFF": picture("TIFF")[:40],
    "an icon": picture("ICO", size=(32, 32)),
    "a PPM": picture("PPM"),
    "a TGA": picture("TGA"),
    "a PCX": picture("PCX"),
    "a PDF": picture("PDF"),
    "PostScript": picture("EPS", "L"),
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "a web page": b"<!DOCTYPE html><html><body>404</body></html>",
    "JSON": b'{"error": "not found"}',
    "a program": b"\x7fELF" + bytes(range(256)) * 8,
    "a zip": b"PK\x03\x04" + bytes(100),
    "a pickle": b"\x80\x04\x95" + bytes(100),
    "HEIC": b"\0\0\0\x18ftypheic" + bytes(100),
    "AVIF": b"\0\0\0\x18ftypavif" + bytes(100),
    "JPEG XL": b"\xff\x0a" + bytes(100),
    "zeros": bytes(5000),
    "one byte": b"\x89",
    "noise": random.Random(0).randbytes(5000),
    "an LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n",
}
SIZES = [
    (0, 16),
    (16, 0),
    (1, 1),
    (15, 15),
    (16, 15),
    (50_000, 50_000),
    (2**31 - 1, 2**31 - 1),
    (2**32 - 1, 1),
    (2**31, 16),
    (20_000, 20_000),
]
ODD_PNGS = {
    "no rows": (png(header()), True),
    "nothing but a header": (header(), True),
    "the end at once": (png(), True),
    "rows that are no zlib": (png(header(), chunk(b"IDAT", b"not zlib")), True),
    "too few rows": (png(header(16, 4000), ROWS), False),
    "too many rows": (png(header(16, 16), chunk(b"IDAT", zlib.compress(b"\0" * 5_000_000))), False),
    "rows that unpack to 80 MB": (png(header(16, 16), chunk(b"IDAT", BOMB)), False),
    "a wrong sum": (png(header(), ROWS[:-1] + b"\0"), False),
    "depth 3": (png(header(depth=3), ROWS), True),
    "depth 0": (png(header(depth=0), ROWS), True),
    "colours 5": (png(header(colours=5), ROWS), True),
    "interlaced as 9": (png(header(interlaced=9), ROWS), False),
    "no palette": (png(header(colours=3), ROWS), False),
    "half a palette": (png(header(colours=3), chunk(b"PLTE", b"\1\2\3\4"), ROWS), False),
    "transparency for no palette": (png(header(), chunk(b"tRNS", b"\1"), ROWS), False),
    "a text bomb": (png(header(), chunk(b"zTXt", b"note\0\0" + BOMB), ROWS), False),
    "an international text bomb": (
        png(header(), chunk(b"iTXt", b"note\0\1\0\0\0" + BOMB), ROWS),
        False,
    ),
    "a profile bomb": (png(header(), chunk(b"iCCP", b"sRGB\0\0" + BOMB), ROWS), False),
    "a profile of nonsense": (
        png(header(), chunk(b"iCCP", b"p\0\0" + zlib.compress(b"profile" * 50)), ROWS),
        False,
    ),
    "a profile without a name": (png(header(), chunk(b"iCCP", b""), ROWS), False),
    "EXIF of nonsense": (png(header(), chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"), ROWS), False),
    "EXIF in a circle": (
        png(
            header(),
            chunk(b"eXIf", b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0"),
            ROWS,
        ),
        False,
    ),
    "an unknown chunk that matters": (png(header(), chunk(b"EVIL", b"x"), ROWS), False),
    "a chunk longer than the file": (
        b"\x89PNG\r\n\x1a\n" + header() + struct.pack(">I", 2**31 - 1) + b"IDAT" + b"x",
        True,
    ),
    "gamma 0": (png(header(), chunk(b"gAMA", bytes(4)), ROWS), False),
    "no density": (png(header(), chunk(b"pHYs", b"\0"), ROWS), False),
    "frames that are not there": (
        png(header(), chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)), ROWS),
        False,
    ),
}
ODD_JPEGS = {
    "four colours": (picture("JPEG", "CMYK"), False),
    "turned as 9": (
        picture(
            "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0\0\0\0\0"
        ),
        False,
    ),
    "EXIF cut off": (picture("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff"), False),
    "a profile of nonsense": (picture("JPEG", icc_profile=b"x" * 500), False),
    "a comment of 60 kB": (picture("JPEG", comment=b"x" * 60_000), False),
    "two beginnings": (b"\xff\xd8" + picture("JPEG"), False),
    "the beginning alone": (b"\xff\xd8\xff", True),
    "a RIFF of no size": (b"RIFF\0\0\0\0WEBPVP8 ", True),
    "a RIFF that claims 4 GB": (b"RIFF\xff\xff\xff\xffWEBPVP8L\xff\xff\xff\xff", True),
}
PICTURES: Cases = {f"{kind} in disguise": (content, True) for kind, content in DISGUISES.items()}
PICTURES |= (
    {f"{width} x {height} px": (png(header(width, height), ROWS), True) for width, height in SIZES}
    | ODD_PNGS
    | ODD_JPEGS
)
for how in ("PNG", "JPEG", "WEBP"):
    PICTURES |= spoilt(picture(how), how, 14)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_refused_or_read(name: str, tmp_path: Path) -> None:
    content, refused = PICTURES[name]
    file = tmp_path / "spoilt one.png"
    file.write_bytes(content)
    message = outcome(lambda: open_picture(file))
    assert message or not refused
    assert not message or "spoilt one.png" in message
    ink = store.make(Workspace(tmp_path / "w"), "ink")
    added = store.add(ink, [file])  # what the page does with it
    assert bool(added.refused) == bool(message) and len(added.kept) + len(added.refused) == 1


def outcome(read: Callable[[], object]) -> str:
    """What was said, "" when it was read; any other error is the test's end."""
    try:
        read()
    except StudioError as error:
        message = str(error)
        assert 10 < len(message) < 3000 and "Traceback" not in message and "\0" not in message
        return message
    return ""


# --- captions, and what lies beside a picture ---

LINE = b'{"file_name": "a.png", "text": "a red apple"}'
BESIDE: dict[str, Cases] = {
    "a.txt": {
        "UTF-16 with a mark": ("a räd apple".encode("utf-16"), True),
        "UTF-16, little end": ("a räd apple".encode("utf-16-le"), True),
        "UTF-16, big end": ("a räd apple".encode("utf-16-be"), True),
        "UTF-32": ("apple".encode("utf-32"), True),
        "Latin-1": ("Äpfel".encode("latin-1"), True),
        "Shift JIS": ("林檎".encode("shift_jis"), True),
        "NUL": (b"a\0b", True),
        "half a character": (b"apple \xc3", True),
        "a surrogate": (b"apple \xed\xa0\x80", True),
        "an overlong slash": (b"\xc0\xaf", True),
        "a lone middle": (b"\x80\x80", True),
        "beyond Unicode": (b"\xf5\x80\x80\x80", True),
        "a megabyte": (b"a " * 500_000, True),
        "one byte too many": (b"a" * 10_001, True),
        "a picture": (picture(), True),
        "empty": (b"", False),
        "a mark alone": (b"\xef\xbb\xbf", False),
        "control characters": (bytes(range(1, 32)), False),
        "words from right to left": ("\u202eelppa \u2066".encode(), False),
        "a script": (b"<script>alert(1)</script>", False),
        "braces": (b"{caption} {0} {trigger!r:>999999999}", False),
        "percent": (b"%s%n%x", False),
        "brackets": (b"(((((((((a:9e99)))))))", False),
        "five thousand marks over one letter": (b"a" + "\u0301".encode() * 4000, False),
    },
    "metadata.jsonl": {
        "no JSON": (b"{'file_name': 'a.png'}", True),
        "half a line": (LINE[:-5], True),
        "a list": (b"[1, 2]", True),
        "a word": (b'"a.png"', True),
        "null": (b"null", True),
        "nested": (b"[" * 100_000, True),
        "nested objects": (b'{"a":' * 50_000, True),
        "no name": (b'{"text": "x"}', True),
        "a number as name": (b'{"file_name": 5, "text": "x"}', True),
        "no words": (b'{"file_name": "a.png"}', True),
        "a number as words": (b'{"file_name": "a.png", "text": 5}', True),
        "several captions": (b'{"file_name": "a.png", "text": ["x", "y"]}', False),
        "a list of numbers as words": (b'{"file_name": "a.png", "text": ["x", 5]}', True),
        "a list in a list as words": (b'{"file_name": "a.png", "text": [["x"]]}', True),
        "out of the folder": (b'{"file_name": "../../etc/passwd", "text": "x"}', True),
        "an absolute name": (b'{"file_name": "/etc/passwd", "text": "x"}', True),
        "a drive": (b'{"file_name": "C:\\\\a.png", "text": "x"}', True),
        "a sub-folder": (b'{"file_name": "b/a.png", "text": "x"}', True),
        "another picture": (b'{"file_name": "gone.png", "text": "x"}', True),
        "NUL in the name": (b'{"file_name": "a\\u0000.png", "text": "x"}', True),
        "NUL in the words": (b'{"file_name": "a.png", "text": "x\\u0000"}', True),
        "a lone surrogate": (b'{"file_name": "a.png", "text": "\\ud800"}', True),
        "words of a megabyte": (
            b'{"file_name": "a.png", "text": "' + b"x" * 1_000_000 + b'"}',
            True,
        ),
        "a name of a megabyte": (b'{"file_name": "' + b"x" * 1_000_000 + b'", "text": "x"}', True),
        "a number of 10,000 digits": (b'{"file_name": ' + b"9" * 10_000 + b', "text": "x"}', True),
        "UTF-16": (LINE.decode().encode("utf-16"), True),
        "the name twice": (b'{"file_name": "x", "file_name": "a.png", "text": "x"}', False),
        "the line twice": (LINE + b"\n" + LINE, False),
        "old line ends": (LINE + b"\r\n\r\n", False),
    },
    "a.crop.json": {
        "no JSON": (b"{", True),
        "a list": (b"[0.5, 0.5]", True),
        "words": (b'{"across": "left", "down": 0.5}', True),
        "outside": (b'{"across": 5, "down": 0.5}', True),
        "below": (b'{"across": -0.1, "down": 0.5}', True),
        "not a number": (b'{"across": NaN, "down": 0.5}', True),
        "infinite": (b'{"across": Infinity, "down": 0.5}', True),
        "truth": (b'{"across": true, "down": 0.5}', True),
        "nothing": (b"", True),
        "half": (b'{"across": 0.5}', False),
        "nested": (b"[" * 900, True),
        "long": (b'{"across": 0.5, "down": 0.5}' + b" " * 2000, True),
        "binary": (bytes(range(256)), True),
    },
}
BESIDE_ALL = {
    f"{file}: {name}": (file, *case)
    for file, cases in BESIDE.items()
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", BESIDE_ALL)
def test_what_lies_beside_a_picture_is_refused_or_read(name: str, tmp_path: Path) -> None:
    file, content, refused = BESIDE_ALL[name]
    (tmp_path / "a.png").write_bytes(picture())
    (tmp_path / file).write_bytes(content)
    message = outcome(lambda: read_dataset(tmp_path, trigger="sks", template="{trigger} {caption}"))
    assert bool(message) == refused
    assert not message or file in message
    # The page, which mends captions, shows them nevertheless
    assert len(store.captions(tmp_path)) == 1 and len(store.place_of(tmp_path, "a.png")) == 2


# --- settings ---

WRONG = {
    int: ("many", 1.5, True, [1]),
    float: ("much", True, [0.1]),
    bool: ("perhaps", 1, 0.0),
    str: (5, ["a"], 1.5),
    list: (5, "one", [5]),
}


def wrong_settings() -> dict[str, tuple[str, str]]:
    """Every setting with what its kind is not, out of its bounds, not finite.

    name -> the TOML, the key that has to be named.
    """
    found = {}
    for setting in settings():
        values: list[object] = list(WRONG.get(setting.kind, ({"a": 1},)))
        values += [math.nan, math.inf] if setting.kind is float else []
        values += [setting.low - 1] if setting.low is not None else []
        values += [setting.high * 2 + 1] if setting.high is not None else []
        values += ["no such choice"] if setting.choices else []
        for value in values:
            found[f"{setting.key} = {value!r}"] = (
                tomli_w.dumps({setting.section: {setting.name: value}}),
                setting.key,
            )
    return found


SETTINGS = wrong_settings()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_wrong_setting_is_named(name: str, tmp_path: Path) -> None:
    content, key = SETTINGS[name]
    message = outcome(lambda: from_mapping(tomllib.loads(content)))
    assert key in message


SOUND = (
    b'# a run\n[optim]\nsteps = 10\nunet_lr = 1e-3\n[data]\nfolder = "x"\ntemplate = '
    b'"{trigger} {caption}"\n'
)
TOMLS: Cases = {
    "no end": (b'a = "x', True),
    "twice": (b"[optim]\nsteps = 1\nsteps = 2", True),
    "a section twice": (b"[optim]\n[optim]", True),
    "nested": (b"a = " + b"[" * 5000, True),
    "nested tables": (b"a = " + b"{a = " * 5000, True),
    "dots": (b"a" + b".a" * 3000 + b" = 1", True),
    "a number of 5,000 digits": (b"[optim]\nsteps = " + b"9" * 5000, True),
    "a hexadecimal of 5,000 digits": (b"[optim]\nsteps = 0x" + b"f" * 5000, True),
    "UTF-16": ("[optim]".encode("utf-16"), True),
    "NUL": (b"[optim]\0", True),
    "JSON": (b'{"optim": {"steps": 5}}', True),
    "YAML": (b"optim:\n  steps: 5\n", True),
    "a pickle": (b"\x80\x04.", True),
    "a picture": (picture(), True),
    "a date": (b"[optim]\nsteps = 2026-01-01", True),
    "a list of sections": (b"[[optim]]\nsteps = 5", True),
    "a value for a section": (b"optim = 5", True),
    "an unknown section": (b"[optimiser]\nsteps = 5", True),
    "an unknown name": (b"[optim]\nstep = 5", True),
    "the name of Python's own": (b"[optim]\n__class__ = 5", True),
    "empty": (b"", False),
}
TOMLS |= {name: (content, False) for name, (content, _) in spoilt(SOUND, "run.toml", 20).items()}


@pytest.mark.parametrize("name", TOMLS)
def test_a_file_of_settings_is_refused_or_read(name: str, tmp_path: Path) -> None:
    content, refused = TOMLS[name]
    (tmp_path / "run.toml").write_bytes(content)
    message = outcome(lambda: from_mapping(read_toml(tmp_path / "run.toml")))
    assert message or not refused


# --- zips ---


def packed(
    members: Mapping[str | zipfile.ZipInfo, bytes], how: int = zipfile.ZIP_DEFLATED
) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def member(name: str, **fields: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def in_zip(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content and len(old) == len(new)
    return content.replace(old, new)


GOOD_ZIP = packed({"a.png": picture(), "a.txt": b"an apple"})
LEADING_OUT = [
    "../a.png",
    "b/../../a.png",
    "/a.png",
    "//host/a.png",
    "C:/a.png",
    "C:a.png",
    "..\\a.png",
    "b\\..\\..\\a.png",
    "\\a.png",
]
ZIPS: dict[str, bytes] = {
    f"a member named {name}": packed({name: picture()}) for name in LEADING_OUT
}
ZIPS |= {
    "a link": packed({member("a.png", external_attr=(stat.S_IFLNK | 0o777) << 16): b"/etc/passwd"}),
    "a device": packed({member("a.png", external_attr=(stat.S_IFCHR | 0o666) << 16): b""}),
    "a pipe": packed({member("a.png", external_attr=(stat.S_IFIFO | 0o666) << 16): b""}),
    "a bomb as picture": packed({"a.png": bytes(60_000_000)}),
    "a bomb as caption": packed({"a.txt": b"a" * 30_000_000}),
    "a bomb as listing": packed({"metadata.jsonl": b"\n" * 30_000_000}),
    "a zip in a zip": packed({"b.zip": GOOD_ZIP}),
    "a program": packed({"a.exe": b"MZ"}),
    "no suffix": packed({"a": picture()}),
    "a name of 60,000 letters": packed({"x" * 60_000 + ".exe": b"x"}),
    "a locked one": in_zip(
        GOOD_ZIP, b"PK\x01\x02\x14\x03\x14\0\0\0", b"PK\x01\x02\x14\x03\x14\0\1\0"
    ),
    "an unknown packing": in_zip(
        packed({"a.png": picture()}), b"\x14\0\0\0\x08\0", b"\x14\0\0\0\x63\0"
    ),
    "a wrong sum": in_zip(packed({"a.txt": b"x"}), struct.pack("<L", zlib.crc32(b"x")), bytes(4)),
    "no members": packed({}),
    "an empty file": b"",
    "the end alone": b"PK\x05\x06" + bytes(18),
    "an end that counts too many": b"PK\x05\x06"
    + bytes(4)
    + b"\xff\xff\xff\xff"
    + b"\xff" * 8
    + bytes(2),
    "a web page": b"<html>",
    "rar": b"Rar!\x1a\x07\0" + bytes(50),
    "7z": b"7z\xbc\xaf\x27\x1c" + bytes(50),
    "gzip": b"\x1f\x8b\x08" + bytes(50),
    "25,000 folders": packed({f"{n}/": b"" for n in range(25_000)}, zipfile.ZIP_STORED),
    "a caption alone": packed({"a.txt": b"x"}),
    "a bad picture and its caption": packed({"a.png": b"<html>", "a.txt": b"x"}),
    "a listing of nonsense": packed({"metadata.jsonl": b"\xff{[" * 50}),
    "a caption that is a picture": packed({"a.txt": picture()}),
    "names that differ in case": packed({"a.PNG": picture()[:90], "A.png": picture()[:80]}),
    "a name of controls": packed({"\x1b[31m\u202e.exe": b"x"}),
}
ZIPS |= {name: content for name, (content, _) in spoilt(GOOD_ZIP, "a zip", 24).items()}


@pytest.mark.parametrize("name", ZIPS)
def test_of_a_zip_only_pictures_come_in(name: str, tmp_path: Path) -> None:
    (tmp_path / "in.zip").write_bytes(ZIPS[name])
    ink = store.make(Workspace(tmp_path / "w"), "ink")
    added = store.add(ink, [tmp_path / "in.zip"])
    assert all(
        reason.strip() and "Traceback" not in reason and len(reason) < 1000
        for _, reason in added.refused
    )
    assert not added.kept or "changed at" in name or "cut at" in name
    assert {file.suffix for file in ink.iterdir()} <= {".png", ".txt"} and not any(
        file.is_symlink() for file in ink.iterdir()
    )
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.zip", "w"]
    for kept in added.kept:
        open_picture(ink / kept)


# --- styles, and grids that are dropped back ---

STYLES: Cases = {name: (content, True) for name, (content, _) in BAD_STYLES.items()} | spoilt(
    tensors(**PAIR), "a style", 20
)
STYLES |= {
    f"a header of {size} bytes": (size.to_bytes(8, "little") + b"{}", True)
    for size in (0, 1, 3, 2**24, 2**32, 2**63, 2**64 - 1)
}
TYPED = {"shape": [1], "data_offsets": [0, 4]}
STYLES |= {
    f"dtype {kind!r}": (raw({"x": {"dtype": kind, **TYPED}}, bytes(4)), True)
    for kind in ("F4", "", None, 5, [], "f32")
}


@pytest.mark.parametrize("name", STYLES)
def test_a_style_is_refused_or_read(name: str, tmp_path: Path) -> None:
    content, refused = STYLES[name]
    (tmp_path / "s.safetensors").write_bytes(content)
    message = outcome(lambda: read_style(tmp_path / "s.safetensors"))
    assert message or not refused
    assert not message or "s.safetensors" in message


GRID = {
    "columns": [],
    "prompts": ["a"],
    "seeds": [1],
    "steps": 2,
    "guidance": 1.0,
    "size": 64,
    "base": {"model": "mini"},
}
SPOILT_GRIDS: dict[str, object] = {
    f"{key} {value!r:.20}": {**GRID, key: value}
    for key in GRID
    for value in (None, "x", {}, 5.5, [[]], 10**400)
}
SPOILT_GRIDS |= {
    "a list": [],
    "a number": 5,
    "nothing": {},
    "infinite": {**GRID, "seeds": [math.inf]},
    "many prompts": {**GRID, "prompts": ["a"] * 9999},
}


@pytest.mark.parametrize("name", SPOILT_GRIDS)
def test_a_grid_is_refused_or_read(name: str, tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    from training.prompt import KEY

    words = PngInfo()
    words.add_text(KEY, json.dumps(SPOILT_GRIDS[name]) if "10000" not in name else "1" * 5000)
    Image.new("RGB", (32, 32)).save(tmp_path / "grid.png", pnginfo=words)
    outcome(lambda: reload_grid.spec_of(Workspace(tmp_path / "w"), tmp_path / "grid.png"))


# --- all of them ---


def test_the_corpus_is_large() -> None:
    kinds = {
        "pictures": PICTURES,
        "beside": BESIDE_ALL,
        "settings": SETTINGS,
        "toml": TOMLS,
        "zips": ZIPS,
        "styles": STYLES,
    }
    counts = {kind: len(cases) for kind, cases in kinds.items()}
    assert sum(counts.values()) >= 500 and min(counts.values()) >= 40, counts


def test_a_sound_one_of_each_is_read(tmp_path: Path) -> None:
    """Else everything could be refused for another reason."""
    (tmp_path / "a.png").write_bytes(picture())
    (tmp_path / "a.txt").write_bytes(b"an apple")
    assert read_dataset(tmp_path).examples[0].caption == "an apple"
    (tmp_path / "run.toml").write_bytes(SOUND)
    (tmp_path / "in.zip").write_bytes(GOOD_ZIP)
    (tmp_path / "s.safetensors").write_bytes(tensors(**PAIR))
    assert from_mapping(read_toml(tmp_path / "run.toml")).optim.steps == 10
    assert store.add(store.make(Workspace(tmp_path / "w"), "ink"), [tmp_path / "in.zip"]).kept == (
        "a.png",
    )
    assert read_style(tmp_path / "s.safetensors").modules
    with pytest.raises(DataError):
        open_picture(tmp_path / "run.toml")
