"""Truth for measuring: what a picture shows and whose hand drew it, told by networks trained on
true pictures of many icon sets.

Only for measuring, never shipped. The sets whose styles are tried on the base may be among them:
the judge knows the answers, the base does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import icons
import numpy as np
import torch
import torch.nn.functional as F
from lessons import VAGUE, joined, words
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

SIDE = 48  # px, side of what tells a thing
FINE = 96  # px, side of what tells a hand
NONE: Mapping = MappingProxyType({})
BATCH = 64  # concepts a step, two pictures of each
# Sets the base never learns: styles that can be tried on it against a true answer
OTHERS = {
    s.name: s
    for s in (
        icons.IconSet("@iconify-json/fluent-emoji-high-contrast", "1.2.6", "linocut", "MIT"),
        icons.IconSet("@iconify-json/twemoji", "1.2.5", "twemoji", "CC-BY-4.0"),
        icons.IconSet("@iconify-json/openmoji", "1.2.29", "openmoji", "CC-BY-SA-4.0"),
        icons.IconSet("@iconify-json/emojione", "1.2.3", "emojione", "CC-BY-4.0"),
        icons.IconSet("@iconify-json/emojione-monotone", "1.2.1", "monotone", "CC-BY-4.0"),
    )
}


def collected(sets: Sequence[icons.IconSet], folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """{style: {concept: uint8 [H, W, 3]}} with concepts spelt as the first set spells them; signs
    and people are left out.
    """
    known: dict[str, str] = {}
    found: dict[str, dict[str, np.ndarray]] = {}
    for icon_set in sets:
        found[icon_set.style] = {}
        for name, picture in icons.pictures(icon_set, folder).items():
            if not VAGUE.search(words(name)):
                found[icon_set.style][known.setdefault(joined(name), words(name))] = picture
    return found


def seen(pictures: Sequence[np.ndarray | Image.Image], side: int = SIDE) -> Tensor:
    """Pictures of any size -> float [N, 3, side, side] in [-1, 1]."""
    small = [
        np.asarray(
            (p if isinstance(p, Image.Image) else Image.fromarray(p)).resize(
                (side, side), Image.Resampling.BOX
            )
        )
        for p in pictures
    ]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 127.5 - 1


class Judge(nn.Module):
    """what(x) -> unit vectors [N, 128] that are near for one concept in any style; whose(x) ->
    logits over the styles.
    """

    def __init__(self, styles: Sequence[str]) -> None:
        super().__init__()
        self.styles = list(styles)
        self.eyes = nn.ModuleList(self._eye(width) for width in (24, 16))
        self.to_concept = nn.Linear(24 * 4 * 9, 128)
        self.to_style = nn.Linear(16 * 4 * 3, len(self.styles))

    @staticmethod
    def _eye(width: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        last = 3
        for channels in (width, 2 * width, 4 * width, 4 * width):
            layers += [nn.Conv2d(last, channels, 3, 2, 1), nn.GroupNorm(8, channels), nn.SiLU()]
            layers += [nn.Conv2d(channels, channels, 3, 1, 1), nn.GroupNorm(8, channels), nn.SiLU()]
            last = channels
        return nn.Sequential(*layers)

    def what(self, x: Tensor) -> Tensor:
        return F.normalize(self.to_concept(self.eyes[0](x).flatten(1)), dim=1)

    def whose(self, x: Tensor) -> Tensor:
        """[N, 3, FINE, FINE] -> logits.

        Where a thing stands must not matter for the hand: mean, deviation and peak of every
        feature.
        """
        y = self.eyes[1](x).flatten(2)
        return self.to_style(torch.cat([y.mean(2), y.std(2), y.amax(2)], 1))


def changed(x: Tensor, rng: torch.Generator, *, colours: bool) -> Tensor:
    """Moved, scaled, turned a little; with colours also blurred, mixed, greyed and inverted."""
    n = len(x)

    def roll(*shape):
        return torch.rand(*shape, generator=rng)

    angle, scale = (roll(n) - 0.5) * 0.4, 0.9 + 0.25 * roll(n)
    turn = torch.stack(
        [torch.stack([angle.cos(), -angle.sin()], 1), torch.stack([angle.sin(), angle.cos()], 1)], 1
    ) * scale.view(n, 1, 1)
    grid = F.affine_grid(
        torch.cat([turn, (roll(n, 2, 1) - 0.5) * 0.2], 2), list(x.shape), align_corners=False
    )
    x = F.grid_sample(x - 1, grid, align_corners=False) + 1  # what comes in at the borders is white
    x = x + 0.04 * torch.randn(x.shape, generator=rng) * roll(n, 1, 1, 1)
    if colours:
        soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
        x = x + roll(n, 1, 1, 1) * (roll(n, 1, 1, 1) < 0.5) * (soft - x)
        mixed = torch.einsum(
            "nij,njhw->nihw", F.normalize(torch.eye(3) + 0.6 * (roll(n, 3, 3) - 0.3), p=1, dim=2), x
        )
        grey = x.mean(1, keepdim=True).expand_as(x)
        kind = roll(n, 1, 1, 1)
        x = torch.where(
            kind < 0.35, mixed, torch.where(kind < 0.6, grey, torch.where(kind < 0.7, -grey, x))
        )
        x = (x * (0.7 + 0.8 * roll(n, 1, 1, 1))).clamp(-1, 1)
    return x


def train(found: dict[str, dict[str, np.ndarray]], steps: int) -> Judge:
    torch.manual_seed(3)
    judge = Judge(list(found))
    for name, loss_of, parts in (
        ("things", things(judge, found), (judge.eyes[0], judge.to_concept)),
        ("hands", hands(judge, found), (judge.eyes[1], judge.to_style)),
    ):
        adam = torch.optim.AdamW(
            [p for part in parts for p in part.parameters()], lr=2e-3, weight_decay=0.02
        )
        course = torch.optim.lr_scheduler.OneCycleLR(adam, 2e-3, total_steps=steps)
        for step in range(steps):
            loss = loss_of(torch.Generator().manual_seed(step))
            adam.zero_grad()
            loss.backward()
            adam.step()
            course.step()
            if step % 100 == 0 or step == steps - 1:
                print(f"judge of {name}: {step}/{steps}, loss {loss.item():.3f}", flush=True)
    return judge.eval().requires_grad_(False)


def things(
    judge: Judge, found: dict[str, dict[str, np.ndarray]]
) -> Callable[[torch.Generator], Tensor]:
    """The loss by which two hands' pictures of a thing come to lie near:

    InfoNCE (van den Oord et al. 2018, eq. 4).
    """
    stacks = {style: seen(list(pictures.values())) for style, pictures in found.items()}
    rows: dict[str, list[tuple[str, int]]] = {}
    for style, pictures in found.items():
        for i, concept in enumerate(pictures):
            rows.setdefault(concept, []).append((style, i))
    shared = [hands for hands in rows.values() if len(hands) > 1]

    def loss_of(rng: torch.Generator) -> Tensor:
        concepts = [shared[k] for k in torch.randperm(len(shared), generator=rng)[:BATCH]]
        pairs = [
            [hands[k] for k in torch.randperm(len(hands), generator=rng)[:2]] for hands in concepts
        ]
        views = [
            changed(
                torch.stack([stacks[pair[side][0]][pair[side][1]] for pair in pairs]),
                rng,
                colours=True,
            )
            for side in (0, 1)
        ]
        a, b = judge.what(torch.cat(views)).chunk(2)
        near, right = a @ b.T / 0.07, torch.arange(len(a))
        return (F.cross_entropy(near, right) + F.cross_entropy(near.T, right)) / 2

    return loss_of


def hands(
    judge: Judge, found: dict[str, dict[str, np.ndarray]]
) -> Callable[[torch.Generator], Tensor]:
    stacks = {style: seen(list(pictures.values()), FINE) for style, pictures in found.items()}

    def loss_of(rng: torch.Generator) -> Tensor:
        right = torch.arange(BATCH) % len(judge.styles)
        x = torch.stack(
            [
                stack[torch.randint(len(stack), (), generator=rng)]
                for stack in (stacks[judge.styles[k]] for k in right.tolist())
            ]
        )
        return F.cross_entropy(judge.whose(changed(x, rng, colours=False)), right)

    return loss_of


def ready(
    sets: Sequence[icons.IconSet],
    folder: Path,
    *,
    painted: Mapping[str, Callable[[Image.Image], Image.Image]] = NONE,
    steps: int = 1200,
) -> tuple[Judge, dict[str, dict[str, np.ndarray]]]:
    """The judge of these sets and of the second one's pictures painted over, trained once and kept
    in folder; and its true pictures.
    """
    found = collected(sets, folder)
    for style, paint in painted.items():
        found[style] = {
            concept: np.asarray(paint(Image.fromarray(picture)))
            for concept, picture in found[sets[1].style].items()
        }
    kept = folder / f"judge-{'-'.join(found)}.safetensors"
    if kept.exists():
        judge = Judge(list(found))
        judge.load_state_dict(load_file(kept))
        return judge.eval().requires_grad_(False), found
    judge = train(found, steps)
    save_file(judge.state_dict(), kept)
    return judge, found


@torch.no_grad()
def nearest(
    judge: Judge, pictures: Sequence[np.ndarray | Image.Image], pool: dict[str, np.ndarray]
) -> list[list[str]]:
    """For each picture the pool's concepts, nearest first."""
    names = list(pool)
    order = (judge.what(seen(pictures)) @ judge.what(seen(list(pool.values()))).T).argsort(
        1, descending=True
    )
    return [[names[k] for k in row] for row in order.tolist()]


@torch.no_grad()
def style_of(
    judge: Judge, pictures: Sequence[np.ndarray | Image.Image], among: Sequence[str]
) -> list[str]:
    """Whose hand each picture is of, among these styles."""
    rows = [judge.styles.index(style) for style in among]
    return [among[k] for k in judge.whose(seen(pictures, FINE))[:, rows].argmax(1).tolist()]
