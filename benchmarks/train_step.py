"""Seconds per update and peak memory of training a LoRA: ours against the plain way, on a UNet of SD 1.5's shape with random weights.

    python -m benchmarks.train_step [--px 256] [--rounds 3] [--steps 5] [--json FILE]

ours            the step of training/run.py: cached latents, fused adapters with float32 masters, frozen base in the machine's best dtype
                (bfloat16 where it has units for it) and channels_last, attention chosen by shape, quick group norm, flat AdamW
ours-float32    the same with a float32 base
plain-bfloat16  the loop of diffusers' train_dreambooth_lora.py with --mixed_precision bf16: add_adapter, everything contiguous and in
                bfloat16 under autocast, the VAE at every update, AdamW over the adapters, loss.item()
plain-float32   the same in float32, its default

Rank, targets, picture, timesteps and text states (frozen text encoder, random [1, 77, 768]) are the same in all. Every variant runs in a
process of its own, so that its peak is its own; rounds are interleaved, so that a warm or busy machine is so for all. The first update of a
process is not timed. Peak: resident set of the process on a CPU, memory reserved by torch on a GPU. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RANK, LEARNING_RATE, CLIP = 16, 1e-4, 1.0
TARGETS = ("attention", "feed_forward", "projections")
VARIANTS = ("ours", "plain-bfloat16", "plain-float32", "ours-float32")
Update = Callable[[int], float]  # number of the update -> its loss


def ours(shape: str, px: int, batch: int, device: str, dtype: str) -> Update:
    """training/run.py without captions, buckets and files."""
    import numpy as np
    import torch

    from benchmarks.shapes import parts as random_parts
    from training import objective
    from training.adapter import attach, chosen_modules
    from training.attention import choose_attention
    from training.batches import drawn
    from training.cache import Latents
    from training.device import choose
    from training.optim import Group, Optimiser

    place = choose(device, dtype)
    parts, latents = random_parts(shape, place), Latents()
    latents.add("picture", np.random.default_rng(0).integers(0, 255, (px, px, 3), np.uint8), parts)
    unet = parts.denoiser
    choose_attention(unet)
    adapters = attach(unet, chosen_modules(unet, parts.family.groups, TARGETS), rank=RANK, alpha=RANK, seed=0)
    optimiser = Optimiser({"unet": Group([p for pair in adapters.values() for p in pair], LEARNING_RATE)}, weight_decay=0.01, clip=CLIP, ema=0.0)
    chance: dict[str, Any] = {"shape": latents.shape("picture"), "timesteps": 1000, "flip": False, "caption_dropout": 0.0, "noise_offset": 0.0}
    words = parts.family.encode_text(parts, [""] * batch)

    def update(step: int) -> float:
        draws = [drawn(0, step, row, **chance) for row in range(batch)]
        x0, noise = torch.stack([latents.sample("picture", d.latent_noise) for d in draws]), torch.stack([d.noise for d in draws])
        t = torch.tensor([d.timestep for d in draws])
        alpha_bar = parts.alphas_cumprod[t]
        noisy = objective.noised(x0, noise, alpha_bar).to(place.device, place.dtype, memory_format=torch.channels_last)
        said = parts.family.predict(parts, noisy, t.to(place.device), words)
        loss = objective.weighted_loss(said, noise.to(place.device), objective.loss_weights("epsilon", alpha_bar, 5.0).to(place.device), rows=batch)
        loss.backward()
        norm = optimiser.norm()
        told, _ = torch.stack([loss.detach(), norm]).tolist()
        optimiser.update(norm, 1.0)
        return told

    return update


def plain(shape: str, px: int, batch: int, device: str, dtype: str) -> Update:
    """The loop of diffusers 0.42's examples/dreambooth/train_dreambooth_lora.py, frozen text encoder, one process."""
    import torch
    import torch.nn.functional as F
    from diffusers import DDPMScheduler
    from peft import LoraConfig

    from benchmarks import shapes
    from training.adapter import chosen_modules
    from training.device import choose
    from training.families.family import UNET_GROUPS

    place = choose(device, dtype)
    unet, vae = shapes.unet_and_vae(shape, place)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=chosen_modules(unet, UNET_GROUPS, TARGETS)))
    unet.train()
    trained = [p for p in unet.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.01)
    pixels = torch.rand((batch, 3, px, px), generator=torch.Generator().manual_seed(0)).to(place.device) * 2 - 1
    words = shapes.words(batch, place)

    def update(step: int) -> float:
        with torch.no_grad():
            x0 = vae.encode(pixels.to(place.dtype)).latent_dist.sample() * vae.config.scaling_factor
        noise = torch.randn_like(x0)
        t = torch.randint(0, 1000, (batch,), device=place.device)
        with torch.autocast(place.device.type, place.dtype, enabled=place.dtype != torch.float32):
            said = unet(scheduler.add_noise(x0, noise, t), t, words, return_dict=False)[0]
        loss = F.mse_loss(said.float(), noise.float(), reduction="mean")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimiser.step()
        optimiser.zero_grad()
        return loss.detach().item()

    return update


def measured(variant: str, given: argparse.Namespace) -> dict[str, Any]:
    """What a child process prints: seconds of every timed update, and the peak in GiB."""
    import torch

    from benchmarks.shapes import machine
    from training.device import choose, peak_memory

    make, _, dtype = variant.partition("-")
    place = choose(given.device, dtype or "auto")
    update = (ours if make == "ours" else plain)(given.shape, given.px, given.batch, given.device, dtype or "auto")
    update(0)
    seconds, losses = [], []
    for step in range(1, given.steps + 1):
        began = time.perf_counter()
        losses.append(update(step))
        if place.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds, "losses": losses, "peak_gib": peak_memory(place.device), "dtype": place.precision, "machine": machine(place)}


def child(variant: str, given: argparse.Namespace) -> dict[str, Any]:
    argv = [sys.executable, "-m", "benchmarks.train_step", "--child", variant]
    argv += [text for name in ("shape", "px", "batch", "steps", "device") for text in (f"--{name}", str(getattr(given, name)))]
    ended = subprocess.run(argv, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).resolve().parents[1], check=False)
    if ended.returncode:
        raise SystemExit(f"{variant} ended with exit code {ended.returncode}.")
    return json.loads(ended.stdout.splitlines()[-1])


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """One row a variant; ratios are to ours."""
    middle = {v: statistics.median(s for run in runs for s in run["seconds"]) for v, runs in found.items()}
    peak = {v: max(run["peak_gib"] for run in runs) for v, runs in found.items()}
    first = next(iter(found))
    rows = [f"| variant | dtype | s/update (median) | fastest | peak GiB | time / {first} | memory / {first} |", "|---|---|---|---|---|---|---|"]
    for v, runs in found.items():
        fastest = min(s for run in runs for s in run["seconds"])
        ratios = f"{middle[v] / middle[first]:.2f} | {peak[v] / peak[first]:.2f}"
        rows.append(f"| {v} | {runs[0]['dtype']} | {middle[v]:.3f} | {fastest:.3f} | {peak[v]:.2f} | {ratios} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--px", type=int, default=256, help="side of the picture, px")
    parser.add_argument("--batch", type=int, default=1, help="pictures in an update")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each variant, interleaved")
    parser.add_argument("--steps", type=int, default=5, help="timed updates in each process")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS, help="the first is what the others are compared with")
    parser.add_argument("--shape", default="sd15", choices=("sd15", "tiny"), help="tiny: to try the benchmark itself")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--json", type=Path, help="also write every figure there")
    parser.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measured(given.child, given)))
        return
    found: dict[str, list[dict[str, Any]]] = {variant: [] for variant in given.variants}
    for number in range(given.rounds):
        for variant, runs in found.items():
            runs.append(child(variant, given))
            print(f"round {number + 1}, {variant}: {statistics.median(runs[-1]['seconds']):.3f} s/update", file=sys.stderr, flush=True)
    settings = {name: getattr(given, name) for name in ("shape", "px", "batch", "rounds", "steps")} | {"rank": RANK, "targets": TARGETS}
    print(json.dumps(settings | found[given.variants[0]][0]["machine"]) + "\n\n" + table(found))
    if given.json:
        given.json.write_text(json.dumps({"settings": settings, "variants": found}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
