"""Base models that can be fetched, as HTML: what each takes, how far it is, a button for what can
be done with it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from studio.library.fetches import Fetch
from studio.library.known_bases import OWN_SIZE, KnownBase
from studio.page.scripts import script
from studio.page.templates import render
from studio.page.views.settings import size

ACT = script("bases_act")
ACTS = {
    "fetching": [("pause", "Pause")],
    "paused": [("fetch", "Resume"), ("forget", "Remove")],
    "failed": [("fetch", "Try again"), ("forget", "Remove")],
    "ready": [("use", "Use by default")],
    "there": [("use", "Use by default")],
    "not there": [("fetch", "Download")],
}


@dataclass(frozen=True)
class Row:
    """A base in the list. share: per cent that has arrived, None where there is nothing to show."""

    model: str
    title: str
    what: str
    advice: str
    state: str
    how: str
    share: int | None
    acts: Sequence[tuple[str, str]]


def bases_html(known: Sequence[KnownBase], fetches: Sequence[Fetch], here: Collection[str]) -> str:
    """The list: known bases, and others that are being fetched.

    here: hub ids of what is on this machine.
    """
    going = {fetch.model: fetch for fetch in fetches}
    rows = [_row(base.model, base, going, here) for base in known]
    listed = {base.model for base in known}
    rows += [_row(model, None, going, here) for model in going if model not in listed]
    return render("settings_bases", rows=rows)


def _row(
    model: str, base: KnownBase | None, going: Mapping[str, Fetch], here: Collection[str]
) -> Row:
    fetch = going.get(model)
    state = fetch.state if fetch else "not there"
    if model in here and state in ("not there", "ready"):
        state = "there"
    what = _what(base) if base else "A base model of your choice"
    share = None
    if fetch and state in ("fetching", "paused"):
        share = 100 * fetch.done // fetch.whole if fetch.whole else 0
    title, advice = (base.title, base.advice) if base else (model, "")
    return Row(model, title, what, advice, state, _how(state, base, fetch), share, ACTS[state])


def _what(base: KnownBase) -> str:
    px = OWN_SIZE.get(base.family, 1024)
    stored = "" if base.storage == "bfloat16" else f" ({base.storage})"
    return (
        f"{base.size:g} GB · trains at {px} px on a card with {base.card} GB{stored} · "
        f"{base.licence}"
    )


def _how(state: str, base: KnownBase | None, fetch: Fetch | None) -> str:
    if state in ("there", "ready"):
        return "On this machine"
    if fetch is None:
        return ""
    if state == "failed":
        return fetch.message
    if not fetch.whole:
        return "Asking the hub …" if state == "fetching" else "Paused"
    far = f"{size(fetch.done)} of {size(fetch.whole)}"
    return f"Downloading, {far}" if state == "fetching" else f"Paused, {far}"
