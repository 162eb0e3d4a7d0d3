"""Where the crop of a picture lies, kept in a small file beside it."""

from __future__ import annotations

import json
from pathlib import Path

from training.data.complaints import shown_name, shown_value, some_of
from training.data.file_content import decode_text, read_content
from training.data.file_kinds import CROP
from training.data.listing import Listing, share_of
from training.errors import DataError
from training.storage.paths import mode_of

CENTRE = (0.5, 0.5)
LARGEST_CROP = 1000  # bytes


def crop_file(picture: Path) -> Path:
    """Return `<stem>.crop.json` beside the picture: {"across": 0.5, "down": 0.2}."""
    return picture.with_name(picture.stem + CROP)


def read_place(picture: Path) -> tuple[float, float]:
    """Return the place of a picture's crop, the centre when it has none of its own.

    Raises DataError without the file's name.
    """
    file = crop_file(picture)
    if not mode_of(file):
        return CENTRE
    advice = 'Write {"across": 0.5, "down": 0.5} with numbers from 0 to 1, or remove the file.'
    try:
        found_crop = json.loads(decode_text(read_content(file, LARGEST_CROP)))
    except (ValueError, RecursionError):
        raise DataError(f"is not JSON. {advice}") from None
    place = (
        tuple(found_crop.get(key, 0.5) for key in ("across", "down"))
        if isinstance(found_crop, dict)
        else (found_crop,)
    )
    if len(place) != 2 or any(
        type(share) not in (int, float) or not 0 <= share <= 1 for share in place
    ):
        raise DataError(f"has {shown_value(found_crop)} as the place of a crop. {advice}")
    return float(place[0]), float(place[1])


def read_places(
    listing: Listing, complaints: list[str], notes: list[str]
) -> dict[str, tuple[float, float]]:
    """Return the place of every picture's crop, and note which were moved."""
    places: dict[str, tuple[float, float]] = {}
    for name in listing.pictures:
        try:
            places[name] = read_place(listing.folder / name)
        except DataError as error:
            complaints.append(f"{shown_name(crop_file(Path(name)).name)} {error}")
    if moved := [name for name, place in places.items() if place != CENTRE]:
        notes.append(f"{share_of(moved, listing)} a crop that was moved ({some_of(moved)}).")
    return places
