"""What the Pictures tab shows, as HTML: thumbnails, the picture with its crop, the token count,
findings. Knows no files and no gradio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from studio.datasets.base_info import Tokens
from studio.datasets.checks import Finding
from studio.datasets.store import Added
from studio.page.scripts import script
from studio.page.templates import note, render
from training.data.buckets import Bucket, fit

MOST_SIDE_BY_SIDE = 6  # pictures of a finding
MOST_FINDINGS = 100


# The parts of the page that are drawn here tell the server what was clicked or moved.
PICK = script("pictures_pick")
FIX = script("pictures_fix")
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
    return render("pictures_no_desk")


def example() -> str:
    """What is said of the example dataset."""
    return render("pictures_example")


def meter(tokens: Tokens | None) -> str:
    """How much of what a base reads a caption takes, and what is cut off."""
    share = min(100, 100 * tokens.count / max(1, tokens.most)) if tokens else 0
    return render("pictures_meter", tokens=tokens, share=share)


def summary(count: int, without: int, complaints: Sequence[str] = ()) -> str:
    """How many pictures there are and how many still want a caption."""
    return render("pictures_summary", count=count, without=without, complaints=complaints)


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
        return note("No caption would change.")
    name = next((n for n in changed if before[n]), next(iter(changed)))
    return render("pictures_edit", before=before[name], after=changed[name], more=len(changed) - 1)


def edited(count: int) -> str:
    """How many captions an edit changed."""
    text = f"{count} caption{'' if count == 1 else 's'} changed."
    return render("pictures_done", text=text)


def described(count: int, of: int, *, done: bool = False) -> str:
    """How far a model has come with captions."""
    if not of:
        return note("Every picture has a caption already.")
    text = f"{count} of {of} pictures described"
    end = ". Look through them: a model is often wrong." if done else " …"
    return render("pictures_done", text=text + end)
