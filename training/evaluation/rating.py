"""Which checkpoint at which strength is best, from their scores, and why, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from training.evaluation.report import Tried

ENOUGH = 0.9  # share of pictures taken for the style, beyond which more training is not advised
# Share of pictures that lie so near to a training picture by chance: nearer than those of the base,
# and than those of each other
NEAR = 0.05
HARDLY = 0.01  # of the quality: a smaller difference is nothing that two dozen prompts can tell


def rate(tried: Sequence[Tried]) -> None:
    """Give each its quality: the geometric mean of style and content, less what is copied beyond
    chance.

    A checkpoint is rated together with those before and after it, at half weight each: they differ
    little, and a few pictures decide.
    """
    for one in tried:
        beside = _neighbours(one, tried)
        style, content = (_smoothed(one, beside, what) for what in ("style", "content"))
        one.quality = math.sqrt(style * content) * (1 - max(0.0, one.copies - 2 * NEAR))


def _neighbours(one: Tried, tried: Sequence[Tried]) -> list[Tried]:
    """The checkpoints before and after one, at its strength; none for the base."""
    if not one.step:
        return []
    same_strength = [t for t in tried if t.strength == one.strength and t.step]
    course = sorted(same_strength, key=lambda t: t.step)
    at = course.index(one)
    return course[max(0, at - 1) : at] + course[at + 1 : at + 2]


def _smoothed(one: Tried, beside: Sequence[Tried], what: str) -> float:
    """Its score and, at half weight, those of its neighbours."""
    total = sum((0.5 * _mean_score(t, what) for t in beside), start=_mean_score(one, what))
    return total / (1 + 0.5 * len(beside))


def recommended(tried: Sequence[Tried]) -> Tried:
    """The one of highest quality; of those that hardly differ from it the one at strength 1, as
    it was trained.
    """
    enough = max(t.quality for t in tried) * (1 - HARDLY)
    return max(
        (t for t in tried if t.quality >= enough),
        key=lambda t: (-abs(t.strength - 1), t.quality, -t.step),
    )


def _mean_score(tried: Tried, what: str) -> float:
    """The mean of the base's own score and the external metrics'; theirs alone where its own means
    nothing.
    """
    scores = [value for name, value in tried.external.items() if name.startswith(f"{what}, ")]
    if what == "style" or tried.content_sure or not scores:
        scores.append(getattr(tried, what))
    return sum(scores) / len(scores)


def in_words(best: Tried, tried: Sequence[Tried], base: Tried, unsure: str = "") -> str:
    """The reason for the recommendation, in sentences. unsure: why content means nothing."""
    style = (
        f"{best.file} at strength {best.strength:g}: {best.style:.0%} of the pictures are in "
        "the style rather than in the base's own"
    )
    if unsure:
        sentences = [
            f"{style}. Whether they show what was asked cannot be judged reliably here: {unsure}. "
            "Look at the pictures yourself."
        ]
    else:
        sentences = [
            f"{style}, and {best.content:.0%} sure to be what was asked (the base without a "
            f"style: {base.content:.0%})."
        ]
    steps = sorted({t.step for t in tried})
    if best.step != steps[-1]:
        last = max((t for t in tried if t.step == steps[-1]), key=lambda t: t.quality)
        loses = not unsure and last.content < best.content - 0.02
        shares = f"{last.style:.0%} style" + ("" if unsure else f", {last.content:.0%} content")
        sentences.append(
            f"Training on to {last.step} updates "
            f"{'loses what was asked' if loses else 'wins nothing'} ({shares} at its best)."
        )
    elif len(steps) > 1 and best.style < ENOUGH:
        sentences.append(
            "It is the last checkpoint and the style was still growing: more updates may do better."
        )
    if best.copies:
        sentences.append(
            f"{best.copies:.0%} of the pictures are nearly copies of training pictures (the "
            f"nearest: {best.nearest[0]})."
        )
    if best.style < 0.5:
        sentences.append("The style is weak: train longer, or with a higher learning rate or rank.")
    return " ".join(sentences)
