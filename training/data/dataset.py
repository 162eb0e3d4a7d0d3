"""A folder of pictures and captions -> examples, and every complaint about it at once. Knows
nothing of models; never writes.

read_dataset looks at all there is before training begins; open_picture and pixels give one picture
as the trainer sees it.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from training.data import image_worker
from training.data.buckets import Bucket, fit
from training.data.captions import TEMPLATE, captioned, names_in
from training.data.image_decoding import printable, reason
from training.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
UNREAD_SUFFIXES = (
    ".avif",
    ".bmp",
    ".gif",
    ".heic",
    ".heif",
    ".jfif",
    ".jxl",
    ".svg",
    ".tif",
    ".tiff",
)  # pictures, but not for us
METADATA = "metadata.jsonl"
CROP = ".crop.json"  # after a picture's stem: where its crop lies
CENTRE = (0.5, 0.5)

LARGEST_PICTURE_FILE = 512 * 2**20  # bytes
LARGEST_CAPTION = 10_000  # bytes of UTF-8
LARGEST_METADATA = 20 * 2**20  # bytes
LARGEST_CROP = 1000  # bytes
LONGEST_SHOWN = 1000  # characters of a path in a complaint
LONGEST_NAME = 255  # characters of a file's name, the most that systems have

SAYS_NOTHING = frozenset(  # words of file names that cameras, phones and browsers give
    "a at copy dcim download downloads dsc dscf dscn file fullsizerender gopr image images img "
    "imgp mvi p pic picture pictures photo photos pxl"
    " s scan screen screenshot shot unbenannt unknown unnamed untitled v wa whatsapp".split()
)
AS_UTF8 = "Save it again as UTF-8 (in an editor: Save as, encoding UTF-8)."


@dataclass(frozen=True)
class Example:
    """A picture that decodes. width, height: px, upright; caption: with the trigger; place: of its
    crop, as training.data.buckets.fit takes it;
    plain: the caption without the trigger; digest: sha256 of the file's bytes, hex."""

    path: Path
    caption: str
    width: int
    height: int
    digest: str
    place: tuple[float, float] = CENTRE
    plain: str = ""

    @property
    def identity(self) -> str:
        """What is learnt from, hex: another file or another place of the crop is another one."""
        return (
            self.digest
            if self.place == CENTRE
            else hashlib.sha256(f"{self.digest} {self.place}".encode()).hexdigest()
        )


@dataclass(frozen=True)
class Dataset:
    """examples in the order of their names; notes:

    what is worth knowing about the folder, one sentence each.
    """

    folder: Path
    examples: tuple[Example, ...]
    notes: tuple[str, ...]


def read_dataset(
    folder: Path, *, trigger: str = "", template: str = TEMPLATE, background: str = "white"
) -> Dataset:
    """Read all pictures and captions of a folder, without its sub-folders.

    Raises one DataError that lists all that is wrong.
    """
    complaints: list[str] = []
    notes: list[str] = []
    for check, value in ((_colour, background), (names_in, template)):
        try:
            check(value)
        except DataError as error:
            complaints.append(str(error))
    try:
        listing = _listed(folder)
    except DataError as error:
        raise _all_in_one(folder, [*complaints, str(error)]) from None
    notes += _passed_over(listing)
    texts = _captions(listing, complaints, notes)
    pictures = _pictures(listing, complaints, notes)
    places = _places(listing, complaints, notes)
    if complaints:
        raise _all_in_one(folder, complaints)
    examples = tuple(
        Example(
            listing.folder / name,
            captioned(texts.get(name, ""), trigger, template),
            seen.width,
            seen.height,
            seen.digest,
            places[name],
            " ".join(texts.get(name, "").split()),
        )
        for name, seen in pictures.items()
    )
    return Dataset(listing.folder, examples, tuple(notes))


def open_picture(path: Path, background: str = "white") -> Image.Image:
    """Return the picture as the trainer sees it: RGB, 8 bits, upright, sRGB, first frame, what is
    transparent flattened on the background.

    Raises DataError that names the file and what is wrong with it.
    """
    try:
        ground = _colour(background)
        return image_worker.decode(_picture_content(path), ground)
    except DataError as error:
        raise DataError(f"{_shown(path)} {error}") from None


def pixels(
    picture: Image.Image, bucket: Bucket, flipped: bool = False, place: tuple[float, float] = CENTRE
) -> np.ndarray:
    """Return uint8 [bucket height, bucket width, 3]:

    RGB resized (Lanczos) to cover the bucket, cropped at its place, mirrored if asked.
    """
    width, height, left, top = fit(*picture.size, bucket, place)
    across, down = picture.width / width, picture.height / height
    # Only what the crop shows is resized, with its true surroundings: a strip of 16 x 1,000,000 px
    # must not become 512 x 32,000,000 px first.
    right, bottom = (
        min((left + bucket.width) * across, picture.width),
        min((top + bucket.height) * down, picture.height),
    )
    shown = picture.resize(
        (bucket.width, bucket.height),
        Image.Resampling.LANCZOS,
        box=(left * across, top * down, right, bottom),
    )
    array = np.array(shown)
    return np.ascontiguousarray(array[:, ::-1]) if flipped else array


def crop_file(picture: Path) -> Path:
    """Where the place of a picture's crop is kept:

    `<stem>.crop.json` beside it, with {"across": 0.5, "down": 0.2}.
    """
    return picture.with_name(picture.stem + CROP)


def read_place(picture: Path) -> tuple[float, float]:
    """Return the place of a picture's crop, the centre when it has none of its own.

    Raises DataError without the file's name.
    """
    file = crop_file(picture)
    if not file.exists():
        return CENTRE
    advice = 'Write {"across": 0.5, "down": 0.5} with numbers from 0 to 1, or remove the file.'
    try:
        found_crop = json.loads(_text(_content(file, LARGEST_CROP)))
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
        raise DataError(f"has {_given(found_crop)} as the place of a crop. {advice}")
    return float(place[0]), float(place[1])


def metadata_captions(file: Path, names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Return captions that a metadata.jsonl gives to pictures of these names, and what is wrong in
    it.
    """
    listing, complaints = _Listing(file.parent, pictures=list(names)), []
    return _metadata(listing, file.name, complaints, []), complaints


# --- the folder ---


@dataclass(frozen=True)
class _Listing:
    """What lies in a folder, names sorted.

    texts: stem -> .txt; nested: sub-folder -> pictures directly in it; others: suffix -> files.
    """

    folder: Path
    pictures: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    metadata: list[str] = field(default_factory=list)
    nested: dict[str, int] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)


def _listed(folder: Path) -> _Listing:
    """Raises DataError when the folder cannot be read or has no pictures."""
    try:
        listing = _Listing(folder.expanduser())
        names = sorted(
            entry.name for entry in listing.folder.iterdir() if not entry.name.startswith(".")
        )
        for name in names:
            _sort_in(listing, name)
    except FileNotFoundError:
        raise DataError(
            "the folder is not there. Set data.folder to the folder with your pictures."
        ) from None
    except NotADirectoryError:
        raise DataError(
            "this is a file, a folder with pictures was expected. Set data.folder to the "
            "folder it lies in."
        ) from None
    except (
        OSError,
        RuntimeError,
        ValueError,
    ) as error:  # RuntimeError: ~name of an unknown user; ValueError: a NUL in the name
        raise DataError(
            f"the folder cannot be read ({reason(error)}). Mend that, or set data.folder to "
            "another one."
        ) from None
    if not listing.pictures:
        raise DataError(f"the folder holds no pictures, {_found_instead(listing)}")
    return listing


def _sort_in(listing: _Listing, name: str) -> None:
    path = listing.folder / name
    suffix = path.suffix.lower()
    if path.is_dir():
        listing.nested[name] = _pictures_directly_in(path)
    elif suffix in SUFFIXES:
        listing.pictures.append(name)
    elif name.lower() == METADATA:
        listing.metadata.append(name)
    elif suffix == ".txt":
        listing.texts[_key(path.stem)] = name
    else:
        listing.others[suffix or "without a suffix"] += 1


def _pictures_directly_in(folder: Path) -> int:
    """Not deeper: data.folder may be somebody's home."""
    try:
        return sum(
            path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
            for path in folder.iterdir()
        )
    except OSError:
        return 0  # only counted for a note


def _found_instead(listing: _Listing) -> str:
    advice = "Put .png, .jpg or .webp pictures in it, or set data.folder to another one."
    for name, count in listing.nested.items():
        if count:
            there = _shown(listing.folder / name)
            return (
                f"but its sub-folder {_shown(name)} holds {count}. Set data.folder to "
                f"{there}, or move the pictures up."
            )
    kinds = (
        Counter(
            {
                ".txt": len(listing.texts),
                METADATA: len(listing.metadata),
                "sub-folder": len(listing.nested),
            }
        )
        + listing.others
    )
    if not kinds:
        return f"it is empty. {advice}"
    found = ", ".join(f"{count} {_shown(kind)}" for kind, count in kinds.most_common(6))
    return f"only other things ({found}). {advice}"


def _passed_over(listing: _Listing) -> Iterator[str]:
    """A note on each kind of thing that looks as if it were meant for training and is not read."""
    if nested := {name: count for name, count in listing.nested.items() if count}:
        yield f"Pictures in sub-folders are not read: {sum(nested.values())} ({_some(nested)})."
    if unread := {
        suffix: count for suffix, count in listing.others.items() if suffix in UNREAD_SUFFIXES
    }:
        yield (
            f"Pictures of other kinds are not read: {sum(unread.values())} "
            f"({_some(sorted(unread))}). Save them as PNG to use them."
        )
    stems = {_key(Path(name).stem) for name in listing.pictures}
    if orphans := [name for stem, name in listing.texts.items() if stem not in stems]:
        yield (
            f"Captions without a picture of the same name are not used: {len(orphans)} "
            f"({_some(orphans)})."
        )


# --- captions ---


def _captions(listing: _Listing, complaints: list[str], notes: list[str]) -> dict[str, str]:
    """Return a caption for every picture name:

    its .txt, else metadata.jsonl, else words of the file name, else empty.
    """
    listed: dict[str, str] = {}
    for name in listing.metadata:
        listed |= _metadata(listing, name, complaints, notes)
    found: dict[str, str] = {}
    overruled, empty, from_name, wordless = [], [], [], []
    for name in listing.pictures:
        text = listing.texts.get(_key(Path(name).stem))
        if text is not None:
            found[name] = _sidecar(listing.folder / text, complaints)
            if not found[name]:
                empty.append(name)
            if name in listed and listed[name] != found[name]:
                overruled.append(name)
        elif name in listed:
            found[name] = listed[name]
        else:
            found[name] = caption_from_name(name)
            (from_name if found[name] else wordless).append(name)
    if from_name:
        example = f"{_shown(from_name[0])} -> {found[from_name[0]]}"
        notes.append(f"{_share(from_name, listing)} no caption: file names are used ({example}).")
    if wordless:
        notes.append(
            f"{_share(wordless, listing)} no caption and a file name that says nothing: the "
            f"caption is empty ({_some(wordless)})."
        )
    if empty:
        notes.append(
            f"{_share(empty, listing)} an empty .txt: the caption is empty ({_some(empty)})."
        )
    if overruled:
        notes.append(
            f"{_share(overruled, listing)} another caption in {METADATA} than in the .txt: the "
            f".txt counts ({_some(overruled)})."
        )
    return found


def _share(names: list[str], listing: _Listing) -> str:
    return (
        f"{len(names)} of {len(listing.pictures)} pictures {'has' if len(names) == 1 else 'have'}"
    )


def caption_from_name(name: str) -> str:
    """Return the words of a file name, without numbering; empty when a camera or a hash function
    named the file.
    """
    stem = "".join(
        c for c in unicodedata.normalize("NFC", Path(name).stem) if c.isprintable()
    )  # no lone surrogates either
    words = " ".join(re.split(r"[\s_.-]+", stem)).strip()
    words = re.sub(r"^(0\d*|\d{5,})\s+", "", words)
    while (shorter := re.sub(r"\s*(\d+|\(\d*\))$", "", words)) != words:
        words = shorter
    return words if any(_says_something(word) for word in words.split()) else ""


def _says_something(word: str) -> bool:
    camera_or_sign = word.lower() in SAYS_NOTHING or not re.search(r"[^\W\d_]", word)
    hexadecimal = re.fullmatch(r"[0-9a-f]{3,}", word, re.IGNORECASE) and re.search(r"\d", word)
    mixed = len(re.findall(r"\d+", word)) > 1
    return not (
        camera_or_sign
        or hexadecimal
        or mixed
        or re.fullmatch(r"[0-9a-f]{24,}", word, re.IGNORECASE)
    )


def _sidecar(path: Path, complaints: list[str]) -> str:
    try:
        return _clean(_text(_content(path, LARGEST_CAPTION)))
    except DataError as error:
        complaints.append(f"{_shown(path.name)} {error}")
        return ""


def _metadata(
    listing: _Listing, name: str, complaints: list[str], notes: list[str]
) -> dict[str, str]:
    """Return picture name -> caption from lines like {"file_name":

    "a.png", "text": "a red apple"}.
    """
    try:
        lines = _text(_content(listing.folder / name, LARGEST_METADATA)).split("\n")
    except DataError as error:
        complaints.append(f"{_shown(name)} {error}")
        return {}
    names = {_key(picture): picture for picture in listing.pictures}
    found: dict[str, str] = {}
    again: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            picture, caption = _entry(line, names, listing.folder)
        except DataError as error:
            complaints.append(f"{_shown(name)} line {number} {error}")
            continue
        if found.get(picture, caption) != caption:
            again.append(picture)
        found[picture] = caption
    if again:
        notes.append(
            f"{_shown(name)} has several captions for the same picture: the last one counts "
            f"({_some(again)})."
        )
    return found


def _entry(line: str, names: Mapping[str, str], folder: Path) -> tuple[str, str]:
    """Return (picture name, caption).

    names: key -> name as it is on disk. Raises DataError with what is wrong in this line.
    """
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        what = (
            f"{error.msg}, column {error.colno}"
            if isinstance(error, json.JSONDecodeError)
            else "it cannot be read"
        )
        raise DataError(
            f'is not JSON ({what}). Write one line per picture: {{"file_name": "a.png", '
            '"text": "a red apple"}.'
        ) from None
    if not isinstance(entry, dict):
        raise DataError('is not an object. Write {"file_name": "a.png", "text": "a red apple"}.')
    named, caption = entry.get("file_name"), entry.get("text", entry.get("caption"))
    if not isinstance(named, str) or not named:
        raise DataError(f'has {_given(named)} as "file_name". Write the picture\'s name there.')
    if not isinstance(caption, str):
        raise DataError(f'has {_given(caption)} as "text". Write the caption there, in quotes.')
    return _named_picture(named, names, folder), _clean(caption)


def _named_picture(named: str, names: Mapping[str, str], folder: Path) -> str:
    if (key := _key(named)) in names:
        return names[key]
    parts = [part for part in re.split(r"[/\\]", named) if part not in ("", ".")]
    if ".." in parts or named[0] in "/\\" or re.match(r"[A-Za-z]:", named):
        raise DataError(
            f"names {_shown(named)}, which leads out of the folder. Put the picture into the "
            "folder and write only its name."
        )
    if (key := _key("/".join(parts))) in names:
        return names[key]
    if len(parts) > 1:
        raise DataError(
            f"names {_shown(named)} in a sub-folder, which is not read. Move the picture up "
            "and write only its name."
        )
    if "\0" not in named and len(named) <= LONGEST_NAME and (folder / named).is_file():
        raise DataError(
            f"names {_shown(named)}, which is not a {', '.join(SUFFIXES)} file. Save it as "
            "PNG, or remove the line."
        )
    raise DataError(
        f"names {_shown(named)}, which is not there. Add the picture, or remove the line."
    )


def _text(content: bytes) -> str:
    """Raises DataError for what is not UTF-8 (a byte order mark may stand at the beginning)."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"is UTF-16 text. {AS_UTF8}")
    if b"\0" in content:
        raise DataError(f"holds NUL characters: it is UTF-16, or no text at all. {AS_UTF8}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"is not UTF-8 text (byte {content[error.start]:#04x} at position {error.start}). "
            f"{AS_UTF8}"
        ) from None


def _clean(caption: str) -> str:
    """Return one line of single-spaced words without control characters.

    Raises DataError for what cannot be a caption.
    """
    if "\0" in caption:
        raise DataError("has a NUL character in its caption. Remove it.")
    if any("\ud800" <= c <= "\udfff" for c in caption):
        raise DataError("has half a character (a lone surrogate) in its caption. Write it anew.")
    if (size := len(caption.encode())) > LARGEST_CAPTION:
        raise DataError(
            f"has a caption of {size:,} bytes, {LARGEST_CAPTION:,} is the most. Shorten it: "
            "models read about 75 words."
        )
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", caption).split())


# --- pictures ---


@dataclass(frozen=True)
class _Seen:
    """What stays in memory of a picture: its upright size in px, its file's sha256, remarks."""

    width: int
    height: int
    digest: str
    remarks: tuple[str, ...]


def _pictures(listing: _Listing, complaints: list[str], notes: list[str]) -> dict[str, _Seen]:
    """Decode every picture once and return what is known of the good ones, in the order of their
    names.
    """
    good: dict[str, _Seen] = {}
    remarks: dict[str, list[str]] = defaultdict(list)
    with ThreadPoolExecutor(image_worker.MOST_WORKERS) as threads:
        paths = [listing.folder / name for name in listing.pictures]
        for name, seen in zip(listing.pictures, threads.map(_looked_at, paths), strict=True):
            if isinstance(seen, DataError):
                complaints.append(f"{_shown(name)} {seen}")
                continue
            good[name] = seen
            for remark in seen.remarks:
                remarks[remark].append(name)
    notes += [f"{remark} ({_some(names)})." for remark, names in remarks.items()]
    return good


def _looked_at(path: Path) -> _Seen | DataError:
    """Return the error, without the file's name, so that the other pictures are looked at too."""
    try:
        content = _picture_content(path)
        size, remarks = image_worker.examine(content)
    except DataError as error:
        return error
    return _Seen(*size, hashlib.sha256(content).hexdigest(), remarks)


def _picture_content(path: Path) -> bytes:
    content = _content(path, LARGEST_PICTURE_FILE)
    if not content:
        raise DataError("is empty (0 bytes). Export it again, or remove it.")
    return content


def _colour(background: str) -> tuple[int, int, int]:
    try:
        return ImageColor.getrgb(background)[:3]
    except ValueError:
        raise DataError(
            f"data.background is {background!r}, which is not a colour. Write a name such as "
            "white, or #rrggbb."
        ) from None


# --- files and words ---


def _content(path: Path, largest: int) -> bytes:
    """Return a file's bytes.

    Raises DataError when it cannot be read or has more than `largest` bytes.
    """
    try:
        if not path.is_file():
            raise DataError(
                "is a link to nowhere or no ordinary file. Put the file itself there, or remove it."
            )
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except OSError as error:
        raise DataError(
            f"cannot be read ({reason(error)}). Allow reading it, or remove it."
        ) from None
    if len(content) > largest:
        raise DataError(f"has more than {largest:,} bytes. Make it smaller, or remove it.")
    return content


def _all_in_one(folder: Path, complaints: list[str]) -> DataError:
    if len(complaints) == 1:
        return DataError(f"{_shown(folder)}: {complaints[0]}")
    return DataError(
        "\n".join(
            [
                f"{len(complaints)} things are wrong in {_shown(folder)}:",
                *(f"  - {complaint}" for complaint in complaints),
            ]
        )
    )


def _places(
    listing: _Listing, complaints: list[str], notes: list[str]
) -> dict[str, tuple[float, float]]:
    """Return the place of every picture's crop, and note which were moved."""
    places: dict[str, tuple[float, float]] = {}
    for name in listing.pictures:
        try:
            places[name] = read_place(listing.folder / name)
        except DataError as error:
            complaints.append(f"{_shown(crop_file(Path(name)).name)} {error}")
    if moved := [name for name, place in places.items() if place != CENTRE]:
        notes.append(f"{_share(moved, listing)} a crop that was moved ({_some(moved)}).")
    return places


def _key(name: str) -> str:
    """Names typed on one system and stored by another differ in how accents are composed."""
    return unicodedata.normalize("NFC", name)


def _some(names: Iterable[str], most: int = 3) -> str:
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(_shown(name) for name in names[:most]) + more


def _shown(name: str | Path) -> str:
    """A name that any terminal can show:

    file names may hold line ends, escape codes and bytes that are no text. Too long ones are cut.
    """
    text = str(name) if len(str(name)) <= LONGEST_SHOWN else str(name)[:LONGEST_SHOWN] + "..."
    return printable(text)


def _given(value: object) -> str:
    return "nothing" if value is None else _shown(json.dumps(value, ensure_ascii=False)[:60])
