"""How long a style file takes: a large one of Stable Diffusion XL read and put on a warm base, and
the built-in base's styles swapped.

    python -m benchmarks.style_files [--mib 150] [--rounds 5] [--json FILE]

The large one has random float16 matrices on attention, feed-forward and projections of the
full-size UNet, whose layers come from its config without memory for weights: names and shapes are
all that reading needs. Beside it, the least that reading can take: the bytes from the disk's cache
alone, and with the sha256 and the float32 copies that the check and the arithmetic need. A swap
takes a style off the built-in base and puts another loaded one on; drawing is not in it. Medians;
run it on an idle machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.shapes import machine
from benchmarks.side_by_side import TARGETS
from studio.library.generator import Generator
from training.adapters.inference import ActiveStyle, apply_styles
from training.adapters.lora_layers import chosen_modules
from training.models import loader, sdxl
from training.models.single_file import CONFIGS
from training.style_files.lora import Lora
from training.style_files.matching import match
from training.style_files.reading import accepted_names, read_style
from training.style_files.writing import named, write_style

Changes = dict[tuple[str, str], Lora]


def xl_unet() -> torch.nn.Module:
    """The full-size UNet on the meta device."""
    from diffusers import UNet2DConditionModel

    config = json.loads((CONFIGS / "sdxl.json").read_text(encoding="utf-8"))["unet"]
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config)


def some_changes(shapes: dict[str, tuple[int, ...]], rank: int, seed: int) -> Changes:
    """Random matrices on every named layer of the UNet."""
    g = np.random.default_rng(seed)
    found = {}
    for name, (out, *into) in shapes.items():
        down = g.standard_normal((rank, *into), np.float32) * np.float32(np.prod(into) ** -0.5)
        up = g.standard_normal((out, rank, *(1 for _ in into[1:])), np.float32) * np.float32(0.02)
        found["unet", name] = Lora(down, up, float(rank))
    return found


def median(rounds: int, work: Callable[[], object]) -> float:
    """Seconds, after one round that does not count."""
    seconds = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def reading(folder: Path, mib: int, rounds: int) -> dict[str, float]:
    """Seconds of each way to take a large file of XL, and its size."""
    unet = xl_unet().to(torch.bfloat16).to_empty(device="cpu")  # its values do not matter here
    known = loader.weight_shapes(unet)
    chosen = {name: known[name] for name in chosen_modules(unet, sdxl.SDXL.groups, TARGETS)}
    a_rank = sum(2 * (shape[0] + int(np.prod(shape[1:]))) for shape in chosen.values())  # bytes
    path = folder / "xl.safetensors"
    write_style(
        path, named(some_changes(chosen, max(1, mib * 2**20 // a_rank), 0), "kohya", "sdxl"), {}
    )
    names = accepted_names({"unet": known}, "sdxl")

    def bytes_and_needs() -> None:
        content = path.read_bytes()
        hashlib.sha256(content).hexdigest()
        start = 8 + int.from_bytes(content[:8], "little")
        np.frombuffer(content, "<f2", (len(content) - start) // 2, start).astype(np.float32)

    return {
        "MiB": path.stat().st_size / 2**20,
        "bytes alone": median(rounds, path.read_bytes),
        "bytes, sha256, float32": median(rounds, bytes_and_needs),
        "read and check": median(rounds, lambda: read_style(path)),
        "read, check and match": median(rounds, lambda: match(read_style(path), names)),
        "read and put on a whole UNet of XL": median(
            rounds, lambda: put_on(unet, match(read_style(path), names))
        ),
    }


def put_on(unet: torch.nn.Module, changes: Changes) -> None:
    """As a picture is drawn with it, the denoising aside:

    every layer's matrices in the base's precision, behind a hook.
    """
    with apply_styles({"unet": unet}, [[ActiveStyle(changes)]]):
        pass


def swapping(folder: Path, rounds: int) -> dict[str, float]:
    """Seconds to load a style of the built-in base, and to swap two that are loaded."""
    generator = Generator("cpu", "auto")
    parts = generator.load("mini")
    known = loader.weight_shapes(parts.denoiser)
    paths = [folder / f"{i}.safetensors" for i in (1, 2)]
    for i, path in enumerate(paths):
        write_style(path, named(some_changes(known, 16, i), "kohya", parts.family.name), {})
    began = time.perf_counter()
    generator.wear([(path, 1.0) for path in paths])
    both = time.perf_counter() - began
    turn = iter(range(10**9))

    def swap() -> None:
        active: list[ActiveStyle] = generator.wear([(paths[next(turn) % 2], 1.0)])
        with apply_styles({"unet": parts.denoiser}, [active]):
            pass

    return {"layers": len(known), "load two": both, "swap": median(rounds * 4, swap)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mib", type=int, default=150, help="size of the large style, MiB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write every figure there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        large, small = (
            reading(Path(scratch), given.mib, given.rounds),
            swapping(Path(scratch), given.rounds),
        )
    from training.runtime.device import choose

    print(json.dumps(machine(choose("cpu", "auto"))) + "\n")
    print(
        f"A style of XL, {large['MiB']:.0f} MiB:\n\n| way | s | MiB/s | time / bytes, sha256, "
        "float32 |\n|---|---|---|---|"
    )
    for way in [way for way in large if way != "MiB"]:
        print(
            f"| {way} | {large[way]:.2f} | {large['MiB'] / large[way]:.0f} | "
            f"{large[way] / large['bytes, sha256, float32']:.2f} |"
        )
    print(
        f"\nBuilt-in base, styles of rank 16 on all {small['layers']:.0f} layers: two loaded "
        f"in {small['load two'] * 1000:.0f} ms, ",
        end="",
    )
    print(f"a swap takes {small['swap'] * 1000:.1f} ms.")
    if given.json:
        given.json.write_text(
            json.dumps({"large": large, "small": small}, indent=1), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
