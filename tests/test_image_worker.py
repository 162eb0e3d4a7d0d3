"""Pictures made as weapons: what each costs is bounded, a crash is one refused picture, and nobody
waits for another's.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement
from PIL import Image, ImageCms, PngImagePlugin

from tests.test_png import chunk
from training.data import image_decoding, image_headers, image_worker
from training.data.dataset import read_dataset
from training.data.pictures import open_picture
from training.errors import DataError

ROOT = Path(__file__).resolve().parents[1]
WHITE = (255, 255, 255)
MOST_SECONDS, MOST_MEMORY = 5.0, 2**30  # processor time; bytes
COST = """
import json, resource, sys
from pathlib import Path
from training.data import image_worker
from training.errors import DataError
try:
    image_worker.decode(Path(sys.argv[1]).read_bytes(), (255, 255, 255)); said = ""
except DataError as error:
    said = str(error)
image_worker._pool().close()
both = [resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
seconds = sum(one.ru_utime + one.ru_stime for one in both)
memory = max(one.ru_maxrss for one in both) * 1024
if Path("/proc/self/status").exists():
    # its ru_maxrss begins with that of the process it was forked from, however large
    (own,) = (s for s in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in s)
    memory = max(both[0].ru_maxrss, int(own.split()[1])) * 1024
print(json.dumps({"said": said, "seconds": seconds, "memory": memory}))
"""


def picture(width: int = 40, height: int = 30) -> Image.Image:
    bands = [
        Image.linear_gradient("L"),
        Image.radial_gradient("L"),
        Image.linear_gradient("L").rotate(90),
    ]
    return Image.merge("RGB", [band.resize((width, height)) for band in bands])


def file_of(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    (image or picture()).save(file, kind, **options)
    return file.getvalue()


def png(
    width: int,
    height: int,
    depth: int,
    colour: int,
    packed: bytes,
    *beside: bytes,
    interlaced: bool = False,
) -> bytes:
    header = (
        width.to_bytes(4, "big")
        + height.to_bytes(4, "big")
        + bytes((depth, colour, 0, 0, interlaced))
    )
    return (
        image_headers.PNG
        + chunk(b"IHDR", header)
        + b"".join(beside)
        + chunk(b"IDAT", packed)
        + chunk(b"IEND", b"")
    )


def with_chunk(kind: bytes, data: bytes, count: int = 1) -> bytes:
    """A good PNG with chunks after its header."""
    good = file_of("PNG")
    return good[:33] + chunk(kind, data) * count + good[33:]


def scans(count: int, *, side: int = 0) -> bytes:
    """A progressive JPEG with empty scans after its own.

    side: px that its header claims, 0 for its own.
    """
    good = file_of("JPEG", picture(64, 64), progressive=True)
    frame = good.index(b"\xff\xc2") + 5
    if side:
        good = good[:frame] + side.to_bytes(2, "big") * 2 + good[frame + 4 :]
    return good[:-2] + b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00" * count + good[-2:]


def looping_exif(size: int) -> bytes:
    """EXIF whose entries all hold nearly the whole of it."""
    entries = min(65535, (size - 20) // 12)
    rows = [
        n.to_bytes(2, "little") + b"\7\0" + (size - 16).to_bytes(4, "little") + b"\0\0\0\0"
        for n in range(entries)
    ]
    return (b"II*\0\x08\0\0\0" + entries.to_bytes(2, "little") + b"".join(rows)).ljust(size, b"\0")


def solid_webp(width: int, height: int) -> bytes:
    """A lossless WEBP of one colour in a few bytes (WebP Lossless Bitstream, 3 to 6)."""
    bits, at = (width - 1) | (height - 1) << 14, 28 + 1 + 3  # no alpha, version 0
    at += 3  # no transform, no colour cache, no meta prefix codes
    for _ in range(5):
        bits |= 1 << at  # a simple code with the one symbol 0
        at += 4
    data = b"\x2f" + bits.to_bytes(at // 8 + 1, "little")
    body = b"WEBPVP8L" + len(data).to_bytes(4, "little") + data + b"\0" * (len(data) % 2)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def zeros(size: int) -> bytes:
    packer = zlib.compressobj(9)
    return (
        b"".join([packer.compress(bytes(2**20)) for _ in range(size // 2**20 + 1)]) + packer.flush()
    )


JPEG_START = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
# name -> (the file, what is said of it; empty: it is decoded; None: either)
WEAPONS: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "thousands of empty scans": (lambda: scans(4800), "scans, 100 is the most"),
    "a hundred scans of a large picture": (lambda: scans(80, side=9999), None),
    "a large progressive picture": (lambda: scans(0, side=9999), None),
    "two frames": (
        lambda: (lambda j: j[:2] + j[j.index(b"\xff\xc0") : j.index(b"\xff\xc4")] + j[2:])(
            file_of("JPEG")
        ),
        "frame headers",
    ),
    "thousands of tables": (lambda: JPEG_START + b"\xff\xdd\x00\x04\x00\x00" * 50_000, "tables"),
    "padding without end": (lambda: JPEG_START + b"\xff" * (2**20 - 100), "damaged"),
    "a quarter of a million notes": (
        lambda: file_of("JPEG")[:2] + b"\xff\xfe\x00\x02" * 250_000 + file_of("JPEG")[2:],
        "",
    ),
    "looping EXIF": (lambda: with_chunk(b"eXIf", looping_exif(2**20 - 2000)), ""),
    "looping EXIF of two MiB": (lambda: with_chunk(b"eXIf", looping_exif(2**21)), ""),
    "looping EXIF within bounds": (
        lambda: with_chunk(b"eXIf", looping_exif(image_headers.LARGEST_EXIF)),
        "",
    ),
    "texts that unpack to a GiB": (
        lambda: with_chunk(b"zTXt", b"a\0\0" + zeros(2**20 - 2**16), 900),
        None,
    ),
    "a profile that unpacks to a GiB": (
        lambda: with_chunk(b"iCCP", b"a\0\0" + zeros(900 * 2**20)),
        "",
    ),
    "many chunks of nothing": (lambda: with_chunk(b"IDAT", b"", 80_000), None),
    "100 megapixels of eight bytes": (lambda: png(10_000, 10_000, 16, 6, zeros(800_000_000)), None),
    "100 megapixels, interlaced": (
        lambda: png(10_000, 10_000, 16, 6, zeros(800_000_000), interlaced=True),
        None,
    ),
    "100 megapixels in bits": (lambda: png(10_000, 10_000, 1, 0, zeros(12_500_000 + 10_000)), None),
    "100 megapixels of WEBP": (lambda: solid_webp(10_000, 10_000), None),
    "a good WEBP of one colour": (lambda: solid_webp(64, 64), ""),
    "more pixels than there are": (lambda: png(2**31 - 1, 2**31 - 1, 8, 2, b""), "megapixels"),
}


@pytest.mark.skipif(sys.platform == "win32", reason="counts what processes used as POSIX does")
@pytest.mark.parametrize("name", WEAPONS)
def test_no_weapon_costs_more_than_five_seconds_or_a_gibibyte(name: str, tmp_path: Path) -> None:
    """Processor time, of the asking process and the worker together: a busy machine takes no more
    of it.
    """
    made, expected = WEAPONS[name]
    content = made()
    assert len(content) < 2**20 or "two MiB" in name or "GiB" in name
    (tmp_path / "weapon").write_bytes(content)
    ran = subprocess.run(
        [sys.executable, "-c", COST, tmp_path / "weapon"], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    cost = json.loads(ran.stdout)
    print(name, cost)
    start = 1.5  # two interpreters and Pillow, before there is any picture
    assert cost["seconds"] < MOST_SECONDS + start and cost["memory"] < MOST_MEMORY
    assert expected is None or ((expected in cost["said"]) if expected else not cost["said"])


def test_a_weapon_is_one_refused_picture_and_the_message_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(scans(4800))
    (tmp_path / "good.png").write_bytes(file_of("PNG"))
    with pytest.raises(
        DataError,
        match=r"bad\.jpg has 4,8.. scans, 100 is the most for a JPEG\. Export it .* or remove it",
    ) as caught:
        read_dataset(tmp_path)
    assert "good.png" not in str(caught.value)


def kept_waiting(content: bytes) -> tuple[psutil.Process, threading.Thread, list[object]]:
    """Begin to decode with a worker that stands still."""
    image_worker.decode(file_of("PNG"), WHITE)
    pool = image_worker._pool()
    worker = psutil.Process(pool.idle[-1].process.pid)
    worker.suspend()
    found: list[object] = []

    def decode() -> None:
        try:
            found.append(image_worker.decode(content, WHITE))
        except DataError as error:
            found.append(error)

    thread = threading.Thread(target=decode)
    thread.start()
    while pool.idle and pool.idle[-1].process.pid == worker.pid:
        thread.join(0.01)
    return worker, thread, found


def test_a_crash_is_one_refused_picture_and_nobody_waits_for_it() -> None:
    worker, thread, found = kept_waiting(file_of("PNG"))
    for _ in range(3):
        assert image_worker.decode(file_of("PNG"), WHITE).tobytes() == picture().tobytes()
    assert thread.is_alive() and not found
    worker.kill()
    thread.join()
    assert (
        isinstance(found[0], DataError)
        and "ends the decoder" in str(found[0])
        and "remove it" in str(found[0])
    )
    assert image_worker.decode(file_of("PNG"), WHITE).tobytes() == picture().tobytes()


def test_an_idle_worker_that_is_gone_costs_no_picture() -> None:
    image_worker.decode(file_of("PNG"), WHITE)
    for worker in image_worker._pool().idle:
        worker.process.kill()
        worker.process.wait()
    assert image_worker.decode(file_of("PNG"), WHITE).tobytes() == picture().tobytes()


def test_many_threads_get_each_its_own_picture() -> None:
    wrong: list[int] = []

    def work(size: int) -> None:
        for n in range(5):
            own = picture(size + n, size)
            if image_worker.decode(file_of("PNG", own), WHITE).tobytes() != own.tobytes():
                wrong.append(size)

    threads = [threading.Thread(target=work, args=(20 + 7 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(image_worker._pool().idle) <= image_worker.MOST_WORKERS


def test_a_worker_ends_with_whoever_started_it() -> None:
    script = f"""
import os
from training.data import image_worker
image_worker.decode({file_of("PNG")!r}, (0, 0, 0))
print(image_worker._pool().idle[0].process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    try:
        psutil.Process(int(ran.stdout)).wait(60)
    except psutil.NoSuchProcess:
        pass


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads a process's limits as Linux tells them"
)
def test_a_worker_can_open_no_file_and_write_none() -> None:
    image_worker.decode(file_of("PNG"), WHITE)
    limits = Path(f"/proc/{image_worker._pool().idle[0].process.pid}/limits").read_text()
    rows = {line[:26].strip(): line[26:].split() for line in limits.splitlines()}
    assert rows["Max open files"][:2] == ["3", "3"] and rows["Max file size"][:2] == ["0", "0"]
    assert (
        image_worker.decode(file_of("WEBP"), WHITE).size
        == image_worker.decode(file_of("JPEG"), WHITE).size
        == (40, 30)
    )


def test_a_folder_of_the_same_name_as_a_module_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "PIL").mkdir()
    (tmp_path / "PIL" / "__init__.py").write_text("raise SystemExit(9)")
    script = f"""
import os
from training.data import image_worker
os.chdir({str(tmp_path)!r})
image_worker.decode({file_of("PNG")!r}, (0, 0, 0))
"""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    }
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment).returncode == 0


# --- pixels ---


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_side_information_that_is_too_large_is_left_out_and_the_pixels_stay(
    kind: str, tmp_path: Path
) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    plain = file_of(kind, **options)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    fat = file_of(
        kind, icc_profile=profile.ljust(image_headers.LARGEST_PROFILE + 2**16, b"\0"), **options
    )
    (tmp_path / "fat.png").write_bytes(fat)
    assert (
        open_picture(tmp_path / "fat.png").tobytes() == image_worker.decode(plain, WHITE).tobytes()
    )
    assert any(note.startswith(image_headers.NO_PROFILE) for note in read_dataset(tmp_path).notes)
    assert len(image_headers.reduced(fat)[0]) < len(plain) + 100


def test_notes_and_words_are_left_out_without_a_word() -> None:
    words = PngImagePlugin.PngInfo()
    words.add_text("a", "b" * (image_headers.LARGEST_TEXT + 1))
    content, remarks = image_headers.reduced(file_of("PNG", pnginfo=words))
    assert len(content) < 10_000 and not remarks
    assert image_headers.reduced(file_of("JPEG", comment=b"hello") + b"and more") == (
        file_of("JPEG"),
        [],
    )


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16", "key"])
def test_strips_give_the_bits_of_the_whole(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(64, 50)
    options: dict[str, object] = (
        {"transparency": 5} if mode == "P" else {"transparency": (9, 9, 9)} if mode == "key" else {}
    )
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    if mode == "RGB":
        options["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    stored = (
        image
        if mode == "key"
        else image.convert("L").convert("I;16")
        if mode == "I;16"
        else image.convert(mode)
    )
    content = file_of("PNG", stored, **options)
    whole = b"".join(image_decoding.decoded(content, (1, 2, 3)).rows)
    monkeypatch.setattr(image_decoding, "STRIP", 64 * 7)
    strips = list(image_decoding.decoded(content, (1, 2, 3)).rows)
    assert len(strips) == 8 and b"".join(strips) == whole


# --- anything at all ---

SEEDS = (
    file_of("PNG"),
    file_of("PNG", picture().convert("P")),
    file_of("PNG", save_all=True, append_images=[picture()]),
    file_of("JPEG"),
    file_of("JPEG", progressive=True),
    file_of("JPEG", picture().convert("CMYK")),
    file_of("WEBP"),
    file_of("WEBP", lossless=True),
    file_of("WEBP", save_all=True, append_images=[picture().rotate(90)]),
    scans(3),
    with_chunk(b"eXIf", looping_exif(300)),
)


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """A good file with bytes changed, parts repeated, moved or taken out."""
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        at, until = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
        match draw(st.sampled_from(("change", "repeat", "cut", "marker"))):
            case "change":
                content[at : at + 4] = draw(st.binary(min_size=1, max_size=4))
            case "repeat":
                content[at:at] = content[at : min(until, at + 400)] * draw(st.integers(1, 40))
            case "cut":
                del content[at : min(until, at + 60)]
            case "marker":
                content[at:at] = b"\xff" + draw(
                    st.sampled_from(
                        [
                            b"\xc0\x00\x08",
                            b"\xc2",
                            b"\xda\x00\x08",
                            b"\xd9",
                            b"\xd8",
                            b"\xe1\x00\x00",
                            b"\xff\xff",
                        ]
                    )
                )
    return bytes(content)


@settings(max_examples=300, deadline=None)
@given(spoilt())
def test_what_is_spoilt_is_decoded_or_refused_in_words(content: bytes) -> None:
    try:
        found = image_worker.decode(content, WHITE)
    except DataError as error:
        assert str(error).rstrip().endswith(".")
        return
    assert found.mode == "RGB" and found.width * found.height <= image_decoding.LARGEST_PICTURE


@settings(max_examples=500, deadline=None)
@given(
    st.one_of(
        spoilt(),
        st.builds(
            bytes.__add__,
            st.sampled_from([b"\xff\xd8", image_headers.PNG, b"RIFF\0\0\0\0WEBP"]),
            st.binary(),
        ),
    )
)
@example(b"\xff\xd8" + b"\xff" * 2**20 + b"\0")
@example(b"\xff\xd8\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00" + b"\xff\0" * 2**19)
def test_what_was_reduced_once_is_not_reduced_further(content: bytes) -> None:
    try:
        once, _ = image_headers.reduced(content)
    except DataError:
        return
    assert len(once) <= len(content) and image_headers.reduced(once) == (once, [])


# --- Pillow ---


def test_gradio_still_keeps_pillow_below_13() -> None:
    """Pillow 13.0.0 mends CVE-2026-96639, GHSA-8g5g-8vmr-9782 and CVE-2026-96643; until gradio
    allows it, the worker bounds what they can do.
    """
    wanted = [Requirement(line) for line in importlib.metadata.requires("gradio") or []]
    pillow = next(one for one in wanted if one.name.lower() == "pillow")
    words = (
        "gradio allows Pillow 13: raise the floor in pyproject.toml and constraints.txt to 13.0.0, "
        "mend SECURITY.md and remove this test"
    )
    assert not pillow.specifier.contains("13.0.0"), words


# --- very large pictures ---


def test_a_picture_of_108_megapixels_is_halved_upright() -> None:
    """A JPEG with an orientation, as telephones write it."""
    shades = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    large = Image.fromarray(shades).resize((12_000, 9_000), Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    file = io.BytesIO()
    large.save(file, "JPEG", quality=90, exif=exif)
    content = file.getvalue()
    assert image_worker.examine(content) == ((4_500, 6_000), (image_decoding.HALVED,))
    found = image_worker.decode(content, (255, 255, 255))
    assert found.size == (4_500, 6_000)
    seen = np.asarray(found.resize((90, 120), Image.Resampling.BOX), int)
    wanted = np.rot90(shades, -1).astype(int)
    assert np.abs(seen - wanted).mean() < 3


def test_a_small_file_of_so_many_pixels_is_refused() -> None:
    content = png(11_000, 10_000, 8, 0, zeros(110_000_000 + 10_000))
    assert len(content) < 2**20
    with pytest.raises(DataError, match="100 megapixels is the most for so small a file"):
        image_worker.examine(content)


def test_a_kind_that_cannot_be_averaged_is_refused() -> None:
    with pytest.raises(DataError, match=r"of a kind that is not scaled \(I;16\)"):
        image_decoding._halved(Image.new("I;16", (11_000, 10_000)))
