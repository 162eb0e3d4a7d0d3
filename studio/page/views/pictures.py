"""What the Pictures tab shows, as HTML:

thumbnails, the picture with its crop, the token count, findings. Knows no files and no gradio.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape

from studio.datasets.base_info import Tokens
from studio.datasets.checks import Finding
from studio.datasets.store import Added
from studio.page.scripts import script
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
    if not items:
        return ""
    cells = "".join(
        _thumbnail(address, name, "" if has_caption else "no caption")
        for address, name, has_caption in items
    )
    return f'<div class="thumbs" role="group" aria-label="Pictures">{cells}</div>'


def _thumbnail(address: str, name: str, flag: str = "") -> str:
    flagged = f'<span class="flag">{escape(flag)}</span>' if flag else ""
    return (
        f'<button type="button" class="thumb" data-at="{escape(name)}" '
        f'title="{escape(name)}"><img src="{escape(address)}" alt="{escape(name)}" '
        f'loading="lazy">{flagged}<span class="name">{escape(name)}</span></button>'
    )


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
    across, down = bucket.width / wide, bucket.height / high
    axis = "across" if wide - bucket.width > high - bucket.height else "down"
    movable = (wide, high) != (bucket.width, bucket.height)
    crop = (
        f'<div class="crop{" movable" if movable else ""}" data-of="{escape(of)}" '
        f'data-axis="{axis}" data-across="{place[0]}" data-down="{place[1]}" '
        f'style="width:{100 * across:.3f}%;height:{100 * down:.3f}%;'
        f'left:{100 * place[0] * (1 - across):.3f}%;top:{100 * place[1] * (1 - down):.3f}%"'
    )
    if movable:
        shown = round(100 * (place[0] if axis == "across" else place[1]))
        crop += (
            ' tabindex="0" role="slider" aria-label="What the model sees" '
            f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{shown}"'
        )
    hint = (
        "the frame is what the model sees: drag it, or use the arrow keys"
        if movable
        else "the model sees all of it"
    )
    return (
        f'<figure class="desk" data-current="{escape(name)}"><div class="sheet" '
        f'style="aspect-ratio:{size[0]}/{size[1]};'
        f'width:min(100%, calc(380px * {size[0] / size[1]:.4f}))"><img src="{escape(address)}" '
        f'alt="{escape(name)}">{crop}></div></div>'
        f"<figcaption><b>{escape(name)}</b><span>{count[0]} of {count[1]}</span>"
        f"<small>{size[0]} × {size[1]} px → {bucket.width} × {bucket.height}; "
        f"{hint}</small></figcaption></figure>"
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
    kept = f"{len(added.kept)} picture{'' if len(added.kept) == 1 else 's'} added" + (
        f", {added.captions} with a caption" if added.captions else ""
    )
    bad = "".join(
        f"<li><b>{escape(name)}</b> {escape(reason)}</li>" for name, reason in added.refused
    )
    return f"<p>{kept}.</p>" + (f'<p>Not taken:</p><ul class="refused">{bad}</ul>' if bad else "")


def findings(found: Sequence[Finding], addresses: Mapping[str, str], note: str = "") -> str:
    """Every finding with its pictures side by side and a button for each mend.

    addresses: of thumbnails, by name.
    """
    said = f'<p class="note">{escape(note)}</p>' if note else ""
    if not found:
        return said + '<p class="all-well">Nothing to mend: these pictures can be trained on.</p>'
    head = (
        f'<p class="summary"><b>{len(found)} thing{"" if len(found) == 1 else "s"} to look '
        "at.</b> Your own files are never changed.</p>"
    )
    more = f"<p>… and {len(found) - MOST_FINDINGS} more.</p>" if len(found) > MOST_FINDINGS else ""
    return said + head + "".join(_card(f, addresses) for f in found[:MOST_FINDINGS]) + more


def _card(finding: Finding, addresses: Mapping[str, str]) -> str:
    shown = "".join(
        _thumbnail(addresses[name], name)
        for name in finding.pictures[:MOST_SIDE_BY_SIDE]
        if name in addresses
    )
    buttons = "".join(
        f'<button type="button" class="mend{" first" if i == 0 and fix != "leave" else ""}" '
        f'data-mend="{fix}" data-kind="{finding.kind}" '
        f'data-on="{escape(json.dumps(finding.pictures))}">{escape(label)}</button>'
        for i, (fix, label) in enumerate(finding.offered_fixes)
    )
    words = (
        f'<div class="words"><p>{escape(finding.words)}</p><div class="mends">{buttons}</div></div>'
    )
    return (
        f'<section class="finding {finding.kind}"><div '
        f'class="side-by-side">{shown}</div>{words}</section>'
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
