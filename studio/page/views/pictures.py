"""What the Pictures tab shows, as HTML:

thumbnails, the picture with its crop, the token count, findings. Knows no files and no gradio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from studio.datasets.base_info import Tokens
from studio.datasets.checks import Finding
from studio.datasets.store import Added
from studio.page.scripts import script
from studio.page.templates import render
from training.data.buckets import Bucket, fit

MOST_SIDE_BY_SIDE = 6  # pictures of a finding
MOST_FINDINGS = 100

EXAMPLE = (
    '<p class="summary"><b>This is an example:</b> 24 linocut icons with captions. Train it to '
    "see how everything works, "
    "or drop pictures of your own below: they become a dataset of their own.</p>"
)

# The parts of the page that are drawn here tell the server what was clicked or moved.
PICK = script("pictures_pick")
MEND = script("pictures_fix")
MOVE = script("pictures_crop")


def thumbnails(items: Sequence[tuple[str, str, bool]]) -> str:
    """items: address, name, whether it has a caption."""
    return render("pictures_thumbnails", items=items) if items else ""


def desk(
    address: str,
    name: str,
    of: str,
    size: tuple[int, int],
    bucket: Bucket,
    place: tuple[float, float],
    count: tuple[int, int],
) -> str:
    """The picture with what the model will see of it.

    of: dataset/name; size: px; count: which one, of how many.
    """
    wide, high, _, _ = fit(*size, bucket)
    return render(
        "pictures_desk",
        address=address,
        name=name,
        of=of,
        size=size,
        bucket=bucket,
        place=place,
        count=count,
        across=bucket.width / wide,
        down=bucket.height / high,
        axis="across" if wide - bucket.width > high - bucket.height else "down",
        movable=(wide, high) != (bucket.width, bucket.height),
    )


def nothing_chosen() -> str:
    return (
        '<figure class="desk empty-desk"><p>Add pictures, and go through them here one by '
        "one.</p></figure>"
    )


def meter(tokens: Tokens | None) -> str:
    """How much of what a base reads a caption takes, and what is cut off."""
    if tokens is None:
        return '<p class="meter">Tokens cannot be counted for this base here.</p>'
    share = min(100, 100 * tokens.count / max(1, tokens.most))
    cut = (
        f'<span class="cut">not read: <s>{escape(tokens.cut.strip(" ,"))}</s></span>'
        if tokens.cut
        else ""
    )
    bar = f'<span class="bar"><span style="width:{share:.0f}%"></span></span>'
    return (
        f'<p class="meter{" over" if cut else ""}">{bar}{tokens.count} of {tokens.most} '
        f"tokens {cut}</p>"
    )


def summary(count: int, without: int, complaints: Sequence[str] = ()) -> str:
    """How many pictures there are and how many still want a caption."""
    words = f"{'each with a caption' if not without else f'{without} without a caption'}"
    bad = "".join(f"<li>{escape(c)}</li>" for c in complaints)
    line = (
        f"<b>{count} picture{'' if count == 1 else 's'}</b>, {words}"
        if count
        else "No pictures yet. Drop some above."
    )
    return f'<p class="summary">{line}</p>' + (f'<ul class="refused">{bad}</ul>' if bad else "")


def report(added: Added) -> str:
    """What became of an upload."""
    return render(
        "pictures_report", kept=len(added.kept), captions=added.captions, refused=added.refused
    )


def findings(found: Sequence[Finding], addresses: Mapping[str, str], note: str = "") -> str:
    """Every finding with its pictures side by side and a button for each fix.

    addresses: of thumbnails, by name.
    """
    return render(
        "pictures_findings",
        findings=found[:MOST_FINDINGS],
        count=len(found),
        addresses=addresses,
        note=note,
        most=MOST_SIDE_BY_SIDE,
    )


def bulk_example(changed: Mapping[str, str], before: Mapping[str, str]) -> str:
    """What an edit would do, on the first caption it changes."""
    if not changed:
        return '<p class="note">No caption would change.</p>'
    name = next((n for n in changed if before[n]), next(iter(changed)))
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    return (
        f'<p class="note"><s>{escape(before[name]) or "(nothing)"}</s> → '
        f"<b>{escape(changed[name]) or '(nothing)'}</b>{more}</p>"
    )


def edited(count: int) -> str:
    """How many captions an edit changed."""
    return f'<p class="note"><b>{count} caption{"" if count == 1 else "s"} changed.</b></p>'


def described(count: int, of: int, *, done: bool = False) -> str:
    """How far a model has come with captions."""
    if not of:
        return '<p class="note">Every picture has a caption already.</p>'
    words = (
        f"{count} of {of} pictures described. Look through them: a model is often wrong."
        if done
        else f"{count} of {of} pictures described …"
    )
    return f'<p class="note"><b>{words}</b></p>'
