"""Seconds per update and peak memory of training a LoRA: ours against the plain way, on full-size
networks with random weights.

    python -m benchmarks.train_step [--cases sd15@256 sd15@512+text sdxl@1024+checkpointing ...]
    [--rounds 3] [--steps 5] [--json FILE]

A case is SHAPE@PX, with +text where the text encoders learn as well and +checkpointing where
activations are computed again in the backward (ours: of the transformer blocks; +everything: of all
blocks, as the plain loop does); +blocks or +whole: our passes are compiled (optim.compile), the
plain loop's are not.

ours            the step of training/trainer/trainer.py: cached latents, fused adapters with float32
masters, frozen base in the machine's best dtype
                (bfloat16 where it has units for it) and channels_last, attention chosen by shape,
                quick group norm, flat AdamW
ours-float32    the same with a float32 base
plain-bfloat16  the loop of diffusers' train_dreambooth_lora.py with --mixed_precision bf16:
add_adapter, everything contiguous and in
                bfloat16 under autocast, the VAE at every update, AdamW over the adapters,
                loss.item()
plain-float32   the same in float32, its default

Rank, targets, picture and timesteps are the same in all; frozen text encoders have answered before.
Every variant runs in a process of its own, so that its peak is its own; rounds are interleaved, so
that a warm or busy machine is so for all. The first update of a process is not
timed: it counts the operations. Peak: resident set of the process on a CPU, memory reserved by
torch on a GPU. "Of the peak": operations a second over those of a product of two 2048 x 2048
matrices in the same precision, measured in the same process. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RANK, LEARNING_RATE, CLIP = 16, 1e-4, 1.0
TARGETS, TEXT_TARGETS = ("attention", "feed_forward", "projections"), ("attention", "feed_forward")
VARIANTS = ("ours", "plain-bfloat16", "plain-float32", "ours-float32")
CAPTION = "an icon of a red apple"
Update = Callable[[int], float]  # number of the update -> its loss


@dataclass(frozen=True)
class Case:
    """What is trained. shape: of benchmarks.shapes; px: side of the picture."""

    name: str
    shape: str
    px: int
    text: bool
    checkpointing: bool
    compiled: str  # off, blocks or whole


def case(name: str) -> Case:
    found = re.fullmatch(
        r"(sd15|sd21|sdxl|tiny)@(\d+)((?:\+(?:text|checkpointing|everything|blocks|whole))*)", name
    )
    if not found:
        raise argparse.ArgumentTypeError(
            f"{name!r}: SHAPE@PX was expected, then +text, +checkpointing, +blocks or +whole, "
            "for instance sd15@512+text"
        )
    compiled = next((how for how in ("blocks", "whole") if f"+{how}" in found[3]), "off")
    checkpointing = "+checkpointing" in found[3] or "+everything" in found[3]
    return Case(name, found[1], int(found[2]), "+text" in found[3], checkpointing, compiled)


def ours(request: Case, batch: int, device: str, dtype: str) -> Update:
    """training/trainer without buckets and files."""
    import numpy as np
    import torch

    from benchmarks.shapes import parts as random_parts
    from training.adapters.lora_layers import attach, chosen_modules, set_gradient_checkpointing
    from training.models import objective
    from training.modules.attention import choose_attention
    from training.modules.compile import begin_pass, compile_passes
    from training.runtime.device import DeviceSpec, choose, has_own_memory, sent
    from training.runtime.memory import give_back
    from training.runtime.rng import drawn
    from training.trainer.latents import Latents
    from training.trainer.optimizer import Group, Optimiser

    place = choose(device, dtype)
    # each network comes when it is needed
    beside = DeviceSpec(torch.device("cpu"), place.dtype) if has_own_memory(place.device) else place
    parts, latents = random_parts(request.shape, beside), Latents()
    family, networks = parts.family, parts.networks
    networks["vae"].to(place.device)
    latents.add(
        "picture",
        np.random.default_rng(0).integers(0, 255, (request.px, request.px, 3), np.uint8),
        parts,
    )
    del networks["vae"]
    for part in family.text_encoders:
        networks[part].to(place.device)
    with torch.no_grad():
        kept = None if request.text else family.encode_text(parts, [CAPTION] * batch)
    if not request.text:
        for part in family.text_encoders:
            del networks[part]
    give_back(place.device)
    parts.denoiser.to(place.device)
    choose_attention(parts.denoiser)
    groups = {}
    for part in (family.denoiser, *(family.text_encoders if request.text else ())):
        table, targets = (
            (family.groups, TARGETS)
            if part == family.denoiser
            else (family.text_groups, TEXT_TARGETS)
        )
        found = attach(
            networks[part],
            chosen_modules(networks[part], table, targets),
            rank=RANK,
            alpha=RANK,
            seed=0,
        )
        groups[part] = Group([p for pair in found.values() for p in pair], LEARNING_RATE)
    optimiser = Optimiser(groups, weight_decay=0.01, clip=CLIP, ema=0.0)
    if "+everything" in request.name:
        parts.denoiser.enable_gradient_checkpointing()
    else:
        set_gradient_checkpointing(parts.denoiser, request.checkpointing)
    compile_passes(parts.denoiser, request.compiled)
    chance: dict[str, Any] = {
        "shape": latents.shape("picture"),
        "flip": False,
        "caption_dropout": 0.0,
        "noise_offset": 0.0,
    }
    ahead: dict[int, tuple[torch.Tensor, ...]] = {}

    def batches(step: int) -> tuple[torch.Tensor, ...]:
        draws = [drawn(0, step, row, **chance) for row in range(batch)]
        x0, noise = (
            torch.stack([latents.sample("picture", d.latent_noise) for d in draws]),
            torch.stack([d.noise for d in draws]),
        )
        table = parts.objective
        t = table.levels([table.level(d.u) for d in draws])
        noisy = table.noised(x0, noise, t).to(place.dtype, memory_format=parts.memory_format)
        wanted = table.target(x0, noise, t)
        return tuple(
            sent(x, place.device)
            for x in (
                noisy,
                t,
                wanted,
                table.weights(t, 5.0),
            )
        )

    def update(step: int) -> float:
        noisy, t, wanted, weights = ahead.pop(step, None) or batches(step)
        words = kept if kept is not None else family.encode_text(parts, [CAPTION] * batch)
        begin_pass(parts.denoiser)
        loss = objective.weighted_loss(
            family.predict(parts, noisy, t, words), wanted, weights, rows=batch
        )
        loss.backward()
        ahead[step + 1] = batches(step + 1)
        norm = optimiser.norm()
        value, _ = torch.stack([loss.detach(), norm]).tolist()
        optimiser.update(norm, 1.0)
        return value

    return update


def plain(request: Case, batch: int, device: str, dtype: str) -> Update:
    """The loop of diffusers 0.42's examples/dreambooth/train_dreambooth_lora.py and its XL sister,
    one process.
    """
    import torch
    import torch.nn.functional as F
    from diffusers import DDPMScheduler
    from peft import LoraConfig

    from benchmarks import shapes
    from training.adapters.lora_layers import chosen_modules
    from training.models.family import CLIP_GROUPS, UNET_GROUPS
    from training.runtime.device import choose

    place, family = choose(device, dtype), shapes.FAMILIES[request.shape]
    unet, vae = (shapes.network(request.shape, part, place) for part in ("unet", "vae"))
    encoders, tokenizer = (
        [shapes.network(request.shape, part, place) for part in family.text_encoders],
        shapes.tokenizer(),
    )
    scheduler = DDPMScheduler.from_config(shapes.scheduler(request.shape).config)
    adapted = [(unet, chosen_modules(unet, UNET_GROUPS, TARGETS))]
    adapted += [
        (encoder, chosen_modules(encoder, CLIP_GROUPS, TEXT_TARGETS))
        for encoder in (encoders if request.text else ())
    ]
    for network, modules in adapted:
        network.add_adapter(
            LoraConfig(
                r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=modules
            )
        )
        network.train()
    if request.checkpointing:
        unet.enable_gradient_checkpointing()
    trained = [p for network, _ in adapted for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.01)
    pixels = (
        torch.rand(
            (batch, 3, request.px, request.px), generator=torch.Generator().manual_seed(0)
        ).to(place.device)
        * 2
        - 1
    )
    ids = tokenizer(
        [CAPTION] * batch,
        padding="max_length",
        truncation=True,
        max_length=shapes.TOKENS,
        return_tensors="pt",
    ).input_ids.to(place.device)

    def mixed():
        return torch.autocast(place.device.type, place.dtype, enabled=place.dtype != torch.float32)

    def said_by(encoders: list[Any]) -> tuple[Any, dict[str, Any]]:
        if len(encoders) == 1:
            return encoders[0](ids)[0], {}
        found = [encoder(ids, output_hidden_states=True) for encoder in encoders]
        sizes = torch.tensor(
            [[request.px, request.px, 0, 0, request.px, request.px]] * batch,
            device=place.device,
            dtype=place.dtype,
        )
        return torch.cat([f.hidden_states[-2] for f in found], -1), {
            "added_cond_kwargs": {"text_embeds": found[-1].text_embeds, "time_ids": sizes}
        }

    with torch.no_grad():
        kept = None if request.text else said_by(encoders)
    if not request.text:
        encoders.clear()

    def update(step: int) -> float:
        with torch.no_grad():
            x0 = vae.encode(pixels.to(place.dtype)).latent_dist.sample() * vae.config.scaling_factor
        noise = torch.randn_like(x0)
        t = torch.randint(0, 1000, (batch,), device=place.device)
        with mixed():
            words, beside = kept or said_by(encoders)
            said = unet(scheduler.add_noise(x0, noise, t), t, words, return_dict=False, **beside)[0]
        wanted = (
            noise
            if scheduler.config.prediction_type == "epsilon"
            else scheduler.get_velocity(x0, noise, t)
        )
        loss = F.mse_loss(said.float(), wanted.float(), reduction="mean")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimiser.step()
        optimiser.zero_grad()
        return loss.detach().item()

    return update


def matmul_peak(place: Any) -> float:
    """Operations a second of a 2048 x 2048 product, the best of ten."""
    import torch

    a = torch.randn((2048, 2048), device=place.device).to(place.dtype)
    best = 0.0
    for _ in range(10):
        began = time.perf_counter()
        b = a @ a
        b[0, 0].item()  # waits for the device
        best = max(best, 2 * 2048**3 / (time.perf_counter() - began))
    return best


def measured(variant: str, request: Case, given: argparse.Namespace) -> dict[str, Any]:
    """What a child process prints:

    seconds of every timed update, the peak in GiB, operations of an update and what the device
    could do.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.shapes import machine
    from training.runtime.device import choose, peak_memory

    make, _, dtype = variant.partition("-")
    place = choose(given.device, dtype or "auto")
    update = (ours if make == "ours" else plain)(
        request, given.batch, given.device, dtype or "auto"
    )
    with (
        FlopCounterMode(display=False) as counter,
        torch.compiler.set_stance("force_eager") if request.compiled != "off" else nullcontext(),
    ):
        update(0)
    if request.compiled != "off":
        for _ in range(3):  # compiles, warms up, and captures
            update(0)
    seconds, losses = [], []
    for step in range(1, given.steps + 1):
        began = time.perf_counter()
        losses.append(update(step))
        if place.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    result = {
        "seconds": seconds,
        "losses": losses,
        "peak_gib": peak_memory(place.device),
        "dtype": place.precision,
        "machine": machine(place),
    }
    return result | {"operations": counter.get_total_flops(), "matmul": matmul_peak(place)}


def child(variant: str, request: Case, given: argparse.Namespace) -> dict[str, Any]:
    argv = [
        sys.executable,
        "-m",
        "benchmarks.train_step",
        "--child",
        variant,
        "--cases",
        request.name,
    ]
    argv += [
        text
        for name in ("batch", "steps", "device")
        for text in (f"--{name}", str(getattr(given, name)))
    ]
    ended = subprocess.run(
        argv,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
        check=False,
    )
    if ended.returncode:
        raise SystemExit(f"{variant} ended with exit code {ended.returncode}.")
    return json.loads(ended.stdout.splitlines()[-1])


def table(found: dict[str, dict[str, list[dict[str, Any]]]], batch: int) -> str:
    """One row a case and variant; ratios are to the case's first variant."""
    first = next(iter(next(iter(found.values()))))
    heads = [
        "case",
        "variant",
        "dtype",
        "s/update (median)",
        "fastest",
        "pictures/s",
        "peak GiB",
        "of the peak",
    ]
    rows = [f"| {' | '.join(heads)} | time / {first} | memory / {first} |", "|---" * 10 + "|"]
    for name, variants in found.items():
        middle = {
            v: statistics.median(s for run in runs for s in run["seconds"])
            for v, runs in variants.items()
        }
        peak = {v: max(run["peak_gib"] for run in runs) for v, runs in variants.items()}
        for v, runs in variants.items():
            fastest = min(s for run in runs for s in run["seconds"])
            share = runs[0]["operations"] / middle[v] / max(run["matmul"] for run in runs)
            cells = (
                f"{middle[v]:.3f} | {fastest:.3f} | {batch / middle[v]:.2f} | {peak[v]:.2f} "
                f"| {share:.0%}"
            )
            rows.append(
                f"| {name} | {v} | {runs[0]['dtype']} | {cells} | "
                f"{middle[v] / middle[first]:.2f} | {peak[v] / peak[first]:.2f} |"
            )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cases",
        nargs="+",
        type=case,
        default=[case("sd15@256")],
        help="SHAPE@PX[+text][+checkpointing][+blocks|+whole]; shapes: sd15, sd21, sdxl",
    )
    parser.add_argument("--batch", type=int, default=1, help="pictures in an update")
    parser.add_argument(
        "--rounds", type=int, default=3, help="processes of each variant, interleaved"
    )
    parser.add_argument("--steps", type=int, default=5, help="timed updates in each process")
    parser.add_argument(
        "--variants",
        nargs="+",
        default=list(VARIANTS),
        choices=VARIANTS,
        help="the first is what the others are compared with",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--json", type=Path, help="also write every figure there")
    parser.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measured(given.child, given.cases[0], given)))
        return
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for request in given.cases:
        found[request.name] = {variant: [] for variant in given.variants}
        for number in range(given.rounds):
            for variant, runs in found[request.name].items():
                runs.append(child(variant, request, given))
                print(
                    f"{request.name}, round {number + 1}, {variant}: "
                    f"{statistics.median(runs[-1]['seconds']):.3f} s/update",
                    file=sys.stderr,
                    flush=True,
                )
    settings = {name: getattr(given, name) for name in ("batch", "rounds", "steps")} | {
        "rank": RANK,
        "targets": TARGETS,
    }
    about = found[given.cases[0].name][given.variants[0]][0]["machine"]
    print(json.dumps(settings | about) + "\n\n" + table(found, given.batch))
    if given.json:
        given.json.write_text(
            json.dumps({"settings": settings, "cases": found}, indent=1), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
