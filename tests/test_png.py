"""Pictures that end too early are told, whatever their format; whole ones never are."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.pictures import open_picture
from training.data.png import lacks_rows
from training.errors import DataError

SAMPLES = {"L": (0, 1), "RGB": (2, 3), "LA": (4, 2), "RGBA": (6, 4)}
HEIGHT, WIDTH = 41, 37


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    mode: str,
    missing: int,
    *,
    depth: int = 8,
    interlaced: bool = False,
    parts: int = 1,
    value: int | None = None,
) -> bytes:
    """A PNG whose last bytes of pixels are missing, its pixels in several chunks.

    value: of every sample, random when None.
    """
    colour, samples = SAMPLES[mode]
    rng = np.random.default_rng(0)
    raw = b""
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [
            (0, 0, 8, 8),
            (4, 0, 8, 8),
            (0, 4, 4, 8),
            (2, 0, 4, 4),
            (0, 2, 2, 4),
            (1, 0, 2, 2),
            (0, 1, 1, 2),
        ]
    for x, y, across, down in passes:
        columns, rows = len(range(x, WIDTH, across)), len(range(y, HEIGHT, down))
        for _ in range(rows if columns else 0):
            size = (columns * samples * depth + 7) // 8
            raw += b"\0" + (
                rng.integers(1, 255, size, dtype=np.uint8).tobytes()
                if value is None
                else bytes([value]) * size
            )
    packed = zlib.compress(raw[: len(raw) - missing])
    cuts = np.linspace(0, len(packed), parts + 1).astype(int)
    data = b"".join(chunk(b"IDAT", packed[a:b]) for a, b in itertools.pairwise(cuts))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("mode", SAMPLES)
@pytest.mark.parametrize("parts", [1, 7])
def test_a_png_without_its_last_rows_is_reported(
    mode: str, interlaced: bool, parts: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(mode, 0, interlaced=interlaced, parts=parts))
    assert open_picture(path).size == (WIDTH, HEIGHT)
    row = 1 + WIDTH * SAMPLES[mode][1]
    for rows in (1, 5, 20):
        path.write_bytes(png(mode, rows * row, interlaced=interlaced, parts=parts))
        with pytest.raises(DataError, match=r"a\.png is (cut off|damaged)"):
            open_picture(path)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("interlaced", [False, True])
def test_a_black_picture_is_whole(depth: int, interlaced: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png("L", 0, depth=depth, interlaced=interlaced, value=0))
    assert not lacks_rows(path.read_bytes()) and open_picture(path).size == (WIDTH, HEIGHT)
    assert lacks_rows(png("L", 1, depth=depth, interlaced=interlaced, value=0))


def test_what_pillow_writes_is_whole() -> None:
    for mode in ("1", "L", "P", "RGB", "RGBA", "I;16"):
        file = io.BytesIO()
        Image.new(mode, (33, 17)).save(file, "PNG")
        assert not lacks_rows(file.getvalue())


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("PNG", {}),
    ],
)
def test_a_file_cut_anywhere_is_reported(
    kind: str, options: dict[str, bool], tmp_path: Path
) -> None:
    file = io.BytesIO()
    Image.effect_noise((90, 70), 80).convert("RGB").save(file, kind, **options)
    content, path = file.getvalue(), tmp_path / f"a.{'jpg' if kind == 'JPEG' else kind.lower()}"
    for share in (0.05, 0.3, 0.6, 0.9, 0.97):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(DataError, match="damaged or cut off"):
            open_picture(path)
