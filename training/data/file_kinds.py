"""What a file among pictures is by its name: a picture, a caption, a mask, or none of them.

One table for folders on disk, zips and uploads. Opens nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import PurePosixPath

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff"),
    *(".heic", ".heif", ".hif"),
)
# Pictures that are not read
UNREAD_SUFFIXES = tuple(
    ".3fr .arw .cr2 .cr3 .dng .exr .ico .jfif .jp2 .jpe .jxl .kra .nef .orf .ppm .psd .raf .raw"
    " .rw2 .svg .tga .xcf".split()
)
# Beside a picture, of the same name: the first kind that is there counts
CAPTION_SUFFIXES = (".txt", ".caption")
METADATA = "metadata.jsonl"
METADATA_CSV = "metadata.csv"
LISTS = (METADATA, METADATA_CSV)
# Lists of sd-scripts (finetune/merge_captions_to_metadata.py): meta_cap.json, meta_lat.json, ...
KOHYA_LIST = re.compile(r"meta(?:_\w+)?\.json", re.IGNORECASE)
LARGEST_LIST = 20 * 2**20  # bytes
# Files that other trainers keep captions in
UNREAD_CAPTION_SUFFIXES = tuple(
    ".cap .captions .csv .json .jsonl .parquet .tags .tsv .xml .xmp .yaml .yml".split()
)
CROP = ".crop.json"  # after a picture's stem: where its crop lies
# Beside a picture: what OneTrainer calls masks and conditioning pictures
MASK = re.compile(r"(.+)-(?:masklabel|condlabel)[1-9]?", re.IGNORECASE)
LIKE_A_MASK = re.compile(r"(.+)[-_. ]masks?\d*", re.IGNORECASE)
CLUTTER = ("thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r")  # of file managers
READ_CAPTIONS = (
    "Captions are read from NAME.txt or NAME.caption beside NAME.png, from metadata.jsonl, from "
    "metadata.csv and from the meta_cap.json of sd-scripts"
)


def suffix_of(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def is_picture(name: str) -> bool:
    return suffix_of(name) in SUFFIXES


def is_caption(name: str) -> bool:
    return suffix_of(name) in CAPTION_SUFFIXES


def is_list(name: str) -> bool:
    """Whether a file lists captions of many pictures in a form that is read."""
    return name.lower() in LISTS


def is_kohya_list(name: str) -> bool:
    """Whether a file is one of sd-scripts' with the captions of many pictures."""
    return bool(KOHYA_LIST.fullmatch(name))


def is_clutter(path: str) -> bool:
    """Whether a system put the file beside a user's own. path: with the folders it lies in."""
    parts = path.replace("\\", "/").split("/")
    hidden = any(part.startswith(".") and part.strip(".") for part in parts)
    return hidden or "__MACOSX" in parts or parts[-1].lower() in CLUTTER


def may_hold_captions(name: str) -> bool:
    """Whether a file that is not read looks like captions of another trainer."""
    unread = suffix_of(name) in UNREAD_CAPTION_SUFFIXES and not is_list(name)
    return unread and not name.lower().endswith(CROP)


def mask_of(name: str, stems: Collection[str]) -> str | None:
    """The stem of the picture that a file is a mask of by its name, if that is among `stems`."""
    return _before(MASK, name, stems)


def perhaps_mask_of(name: str, stems: Collection[str]) -> str | None:
    """The same for names that a picture may have, too: `red mask.png` beside `red.png`."""
    return _before(LIKE_A_MASK, name, stems)


def _before(pattern: re.Pattern[str], name: str, stems: Collection[str]) -> str | None:
    found = pattern.fullmatch(PurePosixPath(name).stem)
    return found[1] if found and found[1] in stems else None


def why_not_taken(name: str) -> str:
    """What is said of a file that is neither a picture, a caption nor a list of them; no name."""
    if suffix_of(name) in UNREAD_SUFFIXES:
        kind = suffix_of(name).lstrip(".").upper()
        return f"is a picture of a kind that is not read ({kind}). Save it as PNG, or remove it."
    if name.lower().endswith(CROP):
        return "is the place of a crop, which does not come along. Move the crop on the page."
    if may_hold_captions(name):
        return f"may hold captions in a form that is not read. {READ_CAPTIONS}."
    return (
        f"is no picture and no caption: {', '.join(SUFFIXES)}, {', '.join(CAPTION_SUFFIXES)}, "
        f"{' or '.join(LISTS)} was expected."
    )
