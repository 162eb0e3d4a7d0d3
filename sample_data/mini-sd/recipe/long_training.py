"""A training that is stopped and gone on with at any moment, exact to the step.

One flat AdamW over every weight, or Muon for the matrices named, an averaged copy, everything on
disk. The pictures of a step are chosen by its number alone, so a training that was stopped draws
what one that was not would have.
Knows nothing of pictures or networks.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import muon
import torch
from pace import flattened
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


@dataclass(frozen=True)
class Pace:
    """How a training goes. rate: of learning, reached after warm_up steps and then kept, but over
    the last `falls` steps before step `ends` it falls to nothing, as one minus the square root
    (Hägele et al. 2024, arXiv 2405.18392); horizon: steps over which the averaged copy averages;
    clip: of the gradient's norm.
    """

    rate: float
    horizon: float = 1000
    warm_up: int = 200
    clip: float = 1.0
    weight_decay: float = 0.01
    ends: int = 1 << 60
    falls: int = 1

    def rate_of(self, step: int) -> float:
        """Return the rate of a step's number."""
        left = min(1.0, max(0.0, (self.ends - step) / self.falls))
        return self.rate * min(1.0, (step + 1) / self.warm_up) * (1 - math.sqrt(1 - left))


class LongTraining:
    """Weights, moments, averaged copy and step number, and where they are kept."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        folder: Path,
        pace: Pace,
        *,
        matrices: Iterable[nn.Parameter] = (),
    ) -> None:
        self.matrices = list(matrices)
        known = {id(p) for p in self.matrices}
        others = [p for p in parameters if p.requires_grad and id(p) not in known]
        self.parameters = [*self.matrices, *others]
        self.flat, self.grad = flattened(self.parameters)
        self.split = sum(p.numel() for p in self.matrices)  # before it Muon moves, after it AdamW
        self.averaged = self.flat.clone()
        self.moments = (torch.zeros_like(self.flat), torch.zeros_like(self.flat))
        self.whole = nn.Parameter(self.flat[self.split :])  # shares the memory
        self.whole.grad = self.grad[self.split :]
        betas = (0.9, 0.99)
        self.optimizer = torch.optim.AdamW(
            [self.whole], lr=pace.rate, betas=betas, weight_decay=pace.weight_decay, fused=True
        )
        self.folder, self.pace = folder, pace
        self.step, self.notes = 0, {}  # notes: small things of the caller that are kept with it
        self.stopping = False

    def __len__(self) -> int:
        return self.step

    def _set_moments(self) -> None:
        first, second = (moment[self.split :] for moment in self.moments)
        state = {"step": torch.tensor(float(self.step)), "exp_avg": first, "exp_avg_sq": second}
        self.optimizer.state[self.whole] = state

    def resume(self) -> bool:
        """Go on from the folder's state; tell whether there was one."""
        kept = self.folder / "state.safetensors"
        if not kept.exists():
            return False
        tensors = load_file(kept)
        found = json.loads(bytes(tensors["notes"].tolist()).decode())
        with torch.no_grad():
            self.flat.copy_(tensors["weights"])
            self.averaged.copy_(tensors["averaged"])
            for mine, theirs in zip(self.moments, ("first", "second"), strict=True):
                mine.copy_(tensors[theirs])
        self.step, self.notes = found["step"], found["notes"]
        self._set_moments()
        return True

    def keep(self) -> None:
        """Write the state whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"step": self.step, "notes": self.notes}).encode()
        tensors = {
            "weights": self.flat,
            "averaged": self.averaged,
            "first": self.moments[0],
            "second": self.moments[1],
            "notes": torch.tensor(list(text), dtype=torch.uint8),
        }
        unfinished = self.folder / "state.tmp.safetensors"
        save_file(tensors, unfinished)
        unfinished.replace(self.folder / "state.safetensors")

    def update(self, loss_of: Callable[[int], Tensor]) -> float:
        """Make one step with the loss of its number; return the loss."""
        pace = self.pace
        rate = pace.rate_of(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(self.step)
        self.grad.zero_()
        loss.backward()
        self.grad.mul_(torch.clamp(pace.clip / (self.grad.norm() + 1e-9), max=1.0))
        if not self.optimizer.state:
            self._set_moments()
        self.optimizer.step()
        if self.matrices:
            muon.move(self.matrices, self.moments[0], rate=rate, weight_decay=pace.weight_decay)
        self.step += 1
        share = 1 / min(pace.horizon, self.step / 4 + 1)
        self.averaged.lerp_(self.flat.detach(), share)
        return loss.item()

    def run(
        self,
        loss_of: Callable[[int], Tensor],
        *,
        seconds: float = math.inf,
        steps: int = 1 << 60,
        every: float = 300.0,
        kept: Callable[[], None] = lambda: None,
    ) -> None:
        """Train until the time is over, `steps` are made or a polite signal comes; keep the state
        every so many seconds and at the end, calling `kept` before.
        """
        before = {s: signal.signal(s, self._stop) for s in (signal.SIGTERM, signal.SIGINT)}
        began = last = time.monotonic()
        losses: list[float] = []
        try:
            while self.step < steps and not self.stopping and time.monotonic() < began + seconds:
                losses.append(self.update(loss_of))
                if not math.isfinite(losses[-1]):
                    raise FloatingPointError(f"The loss of step {self.step} is {losses[-1]}.")
                if time.monotonic() > last + every:
                    pace = len(losses) / (time.monotonic() - last)
                    mean = sum(losses) / len(losses)
                    print(f"step {self.step}  loss {mean:.4f}  {pace:.2f} steps/s", flush=True)
                    kept()
                    self.keep()
                    last, losses = time.monotonic(), []
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        kept()
        self.keep()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True

    def with_averaged(self, look: Callable[[], None]) -> None:
        """Call look while the networks hold the averaged weights."""
        with torch.no_grad():
            held = self.flat.clone()
            self.flat.copy_(self.averaged)
            try:
                look()
            finally:
                self.flat.copy_(held)
