"""Pictures ruined more and more, until nobody would name what they show.

Each ruin takes float pictures [N, 3, H, W] in [-1, 1], a strength and a generator. LOST tells from
which strength on a thing is harder to name and at which it is lost, in the eyes of a person who
looked at a sheet of them (`python ruins.py --state FOLDER` draws it).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Ruin = Callable[[Tensor, float, torch.Generator], Tensor]


def blurred(x: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    """Blur by a Gaussian of so many hundredths of the side."""
    sigma = max(strength * x.shape[-1] / 100, 1e-3)
    reach = math.ceil(2.5 * sigma)
    weights = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    weights = (weights / weights.sum()).expand(x.shape[1], 1, 1, -1)
    for size, padding in (((1, -1), (reach, reach, 0, 0)), ((-1, 1), (0, 0, reach, reach))):
        kernel = weights.reshape(x.shape[1], 1, *(size if size[0] == 1 else (-1, 1)))
        x = F.conv2d(F.pad(x, padding, mode="replicate"), kernel, groups=x.shape[1])
    return x


def cut(x: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    """Cut into strength x strength tiles and shuffle them."""
    count = max(1, round(strength))
    side = x.shape[-1] // count * count
    n, channels = x.shape[:2]
    whole = F.interpolate(x, size=(side, side), mode="area") if side != x.shape[-1] else x
    tiles = whole.reshape(n, channels, count, side // count, count, side // count)
    tiles = tiles.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    tiles = tiles[:, torch.randperm(count * count, generator=rng)].unflatten(1, (count, count))
    shuffled = tiles.permute(0, 3, 1, 4, 2, 5).reshape(n, channels, side, side)
    return F.interpolate(shuffled, size=x.shape[2:]) if side != x.shape[-1] else shuffled


def washed_out(x: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    """Take so many hundredths of the contrast away, towards the colour of the border."""
    border = torch.cat([x[..., :3, :].flatten(2), x[..., -3:, :].flatten(2)], 2)
    paper = border.median(2).values[:, :, None, None]
    return x + strength / 100 * (paper - x)


def melted(x: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    """Move every point by so many hundredths of the side, its neighbours likewise."""
    coarse = torch.randn((len(x), 2, 7, 7), generator=rng)
    moves = F.interpolate(coarse, size=x.shape[2:], mode="bicubic", align_corners=False)
    still = F.affine_grid(torch.eye(2, 3).expand(len(x), 2, 3), list(x.shape), align_corners=False)
    grid = still + moves.permute(0, 2, 3, 1) * strength / 50
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


RUINS: Mapping[str, Ruin] = {
    "blurred": blurred,
    "cut to pieces": cut,
    "washed out": washed_out,
    "melted": melted,
}
# (harder to name from here on, lost from here on), and the steps at which a judge is tried
LOST = {
    "blurred": (3.0, 10.0),
    "cut to pieces": (1.5, 5.0),
    "washed out": (91.0, 99.0),
    "melted": (3.0, 10.0),
}
STEPS = {
    "blurred": (1.5, 3, 6, 9, 14),
    "cut to pieces": (2, 3, 4, 6, 8),
    "washed out": (50, 80, 90, 95, 98),
    "melted": (2, 4, 7, 11, 16),
}


def lost(kind: str, strength: float) -> float:
    """Return how much of a thing is lost, 0..1."""
    low, high = LOST[kind]
    return min(1.0, max(0.0, (strength - low) / (high - low)))


def main() -> None:
    import shards

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--state", type=Path, default=Path("work/mini"))
    parser.add_argument("--out", type=Path, default=Path("ruins.png"))
    args = parser.parse_args()
    pictures, _, facts = shards.drawn_in(args.state, shards.HELD).open()
    alone = np.flatnonzero(facts[:, 1] == 1)[:8]
    x = torch.from_numpy(np.array(pictures[alone])).permute(0, 3, 1, 2).float() / 127.5 - 1
    rng = torch.Generator().manual_seed(0)
    rows = [x, *(RUINS[k](x, s, rng) for k, steps in STEPS.items() for s in steps)]
    sheet = torch.cat([torch.cat(list(row), 2) for row in rows], 1)
    values = ((sheet.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(values).save(args.out)


if __name__ == "__main__":
    main()
