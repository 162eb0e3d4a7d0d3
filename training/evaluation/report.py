"""The style report: which checkpoint, at which strength, and why; in numbers, in words and in
pictures.

Everything is measured with the base itself (training.evaluation.metrics): nothing is downloaded.
Knows nothing of how a style is trained.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from training.adapters.inference import ActiveStyle, apply_styles, load_style
from training.data.dataset import Dataset
from training.data.pictures import open_picture
from training.diffusion import objective
from training.diffusion.sampling import draw
from training.errors import ConfigError
from training.evaluation import metrics
from training.evaluation.external_metrics import Witness
from training.models.family import Parts
from training.prompt import Prompt
from training.runtime.rng import seeded_generator
from training.style_files.reading import read_style

ENOUGH = 0.9  # share of pictures taken for the style, beyond which more training is not advised
# share of pictures that lie so near to a training picture by chance: nearer than those of the base,
# and than those of each other
NEAR = 0.05
HARDLY = 0.01  # of the quality: a smaller difference is nothing that two dozen prompts can tell
FEWEST = 4  # prompts, below which shares mean nothing
AT_ONCE = 12  # pictures in one denoising loop


@dataclass(frozen=True)
class Candidate:
    """A style file to judge: the updates it was made with (0 when unknown)."""

    path: Path
    step: int


@dataclass(frozen=True)
class ReportRequest:
    """What to judge. pictures:

    what the style was learnt from; held_out: pictures it has not seen, or none.
    """

    candidates: tuple[Candidate, ...]
    pictures: Dataset
    held_out: Dataset | None
    negative: str
    strengths: tuple[float, ...]
    steps: int  # denoising steps
    guidance: float
    seed: int
    background: str
    others: tuple[
        str, ...
        # more words that the base may take a picture for: the more, the harder to be right by
        # chance
    ] = ()


@dataclass
class Tried:
    """One candidate at one strength. style, content, copies: shares; bands: loss by band of
    timesteps over the base's; witnesses: what others say of style and content, by their name."""

    step: int
    strength: float
    file: str
    style: float
    content: float
    copies: float
    quality: float = 0.0  # see rate
    nearest: tuple[str, float] = (
        "",
        math.inf,
    )  # training picture that was come nearest to, and how near
    bands: tuple[float, ...] = ()
    witnesses: dict[str, float] = field(default_factory=dict)
    pictures: list[Image.Image] = field(default_factory=list, repr=False)

    def numbers(self) -> dict[str, Any]:
        return {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "pictures"
        }


@dataclass
class Report:
    """Everything that was found.

    base: the base without a style, measured as the styles were; reachable: the true pictures' own
    likeness.
    """

    base: Tried
    tried: list[Tried]
    prompts: tuple[str, ...]
    best: Tried
    reason: str
    reachable: float
    seconds: float
    loss_on: str  # whose loss the bands tell
    title: str = ""

    def to_json(self) -> str:
        scores = {
            "best": self.best.numbers(),
            "reason": self.reason,
            "base": self.base.numbers(),
            "tried": [t.numbers() for t in self.tried],
        }
        rest = {
            "prompts": self.prompts,
            "reachable": self.reachable,
            "loss_on": self.loss_on,
            "seconds": self.seconds,
            "title": self.title,
        }
        return json.dumps(scores | rest, indent=1, ensure_ascii=False)


def judged(
    request: ReportRequest,
    parts: Parts,
    trigger: Callable[[str], str],
    texts: Sequence[str],
    witnesses: Sequence[Witness] = (),
) -> Generator[str, None, Report]:
    """Draw and measure every candidate at every strength, saying what is being done.

    trigger(prompt) -> the words that call the style.
    """
    began = time.monotonic()
    if len(texts) < FEWEST:
        raise ConfigError(
            f"a report needs {FEWEST} prompts or more, of things that the pictures do not "
            f"show; there are {len(texts)}. Give report.prompts."
        )
    examiner = Examiner(request, parts, texts, witnesses)
    yield f"report: drawing {len(texts)} prompts with the base"
    plain = drawn(parts, request, texts, [])
    examiner.learn(plain)
    base = examiner(plain, step=0, strength=0.0, file="")
    held = request.held_out or request.pictures
    without = band_losses(parts, held, [], request.background)
    tried = []
    for candidate in request.candidates:
        yield (
            f"report: {candidate.path.name} at strength "
            f"{', '.join(f'{strength:g}' for strength in request.strengths)}"
        )
        whole = load_style(read_style(candidate.path), parts)
        bands = tuple(
            a / b
            for a, b in zip(
                band_losses(parts, held, [whole], request.background), without, strict=True
            )
        )
        for strength in request.strengths:
            pictures = drawn(
                parts,
                request,
                [trigger(text) for text in texts],
                [dataclasses.replace(whole, strength=strength)],
            )
            found = examiner(
                pictures, step=candidate.step, strength=strength, file=candidate.path.name
            )
            found.bands = bands if strength == 1.0 else ()
            tried.append(found)
    rate([base])
    rate(tried)
    best = recommended(tried)
    loss_on = (
        "pictures that were held out"
        if request.held_out
        else "the training pictures themselves, since no others were given"
    )
    return Report(
        base,
        tried,
        tuple(texts),
        best,
        in_words(best, tried, base),
        examiner.reachable,
        time.monotonic() - began,
        loss_on,
    )


class Examiner:
    """Measures sets of pictures against one style and one base.

    learn() what the base draws, then call.
    """

    def __init__(
        self,
        request: ReportRequest,
        parts: Parts,
        texts: Sequence[str],
        witnesses: Sequence[Witness] = (),
    ) -> None:
        self.parts, self.texts, self.seed = parts, texts, request.seed
        self.side = parts.size
        self.others = [text for text in request.others if text not in texts]
        self.names = [e.path.name for e in request.pictures.examples]
        self.true = metrics.tensors(
            [open_picture(e.path, request.background) for e in request.pictures.examples], self.side
        )
        self.hands = {"": lambda x: metrics.style_features(parts, x)} | {
            w.name: w.features for w in witnesses
        }
        self.eyes = {w.name: w.sees for w in witnesses if w.sees is not None}
        self.apart = metrics.own_distance(self.true, NEAR)

    def learn(self, plain: Sequence[Image.Image]) -> None:
        x = metrics.tensors(plain, self.side)
        self.likeness = {
            name: metrics.StyleClassifier(seen, self.true, x) for name, seen in self.hands.items()
        }
        self.reachable = self.likeness[""].reachable
        self.apart = min(
            self.apart, torch.quantile(metrics.distances(x, self.true).amin(1), NEAR).item()
        )

    def __call__(
        self, pictures: Sequence[Image.Image], *, step: int, strength: float, file: str
    ) -> Tried:
        x = metrics.tensors(pictures, self.side)
        words = [*self.texts, *self.others]
        styles = {name: hand(x) for name, hand in self.likeness.items()}
        contents = {"": metrics.content_kept(self.parts, x, words, self.seed)}
        contents |= {name: metrics.right_among(-sees(x, words)) for name, sees in self.eyes.items()}
        distances = metrics.distances(x, self.true)
        row, column = divmod(int(distances.argmin()), len(self.true))
        copies = (distances.amin(1) < self.apart).float().mean().item()
        nearest = (self.names[column], round(distances[row, column].item(), 4))
        said = {
            f"{what}, {name}": v
            for what, all_of in (("style", styles), ("content", contents))
            for name, v in all_of.items()
            if name
        }
        return Tried(
            step,
            strength,
            file,
            styles[""],
            contents[""],
            copies,
            nearest=nearest,
            witnesses=said,
            pictures=list(pictures),
        )


def rate(tried: Sequence[Tried]) -> None:
    """Give each its quality: the geometric mean of style and content, less what is copied beyond
    chance.

    A checkpoint is rated together with those before and after it, at half weight each: they differ
    little, and a few pictures decide.
    """
    for one in tried:
        line = sorted(
            (t for t in tried if t.strength == one.strength and t.step), key=lambda t: t.step
        )
        at = line.index(one) if one.step else 0
        beside = line[max(0, at - 1) : at] + line[at + 1 : at + 2] if one.step else []
        style, content = (
            sum(w * _said(t, what) for t, w in ((one, 1.0), *((t, 0.5) for t in beside)))
            / (1 + 0.5 * len(beside))
            for what in ("style", "content")
        )
        one.quality = math.sqrt(style * content) * (1 - max(0.0, one.copies - 2 * NEAR))


def recommended(tried: Sequence[Tried]) -> Tried:
    """The one of highest quality; of those that hardly differ from it the one that is worn as it
    was trained, at strength 1.
    """
    enough = max(t.quality for t in tried) * (1 - HARDLY)
    return max(
        (t for t in tried if t.quality >= enough),
        key=lambda t: (-abs(t.strength - 1), t.quality, -t.step),
    )


def _said(tried: Tried, what: str) -> float:
    """The mean of what the base and the witnesses say."""
    scores = [
        getattr(tried, what),
        *(value for name, value in tried.witnesses.items() if name.startswith(f"{what}, ")),
    ]
    return sum(scores) / len(scores)


def in_words(best: Tried, tried: Sequence[Tried], base: Tried) -> str:
    """Why this one, said to a person."""
    said = [
        f"{best.file} at strength {best.strength:g}: {best.style:.0%} of the pictures are in "
        "the style rather than in the base's own, and "
        f"{best.content:.0%} sure to be what was asked (the base without a style: "
        f"{base.content:.0%})."
    ]
    steps = sorted({t.step for t in tried})
    if best.step != steps[-1]:
        last = max((t for t in tried if t.step == steps[-1]), key=lambda t: t.quality)
        worse = "loses what was asked" if last.content < best.content - 0.02 else "wins nothing"
        said.append(
            f"Training on to {last.step} updates {worse} ({last.style:.0%} style, "
            f"{last.content:.0%} content at its best)."
        )
    elif len(steps) > 1 and best.style < ENOUGH:
        said.append(
            "It is the last checkpoint and the style was still growing: more updates may do better."
        )
    if best.copies:
        said.append(
            f"{best.copies:.0%} of the pictures are nearly copies of training pictures (the "
            f"nearest: {best.nearest[0]})."
        )
    if best.style < 0.5:
        said.append("The style is weak: train longer, or with a higher learning rate or rank.")
    return " ".join(said)


@torch.no_grad()
def band_losses(
    parts: Parts, pictures: Dataset, active: Sequence[ActiveStyle], background: str
) -> tuple[float, ...]:
    """Mean squared error of the prediction at fixed noise, one number a band of timesteps, over all
    pictures with their captions.
    """
    x = metrics.encoded(
        parts,
        metrics.tensors([open_picture(e.path, background) for e in pictures.examples], parts.size),
    )
    networks = _networks(parts)
    found = []
    for k, (low, high) in enumerate(metrics.BANDS):
        t = torch.full((len(x),), int((low + high) / 2 * len(parts.alphas_cumprod)))
        noise = torch.stack(
            [torch.randn(row.shape, generator=seeded_generator(k, i)) for i, row in enumerate(x)]
        )
        noisy = objective.noised(x, noise, parts.alphas_cumprod[t])
        wanted = objective.target(parts.prediction_type, x, noise, parts.alphas_cumprod[t])
        errors: list[Tensor] = []
        for at in range(0, len(x), AT_ONCE):
            rows = slice(at, at + AT_ONCE)
            with apply_styles(networks, [list(active)] * len(x[rows])):
                tokens = [[token for one in active for token in one.words]] * len(x[rows])
                words = parts.family.encode_text(
                    parts, [e.caption for e in pictures.examples[rows]], tokens
                )
                errors.append(
                    (metrics.predicted(parts, noisy[rows], t[rows], words) - wanted[rows])
                    .square()
                    .flatten(1)
                    .mean(1)
                )
        found.append(torch.cat(errors).mean().item())
    return tuple(found)


def _networks(parts: Parts) -> Mapping[str, torch.nn.Module]:
    return {
        name: parts.networks[name] for name in (parts.family.denoiser, *parts.family.text_encoders)
    }


def drawn(
    parts: Parts, request: ReportRequest, texts: Sequence[str], active: list[ActiveStyle]
) -> list[Image.Image]:
    """One picture a text, each wearing the same styles, with the wish's seeds."""
    prompts = [
        Prompt(text, request.negative, request.steps, request.guidance, request.seed + i)
        for i, text in enumerate(texts)
    ]
    made: list[Image.Image] = []
    for at in range(0, len(prompts), AT_ONCE):
        some = prompts[at : at + AT_ONCE]
        made += draw(parts, some, rows=[active] * len(some))
    return made
