"""Which part of a picture counts: its transparency, or a mask in a file of its own.

White (or opaque) counts, black does not, grey in part. A file lies beside its picture as
`NAME-masklabel.png` (OneTrainer's name) or in the sub-folder `mask` under the picture's own name,
as sd-scripts' conditioning pictures do (docs/masked_loss_README.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from training.data import file_kinds, image_worker
from training.data.buckets import Bucket
from training.data.complaints import shown_name, some_of
from training.data.crops import CENTRE
from training.data.image_decoding import reason
from training.data.listing import Listing, name_key
from training.data.pictures import Examined, crop_box, picture_content
from training.errors import DataError
from training.storage.disk_errors import reading_aid

FOLDERS = ("mask", "masks")  # sub-folders of masks
APART = 0.02  # of a side: masks of a slightly other shape were cut by a pixel


@dataclass(frozen=True)
class Mask:
    """path: of the file with it, the picture's own for its transparency; digest: sha256 of the
    file's bytes, hex.
    """

    path: Path
    digest: str
    is_alpha: bool = False


def read_mask(mask: Mask) -> Image.Image:
    """The mask in grey, upright. Raises DataError with the file's name, also for a file that has
    changed since its hash was taken.
    """
    try:
        content = picture_content(mask.path)
        if hashlib.sha256(content).hexdigest() != mask.digest:
            raise DataError("was changed while the training was being prepared. Start it again.")
        return _decoded(content, mask.is_alpha)
    except DataError as error:
        raise DataError(f"{shown_name(mask.path)} {error}") from None


def _decoded(content: bytes, is_alpha: bool) -> Image.Image:
    if is_alpha:
        return image_worker.decode_alpha(content)
    return image_worker.decode(content, (0, 0, 0)).convert("L")


def weights(
    mask: Image.Image,
    size: tuple[int, int],
    bucket: Bucket,
    step: int,
    flipped: bool = False,
    place: tuple[float, float] = CENTRE,
) -> np.ndarray:
    """How much each pixel of a latent counts, float32 [bucket height / step, bucket width / step]
    in [0, 1]: the mean of the mask over it, cropped and mirrored with its picture.

    size: of the picture, px; step: px of a latent's pixel.
    """
    box = crop_box(size, bucket, place)
    across, down = mask.width / size[0], mask.height / size[1]
    shown = mask.resize(
        (bucket.width // step, bucket.height // step),
        Image.Resampling.BOX,
        box=(
            box[0] * across,
            box[1] * down,
            min(box[2] * across, mask.width),
            min(box[3] * down, mask.height),
        ),
    )
    found = np.asarray(shown, np.float32) / np.float32(255)
    return np.ascontiguousarray(found[:, ::-1]) if flipped else found


def find_masks(
    listing: Listing,
    beside: list[str],
    pictures: Mapping[str, Examined],
    kind: str,
    complaints: list[str],
    notes: list[str],
) -> dict[str, Mask]:
    """Return the masks of pictures by their names; a picture without one counts as a whole.

    beside: files of the folder that are masks by their names; kind: none, alpha or file.
    """
    if kind == "none":
        return {}
    if kind == "alpha":
        wanted = {name: listing.folder / name for name in pictures}
    else:
        try:
            wanted = dict(_files(listing, beside, pictures))
        except OSError as error:
            aid = reading_aid(error) or "Look whether its disk is sound and connected"
            complaints.append(
                f"the masks of the folder cannot be read ({reason(error)}). {aid}, or set "
                "data.mask = none."
            )
            return {}
    found: dict[str, Mask] = {}
    with ThreadPoolExecutor(image_worker.MOST_WORKERS) as threads:
        looked = threads.map(lambda path: _looked_at(path, kind == "alpha"), wanted.values())
        for (name, path), seen in zip(wanted.items(), looked, strict=True):
            shown = shown_name(path.relative_to(listing.folder))
            if isinstance(seen, DataError):
                complaints.append(f"{shown} {seen}")
                continue
            digest, size, (low, high) = seen
            picture = pictures[name]
            if abs(size[0] * picture.height / (size[1] * picture.width) - 1) > APART:
                complaints.append(
                    f"{shown} has {size[0]}x{size[1]} px, its picture {picture.width}x"
                    f"{picture.height}: a mask has the shape of its picture. Make it anew."
                )
            elif high == 0:
                complaints.append(
                    f"{shown} is {'transparent all over' if kind == 'alpha' else 'all black'}: "
                    "nothing of its picture would count. Paint white what counts, or remove it."
                )
            elif low < 255:
                found[name] = Mask(path, digest, kind == "alpha")
    if len(found) < len(pictures):
        rest = [name for name in pictures if name not in found]
        notes.append(
            f"{len(rest)} of {len(pictures)} pictures have no "
            f"{'transparency' if kind == 'alpha' else 'mask'} and count as a whole "
            f"({some_of(rest)})."
        )
    return found


def _files(
    listing: Listing, beside: list[str], pictures: Mapping[str, Examined]
) -> Iterator[tuple[str, Path]]:
    """Yield the names of pictures and the files of their masks, those in a sub-folder first: of
    several the last one counts.
    """
    by_stem = {name_key(Path(name).stem): name for name in pictures}
    for folder in FOLDERS:
        if folder in listing.nested:
            for path in sorted((listing.folder / folder).iterdir()):
                stem = name_key(path.stem)
                stem = file_kinds.mask_of(name_key(path.name), by_stem) or stem
                if file_kinds.is_picture(path.name) and stem in by_stem:
                    yield by_stem[stem], path
    for name in beside:
        if "masklabel" not in name.lower():  # -condlabel is what a picture is drawn after
            continue
        stem = file_kinds.mask_of(name_key(name), by_stem)
        if stem in by_stem:
            yield by_stem[stem], listing.folder / name


def _looked_at(
    path: Path, is_alpha: bool
) -> tuple[str, tuple[int, int], tuple[int, int]] | DataError:
    """sha256 of a file, its size in px, and the darkest and lightest value of the mask in it."""
    try:
        content = picture_content(path)
        mask = _decoded(content, is_alpha)
    except DataError as error:
        return error
    values = np.asarray(mask)
    return hashlib.sha256(content).hexdigest(), mask.size, (int(values.min()), int(values.max()))
