"""The style report of a run:

what to look at within the time there is, and where the report is written.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from pathlib import Path

from training.config.input_sections import Data
from training.config.output_sections import Preview
from training.config.output_sections import Report as Reporting
from training.config.schema import RunConfig
from training.data.captions import captioned
from training.data.dataset import Dataset, read_dataset
from training.evaluation.external_metrics import present
from training.evaluation.judging import FEWEST, drawn, judge
from training.evaluation.metrics import NOISE_SHARES
from training.evaluation.report import Candidate, ReportRequest
from training.evaluation.report_html import write
from training.models.family import Parts
from training.storage.paths import STEPS

# Plain things that every base draws. Those whose names stand in the captions are left out: what is
# asked must not have been learnt.
AMONG = 20  # words that the base chooses from when it tells what a picture shows
THINGS = (
    "castle, penguin, hamburger, rocket, cactus, crown, teapot, owl, bicycle, sunflower, "
    "turtle, airplane, strawberry, bus, cow, fish, violin, tent, "
    "fox, candle, snowman, frog, telescope, snail, umbrella, guitar, house, dog, mushroom, "
    "sailboat, pineapple, key, butterfly, tractor, cloud, "
    "camera, duck, rose, trumpet, bell, elephant, chair, pizza, whale, tree, hat, balloon, carrot"
).split(", ")


def asked(given: Sequence[str], pictures: Dataset, most: int) -> tuple[str, ...]:
    """The prompts: the given ones, or THINGS that no caption names, `most` of them."""
    captions = " ".join(e.caption.lower() for e in pictures.examples)
    return tuple(given) or tuple(thing for thing in THINGS if thing not in captions)[:most]


def affordable(
    request: ReportRequest, texts: Sequence[str], seconds: float, a_picture: float
) -> tuple[ReportRequest, Sequence[str]] | None:
    """As much of a report as fits the time, None if nothing does.

    Fewer checkpoints first, then strength 1 alone, then fewer prompts.
    """
    for smaller, fewer in _smaller_and_smaller(request, texts):
        sets = 1 + len(smaller.candidates) * len(smaller.strengths)
        if len(fewer) * sets * a_picture <= seconds:
            return smaller, fewer
    return None


def _smaller_and_smaller(
    request: ReportRequest, texts: Sequence[str]
) -> Iterator[tuple[ReportRequest, Sequence[str]]]:
    """The same report in less and less time."""
    yield request, texts
    texts = texts[:12]
    yield request, texts
    request = dataclasses.replace(request, candidates=spread(request.candidates, 6))
    yield request, texts
    request = dataclasses.replace(request, strengths=(1.0,))
    yield request, texts
    texts = texts[: max(FEWEST, len(texts) // 2)]
    yield request, texts
    request = dataclasses.replace(request, candidates=spread(request.candidates, 3))
    yield request, texts[:FEWEST]


def spread(candidates: Sequence[Candidate], most: int) -> tuple[Candidate, ...]:
    """At most so many, at even distances, the last among them."""
    if len(candidates) <= most:
        return tuple(candidates)
    return tuple(candidates[round((i + 1) * len(candidates) / most) - 1] for i in range(most))


def read_as_trained(settings: Data, folder: str) -> Dataset:
    """A folder's pictures with captions that are read as those of a training with these settings:
    the first line where each line is one, the first word of {a|b}. Raises DataError.
    """
    return read_dataset(
        Path(folder),
        trigger=settings.trigger,
        template=settings.template,
        background=settings.background,
        lines=settings.captions == "lines",
        wildcards=settings.wildcards,
    )


def of_run(
    config: RunConfig, dataset: Dataset, parts: Parts, *, minutes: float = math.inf
) -> Generator[str, None, Path | None]:
    """Judge the style files that a run kept, within the time, and write <run>/report/report.html;
    None when the time is too short for any.
    """
    settings, preview = config.report, config.preview
    files = sorted((config.run_folder / STEPS).glob("*.safetensors"))
    final = config.run_folder / f"{config.save.name}.safetensors"
    candidates = tuple(Candidate(f, int(f.stem.rsplit("-", 1)[1])) for f in files) or (
        Candidate(final, 0),
    )
    first = dataset.examples[0]
    own = tuple(e for e in dataset.examples if e.trigger == first.trigger)
    if len(own) < len(dataset.examples):
        others = ", ".join(word for word in config.data.triggers if word != first.trigger)
        yield (
            f"the report is of the pictures of {first.trigger or 'no trigger'}; for {others}: "
            "style-file report with their folder and trigger."
        )
    shown = dataclasses.replace(dataset, examples=own)
    held = read_as_trained(config.data, settings.held_out) if settings.held_out else None
    request = ReportRequest(
        candidates, shown, held, preview.negative, strengths(settings.weakest),
        preview.steps, preview.guidance, preview.seed, config.data.background,
    )  # fmt: skip
    texts = asked(settings.prompts, dataset, settings.most)
    called = partial(captioned, trigger=first.trigger, template=first.template)
    return (
        yield from reported(
            request,
            parts,
            texts,
            called,
            config.run_folder / "report",
            config.save.name,
            minutes=minutes,
        )
    )


def of_files(
    files: Sequence[Path],
    parts: Parts,
    folder: Path,
    settings: Data,
    preview: Preview,
    report: Reporting,
) -> Generator[str, None, Path | None]:
    """Judge any style files against a folder of pictures in their style, and write
    <folder>/report.html.
    """
    dataset = read_as_trained(settings, settings.folder)
    held = read_as_trained(settings, report.held_out) if report.held_out else None
    candidates = tuple(Candidate(file, 0) for file in files)
    request = ReportRequest(
        candidates,
        dataset,
        held,
        preview.negative,
        strengths(report.weakest),
        preview.steps,
        preview.guidance,
        preview.seed,
        settings.background,
    )
    texts = asked(report.prompts, dataset, report.most)
    called = partial(captioned, trigger=settings.trigger, template=settings.template)
    return (
        yield from reported(
            request, parts, texts, called, folder, " and ".join(file.stem for file in files)
        )
    )


def strengths(weakest: float) -> tuple[float, ...]:
    """Those that are tried: the weakest, 1, and the one halfway."""
    return tuple(sorted({weakest, (weakest + 1) / 2, 1.0}))


def reported(
    request: ReportRequest,
    parts: Parts,
    texts: Sequence[str],
    called: Callable[[str], str],
    folder: Path,
    title: str,
    *,
    minutes: float = math.inf,
) -> Generator[str, None, Path | None]:
    """Judge what is wished, within the time, and write the page into folder; None when the time is
    too short for any.
    """
    request = dataclasses.replace(
        request, others=tuple(t for t in THINGS if t not in texts)[: max(0, AMONG - len(texts))]
    )
    if parts.text_states is not None:
        # All at once, so that the text encoders are loaded once; and loading takes no time below
        shown = [request.pictures, *([request.held_out] if request.held_out else [])]
        said = {*texts, *map(called, texts), *request.others, request.negative, parts.family.empty}
        said |= {example.caption for dataset in shown for example in dataset.examples}
        parts.text_states.prepare(parts, sorted(said))
        parts.denoiser.eval()  # as it is already, but loaded now
    if math.isfinite(minutes):
        began = time.monotonic()
        drawn(parts, request, texts[:2], [])
        # A picture is denoised with words and without, and then asked about under every wrong and
        # right word
        asking = 1 + len(NOISE_SHARES) * (len(texts) + len(request.others)) / (2 * request.steps)
        chosen = affordable(request, texts, minutes * 60, asking * (time.monotonic() - began) / 2)
        if chosen is None:
            yield (
                f"no report: it would take longer than report.minutes = {minutes:g}. "
                "`train-style RUN.toml --report` makes one in its own time."
            )
            return None
        request, texts = chosen
    report = yield from judge(request, parts, called, texts, present())
    report.title = title
    path = write(report, folder)
    yield f"report: {report.reason} All of it: {path}"
    return path
