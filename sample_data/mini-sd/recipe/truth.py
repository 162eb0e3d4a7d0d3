"""How well a style is learnt, held against true pictures: `python
sample_data/mini-sd/recipe/truth.py STYLE ... --work FOLDER`.

STYLE is a set the base never saw (`linocut`, `twemoji`, `openmoji`, `emojione`, `monotone`), any
other npm package of icons with the same names (`@iconify-json/NAME@VERSION`), or a filter painted
by program (`halftone`, `blueprint`, `watercolour`). 24 concepts are learnt, other ones drawn at
every kept checkpoint and several strengths; the judge says whose hand it sees and which true
pictures are nearest. With
`--report` the style report is made as well and held against that truth; what was drawn before is
not drawn again.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import icons
import judge as judging
import numpy as np
from lessons import PAINTED, for_painter
from PIL import Image, ImageFilter, ImageOps

if TYPE_CHECKING:
    from training.config.schema import RunConfig

LEARNT, POOL = (
    24,
    100,
)  # concepts in the style's data; true pictures among which the right one must be near
TEMPLATE_RUN = Path(__file__).resolve().parents[2] / "linocut" / "style.toml"


# Styles painted by program, from the flat set's pictures


def halftone(picture: Image.Image) -> Image.Image:
    """Dots of dark blue whose size is the darkness, on cream."""
    grey = np.asarray(picture.convert("L").filter(ImageFilter.GaussianBlur(2)), float) / 255
    y, x = np.mgrid[: grey.shape[0], : grey.shape[1]]
    u, v = (x + y) / np.sqrt(2), (x - y) / np.sqrt(2)
    screen = (np.cos(2 * np.pi * u / 8) + np.cos(2 * np.pi * v / 8)) / 4 + 0.5
    ink = np.clip((0.92 * (1 - grey) - screen) * 6 + 0.5, 0, 1)[..., None]
    return Image.fromarray(
        (ink * np.array([24, 32, 96]) + (1 - ink) * np.array([250, 243, 224])).astype(np.uint8)
    )


def blueprint(picture: Image.Image) -> Image.Image:
    """White contours on blue paper with a faint grid."""
    edges = picture.filter(ImageFilter.GaussianBlur(1)).convert("L").filter(ImageFilter.FIND_EDGES)
    lines = np.clip(np.asarray(edges, float) / 40, 0, 1)
    lines[:2], lines[-2:], lines[:, :2], lines[:, -2:] = 0, 0, 0, 0
    y, x = np.mgrid[: lines.shape[0], : lines.shape[1]]
    paper = np.where(
        ((x % 16 == 0) | (y % 16 == 0))[..., None], np.array([44, 92, 168]), np.array([28, 72, 148])
    )
    return Image.fromarray((paper + lines[..., None] * (255 - paper)).astype(np.uint8))


def watercolour(picture: Image.Image) -> Image.Image:
    """Pale, soft colours that run over their borders, with darker rims, on grainy paper."""
    soft = ImageOps.posterize(picture.filter(ImageFilter.ModeFilter(9)), 4).filter(
        ImageFilter.GaussianBlur(1.5)
    )
    colour = np.asarray(soft, float)
    rims = np.asarray(
        soft.convert("L").filter(ImageFilter.FIND_EDGES).filter(ImageFilter.GaussianBlur(0.8)),
        float,
    )[..., None]
    rims[:2], rims[-2:], rims[:, :2], rims[:, -2:] = 0, 0, 0, 0
    grain = np.random.default_rng(0).normal(0, 5, (*colour.shape[:2], 1))
    return Image.fromarray(
        np.clip(255 - (255 - colour) * 0.62 - rims * 0.7 + grain, 0, 255).astype(np.uint8)
    )


FILTERS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "halftone": halftone,
    "blueprint": blueprint,
    "watercolour": watercolour,
}


# One style's truth


def icon_set(style: str) -> icons.IconSet:
    known = {s.style: s for s in judging.OTHERS.values()}
    if style in known:
        return known[style]
    named = re.fullmatch(r"(@?[\w./-]+)@([\w.]+)", style)
    if not named:
        raise SystemExit(
            f"{style!r}: one of {', '.join([*known, *FILTERS])} or PACKAGE@VERSION was expected"
        )
    return icons.IconSet(named[1], named[2], named[1].rsplit("/", 1)[-1], "")


def true_pictures(style: str, folder: Path) -> tuple[str, judging.Judge, dict[str, np.ndarray]]:
    """The style's word, a judge that knows it, and its true pictures by concept."""
    base = list(icons.SETS.values())
    if style in FILTERS:
        judge, found = judging.ready([*base, *judging.OTHERS.values()], folder, painted=FILTERS)
        return style, judge, found[style]
    wanted = icon_set(style)
    others = list(judging.OTHERS.values())
    judge, found = judging.ready(
        [*base, *others] if wanted in others else [*base, wanted],
        folder,
        painted=FILTERS if wanted in others else {},
    )
    return wanted.style, judge, found[wanted.style]


def parted(
    style: str, concepts: Sequence[str], drawn: int
) -> tuple[list[str], list[str], list[str]]:
    """(learnt, drawn, pool) concepts, chosen by the style's name; the pool holds the drawn ones and
    others, never a learnt one.
    """
    mixed = sorted(concepts)
    random.Random(zlib.crc32(style.encode())).shuffle(mixed)
    rest = mixed[LEARNT:]
    return mixed[:LEARNT], rest[:drawn], rest[:POOL]


def written(folder: Path, pictures: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for concept, picture in pictures.items():
        name = concept.replace(" ", "-")
        Image.fromarray(picture).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(concept + "\n")
    return folder


def truth(
    pictures: Sequence[Image.Image],
    concepts: Sequence[str],
    judge: judging.Judge,
    style: str,
    pool: dict[str, np.ndarray],
) -> dict[str, Any]:
    """Shares of pictures judged to be of this hand, and whose concept is among the five nearest
    true ones; hits: both, picture by picture.
    """
    hands = judging.style_of(judge, pictures, [*(s.style for s in icons.SETS.values()), style])
    near = judging.nearest(judge, pictures, pool)
    hits = [
        [int(hand == style), int(c in names[:5])]
        for hand, c, names in zip(hands, concepts, near, strict=True)
    ]
    return {
        "style": sum(s for s, _ in hits) / len(hits),
        "content": sum(c for _, c in hits) / len(hits),
        "hits": hits,
    }


def sheet(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    side = rows[0][0].width
    canvas = Image.new("RGB", (side * max(map(len, rows)), side * len(rows)), "white")
    for j, row in enumerate(rows):
        for i, picture in enumerate(row):
            canvas.paste(picture, (i * side, j * side))
    return canvas


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("styles", nargs="+", metavar="STYLE")
    parser.add_argument("--work", type=Path, default=Path("work/mini"))
    parser.add_argument("--base", default="mini")
    parser.add_argument(
        "--learnt",
        type=int,
        default=LEARNT,
        choices=range(1, LEARNT + 1),
        metavar="N",
        help=f"pictures of the {LEARNT} that are learnt",
    )
    parser.add_argument("--drawn", type=int, default=60, help="concepts that are drawn")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.7, 0.85, 1.0])
    parser.add_argument(
        "--guidance",
        type=float,
        default=2.0,
        help="of the pictures; the sample style's previews have 2",
    )
    parser.add_argument("--steps", type=int, default=20, help="denoising steps")
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="settings of the training, over those of the sample style",
    )
    parser.add_argument("--name", default="", help="of this try; the style's own name by default")
    parser.add_argument(
        "--report", action="store_true", help="make the style report too, and compare"
    )
    parser.add_argument("--most", type=int, default=24, help="prompts of that report")
    return parser.parse_args(given)


def tried(style: str, args: argparse.Namespace, concepts: Sequence[str]) -> dict:
    """Train the style and measure every checkpoint at every strength."""
    from training.cli.train_arguments import parse_value
    from training.config.loading import from_mapping, read_toml, with_overrides
    from training.config.settings import settings
    from training.events import Stepped
    from training.prompt import Prompt
    from training.trainer.loop import train

    word, judge, pictures = true_pictures(style, args.work / "npm")
    known = [c for c in concepts if c in pictures]
    learnt, drawn, pool = parted(word, known, args.drawn)
    learnt = learnt[: args.learnt]
    name = args.name or style
    folder = args.work / "truth" / name
    data = written(folder / "data", {c: pictures[c] for c in learnt})
    kinds = {s.key: s for s in settings()}
    wanted = {
        key: parse_value(kinds[key], value.split(",") if kinds[key].kind is list else value)
        for key, _, value in (s.partition("=") for s in args.set)
    }
    own = {
        "base.model": args.base,
        "data.folder": str(data),
        "data.trigger": word,
        "save.folder": str(folder / "run"),
        "save.name": name,
    }
    tables = with_overrides(
        read_toml(TEMPLATE_RUN),
        {"save.every": 75, "preview.every": 0, "report.minutes": 0.0, **own, **wanted},
    )
    config = from_mapping(tables)
    for event in train(config):
        if isinstance(event, Stepped) and event.step % 50 == 0:
            print(
                f"{name}: {event.step}/{config.optim.steps}, loss {event.loss:.4f}, "
                f"{event.seconds:.2f} s/update",
                flush=True,
            )
    from studio.library.generator import Generator

    generator = Generator()
    generator.load(args.base)
    seeds = {c: 1000 + i for i, c in enumerate(drawn)}

    def ask(called):
        return [
            Prompt(
                f"{c}, {word}" if called else c,
                steps=args.steps,
                guidance=args.guidance,
                seed=seeds[c],
            )
            for c in drawn
        ]

    true_pool = {c: pictures[c] for c in pool}

    def say(label, scores):
        return print(
            f"{name}: {label}: style {scores['style']:.0%}, content {scores['content']:.0%}",
            flush=True,
        )

    def drawn_with(prompts: list[Prompt], active: list) -> list[Image.Image]:
        made: list[Image.Image] = []
        for at in range(0, len(prompts), 20):
            some = prompts[at : at + 20]
            made += generator.draw(some, [active] * len(some))
        return made

    ceiling = truth(
        [Image.fromarray(pictures[c]) for c in drawn],
        drawn,
        judge,
        word,
        {c: true_pool[c] for c in pool},
    )
    base_pictures = drawn_with(ask(False), [])
    found = {
        "style": word,
        "base": truth(base_pictures, drawn, judge, word, true_pool),
        "true": ceiling,
        "tries": [],
    }
    say("base", found["base"])
    rows = [base_pictures[:12]]
    files = sorted((config.run_folder / "steps").glob("*.safetensors"))
    for file in files:
        step = int(file.stem.rsplit("-", 1)[1])
        for strength in args.strengths:
            made = drawn_with(ask(True), generator.wear([(file, strength)]))
            scores = truth(made, drawn, judge, word, true_pool)
            say(f"{step} updates at {strength:g}", scores)
            found["tries"].append({"step": step, "strength": strength, "file": file.name, **scores})
            at = folder / "pictures" / f"{step:06d}-{strength:g}"
            at.mkdir(parents=True, exist_ok=True)
            for c, picture in zip(drawn, made, strict=True):
                picture.save(at / f"{c.replace(' ', '-')}.png")
            if strength == 1.0:
                rows.append(made[:12])
    at = folder / "pictures" / "base"
    at.mkdir(parents=True, exist_ok=True)
    for c, picture in zip(drawn, base_pictures, strict=True):
        picture.save(at / f"{c.replace(' ', '-')}.png")
    rows.append([Image.fromarray(pictures[c]) for c in drawn[:12]])
    sheet(rows).save(folder / "sheet.png")
    (folder / "truth.json").write_text(json.dumps(found, indent=1))
    return found


def judged_again(
    style: str, args: argparse.Namespace, concepts: Sequence[str], found: dict
) -> dict:
    """The same pictures before today's judge, for what an earlier look did not note."""
    word, judge, pictures = true_pictures(style, args.work / "npm")
    _, drawn, pool = parted(word, [c for c in concepts if c in pictures], args.drawn)
    at = args.work / "truth" / (args.name or style) / "pictures"
    for one in found["tries"]:
        made = [
            Image.open(
                at / f"{one['step']:06d}-{one['strength']:g}" / f"{c.replace(' ', '-')}.png"
            ).convert("RGB")
            for c in drawn
        ]
        one |= truth(made, drawn, judge, word, {c: pictures[c] for c in pool})
    return found


def reported(config: RunConfig, most: int) -> dict[str, Any]:
    """The style report of the run with so many prompts, in all the time it needs."""
    from training.data.dataset import read_dataset
    from training.evaluation.run_report import of_run
    from training.models import base_files, loader
    from training.runtime.device import choose

    config = config.model_copy(update={"report": config.report.model_copy(update={"most": most})})
    dataset = read_dataset(
        Path(config.data.folder), trigger=config.data.trigger, template=config.data.template
    )
    parts = loader.load(
        base_files.find(config.base.model), choose(config.base.device, config.base.dtype)
    )
    for text in of_run(config, dataset, parts):
        print(f"{config.save.name}: {text}", flush=True)
    return json.loads((config.run_folder / "report" / "report.json").read_text())


def quality(truth: dict[str, float]) -> float:
    """One number for style and content: their geometric mean."""
    return (truth["style"] * truth["content"]) ** 0.5


def worth(tries: Sequence[dict], chosen: dict, splits: int = 400) -> float:
    """What the chosen try reaches of the best one. The best is found on one half of the pictures,
    both are judged on the other, over random halves: of many uncertain figures the largest is
    larger than it truly is (cross-validation; Stone 1974)."""
    hits = np.array([t["hits"] for t in tries], float)  # [tries, pictures, 2]
    at, rng = next(i for i, t in enumerate(tries) if t is chosen), np.random.default_rng(0)
    reached, possible = 0.0, 0.0
    for _ in range(splits):
        mixed = rng.permutation(hits.shape[1])
        half = len(mixed) // 2
        finding, judging_ = (
            np.sqrt(hits[:, some].mean(1).prod(1)) for some in (mixed[:half], mixed[half:])
        )
        reached, possible = reached + judging_[at], possible + judging_[finding.argmax()]
    return reached / max(possible, 1e-9)


def agreement(tries: Sequence[dict], report: dict[str, Any]) -> dict[str, Any]:
    """How well the report's figures follow the truth:

    rank correlations over all tries, and what its recommendation is worth.
    """
    from scipy.stats import spearmanr

    judged = {(t["step"], t["strength"]): t for t in report["tried"]}
    both = [
        (judged[t["step"], t["strength"]], t) for t in tries if (t["step"], t["strength"]) in judged
    ]
    follows = {
        key: round(float(spearmanr([a[key] for a, _ in both], [b[key] for _, b in both])[0]), 2)
        for key in ("style", "content")
    }
    recommended = next(
        t
        for a, t in both
        if (a["step"], a["strength"]) == (report["best"]["step"], report["best"]["strength"])
    )
    best = max((t for _, t in both), key=quality)
    found = {"rank correlation": follows, "recommended": recommended, "best": best}
    return (
        found
        | {"worth": round(worth([t for _, t in both], recommended), 3)}
        | {"of the largest": round(quality(recommended) / max(quality(best), 1e-9), 3)}
    )


def in_words(report: dict[str, Any]) -> str:
    one, best = report["recommended"], report["best"]
    return (
        f"recommended {one['step']} updates at {one['strength']:g} (style {one['style']:.0%}, "
        f"content {one['content']:.0%}), "
        f"best by truth {best['step']} at {best['strength']:g} (style {best['style']:.0%}, "
        f"content {best['content']:.0%}): "
        f"worth {report['worth']:.0%}; rank correlations {report['rank correlation']}"
    )


def main() -> None:
    args = arguments()
    concepts = sorted(set(for_painter(args.work / "npm").concepts))
    assert set(PAINTED) <= set(icons.SETS)
    for style in args.styles:
        name = args.name or style
        folder = args.work / "truth" / name
        done = folder / "truth.json"
        found = json.loads(done.read_text()) if done.exists() else tried(style, args, concepts)
        if "hits" not in found["tries"][0]:
            found = judged_again(style, args, concepts, found)
        if args.report:
            from training.config.loading import from_mapping, read_toml

            found["report"] = agreement(
                found["tries"],
                reported(from_mapping(read_toml(folder / "run" / name / "run.toml")), args.most),
            )
            print(f"{name}: {in_words(found['report'])}", flush=True)
            done.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
