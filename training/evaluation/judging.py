"""Checkpoints drawn at every strength and measured with the base itself; nothing is downloaded."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from training.adapters.inference import ActiveStyle, apply_styles, load_style, read_by
from training.data.dataset import Dataset
from training.data.pictures import open_picture
from training.diffusion.sampling import draw
from training.errors import ConfigError
from training.evaluation import metrics
from training.evaluation.external_metrics import ExternalMetric
from training.evaluation.rating import NEAR, in_words, rate, recommended
from training.evaluation.report import Report, ReportRequest, Tried
from training.evaluation.things import judge_of
from training.models.family import Parts
from training.prompt import Prompt
from training.runtime.rng import seeded_generator
from training.style_files.reading import read_style

FEWEST = 4  # prompts, below which shares mean nothing
# A measure of content that counts more of what nobody could name, or less of the true pictures,
# says nothing
MOST_OF_RUINED, LEAST_OF_TRUE = 0.4, 0.5
AT_ONCE = 12  # pictures in one denoising loop


def judge(
    request: ReportRequest,
    parts: Parts,
    trigger: Callable[[str], str],
    texts: Sequence[str],
    external: Sequence[ExternalMetric] = (),
) -> Generator[str, None, Report]:
    """Draw and measure every candidate at every strength; yield what is being done.

    trigger(prompt) -> the prompt that calls the style.
    """
    began = time.monotonic()
    if len(texts) < FEWEST:
        raise ConfigError(
            f"a report needs {FEWEST} prompts or more, of things that the pictures do not "
            f"show; there are {len(texts)}. Give report.prompts."
        )
    yield f"report: drawing {len(texts)} prompts with the base"
    plain = drawn(parts, request, texts, [])
    examiner = Examiner(request, parts, texts, plain, external)
    base = examiner(plain, step=0, strength=0.0, file="")
    held = request.held_out or request.pictures
    losses_without = band_losses(parts, held, [], request.background)
    tried: list[Tried] = []
    for candidate in request.candidates:
        strengths = ", ".join(f"{strength:g}" for strength in request.strengths)
        yield f"report: {candidate.path.name} at strength {strengths}"
        style = load_style(read_style(candidate.path), parts)
        losses = band_losses(parts, held, [style], request.background)
        bands = tuple(a / b for a, b in zip(losses, losses_without, strict=True))
        for strength in request.strengths:
            weakened = dataclasses.replace(style, strength=strength)
            pictures = drawn(parts, request, [trigger(text) for text in texts], [weakened])
            found = examiner(
                pictures, step=candidate.step, strength=strength, file=candidate.path.name
            )
            found.bands = bands if strength == 1.0 else ()
            tried.append(found)
    unsure = examiner.why_content_is_unsure(plain)
    for one in (base, *tried):
        one.content_sure = not unsure
    rate([base])
    rate(tried)
    best = recommended(tried)
    return Report(
        base,
        tried,
        tuple(texts),
        best,
        in_words(best, tried, base, unsure),
        examiner.reachable,
        time.monotonic() - began,
        _loss_on(request),
        content_by=examiner.content_by,
        content_unsure=unsure,
    )


def _loss_on(request: ReportRequest) -> str:
    if request.held_out:
        return "pictures that were held out"
    return "the training pictures themselves, since no others were given"


class Examiner:
    """Measures sets of pictures against one style and one base; call it with a set.

    plain: what the base draws without the style.
    """

    def __init__(
        self,
        request: ReportRequest,
        parts: Parts,
        texts: Sequence[str],
        plain: Sequence[Image.Image],
        external: Sequence[ExternalMetric] = (),
    ) -> None:
        self.parts, self.seed = parts, request.seed
        others = [text for text in request.others if text not in texts]
        self.texts = [*texts, *others]  # the first ones are what the pictures were asked for
        found = judge_of(parts.folder) if parts.folder else None
        self.things = found if found and all(found.place(t) is not None for t in texts) else None
        self.names = [e.path.name for e in request.pictures.examples]
        self.captions = [e.caption for e in request.pictures.examples]
        self.true = metrics.tensors(
            [open_picture(e.path, request.background) for e in request.pictures.examples],
            parts.size,
        )
        base_pictures = metrics.tensors(plain, parts.size)
        # By the name of the external metric; "" is the base itself
        style_features = {"": partial(metrics.style_features, parts)} | {
            metric.name: metric.features for metric in external
        }
        self.classifiers = {
            name: metrics.StyleClassifier(features, self.true, base_pictures)
            for name, features in style_features.items()
        }
        self.matchers = {metric.name: metric.sees for metric in external if metric.sees}
        self.reachable = self.classifiers[""].reachable
        to_base = metrics.distances(base_pictures, self.true).amin(1)
        self.near = min(metrics.own_distance(self.true, NEAR), torch.quantile(to_base, NEAR).item())

    def __call__(
        self, pictures: Sequence[Image.Image], *, step: int, strength: float, file: str
    ) -> Tried:
        x = metrics.tensors(pictures, self.parts.size)
        styles = {name: style_share(x) for name, style_share in self.classifiers.items()}
        contents = {"": self.content(x)}
        for name, nearness in self.matchers.items():
            contents[name] = metrics.right_among(-nearness(x, self.texts))
        distances = metrics.distances(x, self.true)
        row, column = divmod(int(distances.argmin()), len(self.true))
        external = {f"style, {name}": share for name, share in styles.items() if name}
        external |= {f"content, {name}": share for name, share in contents.items() if name}
        return Tried(
            step,
            strength,
            file,
            styles[""],
            contents[""],
            copies=(distances.amin(1) < self.near).float().mean().item(),
            nearest=(self.names[column], round(distances[row, column].item(), 4)),
            external=external,
            pictures=list(pictures),
        )

    def content(self, x: Tensor) -> float:
        """How surely N pictures show what the first N texts ask for: by the base's judge where it
        knows them all, by its denoiser otherwise.
        """
        if self.things:
            return self.things.sure(x, self.texts[: len(x)]).mean().item()
        return metrics.content_kept(self.parts, x, self.texts, self.seed)

    @property
    def content_by(self) -> str:
        """What measures content, in words."""
        if self.things:
            return (
                "how surely the base's judge names in the picture what was asked, out of "
                f"{len(self.things.names)} things and nothing at all"
            )
        return (
            "how surely the base tells the picture to be what was asked, among "
            f"{len(self.texts)} things; what counts is how much better the words fit this picture "
            "than they fit all"
        )

    def why_content_is_unsure(self, plain: Sequence[Image.Image]) -> str:
        """Why the figures for content mean nothing here; "" if they can be trusted.

        A measure must recognise what the base itself draws, must fall when nothing can be
        recognised any more, and must recognise the true pictures of the style where their captions
        are names that it knows.
        """
        x = metrics.tensors(plain, self.parts.size)
        whole, ruined = self.content(x), self.content(metrics.unrecognisable(x))
        if whole < LEAST_OF_TRUE:
            return f"of what the base itself draws without a style only {whole:.0%} is recognised"
        if ruined > MOST_OF_RUINED:
            return (
                "what the base draws without a style was blurred until nothing can be recognised, "
                f"and still counted as {ruined:.0%} of what was asked"
            )
        if not self.things:
            return ""
        known = [i for i, text in enumerate(self.captions) if self.things.place(text) is not None]
        if len(known) < FEWEST:
            return ""
        named = [self.captions[i] for i in known]
        true = self.things.sure(self.true[known], named).mean().item()
        if true < LEAST_OF_TRUE:
            return f"only {true:.0%} of the training pictures themselves are recognised"
        return ""


@torch.no_grad()
def band_losses(
    parts: Parts, pictures: Dataset, active: Sequence[ActiveStyle], background: str
) -> tuple[float, ...]:
    """Mean squared error of the prediction at fixed noise, one number a band of timesteps, over all
    pictures with their captions.
    """
    shown = [open_picture(e.path, background) for e in pictures.examples]
    x = metrics.encoded(parts, metrics.tensors(shown, parts.size))
    captions = [e.caption for e in pictures.examples]
    found, objective = [], parts.objective
    for k, (low, high) in enumerate(metrics.BANDS):
        level = objective.share((low + high) / 2, parts.tokens(*x.shape[2:]))
        t = objective.levels([level] * len(x))
        noise = torch.stack(
            [torch.randn(row.shape, generator=seeded_generator(k, i)) for i, row in enumerate(x)]
        )
        noisy = objective.noised(x, noise, t)
        target = objective.target(x, noise, t)
        errors: list[Tensor] = []
        for at in range(0, len(x), AT_ONCE):
            rows = slice(at, at + AT_ONCE)
            predicted = _predicted_with(parts, active, noisy[rows], t[rows], captions[rows])
            errors.append((predicted - target[rows]).square().flatten(1).mean(1))
        found.append(torch.cat(errors).mean().item())
    return tuple(found)


def _predicted_with(
    parts: Parts, active: Sequence[ActiveStyle], noisy: Tensor, t: Tensor, captions: list[str]
) -> Tensor:
    """The base's prediction with the same styles in every row."""
    words = [token for style in active for token in style.words]
    with apply_styles(_networks(parts), [list(active)] * len(noisy)):
        reader = read_by(parts, [list(active)] * len(noisy))
        states = reader.encode_text(captions, [words] * len(noisy))
        return metrics.predicted(parts, noisy, t, states)


def _networks(parts: Parts) -> Mapping[str, torch.nn.Module]:
    return {name: parts.networks[name] for name in parts.family.adapted}


def drawn(
    parts: Parts, request: ReportRequest, texts: Sequence[str], active: list[ActiveStyle]
) -> list[Image.Image]:
    """One picture a text, each with the same styles and with the request's seeds."""
    prompts = [
        Prompt(text, request.negative, request.steps, request.guidance, request.seed + i)
        for i, text in enumerate(texts)
    ]
    made: list[Image.Image] = []
    for at in range(0, len(prompts), AT_ONCE):
        some = prompts[at : at + AT_ONCE]
        made += draw(parts, some, rows=[active] * len(some))
    return made
