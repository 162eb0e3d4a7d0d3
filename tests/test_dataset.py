"""The folder a user gives: what is read, what is said, what is refused. Real files, made here."""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageColor

from training.data.buckets import Bucket, buckets
from training.data.caption_files import caption_from_name
from training.data.captions import captioned
from training.data.dataset import read_dataset
from training.data.pictures import open_picture, pixels
from training.errors import DataError

GREY_RAMP = np.linspace(0, 65535, 32 * 24).reshape(24, 32).astype(np.uint16)


def photo(width: int = 32, height: int = 24) -> Image.Image:
    """Smooth, with a different colour in every corner."""
    across, down = np.linspace(0, 255, width), np.linspace(0, 255, height)
    return Image.fromarray(
        np.stack([*np.meshgrid(across, down), np.full((height, width), 80.0)], axis=-1).astype(
            np.uint8
        )
    )


def saved(path: Path, picture: Image.Image | None = None, **options: object) -> Path:
    (picture or photo()).save(path, **options)
    return path


def array(path: Path, background: str = "white") -> np.ndarray:
    picture = open_picture(path, background)
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(int)


def bytes_of(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png(
    width: int,
    height: int,
    depth: int,
    colour: int,
    rows: bytes = b"",
    *between: tuple[bytes, bytes],
) -> bytes:
    """A PNG by hand, for what Pillow does not write.

    depth: bits per sample; colour: 0 grey, 2 RGB; rows: raw scan lines with filter bytes.
    """
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
        *between,
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    made = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


def complaint(folder: Path, **options: str) -> str:
    with pytest.raises(DataError) as caught:
        read_dataset(folder, **options)
    return str(caught.value)


def captions(folder: Path, **options: str) -> dict[str, str]:
    return {
        example.path.name: example.caption for example in read_dataset(folder, **options).examples
    }


# --- pictures, one by one ---


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_png_mode_opens_as_rgb(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(GREY_RAMP) if mode == "I;16" else photo().convert(mode)
    opened = array(saved(tmp_path / "a.png", picture))
    assert opened.shape == (24, 32, 3)
    expected = (
        np.asarray(picture.convert("RGB"))
        if mode != "I;16"
        else np.repeat((GREY_RAMP / 257)[..., None], 3, axis=-1)
    )
    assert np.abs(opened - expected).max() <= 1


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("jpg", {"quality": 95}), ("webp", {"quality": 95}), ("webp", {"lossless": True})],
)
def test_lossy_kinds_open_as_they_look(
    tmp_path: Path, suffix: str, options: dict[str, object]
) -> None:
    assert (
        np.abs(
            array(saved(tmp_path / f"a.{suffix}", photo(64, 64), **options))
            - np.asarray(photo(64, 64))
        ).mean()
        < 4
    )


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    grey = array(saved(tmp_path / "a.png", Image.fromarray(GREY_RAMP)))[..., 0].ravel()
    assert (
        grey[0] == 0
        and grey[-1] == 255
        and (np.diff(grey) >= 0).all()
        and len(set(grey.tolist())) == 256
    )


def test_cmyk_jpeg_keeps_its_colours(tmp_path: Path) -> None:
    for name, colour in {
        "red": (230, 30, 20),
        "light": (240, 240, 240),
        "dark": (20, 20, 20),
    }.items():
        path = saved(
            tmp_path / f"{name}.jpg", Image.new("RGB", (32, 32), colour).convert("CMYK"), quality=95
        )
        assert np.abs(array(path) - colour).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    """The file holds the picture as a camera of that orientation stores it; it must open
    upright.
    """
    upright = photo(48, 32)
    stored = {
        1: lambda p: p,
        2: lambda p: p.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda p: p.transpose(Image.Transpose.ROTATE_180),
        4: lambda p: p.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda p: p.transpose(Image.Transpose.TRANSPOSE),
        6: lambda p: p.transpose(Image.Transpose.ROTATE_90),
        7: lambda p: p.transpose(Image.Transpose.TRANSVERSE),
        8: lambda p: p.transpose(Image.Transpose.ROTATE_270),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / f"a.{suffix}", stored, exif=exif, quality=95)
    assert np.abs(array(path) - np.asarray(upright)).mean() < 5
    example = read_dataset(tmp_path).examples[0]
    assert (example.width, example.height) == (48, 32)


def see_through(kind: str) -> Image.Image:
    """Left half opaque dark, right half fully transparent."""
    colours = Image.new("RGB", (32, 24), (40, 40, 40))
    alpha = Image.new("L", (32, 24), 255)
    alpha.paste(0, (16, 0, 32, 24))
    if kind == "P":
        indexed = Image.new("P", (32, 24), 0)
        indexed.putpalette([40, 40, 40, 200, 0, 0])
        indexed.paste(1, (16, 0, 32, 24))
        return indexed
    picture = colours.convert("L" if kind == "LA" else "RGB")
    picture.putalpha(alpha)
    return picture


@pytest.mark.parametrize("background", ["white", "#306090", "rgb(10, 200, 30)"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("RGBA", {}),
        ("LA", {}),
        ("P", {"transparency": 1}),
        ("P", {"transparency": b"\xff\x00"}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_transparency_lies_on_the_background(
    tmp_path: Path, kind: str, options: dict[str, object], background: str
) -> None:
    name = "a.webp" if kind == "WEBP" else "a.png"
    opened = array(
        saved(tmp_path / name, see_through("RGBA" if kind == "WEBP" else kind), **options),
        background,
    )
    assert (opened[:, :16] == 40).all()
    assert (opened[:, 16:] == ImageColor.getrgb(background)).all()


def test_half_transparent_pixels_are_mixed(tmp_path: Path) -> None:
    assert (
        np.abs(
            array(saved(tmp_path / "a.png", Image.new("RGBA", (16, 16), (0, 0, 0, 128))), "white")
            - 127
        ).max()
        <= 1
    )


def test_a_transparent_colour_key_lies_on_the_background(tmp_path: Path) -> None:
    grey, sixteen = np.full((24, 32), 40, np.uint8), np.full((24, 32), 40 * 257, np.uint16)
    grey[:, 16:], sixteen[:, 16:] = 90, 90 * 257
    made = {
        "grey": bytes_of(Image.fromarray(grey), transparency=90),
        "sixteen": bytes_of(Image.fromarray(sixteen), transparency=90 * 257),
        "colour": bytes_of(
            Image.fromarray(np.repeat(grey[..., None], 3, axis=-1)), transparency=(90, 90, 90)
        ),
        # Few bits and many: Pillow scales the pixels, not the colour key.
        "four-bits": png(
            32, 24, 4, 0, (b"\0" + b"\x22" * 8 + b"\xff" * 8) * 24, (b"tRNS", b"\0\x0f")
        ),
        "forty-eight": png(
            32,
            24,
            16,
            2,
            (b"\0" + b"\x28\x28" * 48 + b"\x5a\x5a" * 48) * 24,
            (b"tRNS", b"\x5a\x5a" * 3),
        ),
    }
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
        opened = array(tmp_path / name, "#306090")
        assert (opened[:, 16:] == (0x30, 0x60, 0x90)).all(), name
        assert np.abs(opened[:, :16] - 40).max() <= 6, name


def test_black_and_white_with_a_transparent_white(tmp_path: Path) -> None:
    picture = Image.new("1", (32, 24), 0)
    picture.paste(1, (16, 0, 32, 24))
    opened = array(saved(tmp_path / "a.png", picture, transparency=1), "#306090")
    assert (opened[:, :16] == 0).all() and (opened[:, 16:] == (0x30, 0x60, 0x90)).all()


@pytest.mark.parametrize("suffix", ["webp", "png"])
def test_only_the_first_frame_of_an_animation_is_used(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (32, 24), colour) for colour in ("red", "lime", "blue")]
    path = saved(
        tmp_path / f"a.{suffix}",
        frames[0],
        save_all=True,
        append_images=frames[1:],
        duration=100,
        lossless=True,
    )
    assert (array(path) == (255, 0, 0)).all()
    assert any("first frame" in note and path.name in note for note in read_dataset(tmp_path).notes)


def swapped_profile() -> bytes:
    """An RGB profile in which red and green change places:

    whoever ignores it sees the wrong colour.
    """
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", profile[128:132])[0]
    at = {bytes(profile[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    red, green = (slice(at[name] + 4, at[name] + 12) for name in (b"rXYZ", b"gXYZ"))
    profile[red], profile[green] = profile[green], profile[red]
    return bytes(profile)


@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
def test_colour_profile_is_converted_to_srgb(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {"quality": 95}
    path = saved(
        tmp_path / f"a.{suffix}",
        Image.new("RGB", (32, 24), (220, 30, 30)),
        icc_profile=swapped_profile(),
        **options,
    )
    assert np.abs(array(path) - (30, 220, 30)).max() <= 6


def test_srgb_profile_changes_nothing(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert (
        np.abs(array(saved(tmp_path / "a.png", icc_profile=profile)) - np.asarray(photo())).max()
        <= 1
    )


def test_transparent_parts_keep_the_background_under_a_profile(tmp_path: Path) -> None:
    opened = array(
        saved(tmp_path / "a.png", see_through("RGBA"), icc_profile=swapped_profile()), "#dc1e1e"
    )
    assert (opened[:, 16:] == (0xDC, 0x1E, 0x1E)).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_broken_or_foreign_profile_is_ignored_and_noted(tmp_path: Path, mode: str) -> None:
    plain = array(saved(tmp_path / "plain.png", photo().convert(mode)))
    saved(tmp_path / "bad.png", photo().convert(mode), icc_profile=b"this is no profile" * 20)
    assert (array(tmp_path / "bad.png") == plain).all()
    assert any(
        "profile" in note and "bad.png" in note and "plain" not in note
        for note in read_dataset(tmp_path).notes
    )


def test_a_grey_picture_with_a_colour_profile_stays_grey(tmp_path: Path) -> None:
    opened = array(saved(tmp_path / "a.png", photo().convert("L"), icc_profile=swapped_profile()))
    assert (opened == np.asarray(photo().convert("L"))[..., None]).all()


def test_damaged_exif_does_not_stop_a_good_picture(tmp_path: Path) -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\x00\x03" * 3
    path = saved(tmp_path / "a.jpg", exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert array(path).shape == (24, 32, 3)
        assert any("a.jpg" in note for note in read_dataset(tmp_path).notes)


def test_open_picture_names_file_and_reason(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.png is .*no ordinary file"):
        open_picture(tmp_path / "none.png")
    (tmp_path / "cut.jpg").write_bytes(bytes_of(photo(), "JPEG")[:400])
    with pytest.raises(DataError, match=r"cut\.jpg is damaged or cut off"):
        open_picture(tmp_path / "cut.jpg")
    with pytest.raises(DataError, match=r"data\.background is 'blurple'"):
        open_picture(saved(tmp_path / "a.png"), "blurple")


# --- pixels ---


@pytest.mark.parametrize("size", [(32, 24), (700, 300), (300, 700), (64, 64), (61, 67)])
def test_pixels_fill_the_bucket(size: tuple[int, int]) -> None:
    for bucket in buckets(96, 32):
        array = pixels(photo(*size), bucket)
        assert array.shape == (bucket.height, bucket.width, 3) and array.dtype == np.uint8
        assert array.flags["C_CONTIGUOUS"] and array.flags["WRITEABLE"]


def test_pixels_equal_resizing_and_cropping() -> None:
    big = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8))
    whole = np.asarray(big.resize((114, 64), Image.Resampling.LANCZOS))[:, 25:89]
    assert (
        np.abs(pixels(big, Bucket(64, 64)).astype(int) - whole).mean() < 3
    )  # 64 * 160 / 90 is 113.8: rounded there, not here


def test_pixels_of_the_bucket_size_are_the_picture_itself() -> None:
    assert (pixels(photo(64, 32), Bucket(64, 32)) == np.asarray(photo(64, 32))).all()


def test_a_moved_crop_shows_another_part_and_counts_as_another_picture(tmp_path: Path) -> None:
    saved(tmp_path / "a.png", photo(128, 64))
    centred = read_dataset(tmp_path).examples[0]
    (tmp_path / "a.crop.json").write_text('{"across": 1, "down": 0.5}')
    moved = read_dataset(tmp_path).examples[0]
    assert (centred.place, moved.place) == ((0.5, 0.5), (1.0, 0.5))
    assert moved.identity != centred.identity and moved.digest == centred.digest
    assert "a crop that was moved (a.png)" in " ".join(read_dataset(tmp_path).notes)
    whole = np.asarray(photo(128, 64))
    assert (
        pixels(open_picture(moved.path), Bucket(64, 64), place=moved.place) == whole[:, 64:]
    ).all()
    assert (
        pixels(open_picture(moved.path), Bucket(64, 64), True, moved.place) == whole[:, :63:-1]
    ).all()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "3",
        "null",
        '{"across": 2}',
        '{"across": true}',
        '{"down": NaN}',
        '{"down": "0.5"}',
        "[" * 900,
    ],
)
def test_a_crop_that_is_none_is_reported(tmp_path: Path, content: str) -> None:
    saved(tmp_path / "a.png")
    (tmp_path / "a.crop.json").write_text(content)
    assert "a.crop.json" in complaint(tmp_path) and "remove the file" in complaint(tmp_path)


def test_flipped_pixels_are_the_mirror() -> None:
    one, other = (
        pixels(photo(100, 60), Bucket(64, 64)),
        pixels(photo(100, 60), Bucket(64, 64), flipped=True),
    )
    assert (
        (one[:, ::-1] == other).all() and not (one == other).all() and other.flags["C_CONTIGUOUS"]
    )


def test_pixels_of_a_thin_strip_stay_small() -> None:
    assert pixels(Image.new("RGB", (16, 200_000), "red"), Bucket(64, 128)).shape == (
        128,
        64,
        3,
    )  # whole, it would take 150 MB


# --- captions ---


def test_captions_come_from_txt_then_metadata_then_name(tmp_path: Path) -> None:
    for name in ("b-fish.png", "a.JPG", "c_old-tree.WebP", "d.jpeg"):
        saved(tmp_path / name)
    (tmp_path / "a.TXT").write_bytes(codecs.BOM_UTF8 + "  ein\r\n großer\tHund\n".encode())
    lines = [
        {"file_name": "b-fish.png", "text": "a fish"},
        {"file_name": "./d.jpeg", "caption": "a duck"},
        {"file_name": "a.JPG", "text": "a cat"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n\n".join(json.dumps(line) for line in lines) + "\n")
    dataset = read_dataset(tmp_path)
    found = [(e.path.name, e.caption) for e in dataset.examples]
    assert found == [
        ("a.JPG", "ein großer Hund"),
        ("b-fish.png", "a fish"),
        ("c_old-tree.WebP", "c old tree"),
        ("d.jpeg", "a duck"),
    ]
    assert any(
        "1 of 4 pictures has no caption" in note and "c_old-tree.WebP -> c old tree" in note
        for note in dataset.notes
    )
    assert any("the .txt counts (a.JPG)" in note for note in dataset.notes)


def test_accents_match_however_they_are_composed(tmp_path: Path) -> None:
    saved(tmp_path / "cafe\u0301.png")
    saved(tmp_path / "na\u00efve.png")
    (tmp_path / "caf\u00e9.txt").write_text("a coffee")
    (tmp_path / "metadata.jsonl").write_text(
        json.dumps({"file_name": "nai\u0308ve.png", "text": "a child"})
    )
    assert sorted(captions(tmp_path).values()) == ["a child", "a coffee"]


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("red-apple.png", "red apple"),
        ("red_apple-02.png", "red apple"),
        ("apple (3).jpg", "apple"),
        ("3 cats.png", "3 cats"),
    ]
    + [
        ("001-castle.png", "castle"),
        ("Äpfel im Korb.webp", "Äpfel im Korb"),
        ("facade.png", "facade"),
        ("photo of a bee.png", "photo of a bee"),
    ]
    + [
        (name, "")
        for name in (
            "IMG_1234.jpg",
            "DSC0001.JPG",
            "P1000123.JPG",
            "PXL_20230101_123456789.jpg",
            "IMG-20230101-WA0007.jpg",
        )
    ]
    + [
        (name, "")
        for name in (
            "00042.png",
            "3f2a9b1cdeadbeef.png",
            "b1946ac9-2f4e-4c3a-9d8e-0c9f1a2b3c4d.png",
        )
    ]
    + [(name, "") for name in ("Screenshot 2023-01-01 at 12.34.56.png", "image.png", "---.png")],
)
def test_said_by_name(name: str, caption: str) -> None:
    assert caption_from_name(name) == caption


@pytest.mark.parametrize(
    ("caption", "trigger", "template", "expected"),
    [
        ("a red apple", "linocut", "{caption}, {trigger} style", "a red apple, linocut style"),
        ("", "linocut", "{caption}, {trigger} style", "linocut style"),
        ("", "linocut", "{trigger} style, {caption}", "linocut style"),
        ("", "linocut", "{trigger}, {caption}, high quality", "linocut, high quality"),
        ("a red apple", "", "{caption}, {trigger} style", "a red apple"),
        ("", "", "{caption}, {trigger} style", ""),
        ("a Linocut of an apple", "linocut", "{caption}, {trigger} style", "a Linocut of an apple"),
        ("linocuts", "linocut", "{caption}, {trigger} style", "linocuts, linocut style"),
        ("an apple", "c++ (x)", "{trigger}: {caption}", "c++ (x): an apple"),
        ("c++ (x)", "c++ (x)", "{trigger}: {caption}", "c++ (x)"),
        ("{trigger} {0}", "sks", "{caption} {{{trigger}}}", "{trigger} {0} {sks}"),
    ],
)
def test_captioned(caption: str, trigger: str, template: str, expected: str) -> None:
    assert captioned(caption, trigger, template) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{style}",
        "{caption",
        "{} {caption}",
        "{caption.__class__}",
        "{caption:99999999}",
        "{caption!r}",
        "{0}",
    ],
)
def test_unknown_template_is_refused(tmp_path: Path, template: str) -> None:
    saved(tmp_path / "a.png")
    assert "data.template" in complaint(tmp_path, template=template)


def test_trigger_goes_into_every_caption(tmp_path: Path) -> None:
    saved(tmp_path / "red-apple.png")
    saved(tmp_path / "IMG_0001.png")
    found = read_dataset(tmp_path, trigger="linocut")
    assert [e.caption for e in found.examples] == ["linocut style", "red apple, linocut style"]
    assert any("says nothing" in note and "IMG_0001.png" in note for note in found.notes)


def test_empty_txt_means_no_words(tmp_path: Path) -> None:
    saved(tmp_path / "apple.png")
    (tmp_path / "apple.txt").write_text(" \n")
    found = read_dataset(tmp_path, trigger="linocut")
    assert found.examples[0].caption == "linocut style" and any(
        "empty .txt" in note for note in found.notes
    )


# --- the folder ---


def test_example_knows_its_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", photo(40, 30))
    example = read_dataset(tmp_path).examples[0]
    assert (example.path, example.width, example.height) == (path, 40, 30)
    assert example.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_content_counts_more_than_the_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(bytes_of(photo(), "JPEG"))
    (tmp_path / "b.jpg").write_bytes(bytes_of(photo(), "WEBP"))
    assert len(read_dataset(tmp_path).examples) == 2


def test_what_is_passed_over_is_noted(tmp_path: Path) -> None:
    saved(tmp_path / "apple.png")
    for name in (".hidden.png", ".DS_Store", "Thumbs.db", "notes.jsonl", "readme.txt"):
        (tmp_path / name).write_bytes(b"no picture")
    (tmp_path / "old.psd").write_bytes(b"8BPS")
    (tmp_path / "more").mkdir()
    saved(tmp_path / "more" / "b.png")
    saved(tmp_path / "more" / "c.png")
    found = read_dataset(tmp_path)
    assert [e.path.name for e in found.examples] == ["apple.png"]
    said = "\n".join(found.notes)
    assert (
        "sub-folders are not read: 2 (more)" in said
        and "(readme.txt)" in said
        and ".psd" in said
        and "hidden" not in said
    )


@pytest.mark.parametrize(
    "kind", ["missing", "file", "empty", "documents", "nested", "too long", "nul"]
)
def test_a_folder_without_pictures_says_what_it_is(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / {"too long": "x" * 5000, "nul": "a\0b"}.get(kind, "pictures")
    if kind == "file":
        folder.write_text("no folder")
    if kind in ("empty", "documents", "nested"):
        folder.mkdir()
    if kind == "documents":
        (folder / "a.psd").write_bytes(b"8BPS")
        (folder / "b.pdf").write_bytes(b"%PDF")
    if kind == "nested":
        (folder / "train").mkdir()
        saved(folder / "train" / "a.png")
    expected = {
        "missing": "is not there",
        "file": "this is a file",
        "empty": "it is empty",
        "documents": "1 .psd",
        "nested": "train",
    }
    said = complaint(folder)
    assert (
        expected.get(kind, "cannot be read") in said and "data.folder" in said and "\n" not in said
    )


def bad_files(folder: Path) -> Iterator[tuple[str, str]]:
    """Write one bad file after the other; yield its name and what must be said about it."""

    def made(name: str, content: bytes | str) -> str:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return name

    yield made("zero.png", b""), "empty (0 bytes)"
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for suffix, kind in (("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP")):
        content = bytes_of(noise, kind)
        yield made(f"half.{suffix}", content[: len(content) // 2]), "damaged or cut off"
        yield made(f"header.{suffix}", content[:14]), "damaged or cut off"
    yield made("page.jpg", "<html><body>404 not found</body></html>"), "is text"
    yield made("noise.png", bytes(range(256)) * 4), "is not a picture of a kind that is read"
    yield made("layers.png", b"8BPS" + b"\0" * 100), "is a Photoshop file"
    yield made("scan.jpg", bytes_of(photo(), "TIFF")[:-9]), "damaged or cut off"
    yield made("phone.jpg", b"\0\0\0\x18ftypisom" + b"\0" * 100), "is a video"
    yield made("bomb.png", png(60_000, 60_000, 8, 2)), "megapixels is the most"
    yield (
        made("large.png", png(10_001, 10_000, 8, 2)),
        "10001 x 10000 px, 100 megapixels is the most",
    )
    yield made("tiny.png", bytes_of(photo(15, 40))), "15 x 40 px, 16 px is the least"
    (folder / "link.png").symlink_to(folder / "nowhere.png")
    yield "link.png", "a link to nowhere"
    for name, content, reason in [
        ("utf16", "a fish".encode("utf-16"), "UTF-16"),
        ("utf16be", codecs.BOM_UTF16_BE + "a fish".encode("utf-16-be"), "UTF-16"),
        ("utf16bare", "a fish".encode("utf-16-le"), "NUL characters"),
        ("nul", b"a\0fish", "NUL characters"),
        ("latin", "café".encode("latin-1"), "byte 0xe9 at position 3"),
        ("long", b"fish " * 2001, "more than 10,000 bytes"),
    ]:
        made(f"{name}.png", bytes_of(photo()))
        yield made(f"{name}.txt", content), reason


def test_all_bad_files_are_named_in_one_error(tmp_path: Path) -> None:
    saved(tmp_path / "good.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing may reach the terminal beside the one message
        expected = list(bad_files(tmp_path))
        said = complaint(tmp_path, background="blurple", template="{nothing}")
    lines = said.split("\n")
    assert (
        lines[0] == f"{len(expected) + 2} things are wrong in {tmp_path}:"
        and len(lines) == len(expected) + 3
    )
    for name, reason in expected:
        (line,) = [line for line in lines if line.startswith(f"  - {name} ")]
        assert reason in line and line.endswith("."), line
    assert "data.background is 'blurple'" in said and "data.template" in said
    assert "good.png" not in said and "Traceback" not in said and " at 0x" not in said


@pytest.mark.parametrize(
    "name, reason", [("zero.png", "empty"), ("utf16.txt", "UTF-8"), ("tiny.png", "16 px")]
)
def test_a_single_bad_file_makes_a_single_line(tmp_path: Path, name: str, reason: str) -> None:
    everything = tmp_path / "all"
    everything.mkdir()
    list(bad_files(everything))
    folder = tmp_path / "one"
    folder.mkdir()
    saved(folder / "utf16.png")
    (folder / name).write_bytes((everything / name).read_bytes())
    said = complaint(folder)
    assert said.startswith(f"{folder}: {name} ") and reason in said and "\n" not in said


def test_metadata_complaints_name_the_line(tmp_path: Path) -> None:
    saved(tmp_path / "a.png")
    (tmp_path / "b.psd").write_bytes(b"8BPS")
    (tmp_path / "more").mkdir()
    saved(tmp_path / "more" / "c.png")
    lines = [
        ('{"file_name": "a.png", "text": "fine"}', ""),
        ('{"file_name": "a.png", "text"', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('["a.png", "text"]', "is not an object"),
        ('{"text": "a fish"}', '"file_name"'),
        ('{"file_name": 7, "text": "a fish"}', 'has 7 as "file_name"'),
        ('{"file_name": "a.png"}', 'has nothing as "text"'),
        ('{"file_name": "a.png", "text": ["a", 3]}', 'has ["a", 3] as "text"'),
        ('{"file_name": "gone.png", "text": "a"}', "which is not there"),
        ('{"file_name": "../x.png", "text": "a"}', "leads out of the folder"),
        ('{"file_name": "/etc/passwd", "text": "a"}', "leads out of the folder"),
        ('{"file_name": "C:\\\\x.png", "text": "a"}', "leads out of the folder"),
        ('{"file_name": "more/c.png", "text": "a"}', "in a sub-folder"),
        ('{"file_name": "b.psd", "text": "a"}', "is not a .png"),
        ('{"file_name": "a\\u0000.png", "text": "a"}', "which is not there"),
        ('{"file_name": "a.png", "text": "a\\u0000b"}', "NUL"),
        ('{"file_name": "a.png", "text": "\\ud800"}', "surrogate"),
        (
            '{"file_name": "a.png", "text": "%s"}' % ("x" * 10_001),
            "10,001 bytes, 10,000 is the most",
        ),
        ('{"file_name": "\\u001b[31m\\n.png", "text": "a"}', r"\x1b[31m\n.png, which is not there"),
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(line for line, _ in lines))
    said = complaint(tmp_path).split("\n")
    expected = [(number, reason) for number, (_, reason) in enumerate(lines, 1) if reason]
    assert len(said) == len(expected) + 1
    for line, (number, reason) in zip(said[1:], expected, strict=True):
        assert f"metadata.jsonl line {number} " in line and reason in line


@pytest.mark.parametrize(
    "content",
    ['{"file_name": "a.png", "text": "a"}'.encode("utf-16"), b"\0\1\2", b"\xff\xfe\xfd", b"\xe9"],
)
def test_metadata_that_is_no_text_is_one_complaint(tmp_path: Path, content: bytes) -> None:
    saved(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_bytes(content)
    said = complaint(tmp_path)
    assert "metadata.jsonl" in said and "UTF-8" in said and "\n" not in said


def test_several_captions_for_a_picture_are_noted(tmp_path: Path) -> None:
    saved(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(
        "".join(json.dumps({"file_name": "a.png", "text": text}) + "\n" for text in ("one", "two"))
    )
    found = read_dataset(tmp_path)
    assert found.examples[0].caption == "two" and any(
        "the last one counts (a.png)" in note for note in found.notes
    )


def test_strange_file_names_can_be_said_and_written(tmp_path: Path) -> None:
    for name in (b"bad-\xff-bytes.png", b"line\nend.png", b"esc\x1b[31m.png"):
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:  # noqa: PTH123 (a Path cannot hold these bytes)
            file.write(bytes_of(photo()))
    found = read_dataset(tmp_path)
    "\n".join([*found.notes, *(e.caption for e in found.examples)]).encode()
    assert not any(
        "\x1b" in text or "\n" in text
        for text in (*found.notes, *(e.caption for e in found.examples))
    )
    with open(os.fsencode(tmp_path) + b"/\xff.png", "wb"):  # noqa: PTH123
        pass
    complaint(tmp_path).encode()


def tree(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything of a folder and in it that a reader might have changed."""
    return {
        p.name: (p.stat().st_mtime_ns, p.stat().st_mode, p.read_bytes() if p.is_file() else b"")
        for p in [folder, *folder.rglob("*")]
    }


def test_the_folder_is_left_untouched(tmp_path: Path) -> None:
    saved(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("an apple")
    exif = Image.Exif()
    exif[0x0112] = 6
    saved(tmp_path / "b.jpg", exif=exif)
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "b.jpg", "text": "b"}))
    before = tree(tmp_path)
    read_dataset(tmp_path)
    assert tree(tmp_path) == before
    (tmp_path / "c.png").write_bytes(b"")
    before = tree(tmp_path)
    complaint(tmp_path)
    assert tree(tmp_path) == before


def test_a_read_only_folder_works(tmp_path: Path) -> None:
    saved(tmp_path / "a.png").chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        assert len(read_dataset(tmp_path).examples) == 1
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="the superuser may read everything"
)
def test_what_may_not_be_read_is_named(tmp_path: Path) -> None:
    saved(tmp_path / "a.png").chmod(0)
    assert "a.png cannot be read (Permission denied)" in complaint(tmp_path)
    tmp_path.chmod(0)
    try:
        assert "the folder cannot be read (Permission denied)" in complaint(tmp_path)
    finally:
        tmp_path.chmod(0o755)


def test_reading_twice_gives_the_same(tmp_path: Path) -> None:
    for name in ("b.png", "a.webp", "c.jpg"):
        saved(tmp_path / name)
    assert read_dataset(tmp_path, trigger="x") == read_dataset(tmp_path, trigger="x")


def test_ever_so_many_complaints_are_counted_not_listed(tmp_path: Path) -> None:
    saved(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text("{\n" * 50_000)
    said = complaint(tmp_path).split("\n")
    assert said[0].startswith("50,000 things are wrong") or said[0].startswith("50000 things")
    assert len(said) == 102 and said[-1] == "  and 49,900 more."
