"""What the Create tab shows, read from the workspace. Knows no components."""

from __future__ import annotations

from typing import Any

import gradio as gr
from PIL import Image

from studio.drawing import images
from studio.drawing.process import Progress
from studio.drawing.request import MOST_STRENGTH, DrawRequest
from studio.library import library
from studio.library.import_export import plain_stem
from studio.page.handlers import address, offered, offered_address
from studio.page.views import create as views
from training.errors import DataError
from training.storage.paths import Workspace

MOST_SHOWN = 36  # images of the history
THUMBNAIL, LARGE = 320, 1024  # px


def choices(workspace: Workspace) -> list[tuple[str, str]]:
    """Title and id of every style and its checkpoints, and the base alone."""
    found: list[library.Style] = []
    for style in library.styles(workspace):
        found += [style, *library.checkpoints(workspace, style.id)]
    return [*((style.title, style.id) for style in found), ("No style", "")]


def slider(strength: float) -> str:
    return views.slider(strength, MOST_STRENGTH)


def busy(
    workspace: Workspace, request: DrawRequest, progress: Progress, of: str, shown: str
) -> str:
    """The large image while another is drawn. shown: id of the one that is seen meanwhile."""
    words = f"{of} · loading the base model"
    if progress.of:
        words = f"{of} · step {progress.step} of {progress.of}"
    share = 100 * progress.step / progress.of if progress.of else 0
    created = images.found(workspace, shown) if shown else None
    seen = offered_address(created.path) if created else ""
    return views.image(seen, request.prompt, busy=words, share=share)


def shown(workspace: Workspace, id: str) -> dict[str, Any]:
    """The large image and what can be done with it, by the name of the part."""
    created = images.found(workspace, id) if id else None
    if created is None:
        return {"image": views.nothing_yet(), "actions": gr.Row(visible=False)}
    request, kept = created.request, created.note is not None
    name = plain_stem(f"{request.prompt} {request.seed}")
    return {
        "image": views.image(offered_address(created.path), request.prompt),
        "slider": slider(request.strength) if request.style else "",
        "actions": gr.Row(visible=True),
        "favourite": gr.Button("Remove from favourites" if kept else "Add to favourites"),
        "download": gr.DownloadButton(value=offered(created.path, f"{name}.png")),
        "note": gr.Textbox(created.note or "", visible=kept),
    }


def series(workspace: Workspace, source: str, found: list[tuple[float, str]], chosen: str) -> str:
    """One's own picture beside what was made of it. found: how much was changed, and id."""
    items = []
    for change, id in found:
        place = images.place(workspace, id) if id else None
        items.append((change, id, offered_address(place) if place else ""))
    return views.series(address(images.source(workspace, source), THUMBNAIL), items, chosen)


def has_source(workspace: Workspace, id: str) -> bool:
    try:
        return bool(id) and images.source(workspace, id).is_file()
    except DataError:
        return False


def own(workspace: Workspace, id: str, mask: str) -> str:
    """One's own picture in the form, "" for none."""
    if not has_source(workspace, id):
        return ""
    path = images.source(workspace, id)
    with Image.open(path) as picture:  # our own file, written by take_source
        width, height = picture.size
    return views.own(address(path, LARGE), width, height, bool(mask))


def history(workspace: Workspace, chosen: str, *, favourites: bool) -> str:
    """The last images, those that differ only in a strength once."""
    items, seen = [], set()
    for image in images.newest(workspace, 4 * MOST_SHOWN, favourites=favourites):
        asked = image.request
        alike = (asked.style, asked.prompt, asked.seed, asked.source, asked.shape, asked.steps)
        if len(items) == MOST_SHOWN or (alike in seen and image.note is None):
            continue
        seen.add(alike)
        try:
            shown = address(image.path, THUMBNAIL)
        except DataError:
            continue  # one that somebody damaged
        words = f"{image.note or asked.prompt} · seed {asked.seed}"
        items.append((shown, image.id, words, image.note is not None))
    return views.history(items, chosen, favourites=favourites)
