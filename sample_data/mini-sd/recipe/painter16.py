"""Text encoder and UNet of the coming base, trained on prepared latents.

    python painter16.py --state FOLDER

goes on where it stopped; FOLDER/prepared holds what shards.py prepares (also meanwhile),
FOLDER/unet the state, a log, sheets and the averaged model as a pipeline. v-prediction with zero
terminal SNR, as the present base; `--set KEY=VALUE` tries another Plan, `--publish OUT` writes the
averaged model in float16, at most 40 MB.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

import begun
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from flat_files import FlatFiles
from long_training import LongTraining, Pace
from pace import mixed
from painter import BETAS, new_text_encoder, new_tokenizer, pipeline, publish
from PIL import Image
from shards import CAPTIONS, HELD, KINDS, SHAPE, prepared_in, tokens_of
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from training.modules.group_norm import use_fast_group_norm

LOOK_EVERY = 3600.0  # seconds between two looks at what is kept out
BINS = ((0, 250), (250, 500), (500, 750), (750, 1000))  # of noise, for the log
SHOWN = (
    "castle", "penguin", "hamburger", "rocket", "crown", "teapot", "cat", "tractor",
)  # fmt: skip
ROWS = (
    "a {}",
    "{}, noto style",
    "{}, outline style",
    "a {} on blue paper",
    "two {}s",
    "woodcut of a {}",
    "{}, oil painting, on yellow paper",
    "a small {} on grass, crayon drawing",
)


@dataclass(frozen=True)
class Plan:
    """What is trained and how.

    warm: from the present base's weights; high: levels of noise drawn by a square root, more of
    the high ones, where words decide; snr: the most that an error of the picture itself counts,
    much as min-SNR has it, no limit where 0; silent: share of empty captions, for guidance;
    ends, falls: the step it ends at, and the steps before over which the rate falls; halves: steps
    on latents of half the side (means over 2 x 2, of the noise too, so that a level is as hard to
    see through) and four times the pictures, before every step on whole ones.
    """

    widths: tuple[int, ...] = (96, 128, 224)
    layers: int = 1
    batch: int = 16
    rate: float = 8e-4
    method: str = "adamw"
    warm: bool = True
    high: bool = True
    snr: float = 0.0
    silent: float = 0.08
    horizon: float = 2000
    ends: int = 1 << 60
    falls: int = 1
    halves: int = 0


def new_unet(plan: Plan, width: int) -> UNet2DConditionModel:
    """Build the UNet; width: of the text states."""
    levels = len(plan.widths) - 1
    unet = UNet2DConditionModel(
        sample_size=SHAPE[1],
        in_channels=SHAPE[0],
        out_channels=SHAPE[0],
        block_out_channels=plan.widths,
        layers_per_block=plan.layers,
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=16,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * levels),
        up_block_types=(*("CrossAttnUpBlock2D",) * levels, "UpBlock2D"),
    )
    unet.set_attn_processor(AttnProcessor())  # on maps this small the fused kernel is slower
    return unet


@torch.no_grad()
def begun_from(former: Path, unet: nn.Module, text: nn.Module, tokenizer: CLIPTokenizer) -> None:
    """Copy a former base's weights where they fit.

    Its latent channels are the first of the new ones, its tokens are found by their letters.
    """
    old = UNet2DConditionModel.from_pretrained(former / "unet", torch_dtype=torch.float32)
    before, state = old.state_dict(), unet.state_dict()
    few = old.config["in_channels"]
    for key, value in before.items():
        if state[key].shape == value.shape:
            state[key].copy_(value)
        elif key == "conv_in.weight":
            state[key].mul_(0.3)
            state[key][:, :few] = value
        elif key.startswith("conv_out"):
            state[key].mul_(0.3)
            state[key][:few] = value
    old_text = CLIPTextModel.from_pretrained(former / "text_encoder", dtype=torch.float32)
    before, state = old_text.state_dict(), text.state_dict()
    known = CLIPTokenizer.from_pretrained(former / "tokenizer").get_vocab()
    for key, value in before.items():
        if key.endswith("token_embedding.weight"):
            for token, row in tokenizer.get_vocab().items():
                if token in known:
                    state[key][row] = value[known[token]]
        elif state[key].shape == value.shape:
            state[key].copy_(value)


class Painter:
    """The networks, their training, and what they learn from."""

    def __init__(self, state: Path, folder: Path, plan: Plan, device: str) -> None:
        torch.manual_seed(34)
        self.plan, self.device, self.state, self.folder = plan, device, state, folder
        self.tokenizer = new_tokenizer([], state / "tokenizer")
        self.text = new_text_encoder(self.tokenizer)
        if device == "cpu":  # captions this short are quicker without the fused kernel
            self.text.set_attn_implementation("eager")
        self.unet = new_unet(plan, self.text.config.hidden_size)
        if plan.warm:
            begun_from(begun.painter(), self.unet, self.text, self.tokenizer)
        self.text.to(device)
        self.unet.to(device, memory_format=torch.channels_last)
        use_fast_group_norm(self.unet)
        every = [*self.unet.parameters(), *self.text.parameters()]
        pace = Pace(plan.rate, horizon=plan.horizon, ends=plan.ends, falls=plan.falls)
        matrices = self.matrices() if plan.method == "muon" else ()
        self.training = LongTraining(every, folder, pace, matrices=matrices)
        self.alphas = DDPMScheduler(**BETAS).alphas_cumprod.to(device)
        self.nothing = tokens_of([""], self.tokenizer)[0].to(device)
        self.prepared = prepared_in(state)
        self.known = self.loaded(self.prepared)

    def matrices(self) -> list[nn.Parameter]:
        """Return what Muon moves: hidden weights, not the first and last layers or embeddings."""
        kinds = ("conv_in", "conv_out", "embed")
        named = (*self.unet.named_parameters(), *self.text.named_parameters())
        return [p for name, p in named if p.dim() > 1 and not any(k in name for k in kinds)]

    def loaded(self, prepared: FlatFiles) -> tuple[Tensor, Tensor]:
        """Return (latents, tokens): mapped from disk on a CPU, in memory on another device."""
        latents, tokens, _ = prepared.open()
        if self.device == "cpu":
            return torch.from_numpy(latents), torch.from_numpy(tokens)
        return tuple(torch.from_numpy(np.array(a)).to(self.device) for a in (latents, tokens))

    def batch(self, step: int, rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return (latents, tokens, levels, noise) of a step, out of the first `rows` pictures."""
        rng = torch.Generator().manual_seed(step)
        half = step % (self.plan.halves + 1) < self.plan.halves
        size = self.plan.batch * (4 if half else 1)
        picked = torch.randint(rows, (size,), generator=rng).to(self.device)
        phrase = torch.randint(CAPTIONS, (size,), generator=rng).to(self.device)
        silent = torch.rand(size, generator=rng).to(self.device) < self.plan.silent
        u = (torch.arange(size) + torch.rand(size, generator=rng)) / size  # stratified
        levels = (1000 * (u.sqrt() if self.plan.high else u)).long().clamp(max=999)
        latents, tokens = self.known
        x = latents[picked].float()
        words = torch.where(silent[:, None], self.nothing, tokens[picked, phrase].long())
        noise = torch.randn(x.shape, generator=rng).to(self.device)
        if half:
            x, noise = F.avg_pool2d(x, 2), F.avg_pool2d(noise, 2)
        return x, words, levels.to(self.device), noise

    def errors(self, x: Tensor, words: Tensor, levels: Tensor, noise: Tensor) -> Tensor:
        """Return the squared error of the predicted velocity of every picture."""
        a = self.alphas[levels].view(-1, 1, 1, 1)
        noisy = (a.sqrt() * x + (1 - a).sqrt() * noise).contiguous(
            memory_format=torch.channels_last
        )
        with torch.autocast(x.device.type, torch.bfloat16, enabled=mixed(self.device)):
            states = self.text(words)[0]
            predicted = self.unet(noisy, levels, states).sample
        wanted = a.sqrt() * noise - (1 - a).sqrt() * x
        return (predicted.float() - wanted).square().mean((1, 2, 3))

    def loss_of(self, step: int) -> Tensor:
        """Return the loss of a step."""
        x, words, levels, noise = self.batch(step, self.training.notes["pictures"])
        errors = self.errors(x, words, levels, noise)
        if self.plan.snr:
            snr = self.alphas[levels] / (1 - self.alphas[levels])
            errors = errors * (snr + 1).clamp(max=self.plan.snr) / (snr + 1)
        return errors.mean()

    @torch.no_grad()
    def held_out(self) -> str:
        """Return the errors on pictures that are never learnt, by kind and by level of noise."""
        latents, tokens, known = prepared_in(self.state, HELD).open()
        kinds = torch.from_numpy(np.array(known[:, -1]))
        rng = torch.Generator().manual_seed(1)
        rows = torch.arange(len(kinds))
        levels = ((rows * 61) % 100 * 10 + 5).to(self.device)
        noise = torch.randn((len(rows), *SHAPE), generator=rng)
        x, words = (
            torch.from_numpy(np.array(latents)).float(),
            torch.from_numpy(tokens[:, 0].copy()),
        )
        errors = torch.cat(
            [
                self.errors(*(a[part].to(self.device) for a in (x, words.long())),
                            levels[part], noise[part].to(self.device)).cpu()
                for part in rows.split(64)
            ]
        )  # fmt: skip
        said = [f"{name} {errors[kinds == k].mean():.4f}" for k, name in enumerate(KINDS)]
        levels = levels.cpu()
        for low, high in BINS:
            said.append(f"{low}+ {errors[(levels >= low) & (levels < high)].mean():.4f}")
        return f"all {errors.mean():.4f}  " + "  ".join(said)

    @torch.no_grad()
    def look(self) -> None:
        """Print the figures, keep the averaged model and draw a sheet, one noise a column."""
        print(f"step {self.training.step}  held out: {self.held_out()}", flush=True)
        refined = self.state / "decoder" / "model"
        vae = AutoencoderKL.from_pretrained(
            refined if refined.exists() else begun.autoencoder(self.state),
            torch_dtype=torch.float32,
        ).to(self.device)
        pipe = pipeline(vae, self.text, self.tokenizer, self.unet)
        pipe.save_pretrained(self.folder / "model")
        rows = []
        for form in ROWS:
            noise = [torch.Generator().manual_seed(n) for n in range(len(SHOWN))]
            with torch.autocast(self.device, torch.bfloat16, enabled=mixed(self.device)):
                rows.append(
                    pipe(
                        [form.format(name) for name in SHOWN],
                        num_inference_steps=20,
                        guidance_scale=4.0,
                        generator=noise,
                    ).images
                )
        tiles = np.concatenate([np.concatenate([np.asarray(p) for p in r], 1) for r in rows])
        Image.fromarray(tiles).save(self.folder / f"step-{self.training.step:07}.png")

    def run(self, *, seconds: float, look_every: float) -> None:
        """Train until the time is over or a polite signal comes."""
        training = self.training
        training.resume()
        # How many pictures there are is part of the state: a step made again finds the same
        training.notes.setdefault("pictures", len(self.prepared))
        looked = time.monotonic()

        def kept() -> None:
            nonlocal looked
            if len(self.prepared) > len(self.known[0]):
                self.known = self.loaded(self.prepared)
            training.notes["pictures"] = len(self.known[0])
            if not training.stopping and time.monotonic() > looked + look_every:
                looked = time.monotonic()
                training.with_averaged(self.look)

        training.run(self.loss_of, seconds=seconds, steps=self.plan.ends, kept=kept)
        if not training.stopping:
            training.with_averaged(self.look)


def planned(plan: Plan, settings: list[str]) -> Plan:
    """Return the plan with KEY=VALUE settings over it."""
    for text in settings:
        key, _, value = text.partition("=")
        if key not in {f.name for f in fields(Plan)}:
            raise SystemExit(f"{key!r} is no setting of the plan.")
        kind = type(getattr(plan, key))
        if kind is bool:
            read: object = value == "yes"
        elif kind is tuple:
            read = tuple(int(v) for v in value.split(","))
        else:
            read = kind(value)
        plan = replace(plan, **{key: read})
    return plan


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--state", type=Path, default=Path("work/mini"))
    parser.add_argument("--name", default="unet", help="folder of the training in --state")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--look", type=float, default=LOOK_EVERY, help="seconds between two looks")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the plan")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--publish", type=Path, metavar="OUT", help="write the base, stop")
    args = parser.parse_args()
    if args.publish:
        return publish(args.state / args.name / "model", args.publish)
    plan = planned(Plan(), args.set)
    painter = Painter(args.state, args.state / args.name, plan, args.device)
    painter.run(seconds=args.minutes * 60, look_every=args.look)


if __name__ == "__main__":
    main()
