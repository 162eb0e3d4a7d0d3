"""The autoencoder of the coming base: 128 px pictures to 16 channels of 16 x 16 latents and back.

    python sample_data/mini-sd/recipe/autoencoder16.py --state FOLDER --minutes 100

goes on where it stopped; FOLDER/pool holds the pictures (pool.py draws them, also meanwhile),
FOLDER/vae the state, a log and a sheet. Starts from `begun/autoencoder`, where that is there, else
from the present base's autoencoder.

    autoencoder16.py --state FOLDER --freeze

writes its averaged copy, latents scaled to unit variance a channel, to FOLDER/frozen/vae: what
shards.py encodes with. Done again later, shards must be made again.

    autoencoder16.py --state FOLDER --refine

trains the decoder alone from there on, in FOLDER/decoder: latents stay what they are.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import begun
import numpy as np
import pool
import reconstruction
import strokes
import torch
import torch.nn.functional as F
from autoencoder import encoded, normalised
from diffusers import AutoencoderKL
from long_training import LongTraining, Pace
from pace import mixed
from torch import Tensor

from training.modules.group_norm import use_fast_group_norm

HERE = Path(__file__).resolve().parent
CHANNELS = 16
COARSE = 0.3  # of a channel's variance in means over 4 x 4 places, that it is not called fine
FINE = 1 / 3  # deviation of fine channels
SIDE = 128  # px; on crops of 64 group normalisation learns other borders: whole pictures came back
# with every flat colour 4 of 255 towards grey
BATCH = 4  # pictures
KL_WEIGHT = 1e-6
LATENT_NOISE = 0.06  # of a channel's deviation, at most: what a UNet draws is never exact
RULED = 0.1  # share of pictures that are fine hard lines on a flat ground
LOOK_EVERY = 3600.0  # seconds between two looks at the pictures that are kept out


def widened(old: AutoencoderKL, channels: int = CHANNELS) -> AutoencoderKL:
    """Return an autoencoder with more latent channels that does at first what the old one does."""
    config = dict(old.config) | {"latent_channels": channels, "force_upcast": False}
    torch.manual_seed(16)
    new = AutoencoderKL.from_config({k: v for k, v in config.items() if k[0] != "_"})
    before, state = old.state_dict(), new.state_dict()
    few = old.config["latent_channels"]
    for key, value in before.items():
        if state[key].shape == value.shape:
            state[key].copy_(value)
        elif key.startswith(("encoder.conv_out", "quant_conv")):
            # Rows: means, then logarithms of variances; the new means start small
            state[key].mul_(0.3)
            columns = slice(None)
            if key == "quant_conv.weight":
                state[key].zero_()
                state[key][:channels, :channels, 0, 0] = torch.eye(channels)
                state[key][channels:, channels:, 0, 0] = torch.eye(channels)
                for o in (0, 1):
                    for i in (0, 1):
                        block = value[o * few : (o + 1) * few, i * few : (i + 1) * few]
                        at = (o * channels, i * channels)
                        state[key][at[0] : at[0] + few, at[1] : at[1] + few] = block
            else:
                for half in (0, 1):
                    rows = slice(half * channels, half * channels + few)
                    state[key][rows] = value[half * few : (half + 1) * few][..., columns]
                    if key.endswith("bias"):
                        state[key][half * channels + few : (half + 1) * channels] = -6.0 * half
        elif key.startswith("post_quant_conv"):
            state[key].zero_()
            if key.endswith("weight"):
                state[key][:, :, 0, 0] = torch.eye(channels)
                state[key][:few, :few] = value
            else:
                state[key][:few] = value
        else:  # decoder.conv_in.weight
            state[key].mul_(0.3)
            state[key][:, :few] = value
    new.load_state_dict(state)
    return new


def _one(folder: Path, shards: int, rng: np.random.Generator) -> np.ndarray:
    """Return a picture of a shard, or four of them at half their size, float [SIDE, SIDE, 3]."""
    number = int(rng.integers(shards))
    pictures = np.load(pool.path_of(folder, number), mmap_mode="r")
    if rng.random() < 0.75:
        return pictures[int(rng.integers(len(pictures)))].astype(np.float32)
    four = pictures[np.sort(rng.integers(len(pictures), size=4))].astype(np.float32)
    half = four.reshape(2, 2, SIDE // 2, 2, SIDE // 2, 2, 3).mean((3, 5))
    return half.transpose(0, 2, 1, 3, 4).reshape(SIDE, SIDE, 3)


def batch(folder: Path, shards: int, step: int) -> Tensor:
    """Return the pictures of a step, [BATCH, 3, SIDE, SIDE] in [-1, 1]: some mirrored, some with
    colours exchanged, inverted or scaled towards grey; some are ruled lines.
    """
    rng = np.random.default_rng([16, step])
    found = []
    for _ in range(BATCH):
        picture = _one(folder, shards, rng) / 127.5 - 1
        chance = rng.random()
        if chance < 0.2:
            picture = picture[..., rng.permutation(3)]
        elif chance < 0.3:
            picture = -picture
        elif chance < 0.4:
            grey = picture.mean(-1, keepdims=True)
            picture = grey + (picture - grey) * rng.random()
        if rng.random() < 0.5:
            picture = picture[:, ::-1]
        if rng.random() < RULED:
            picture = strokes.ruled(rng, SIDE) * 2 - 1
        found.append(picture)
    x = torch.from_numpy(np.stack(found).astype(np.float32)).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


def _edges(x: Tensor) -> Tensor:
    across, down = x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]
    return across.abs().mean() + down.abs().mean()


def loss_of(vae: AutoencoderKL, x: Tensor, step: int) -> Tensor:
    """L1 + L2 + L1 of edges at three sizes (lines, grain) + L1 of 8 px means (colours) + KL.

    The decoder sees latents with a little noise: with none, channels of 1/100 of the others'
    deviation carried what no UNet can draw so exactly.
    """
    noise = torch.Generator().manual_seed(step)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=mixed(x.device.type)):
        posterior = vae.encode(x).latent_dist
        mean, deviation = posterior.mean.float(), posterior.std.float()
        spread = mean.std((0, 2, 3), keepdim=True)
        amount = torch.rand((len(x), 1, 1, 1), generator=noise) * LATENT_NOISE
        drawn = torch.randn(mean.shape, generator=noise).to(x.device)
        z = mean + (deviation.square() + (amount.to(x.device) * spread).square()).sqrt() * drawn
        y = vae.decode(z).sample
    error = y.float() - x
    edges = error.new_zeros(())
    smaller = error
    for weight in (0.5, 0.25, 0.25):
        edges = edges + weight * _edges(smaller)
        smaller = F.avg_pool2d(smaller, 2)
    colour = smaller.abs().mean()
    variance = deviation.square()
    kl = 0.5 * (mean.square() + variance - 1 - variance.clamp(min=1e-12).log()).mean()
    return error.abs().mean() + 6 * error.square().mean() + edges + 2 * colour + KL_WEIGHT * kl


@torch.no_grad()
def look(vae: AutoencoderKL, folder: Path, drawn: Path, step: int) -> None:
    """Print the figures of what is kept out and draw some of it beside what comes back."""
    print(f"step {step}  {reconstruction.figures(vae, drawn)}", flush=True)
    reconstruction.sheet(vae).save(folder / "sheet.png")


def started(state: Path, device: str, *, refine: bool) -> tuple[AutoencoderKL, Path]:
    """Return the autoencoder to train, as it is before the first step, and its folder."""
    begins = begun.unfinished_autoencoder()
    former = begun.autoencoder(state) if refine else begins or HERE.parent / "vae"
    vae = AutoencoderKL.from_pretrained(former, torch_dtype=torch.float32)
    if refine:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    elif not begins:
        vae = widened(vae)
    vae = vae.to(device, memory_format=torch.channels_last)
    use_fast_group_norm(vae)
    return vae, state / ("decoder" if refine else "vae")


def coarse_share(latents: Tensor) -> Tensor:
    """Return by channel how much of the variance of [N, C, H, W] is in means over 4 x 4 places;
    white noise has 1/16.
    """
    means = F.avg_pool2d(latents, 4)
    return means.var((0, 2, 3)) / latents.var((0, 2, 3))


def freeze(vae: AutoencoderKL, state: Path) -> None:
    """Write the autoencoder with every latent channel scaled to mean 0 and a deviation of 1, or of
    FINE where the channel holds detail that is much like noise: of equal weight in the loss, it
    would hide the rest from the UNet.
    """
    shards = range(0, pool.drawn_so_far(state / "pool"), 5)
    drawn = [np.load(pool.path_of(state / "pool", n), mmap_mode="r")[:50] for n in shards]
    pictures = torch.from_numpy(np.concatenate(drawn)).permute(0, 3, 1, 2)
    coarse = coarse_share(encoded(vae, pictures))
    print("variance in means over 4 x 4 places:", [round(v, 2) for v in coarse.tolist()])
    normalised(vae, pictures, torch.where(coarse < COARSE, FINE, 1.0))
    vae.save_pretrained(state / "frozen" / "vae")


def publish(vae: AutoencoderKL, out: Path) -> None:
    """Write the autoencoder in float16 where a later training begins with it."""
    copy.deepcopy(vae).half().save_pretrained(out / "autoencoder")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--state", type=Path, default=Path("work/mini"))
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--steps", type=int, default=1 << 60)
    parser.add_argument("--falls", type=int, default=1, help="last of --steps: the rate falls")
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--freeze", action="store_true", help="write FOLDER/frozen/vae and stop")
    parser.add_argument("--publish", type=Path, metavar="BEGUN", help="write it there and stop")
    parser.add_argument("--refine", action="store_true", help="train its decoder alone")
    args = parser.parse_args()
    pictures = args.state / "pool"
    vae, folder = started(args.state, args.device, refine=args.refine)
    folder.mkdir(parents=True, exist_ok=True)
    training = LongTraining(
        vae.parameters(), folder, Pace(args.rate, ends=args.steps, falls=args.falls)
    )
    resumed = training.resume()
    if args.freeze:
        return training.with_averaged(lambda: freeze(vae, args.state))
    if args.publish:
        return training.with_averaged(lambda: publish(vae, args.publish))
    if not resumed:
        look(vae, folder, args.state / "pool", 0)
    # How many shards there are is part of the state: a step that is made again finds the same ones
    training.notes.setdefault("shards", pool.drawn_so_far(pictures))
    looked = time.monotonic()

    def kept() -> None:
        nonlocal looked
        training.notes["shards"] = pool.drawn_so_far(pictures)
        if not training.stopping and time.monotonic() > looked + LOOK_EVERY:
            looked = time.monotonic()
            training.with_averaged(lambda: look(vae, folder, pictures, training.step))

    training.run(
        lambda step: loss_of(
            vae, batch(pictures, training.notes["shards"], step).to(args.device), step
        ),
        seconds=args.minutes * 60,
        steps=args.steps,
        kept=kept,
    )
    training.with_averaged(lambda: vae.save_pretrained(folder / "model"))
    if not training.stopping:
        training.with_averaged(lambda: look(vae, folder, pictures, training.step))


if __name__ == "__main__":
    main()
