"""A whole SD 1.5, SD 2.1 and SDXL of random weights: trained, stopped, gone on with, exported,
opened by the stock pipeline and drawn with.

    python -m benchmarks.full_size [sd15 sd21 sdxl] [--px 256] [--folder FOLDER] [--bpe
    bpe_simple_vocab_16e6.txt.gz]

Nothing is downloaded: the networks are made from the configs that the project carries, in bfloat16
(2 to 7 GB of disk each, deleted at the end). Every step is the real command in a process of its
own; its seconds and its peak are told. What must hold is checked, and a failure ends it:

- the run that was stopped by SIGTERM and begun again has the style of the undisturbed one, to the
bit;
- every exported form gives back the same change of every weight (the commands check that
themselves);
- the stock pipeline with load_lora_weights predicts what ours does, in float32: the largest
difference over the style's own largest effect.

--bpe: CLIP's merges as the open_clip_torch wheel holds them, for its true vocabulary; without it
that of the built-in base.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
UPDATES, STOP_AFTER, STRENGTH = (
    4,
    2,
    5e-3,
)  # the learning rate: high, so that few updates have an effect that can be told from rounding
TITLES = {"sd15": "SD 1.5", "sd21": "SD 2.1 (768 px, v-prediction)", "sdxl": "SDXL"}
# of the effect: what is left where two ways of summing meet after some sixty layers
TOLERANCE = 2e-2


def tokenizer(bpe: Path | None) -> Any:
    """CLIP's, of its published merges (Sennrich et al.

    2016, arXiv 1508.07909), or the built-in base's.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    if bpe is None:
        from benchmarks import shapes

        return shapes.tokenizer()

    lines = gzip.decompress(bpe.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    merges = [tuple(line.split()) for line in lines]
    order = [
        *range(33, 127),
        *range(161, 173),
        *range(174, 256),
    ]  # bytes that are letters of their own come first, in the published order
    rest = [chr(256 + i) for i in range(256 - len(order))]
    letters = [*(chr(i) for i in order), *rest]
    if set(letters) != set(ByteLevel.alphabet()):
        raise SystemExit(f"{bpe} is not the vocabulary that was expected.")
    words = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *("".join(pair) for pair in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return CLIPTokenizer(
        vocab={word: i for i, word in enumerate(words)}, merges=merges, model_max_length=77
    )


def make_base(family: str, folder: Path, bpe: Path | None) -> None:
    """A diffusers folder of a full-size base with random weights, bfloat16."""
    import torch

    from benchmarks import shapes
    from training.runtime.device import DeviceSpec

    place, words = DeviceSpec(torch.device("cpu"), torch.bfloat16), tokenizer(bpe)
    for part, config in shapes.configs(family).items():
        path = folder / part
        if part == "model_index":
            (folder / "model_index.json").write_text(json.dumps(config))
        elif part == "scheduler":
            path.mkdir()
            (path / "scheduler_config.json").write_text(json.dumps(config))
        elif part.startswith("tokenizer"):
            words.save_pretrained(path)
        else:
            shapes.network(family, part, place).save_pretrained(path, safe_serialization=True)


def timed(command: list[str], *, stop_after: Path | None = None) -> tuple[float, float, int]:
    """Seconds, peak in GiB and exit code of a process; it is told to stop (SIGTERM) once the events
    in stop_after tell of enough updates.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    while stop_after is not None and process.poll() is None:
        if stop_after.is_file() and f'"step":{STOP_AFTER},' in stop_after.read_text().replace(
            " ", ""
        ):
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.02)
    errors = process.stderr.read().decode(errors="replace")
    _, status, used = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code and stop_after is None:
        raise SystemExit(f"{' '.join(command)} ended with exit code {code}:\n{errors[-3000:]}")
    return time.perf_counter() - began, used.ru_maxrss / 2**20, code


def settings(family: str, name: str, base: Path, pictures: Path, work: Path, px: int) -> Path:
    import tomli_w

    settings = {
        "base": {"model": str(base)},
        "data": {"folder": str(pictures), "trigger": "linocut style", "resolution": px},
        "optim": {
            "steps": UPDATES,
            "batch_size": 1,
            "unet_lr": STRENGTH,
            "text_encoder_lr": STRENGTH,
            "schedule": "constant",
            "warmup": 0.0,
        },
        "adapter": {
            "rank": 8,
            "alpha": 8.0,
            "targets": ["attention", "feed_forward", "projections", "convolutions"],
        },
        "preview": {"every": 0},
        "report": {"minutes": 0.0},
        "save": {"name": name, "folder": str(work / "runs"), "every": STOP_AFTER},
    }
    path = work / f"{name}.toml"
    path.write_text(tomli_w.dumps(settings))
    return path


def same_weights(a: Path, b: Path) -> bool:
    from safetensors.numpy import load_file

    first, second = load_file(a), load_file(b)
    return first.keys() == second.keys() and all(
        first[name].tobytes() == second[name].tobytes() for name in first
    )


def against_stock(base: Path, style: Path, px: int) -> dict[str, float]:
    """One prediction of the stock pipeline with the style against ours, float32."""
    import torch
    from diffusers import DiffusionPipeline

    from studio.library.generator import loaded_style
    from training.adapters.inference import apply_styles
    from training.models import base_files, loader
    from training.runtime.device import DeviceSpec

    place = DeviceSpec(torch.device("cpu"), torch.float32)
    noisy, t = (
        torch.randn((1, 4, px // 8, px // 8), generator=torch.Generator().manual_seed(0)),
        torch.tensor([500]),
    )
    caption = "linocut style, a red apple"

    @torch.no_grad()
    def ours() -> tuple[Any, Any]:
        parts = loader.load(base_files.find(str(base)), place)
        parts.networks.pop("vae")

        def ask():
            return parts.family.predict(
                parts, noisy, t, parts.family.encode_text(parts, [caption])
            ).float()

        plain, active = ask(), loaded_style(style, parts)
        with apply_styles(parts.networks, [[active]]):
            return plain, ask()

    @torch.no_grad()
    def stock() -> Any:
        pipe = DiffusionPipeline.from_pretrained(
            base, dtype=torch.float32, vae=None, local_files_only=True
        )
        pipe.load_lora_weights(style)
        states = pipe.encode_prompt(
            caption, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        extra = {}
        if len(states) == 4:
            sizes = torch.tensor([[px, px, 0, 0, px, px]], dtype=torch.float32)
            extra = {"added_cond_kwargs": {"text_embeds": states[2], "time_ids": sizes}}
        return pipe.unet(noisy, t, states[0], return_dict=False, **extra)[0].float()

    plain, with_style = ours()
    theirs = stock()
    effect = float((with_style - plain).abs().max())
    return {"effect": effect, "off": float((with_style - theirs).abs().max()) / effect}


def child(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


def tools(base: Path, file: Path, stem: Path) -> list[tuple[str, list[str], Path | None]]:
    """What the style-file command does with a base or a style of that size:

    what, arguments, what it writes. One after the other.
    """

    def name(ending):
        return stem.with_name(f"{stem.name}-{ending}")

    baked, single, taken = name("baked"), name("single.safetensors"), name("taken.safetensors")
    merged, small = name("merged.safetensors"), name("small.safetensors")
    return [
        ("checked against the base", ["check", str(file), "--base", str(base)], None),
        (
            "two styles merged, exactly",
            ["merge", f"{file}:0.5", f"{file}:0.5", "--out", str(merged)],
            merged,
        ),
        (
            "cut to 90 % of its energy",
            ["resize", str(file), "--energy", "0.9", "--out", str(small)],
            small,
        ),
        (
            "baked into a folder",
            ["bake", str(file), "--base", str(base), "--out", str(baked)],
            baked,
        ),
        (
            "baked into one file",
            ["bake", str(file), "--base", str(base), "--out", str(single)],
            single,
        ),
        (
            "extracted from the baked base",
            [
                "extract",
                "--tuned",
                str(baked),
                "--base",
                str(base),
                "--rank",
                "8",
                "--out",
                str(taken),
            ],
            taken,
        ),
    ]


def _size_of(path: Path) -> str:
    files = path.rglob("*") if path.is_dir() else [path]
    return f"{sum(f.stat().st_size for f in files if f.is_file()) / 2**20:,.1f} MiB"


def tried(family: str, px: int, work: Path, bpe: Path | None) -> list[str]:
    """Everything for one family; the rows of the table."""
    base, rows = work / family, []
    base.mkdir()

    def row(what: str, seconds: float, peak: float, note: str = "") -> None:
        rows.append(f"| {TITLES[family]} | {what} | {seconds:.0f} | {peak:.1f} | {note} |")
        print(rows[-1], file=sys.stderr, flush=True)

    extra = ["--bpe", str(bpe)] if bpe else []
    seconds, peak, _ = timed(
        child("benchmarks.full_size", "--make", family, "--folder", str(base), *extra)
    )
    row(
        "made",
        seconds,
        peak,
        f"{sum(f.stat().st_size for f in base.rglob('*') if f.is_file()) / 2**30:.1f} GiB on disk",
    )
    pictures = work / "pictures"
    if not pictures.exists():
        pictures.mkdir()
        for path in sorted((ROOT / "sample_data" / "linocut").glob("*.png"))[:4]:
            shutil.copy(path, pictures)
            shutil.copy(path.with_suffix(".txt"), pictures)
    straight, stopped = (
        settings(family, f"{family}-{how}", base, pictures, work, px)
        for how in ("straight", "stopped")
    )
    seconds, peak, _ = timed(child("training.train_style", str(straight)))
    runs = work / "runs"
    file = runs / straight.stem / f"{straight.stem}.safetensors"
    recorded = [
        json.loads(line)
        for line in (runs / straight.stem / "events.jsonl").read_text().splitlines()
    ]
    pace = sorted(event["seconds"] for event in recorded if event["event"] == "stepped")
    row(
        f"{UPDATES} updates",
        seconds,
        peak,
        f"{pace[len(pace) // 2]:.1f} s an update (the middle one); a style of "
        f"{file.stat().st_size / 2**20:.1f} MiB",
    )
    seconds, peak, code = timed(
        child("training.train_style", str(stopped)), stop_after=runs / stopped.stem / "events.jsonl"
    )
    row("stopped by SIGTERM", seconds, peak, f"exit code {code}")
    seconds, peak, _ = timed(child("training.train_style", str(stopped)))
    other = runs / stopped.stem / f"{stopped.stem}.safetensors"
    if not same_weights(file, other):
        raise SystemExit(
            f"{family}: the run that was stopped has another style than the undisturbed one."
        )
    row("gone on with", seconds, peak, "equal to the undisturbed run to the bit")
    for how, ending in (
        (["convert", "--to", "diffusers"], "diffusers.safetensors"),
        (["export"], "zip"),
    ):
        out = work / f"{family}.{ending}"
        seconds, peak, _ = timed(
            child("training.cli.style_file", how[0], str(file), *how[1:], "--out", str(out))
        )
        row(f"exported (.{ending})", seconds, peak, f"{out.stat().st_size / 2**20:.1f} MiB")
    for what, argv, out in tools(base, file, work / family):
        seconds, peak, _ = timed(child("training.cli.style_file", *argv))
        row(what, seconds, peak, _size_of(out) if out else "")
        if what.startswith("extracted"):
            shutil.rmtree(work / f"{family}-baked")
    seconds, peak, _ = timed(
        child(
            "benchmarks.full_size",
            "--against-stock",
            str(file),
            "--folder",
            str(base),
            "--px",
            str(px),
            "--json",
            str(work / "answer"),
        )
    )
    answer = json.loads((work / "answer").read_text())
    if answer["off"] > TOLERANCE:
        raise SystemExit(f"{family}: the stock pipeline predicts something else: {answer}")
    row(
        "beside the stock pipeline",
        seconds,
        peak,
        f"differs by {answer['off']:.1e} of the style's largest effect",
    )
    grid = work / f"{family}.png"
    argv = [
        "--base",
        str(base),
        "--style",
        str(file),
        "--prompt",
        "a red apple",
        "--steps",
        "2",
        "--size",
        str(px),
        "--out",
        str(grid),
    ]
    seconds, peak, _ = timed(child("studio.compare", *argv))
    row("drawn: base and style, 2 steps", seconds, peak, f"{grid.stat().st_size / 2**10:.0f} KiB")
    shutil.rmtree(base)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("families", nargs="*", default=list(TITLES), help="which ones")
    parser.add_argument("--px", type=int, default=256)
    parser.add_argument(
        "--folder", type=Path, help="where the bases and runs go; a temporary one if left out"
    )
    parser.add_argument("--bpe", type=Path)
    parser.add_argument("--make", help=argparse.SUPPRESS)
    parser.add_argument("--against-stock", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.make:
        make_base(given.make, given.folder, given.bpe)
    elif given.against_stock:
        given.json.write_text(
            json.dumps(against_stock(given.folder, given.against_stock, given.px))
        )
    else:
        with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
            rows = [
                row
                for family in given.families
                for row in tried(family, given.px, Path(scratch), given.bpe)
            ]
        print("\n".join(["| base | what | s | peak GiB | |", "|---|---|---|---|---|", *rows]))


if __name__ == "__main__":
    main()
