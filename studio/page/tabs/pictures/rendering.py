"""What the Dataset tab shows, read from the workspace. Knows no components."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from studio.datasets import base_info, checks, filters, history, store
from studio.datasets.filters import Filter
from studio.library import library
from studio.page.handlers import address
from studio.page.views import pictures as views
from training.data.caption_files import caption_from_name
from training.errors import DataError, ModelError
from training.storage.paths import Workspace

THUMBNAIL, LARGE = 256, 768  # px of the longer side
EVERYTHING = Filter()


@dataclass(frozen=True)
class Picture:
    """One picture. of: dataset/name, "" for none; placeholder: what stands in an empty caption."""

    desk: str
    of: str = ""
    caption: str = ""
    placeholder: str = ""
    tokens: str = ""


@dataclass(frozen=True)
class Dataset:
    """A dataset with one picture of it. undo, redo: the last change and the last that was undone,
    None where there is none.
    """

    summary: str
    thumbnails: str
    tags: str
    undo: str | None
    redo: str | None
    picture: Picture


def base_of(model: str | None) -> tuple[base_info.Base, str]:
    """What is known of a base, and a remark when nothing is."""
    try:
        known = base_info.known(model or "mini")
    except ModelError as error:
        return base_info.Base(), str(error)
    if known.tokenizer:
        return known, ""
    return known, (
        f"{model} is not on this machine yet. The check assumes 512 px and does not count tokens."
    )


def base_for(workspace: Workspace, name: str, model: str | None) -> tuple[base_info.Base, str]:
    """The same, with the trigger and the template that this dataset was trained with last."""
    known, note = base_of(model)
    trigger, template = library.trained_with(workspace, store.folder(workspace, name))
    return replace(known, trigger=trigger, template=template), note


def dataset(
    workspace: Workspace, name: str | None, model: str, at: str = "", of: Filter = EVERYTHING
) -> Dataset:
    """A dataset and its picture named at, the first one of those that pass where that is not there;
    the page of thumbnails is that of the picture.
    """
    if not name:
        return Dataset(views.summary(0, 0), "", "", None, None, picture(workspace, name, "", model))
    folder = store.folder(workspace, name)
    names = passing(workspace, name, model, of)
    page = names.index(at) // views.PAGE if at in names else 0
    captions, items, complaints = store.captions(folder), [], []
    for found in names[page * views.PAGE : (page + 1) * views.PAGE]:
        try:
            items.append((address(folder / found, THUMBNAIL), found, bool(captions.get(found))))
        except DataError as error:
            complaints.append(str(error).removeprefix(f"{folder}/"))
    good = [item[1] for item in items]
    stays = at in good or (at in captions and not of.is_open and at not in names)
    chosen = at if stays else next(iter(good), "")
    return Dataset(
        summary(folder, complaints),
        views.thumbnails(name, items, names, page) if captions else "",
        views.tags(filters.frequent_tags(folder)),
        history.last(folder),
        history.undone(folder),
        picture(workspace, name, chosen, model),
    )


def passing(workspace: Workspace, name: str, model: str, of: Filter) -> list[str]:
    """Names of the pictures that pass a filter."""
    folder = store.folder(workspace, name)
    if of.is_open:
        return store.pictures(folder)
    return filters.passing(folder, base_for(workspace, name, model)[0], of)


def picture(workspace: Workspace, name: str | None, at: str, model: str) -> Picture:
    """One picture beside its caption."""
    if not (name and at):
        return Picture(views.nothing_chosen())
    folder = store.folder(workspace, name)
    path, listing = store.picture(folder, at), store.pictures(folder)
    base, _ = base_for(workspace, name, model)
    seen, text = checks.look(path), store.caption(folder, at)
    desk = views.desk(
        address(path, LARGE),
        at,
        f"{name}/{at}",
        (seen.width, seen.height),
        checks.bucket_of(seen, base),
        store.place_of(folder, at),
        (listing.index(at) + 1, len(listing)),
    )
    return Picture(desk, f"{name}/{at}", text, _placeholder(path), meter(base, text))


def meter(base: base_info.Base, text: str) -> str:
    """How much of what a base reads a caption takes, as it is trained."""
    return views.meter(base_info.trained_tokens(base, text))


def _placeholder(path: Path) -> str:
    instead = caption_from_name(path.name)
    if instead and not store.sidecar(path).exists():
        return f"No caption. The file name is used: “{instead}”"
    return "No caption yet"


def summary(folder: Path, complaints: list[str] | None = None) -> str:
    """How many pictures there are and how many have no caption."""
    captions = store.captions(folder)
    without = sum(not text for text in captions.values())
    return views.summary(len(captions), without, complaints or [])


def findings(workspace: Workspace, name: str | None, model: str) -> str:
    """What to look at before training; "" without pictures."""
    if name not in store.names(workspace) or not store.pictures(workspace.datasets() / name):
        return ""
    folder, (base, note) = store.folder(workspace, name), base_for(workspace, name, model)
    found = checks.findings(folder, base)
    addresses = {}
    shown = [at for f in found[: views.MOST_FINDINGS] for at in _side_by_side(f)]
    for at in dict.fromkeys(shown):
        try:
            addresses[at] = address(folder / at, THUMBNAIL)
        except DataError:
            continue  # that is what the finding says
    return views.findings(found, addresses, note)


def _side_by_side(finding: checks.Finding) -> list[str]:
    return list(finding.pictures[: views.MOST_SIDE_BY_SIDE])
