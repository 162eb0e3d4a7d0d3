"""The training that both stages share: flat weights, AdamW, an averaged copy, streams side by side,
state on disk.

On a CPU two single-threaded streams with averaged gradients beat two threads in one step: threads
wait for each other at every operation, streams once a step. Knows nothing of pictures or networks.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.runtime.device import has_bfloat16_units

WARM_UP = 200  # steps
AVERAGE_EVERY = 4  # steps between moves of the averaged copy
DECAY = 0.25  # the last share of a stage, in which the learning rate falls to nothing


def mixed(device: str) -> bool:
    """Whether bfloat16 is quicker than float32 there."""
    return device != "cpu" or has_bfloat16_units()


def flattened(parameters: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
    """Move every parameter (and its gradient) into one flat buffer each; convolutions keep the
    channels-last layout.
    """
    total = sum(p.numel() for p in parameters)
    flat = torch.empty(total, device=parameters[0].device)
    grad = torch.zeros_like(flat)
    at = 0
    for p in parameters:
        for buffer, name in ((flat, "data"), (grad, "grad")):
            view = buffer[at : at + p.numel()]
            if p.dim() == 4:
                out, inside, height, width = p.shape
                view = view.view(out, height, width, inside).permute(0, 3, 1, 2)
            else:
                view = view.view(p.shape)
            if name == "data":
                view.copy_(p.data)
            setattr(p, name, view)
        at += p.numel()
    return flat, grad


class Stage:
    """One resumable training: `for step in stage: loss.backward(); stage.update(loss)`."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        folder: Path,
        *,
        steps: int,
        lr: float,
        average: float,
        decay: float = DECAY,
    ) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.flat, self.grad = flattened(self.parameters)
        self.moments = (torch.zeros_like(self.flat), torch.zeros_like(self.flat))
        whole = nn.Parameter(self.flat)  # shares the memory
        whole.grad = self.grad
        self.adamw = torch.optim.AdamW([whole], betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self.averaged = self.flat.clone()
        self.folder, self.steps, self.lr, self.horizon, self.decay = (
            folder,
            steps,
            lr,
            average,
            decay,
        )
        self.step = 0
        self.rank, self.streams = (
            (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        )
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "state.json").exists():
            self.load()
        if self.streams > 1:
            dist.broadcast(self.flat, 0)
            dist.broadcast(self.averaged, 0)
        state = {
            "step": torch.tensor(float(self.step)),
            "exp_avg": self.moments[0],
            "exp_avg_sq": self.moments[1],
        }
        self.adamw.state[whole] = state

    def learning_rate(self) -> float:
        """Warm up, hold, then fall as one minus the square root (Hägele et al.

        2024, arXiv 2405.18392).
        """
        left = (self.steps - self.step) / (self.decay * self.steps)
        return (
            self.lr
            * min(1.0, (self.step + 1) / WARM_UP)
            * (1 - math.sqrt(1 - min(1.0, max(left, 0.0))))
        )

    @torch.no_grad()
    def update(self) -> None:
        """One AdamW update (betas 0.9, 0.99; clipped at norm 1) from the streams' mean gradient;
        then the average moves.
        """
        if self.streams > 1:
            sent = self.grad.bfloat16()
            dist.all_reduce(sent)
            self.grad.copy_(sent).div_(self.streams)
        norm = self.grad.norm()
        if torch.isfinite(norm):
            self.grad.mul_((1 / (norm + 1e-6)).clamp(max=1.0))
            self.adamw.param_groups[0]["lr"] = self.learning_rate()
            self.adamw.step()
        self.grad.zero_()
        self.step += 1
        if self.step % AVERAGE_EVERY == 0:
            self.averaged.lerp_(
                self.flat, min(1.0, AVERAGE_EVERY * max(1 / self.horizon, 3 / self.step))
            )

    def swap(self) -> None:
        """Exchange the raw and the averaged weights in place; call twice to come back."""
        raw = self.flat.clone()
        self.flat.copy_(self.averaged)
        self.averaged.copy_(raw)

    def run(
        self,
        loss_of: Callable[[torch.Generator], Tensor],
        *,
        every: float,
        keep: Callable[[], None],
    ) -> None:
        """Train to the last step; every so many seconds write the state and call keep() with the
        averaged weights in place.
        """
        began = last = time.time()
        first = self.step
        while self.step < self.steps:
            rng = torch.Generator().manual_seed(self.step * 64 + self.rank)
            loss = loss_of(rng)
            loss.backward()
            self.update()
            done = self.step == self.steps
            if self.rank == 0 and (self.step % 50 == 0 or done):
                pace = (time.time() - began) / (self.step - first)
                print(
                    f"{self.step}/{self.steps} loss {loss.item():.4f} {pace:.2f} s/step, "
                    f"{pace * (self.steps - self.step) / 60:.0f} min left",
                    flush=True,
                )
            if self.rank == 0 and (time.time() - last > every or done):
                self.save()
                self.swap()
                keep()
                self.swap()
                last = time.time()
        if self.streams > 1:
            dist.barrier()

    def save(self) -> None:
        tensors = {
            "flat": self.flat,
            "averaged": self.averaged,
            "first": self.moments[0],
            "second": self.moments[1],
        }
        save_file(tensors, self.folder / "state.tmp")
        (self.folder / "state.tmp").replace(self.folder / "state.safetensors")
        (self.folder / "state.json").write_text(json.dumps({"step": self.step}))

    def load(self) -> None:
        state = load_file(self.folder / "state.safetensors", device=str(self.flat.device))
        self.flat.copy_(state["flat"])
        self.averaged.copy_(state["averaged"])
        for moment, name in zip(self.moments, ("first", "second"), strict=True):
            moment.copy_(state[name])
        self.step = json.loads((self.folder / "state.json").read_text())["step"]
