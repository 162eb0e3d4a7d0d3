"""What reads bytes of unknown origin, each as a function of bytes: it takes them, or refuses them
with an error of ours. Anything else that is raised is a crash.
"""

from __future__ import annotations

import io
import json
import tempfile
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from studio.datasets.archives import unpacked
from studio.library import reload_grid
from studio.page.views import charts
from training import events
from training.config.loading import from_mapping, to_toml
from training.config.schema import RunConfig
from training.data import image_decoding, image_headers
from training.data.caption_files import metadata_captions
from training.errors import ConfigError, DataError, StyleFileError
from training.prompt import Prompt
from training.style_files.reading import style_from_bytes
from training.style_files.safetensors_io import read_head

MOST = 2048  # bytes of an input
LARGEST_LAYER = 2**22  # bytes of the numbers that a header may promise here
WORK = Path(tempfile.gettempdir())


class Target(NamedTuple):
    """refusals: errors by which bytes are refused; seeds: where inputs are made from; words: what
    mutations put in.
    """

    take: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    seeds: Callable[[], list[bytes]]
    words: tuple[bytes, ...] = ()


# --- style files ---


def _head(data: bytes) -> None:
    read_head("x", io.BytesIO(data), len(data))


def _style(data: bytes) -> None:
    """The header's JSON; the numbers that it promises follow it."""
    style_from_bytes(with_numbers(data), "x.safetensors")


def with_numbers(header: bytes) -> bytes:
    try:
        entries = json.loads(header).values()
        ends = [entry["data_offsets"][1] for entry in entries if "data_offsets" in entry]
        size = max([0, *(end for end in ends if type(end) is int and end < LARGEST_LAYER)])
    except (ValueError, AttributeError, KeyError, IndexError, TypeError, RecursionError):
        size = 0
    numbers = (np.arange(size // 2 + 1, dtype=np.uint16) % 251 + 0x3000).tobytes()[:size]
    return len(header).to_bytes(8, "little") + header + numbers


def _header(tensors: dict[str, tuple[int, ...]], **metadata: str) -> bytes:
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, shape in tensors.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": [*shape], "data_offsets": [end, end + size]}
        end += size
    return json.dumps(header).encode()


KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
PEFT = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
DOTTED = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def _styles() -> list[bytes]:
    low, high = (2, 4), (4, 2)
    roles: list[dict[str, tuple[int, ...]]] = [
        {f"{KOHYA}.lora_down.weight": low, f"{KOHYA}.lora_up.weight": high, f"{KOHYA}.alpha": (1,)},
        {f"{DOTTED}.lora_A.weight": low, f"{DOTTED}.lora_B.weight": high},
        {f"{DOTTED}.lora.down.weight": low, f"{DOTTED}.lora.up.weight": high},
        {
            f"base_model.model.{DOTTED}.lora_A.weight": low,
            f"base_model.model.{DOTTED}.lora_B.weight": high,
        },
        {
            f"{KOHYA}.hada_w1_a": high,
            f"{KOHYA}.hada_w1_b": low,
            f"{KOHYA}.hada_w2_a": high,
            f"{KOHYA}.hada_w2_b": low,
        },
        {f"{KOHYA}.lokr_w1": (2, 2), f"{KOHYA}.lokr_w2": (2, 2)},
        {f"{KOHYA}.diff": (4, 4)},
        {
            f"{KOHYA}.lora_down.weight": low,
            f"{KOHYA}.lora_up.weight": high,
            f"{KOHYA}.dora_scale": (4, 1),
        },
        {"emb_params": (2, 8)},
        {"bundle_emb.sks.string_to_param.*": (2, 8)},
    ]
    named = {"ss_network_dim": "2", "ss_base_model_version": "sd_v1", "ss_tag_frequency": "{}"}
    return [_header(shapes) for shapes in roles] + [_header(roles[0], **named)]


STYLE_WORDS = tuple(
    word.encode()
    for word in (
        *(".lora_down.weight", ".lora_up.weight", ".lora_mid.weight", ".alpha", ".lora_A.weight"),
        *(".lora_B.weight", ".hada_w1_a", ".hada_t1", ".lokr_w1_a", ".lokr_t2", ".dora_scale"),
        *(".diff", ".diff_b", ".oft_blocks", "lora_te_", "lora_te1_", "lora_unet_", "unet."),
        *('"BF16"', '"F32"', '"I64"', '"F8_E4M3"', "[0, 0]", "[1, 1, 3, 3]", "1e9", "-1", "null"),
        *('"__metadata__"', "NaN", "true", "[[]]", "9" * 40),
    )
)


# --- pictures, their texts, archives ---


def _picture(data: bytes) -> None:
    image_decoding.decoded(data, (255, 255, 255))


def _structure(data: bytes) -> None:
    image_headers.reduced(data)


def _pictures() -> list[bytes]:
    found = []
    for mode in ("RGB", "L", "RGBA", "P", "I;16", "1"):
        found.append(_saved(Image.new(mode, (8, 6)), "PNG"))
    picture = Image.effect_noise((16, 16), 60).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    found += [
        _saved(picture, "JPEG", quality=30, exif=exif),
        _saved(picture, "JPEG", progressive=True, quality=20),
    ]
    found += [_saved(picture, "WEBP", quality=20), _saved(picture, "WEBP", lossless=True)]
    found += [_saved(picture.convert("CMYK"), "JPEG", quality=20), _text_picture()]
    return [one for one in found if len(one) <= MOST]


def _saved(picture: Image.Image, kind: str, **keys: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **keys)
    return file.getvalue()


def _text_picture() -> bytes:
    return Prompt("a fox", seed=3).to_png(Image.new("RGB", (4, 4)))


PICTURE_WORDS = (
    *(b"IHDR", b"IDAT", b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"acTL"),
    *(b"fcTL", b"IEND", b"VP8X", b"ALPH", b"EXIF", b"XMP ", b"\xff\xc0", b"\xff\xc2", b"\xff\xda"),
    *(b"\xff\xe1", b"\xff\xdb", b"\xff\xc4", b"\xff\xd9", b"Exif\0\0", b"II*\0", b"MM\0*"),
    *(b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"),
)


def _png_text(data: bytes) -> None:
    """What the Create tab reads out of a grid that is dropped on it."""
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        Path(file.name).write_bytes(data)
        reload_grid._settings(Path(file.name))


def _grids() -> list[bytes]:
    from PIL.PngImagePlugin import PngInfo

    found = []
    settings = json.dumps({"kind": "comparison", "prompts": ["a fox"], "styles": []})
    for add in ("add_text", "add_itxt"):
        for zipped in (False, True):
            info = PngInfo()
            getattr(info, add)(reload_grid.KEY, settings, zip=zipped)
            found.append(_saved(Image.new("RGB", (4, 4)), "PNG", pnginfo=info))
    return found


def _prompt(data: bytes) -> None:
    Prompt.from_json(data.decode("utf-8", errors="replace"))


def _zip(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "x.zip"
        archive.write_bytes(data)
        unpacked(archive, Path(folder) / "into")
        assert {path.name for path in Path(folder).iterdir()} <= {"x.zip", "into"}, "it led out"


def _zips() -> list[bytes]:
    found = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as opened:
            opened.writestr("a/1.png", _saved(Image.new("RGB", (4, 4)), "PNG"))
            opened.writestr("a/1.txt", "a fox")
            opened.writestr("../é.txt", "out")
        found.append(file.getvalue())
    return found


ZIP_WORDS = (b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"../", b"\0\x08", b"\xff" * 4)


# --- texts ---


def _toml(data: bytes) -> None:
    try:
        found = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        return
    from_mapping(found)


def _events(data: bytes) -> None:
    """Read, summed up and drawn, as the Train tab does it."""
    lines = data.decode("utf-8", errors="replace").splitlines()
    seen = [event for line in lines if (event := events.from_line(line)) is not None]
    so_far = charts.progress(seen)
    charts.status("r", "running", so_far)
    charts.loss_curve(so_far.curve)
    charts.rate_curve(so_far.curve)
    charts.messages(so_far.messages)


def _event_lines() -> list[bytes]:
    said: list[events.Event] = [
        events.Started(0, 9, 3, 4, 5, "cpu", "float32"),
        *(events.Stepped(step, 0.5, 1e-4, 1.0, 0.1, 1.0) for step in (1, 2, 3)),
        events.Previewed(3, ("previews/1.png",), ("a fox",)),
        events.Saved(3, "checkpoints/step-3"),
        events.Warned("a note"),
        events.Failed("it failed", 3, True),
        events.Finished(9, "r.safetensors", False, 12.0),
    ]
    return [events.to_line(event).encode() for event in said] + [
        "\n".join(map(events.to_line, said)).encode()
    ]


JSON_WORDS = (
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b"1e999",
    b"-1",
    b"NaN",
    b"9" * 400,
    b"\\ud800",
)


def _captions(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        Path(file.name).write_bytes(data)
        metadata_captions(Path(file.name), ["1.png", "2.png"])


def _caption_lines() -> list[bytes]:
    return [
        b'{"file_name": "1.png", "text": "a fox"}\n{"file_name": "2.png", "text": "a hen"}\n',
        b'{"file_name": "1.png", "caption": "a fox", "prompt": 3}\n',
        b'[{"file_name": "1.png", "text": null}]',
    ]


TARGETS = {
    "header": Target(_head, (StyleFileError,), lambda: list(map(with_numbers, _styles()))),
    "dialects": Target(_style, (StyleFileError,), _styles, STYLE_WORDS),
    "pictures": Target(_picture, (DataError,), _pictures, PICTURE_WORDS),
    "structure": Target(_structure, (DataError,), _pictures, PICTURE_WORDS),
    "png text": Target(_png_text, (DataError,), _grids, PICTURE_WORDS),
    "prompt": Target(_prompt, (ValueError,), lambda: [Prompt("a").to_json().encode()], JSON_WORDS),
    "zips": Target(_zip, (DataError,), _zips, ZIP_WORDS),
    "toml": Target(
        _toml,
        (ConfigError,),
        lambda: [b"[optim]\nsteps = 3\nunet_lr = 1e-4\n", to_toml(RunConfig()).encode()[:MOST]],
        (
            b"inf",
            b"nan",
            b"-1",
            b"true",
            b"[[",
            b"]]",
            b'""',
            b"{}",
            b"1979-05-27",
            b"0x",
            b"=" * 9,
        ),
    ),
    "events": Target(_events, (), _event_lines, JSON_WORDS),
    "captions": Target(_captions, (DataError,), _caption_lines, JSON_WORDS),
}
