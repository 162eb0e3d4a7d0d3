"""What people really give:

the command says what is wrong, by name, starts nothing and touches nothing.
"""

from __future__ import annotations

import json
import shutil
import signal
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image

from training.train_style import main


@dataclass(frozen=True)
class Scene:
    """A sound run, ready to be spoilt: pictures, a base of its own and a run.toml."""

    root: Path
    pictures: Path
    base: Path
    toml: Path

    def flags(self) -> list[str]:
        given = {
            "data.folder": self.pictures,
            "base.model": self.base,
            "save.folder": self.root / "runs",
            "save.name": "s",
            "base.device": "cpu",
        }
        quick = {
            "optim.steps": 1,
            "optim.batch_size": 1,
            "preview.every": 0,
            "adapter.rank": 1,
            "base.dtype": "float32",
            "report.minutes": 0,
        }
        return [word for key, value in (given | quick).items() for word in (f"--{key}", str(value))]


@pytest.fixture
def scene(tmp_path: Path, base_folder: Path) -> Scene:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for word in ("apple", "boat"):
        Image.linear_gradient("L").resize((32, 32)).convert("RGB").save(pictures / f"{word}.png")
        (pictures / f"{word}.txt").write_text(f"a {word}")
    base = tmp_path / "base"
    shutil.copytree(base_folder, base)
    toml = tmp_path / "run.toml"
    toml.write_text("")
    return Scene(tmp_path, pictures, base, toml)


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    before = {
        kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    yield
    for kind, heard in before.items():
        signal.signal(kind, heard)


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refused(scene: Scene, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run the command; return what it said.

    Nothing may be started or changed but an empty run folder and its settings.
    """
    user = [scene.pictures, scene.base]
    before = {folder: contents(folder) for folder in user if folder.is_dir()}
    capsys.readouterr()
    code = main(arguments)
    message = capsys.readouterr()
    assert code == 2, message
    assert "Traceback" not in message.err + message.out and message.err.strip()
    assert "something went wrong" not in message.err
    assert all(contents(folder) == content for folder, content in before.items())
    left = [
        path.name
        for path in scene.root.rglob("*")
        if path.name in ("checkpoints", "crash.txt") or path.name == "s.safetensors"
    ]
    assert left == []
    return message.err


def test_the_scene_is_sound(scene: Scene) -> None:
    """Else every case below could fail for another reason."""
    assert main(scene.flags()) == 0


# --- pictures and captions ---


def png(width: int, height: int) -> bytes:
    """A header that claims a size, and no pixels."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks
    )


def no_folder(scene: Scene) -> None:
    shutil.rmtree(scene.pictures)


def empty_folder(scene: Scene) -> None:
    no_folder(scene)
    scene.pictures.mkdir()


def file_for_folder(scene: Scene) -> None:
    no_folder(scene)
    scene.pictures.write_text("not a folder")


def no_pictures(scene: Scene) -> None:
    for path in scene.pictures.glob("*.png"):
        path.unlink()


def pictures_one_below(scene: Scene) -> None:
    (scene.pictures / "train").mkdir()
    for path in scene.pictures.glob("*.png"):
        path.rename(path.parent / "train" / path.name)


def writes(name: str, content: bytes) -> Callable[[Scene], None]:
    return lambda scene: (scene.pictures / name).write_bytes(content) and None


def cut_off(scene: Scene) -> None:
    path = scene.pictures / "apple.png"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:-500])


def leads_nowhere(scene: Scene) -> None:
    (scene.pictures / "cat.png").symlink_to("gone.png")


def folder_named_as_caption(scene: Scene) -> None:
    (scene.pictures / "metadata.jsonl").write_text(
        '{"file_name": "../../etc/passwd", "text": "x"}\n'
    )


PICTURES: dict[str, tuple[Callable[[Scene], None], str]] = {
    "no folder": (no_folder, "pictures: the folder is not there"),
    "empty folder": (empty_folder, "holds no pictures"),
    "file for folder": (file_for_folder, "this is a file"),
    "no pictures": (no_pictures, "only other things (2 .txt)"),
    "pictures one below": (pictures_one_below, "sub-folder train holds 2"),
    "zero bytes": (writes("apple.png", b""), "apple.png"),
    "cut off": (cut_off, "apple.png is damaged or cut off"),
    "text in disguise": (
        writes("apple.png", b"<html><body>404 Not Found</body></html>"),
        "apple.png is text, not a picture",
    ),
    "another format in disguise": (
        writes("apple.png", b"GIF89a" + b"\0" * 100),
        "apple.png is damaged or cut off (it has no frame",
    ),
    "program in disguise": (
        writes("apple.png", b"\x7fELF" + bytes(range(256)) * 4),
        "apple.png is not a picture of a kind that is read",
    ),
    "bomb": (writes("apple.png", png(50_000, 50_000)), "apple.png has"),
    "larger bomb": (writes("apple.png", png(2**31 - 1, 2**31 - 1)), "apple.png has"),
    "one pixel": (writes("apple.png", png(1, 1)), "apple.png has 1 x 1 px"),
    "link to nowhere": (leads_nowhere, "cat.png is a link to nowhere"),
    "caption in UTF-16": (writes("apple.txt", "a red äpple".encode("utf-16")), "apple.txt"),
    "caption in Latin-1": (writes("apple.txt", "ein roter Äpfel".encode("latin-1")), "apple.txt"),
    "caption with NUL": (writes("apple.txt", b"a\0b"), "apple.txt"),
    "caption of a megabyte": (
        writes("apple.txt", b"a " * 500_000),
        "apple.txt has more than 10,000 bytes",
    ),
    "metadata is not JSON": (
        writes("metadata.jsonl", b"{'file_name': 'apple.png'}\n"),
        "metadata.jsonl line 1 is not JSON",
    ),
    "metadata leads out": (folder_named_as_caption, "metadata.jsonl line 1"),
}


@pytest.mark.parametrize(("spoil", "named"), PICTURES.values(), ids=PICTURES)
@pytest.mark.parametrize("dry", [False, True], ids=["run", "dry run"])
def test_pictures_that_cannot_be_used(
    spoil: Callable[[Scene], None],
    named: str,
    dry: bool,
    scene: Scene,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(scene)
    message = refused(scene, [*scene.flags(), *(["--dry-run"] if dry else [])], capsys)
    assert named in message and str(scene.pictures) in message
    assert not (scene.root / "runs").exists()  # found before anything is made


def test_all_that_is_wrong_with_the_pictures_is_reported_at_once(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    for spoil in ("zero bytes", "caption with NUL", "link to nowhere"):
        PICTURES[spoil][0](scene)
    message = refused(scene, scene.flags(), capsys)
    assert "3 things are wrong" in message and all(
        name in message for name in ("apple.png", "apple.txt", "cat.png")
    )


# --- settings ---


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"[optim]\nstepps = 5", "optim.stepps is not a setting, did you mean optim.steps?"),
        (b"[optimizer]\nsteps = 5", "optimizer is not a setting, did you mean optim?"),
        (b"steps = 5", "steps is not a setting"),
        (b'[optim]\nsteps = "many"', "optim.steps is 'many'"),
        (b"[optim]\nsteps = 1.5", "optim.steps is 1.5"),
        (b"[optim]\nsteps = true", "optim.steps is True"),
        (b"[optim]\nsteps = 0", "optim.steps is 0"),
        (b"[optim]\nunet_lr = nan", "optim.unet_lr is nan"),
        (b"[optim]\nunet_lr = 1" + b"0" * 400, "optim.unet_lr"),
        (b"[data]\ncaption_dropout = 1.5", "data.caption_dropout is 1.5"),
        (b'[data]\ntemplate = "{caption.__class__}"', "data.template"),
        (b'[data]\ntemplate = "{caption:9999999999}"', "data.template"),
        (b'[data]\ntemplate = "a picture"', "data.template"),
        (b'[data]\nbackground = "colour of the sea"', "data.background"),
        (b'[data]\nfolder = "~nobody-of-that-name/x"', "data.folder"),
        (b'[data]\nfolder = "a\\u0000b"', "data.folder"),
        (b'[adapter]\ntargets = ["everything"]', "adapter.targets.0 is 'everything'"),
        (b"[adapter]\ntargets = []", "adapter.targets"),
        (b"optim = 5", "optim is 5"),
        (b"[prior]\nimages = 5", "prior.prompt"),
        (b"[optim\nsteps = 5", "run.toml is not TOML"),
        (b"\xff\xfe[\0o\0p\0t\0i\0m\0]\0", "run.toml is not TOML"),
        (b"\x89PNG\r\n\x1a\n", "run.toml is not TOML"),
        (b"a = " + b"[" * 10_000, "run.toml is not TOML"),
    ],
    ids=lambda found: found[:40].decode("latin-1") if isinstance(found, bytes) else "",
)
def test_settings_that_cannot_be_used(
    content: bytes, named: str, scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = scene.flags()
    given = [
        word
        for i, word in enumerate(flags)
        if f"--{named.split(' ')[0]}" not in (word, flags[max(0, i - 1)])
    ]  # the file's word counts
    scene.toml.write_bytes(content)
    message = refused(scene, [str(scene.toml), *given], capsys)
    assert named in message
    assert not (scene.root / "runs").exists()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--optim.stepps", "5"], "did you mean optim.steps?"),
        (["--optim.steps", "1e3"], "optim.steps is '1e3'"),
        (["--optim.steps", "-5"], "optim.steps is -5"),
        (["--optim.steps", "9" * 5000], "optim.steps"),
        (["--optim.unet_lr", "inf"], "optim.unet_lr is inf"),
        (["--data.flip", "perhaps"], "data.flip is 'perhaps'"),
        (["--adapter.method", "magic"], "adapter.method is 'magic'"),
        (["--data.resolution", "37"], "data.resolution is 37 px, a multiple of 8"),
        (["--data.resolution", "4"], "data.resolution is 4 px"),
        (["--data.resolution", "8192"], "data.resolution is 8192"),
        (["--base.device", "tpu"], "base.device is 'tpu'"),
        (["--base.device", "cuda:77"], "base.device is cuda:77"),
        (["--save.name", "../x"], "save.name is '../x'"),
        (["--save.name", "/etc/x"], "save.name"),
        (["--save.name", "NUL"], "save.name"),
        (["--save.name", ""], "save.name"),
        (["--data.folder", ""], "data.folder is empty"),
        (["--data.folder", "caf\udce9"], "data.folder"),
        (["--data.folder", "x" * 5000], "the folder cannot be read"),
        (["--save.folder", "~nobody-of-that-name"], "save.folder"),
        (["--data.template", "{caption"], "data.template"),
        (["--prior.images", "4", "--prior.prompt", "x", "--prior.folder", "/nowhere"], "/nowhere"),
    ],
    ids=lambda found: " ".join(found)[:40] if isinstance(found, list) else "",
)
def test_flags_that_cannot_be_used(
    flags: list[str], named: str, scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    assert named in refused(scene, [*scene.flags(), *flags], capsys)


@pytest.mark.parametrize(
    ("name", "named"),
    [("gone.toml", "gone.toml is not there"), (".", "is a folder, a TOML file was expected")],
)
def test_a_file_of_settings_that_is_none(
    name: str, named: str, scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    assert named in refused(scene, [str(scene.root / name), *scene.flags()], capsys)


# --- places ---


def test_places_that_cannot_be_written(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    (scene.root / "file").write_text("a file")
    for folder in (scene.root / "file", scene.root / "file" / "runs", Path("/proc/style-studio")):
        for dry in ([], ["--dry-run"]):
            message = refused(scene, [*scene.flags(), "--save.folder", str(folder), *dry], capsys)
            assert "save.folder" in message and ("/file" in message or "/proc" in message)
    assert (scene.root / "file").read_text() == "a file"


def test_a_file_where_the_run_should_be(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    (scene.root / "runs").mkdir()
    (scene.root / "runs" / "s").write_text("precious")
    assert "is a file where the run's folder should be" in refused(scene, scene.flags(), capsys)
    assert (scene.root / "runs" / "s").read_text() == "precious"


def test_a_run_folder_whose_settings_are_broken(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    (scene.root / "runs" / "s").mkdir(parents=True)
    (scene.root / "runs" / "s" / "run.toml").write_text("[optim")
    assert str(scene.root / "runs" / "s" / "run.toml") in refused(scene, scene.flags(), capsys)


# --- bases ---


def rewrites(part: str, content: str) -> Callable[[Scene], None]:
    return lambda scene: (scene.base / part).write_text(content) and None


def changes(part: str, **values: object) -> Callable[[Scene], None]:
    def change(scene: Scene) -> None:
        path = scene.base / part
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def removes(part: str) -> Callable[[Scene], None]:
    def remove(scene: Scene) -> None:
        path = scene.base / part
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    return remove


def weights_of(scene: Scene, part: str) -> Path:
    return next((scene.base / part).glob("*.safetensors"))


def only_pickles(scene: Scene) -> None:
    weights_of(scene, "unet").rename(scene.base / "unet" / "diffusion_pytorch_model.bin")


def truncated(part: str) -> Callable[[Scene], None]:
    def cut(scene: Scene) -> None:
        path = weights_of(scene, part)
        path.write_bytes(path.read_bytes()[:-1000])

    return cut


def lacking(part: str) -> Callable[[Scene], None]:
    """The libraries would fill the gap with random numbers and go on."""

    def lack(scene: Scene) -> None:
        path = weights_of(scene, part)
        weights = safetensors.torch.load_file(path)
        del weights[sorted(weights)[3]]
        safetensors.torch.save_file(weights, path, metadata={"format": "pt"})

    return lack


def no_words(scene: Scene) -> None:
    for path in (scene.base / "tokenizer").iterdir():
        path.unlink()


BASES: dict[str, tuple[Callable[[Scene], None], str]] = {
    "not there": (removes("."), "no such folder or file"),
    "no index": (removes("model_index.json"), "has no model_index.json"),
    "index is not JSON": (rewrites("model_index.json", "{"), "model_index.json cannot be read"),
    "index is a list": (rewrites("model_index.json", "[]"), "model_index.json is not a config"),
    "index is nested": (
        rewrites("model_index.json", "[" * 100_000),
        "model_index.json cannot be read",
    ),
    "XL by name only": (
        changes("model_index.json", _class_name="StableDiffusionXLPipeline"),
        "does not hear the picture's size",
    ),
    "another pipeline": (
        changes("model_index.json", _class_name="DDPMPipeline"),
        "is a DDPMPipeline",
    ),
    "no pipeline": (
        changes("model_index.json", _class_name=None),
        "is a folder without a pipeline",
    ),
    "no such scheduler": (
        changes("model_index.json", scheduler=["diffusers", "Nope"]),
        "names ['diffusers', 'Nope'] as scheduler",
    ),
    "scheduler is no scheduler": (
        changes("model_index.json", scheduler=["diffusers", "DiffusionPipeline"]),
        "as scheduler",
    ),
    "no vae": (removes("vae"), "has no vae/ folder"),
    "unet's config is missing": (removes("unet/config.json"), "has no unet/config.json"),
    "unet's config is not JSON": (rewrites("unet/config.json", "\0"), "config.json cannot be read"),
    "unet's config is nonsense": (
        changes("unet/config.json", block_out_channels=5),
        "block_out_channels",
    ),
    "unet's config does not fit": (
        changes("unet/config.json", block_out_channels=[16, 32]),
        "unet cannot be loaded",
    ),
    "inpainting": (
        changes("unet/config.json", in_channels=9),
        "takes 9 channels where its VAE gives 4",
    ),
    "text encoder's config is nonsense": (
        changes("text_encoder/config.json", hidden_size="wide"),
        "text_encoder cannot be loaded",
    ),
    "only pickles": (only_pickles, "holds only diffusion_pytorch_model.bin, a pickle"),
    "unet cut off": (truncated("unet"), "unet cannot be loaded"),
    "text encoder cut off": (truncated("text_encoder"), "text_encoder cannot be loaded"),
    "unet with a gap": (lacking("unet"), "unet lacks 1 of its weights"),
    "text encoder with a gap": (lacking("text_encoder"), "text_encoder lacks 1 of its weights"),
    "vae with a gap": (lacking("vae"), "vae lacks 1 of its weights"),
    "no words": (no_words, "tokenizer has no vocab.json"),
    "words are not JSON": (rewrites("tokenizer/tokenizer.json", "{"), "tokenizer cannot be loaded"),
    "scheduler's config is not JSON": (
        rewrites("scheduler/scheduler_config.json", "{"),
        "scheduler cannot be used",
    ),
    "unknown noise schedule": (
        changes("scheduler/scheduler_config.json", beta_schedule="x"),
        "scheduler cannot be used",
    ),
    "unknown prediction": (
        changes("scheduler/scheduler_config.json", prediction_type="sample"),
        "predicts 'sample'",
    ),
}


@pytest.mark.parametrize(("spoil", "named"), BASES.values(), ids=BASES)
def test_bases_that_cannot_be_used(
    spoil: Callable[[Scene], None], named: str, scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(scene)
    message = refused(scene, scene.flags(), capsys)
    assert named in message and "base" in message


REFINER = {
    "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3),
    "conditioner.embedders.0.model.x": torch.zeros(2),
}
REFINER |= {"first_stage_model.decoder.conv_in.weight": torch.zeros(2)}


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("model.ckpt", b"PK\x03\x04", "is a pickle"),
        ("model.bin", b"\x80\x04.", "is a pickle"),
        ("model.txt", b"x", "file of an unknown kind"),
        ("model.safetensors", b"", "damaged or cut off"),
        ("model.safetensors", b"\xff" * 100, "damaged or cut off"),
        (
            "model.safetensors",
            safetensors.torch.save({"lora_unet_x.lora_up.weight": torch.zeros(2, 2)}),
            "is a style (LoRA), not a base",
        ),
        ("model.safetensors", safetensors.torch.save(REFINER), "is a Stable Diffusion XL refiner"),
        ("model.safetensors", safetensors.torch.save({"x": torch.zeros(2)}), "holds no UNet"),
    ],
    ids=["ckpt", "bin", "txt", "empty", "noise", "style", "XL", "another model"],
)
def test_files_that_are_no_base(
    name: str, content: bytes, named: str, scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    path = scene.root / name
    path.write_bytes(content)
    message = refused(scene, [*scene.flags(), "--base.model", str(path)], capsys)
    assert named in message and name in message
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "name", ["gone.ckpt", "/nowhere/base", "gone.safetensors", "x" * 5000, "a b c", "../gone", "."]
)
def test_names_that_are_no_base(
    name: str, scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Path(name).name[:300] in refused(scene, [*scene.flags(), "--base.model", name], capsys)
