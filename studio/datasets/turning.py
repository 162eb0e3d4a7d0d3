"""Quarter turns of pictures, with their crops and their transparency. Knows Pillow and files; no
gradio.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import numpy as np
from PIL import Image

from studio.datasets import history, store
from training.data import image_worker
from training.data.crops import crop_file
from training.data.pictures import picture_content
from training.errors import DataError

TURNS = {"left": Image.Transpose.ROTATE_90, "right": Image.Transpose.ROTATE_270}
BLACK = (0, 0, 0)


def turn(dataset: Path, names: Sequence[str], to: str) -> int:
    """Turn pictures by a quarter, to the left or the right, undone as one change; return how many.

    A copy in PNG takes a picture's place. Raises DataError for one that cannot be read or whose new
    name is another picture's, before any is turned; SpaceError.
    """
    there = store.pictures(dataset)
    for name in names:
        path = store.picture(dataset, name)
        if (new := _as_png(name)) != name and new in there:
            raise DataError(f"{name} would become {new}, which is another picture. Remove one.")
        _examine(path)
    captions, act = store.captions(dataset), uuid4().hex
    called = names[0] if len(names) == 1 else f"{len(names)} pictures"
    for name in names:
        files = _turned(dataset, name, to, captions[name])
        history.change(dataset, f"rotate {called}", files, act=act)
    return len(names)


def _examine(path: Path) -> None:
    try:
        image_worker.examine(picture_content(path))
    except DataError as error:
        raise DataError(f"{path.name} {error} Nothing was rotated.") from None


def _turned(dataset: Path, name: str, to: str, caption: str) -> dict[str, bytes | None]:
    """The files that change: the picture, the place of its crop, and its caption where that is
    listed under the old name.
    """
    path, file = store.picture(dataset, name), io.BytesIO()
    _upright(picture_content(path)).transpose(TURNS[to]).save(file, "PNG")
    new = _as_png(name)
    files: dict[str, bytes | None] = {name: None} if new != name else {}
    files[new] = file.getvalue()
    if (place := crop_file(path)).is_file():
        across, down = store.place_of(dataset, name)
        across, down = (down, 1 - across) if to == "left" else (1 - down, across)
        moved = {"across": round(across, 3), "down": round(down, 3)}
        files[place.name] = json.dumps(moved).encode()
    if new != name and caption and not store.sidecar(path).is_file():
        files[store.sidecar(path).name] = store.as_caption(name, caption).encode()
    return files


def _as_png(name: str) -> str:
    return f"{Path(name).stem}.png"


def _upright(content: bytes) -> Image.Image:
    """The picture as the trainer sees it, with its transparency where it has any."""
    alpha = image_worker.decode_alpha(content)
    on_black = image_worker.decode(content, BLACK)
    if alpha.getextrema() == (255, 255):
        return on_black
    share = np.asarray(alpha, np.float32)[..., None] / 255
    black = np.asarray(on_black, np.float32)
    colours = np.divide(black, share, out=np.full_like(black, 255), where=share > 0)
    whole = Image.fromarray(colours.round().clip(0, 255).astype(np.uint8))
    whole.putalpha(alpha)
    return whole
