"""What a set of pictures shows or says more than once, and captions that came from elsewhere: near
copies, captions that many share, links. The page and the training find the same.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from training.data.checks import Remark
from training.data.complaints import shown_name, some_of

NEAR_SHAPE = 1.1  # times that the aspect ratios of two copies may differ: the hashes do not see it
NEAR_BITS = 6  # of 64 in which the hashes of two copies may differ, both of them
MOST_COMPARED = 3000  # pictures; every pair is looked at
SAME_CAPTION = 3  # pictures
FOREIGN = re.compile(
    r"https?://|www\.|<[a-z/][^<>]*+>|\.(png|jpe?g|webp)\b", re.IGNORECASE
)  # in a caption: a link, a tag of HTML, the name of a file
TWICE = "what is shown twice is learnt twice, and soon by heart."


@dataclass(frozen=True)
class Look:
    """What a picture looks like. width, height: px, upright; hashes: 64 bits each, which differ in
    few where pictures look alike.
    """

    width: int
    height: int
    hashes: tuple[int, int]

    def is_near(self, other: Look) -> bool:
        """Whether one may be a copy of the other: scaled, compressed again, slightly retouched."""
        pairs = zip(self.hashes, other.hashes, strict=True)
        if any((a ^ b).bit_count() > NEAR_BITS for a, b in pairs):
            return False
        ratio = self.width * other.height / (self.height * other.width)
        return 1 / NEAR_SHAPE <= ratio <= NEAR_SHAPE


def look_of(picture: Image.Image) -> Look:
    """Two perceptual hashes: signs of low frequencies (Zauner 2010, section 3.2.1) and of
    differences between neighbours.
    """
    small = picture.resize((256, 256)) if picture.width * picture.height > 256**2 else picture
    grey = small.convert("L")
    lanczos = Image.Resampling.LANCZOS
    square = np.asarray(grey.resize((32, 32), lanczos), np.float64)
    waves = _cosines()
    low = (waves @ square @ waves.T)[:8, :8]
    row = np.asarray(grey.resize((9, 8), lanczos), np.int16)
    hashes = (_number(low > np.median(low)), _number(row[:, 1:] > row[:, :-1]))
    return Look(picture.width, picture.height, hashes)


@functools.cache
def _cosines() -> np.ndarray:
    """The discrete cosine transform of 32 values (type II), [frequency, place]."""
    places = np.arange(32)
    return np.cos(np.pi * np.outer(places, 2 * places + 1) / 64)


def _number(bits: np.ndarray) -> int:
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near_copies(looks: Mapping[str, Look]) -> Iterator[list[str]]:
    """Groups of pictures that look the same, by name; of the first MOST_COMPARED."""
    names = list(looks)[:MOST_COMPARED]
    group = {name: name for name in names}
    for i, one in enumerate(names):
        for other in names[:i]:
            if group[one] != group[other] and looks[one].is_near(looks[other]):
                joined, into = group[one], group[other]
                group = {name: into if of == joined else of for name, of in group.items()}
    together = defaultdict(list)
    for name in names:
        together[group[name]].append(name)
    yield from (members for members in together.values() if len(members) > 1)


def same_captions(captions: Mapping[str, str]) -> Iterator[tuple[list[str], str]]:
    """Pictures that share a caption, by name, and what to say of them."""
    together = defaultdict(list)
    for name, text in captions.items():
        together[text.casefold()].append(name)
    for text, names in together.items():
        if text and len(names) >= SAME_CAPTION:
            yield (
                names,
                f"{len(names)} pictures have the same caption, “{captions[names[0]][:80]}”: what "
                "differs between them becomes part of the style.",
            )


def is_foreign(caption: str) -> bool:
    """Whether a caption holds what nobody would say of a picture."""
    return FOREIGN.search(caption) is not None


def remarks(captions: Mapping[str, str], looks: Mapping[str, Look]) -> Iterator[Remark]:
    """All of it, for a training. captions, looks: by the picture's name."""
    for names in near_copies(looks):
        yield Remark("alike", names[0], f"{some_of(names)} look the same: {TWICE}")
    for names, words in same_captions(captions):
        yield Remark("repeated", names[0], words)
    for name, text in captions.items():
        if is_foreign(text):
            words = (
                f"The caption of {shown_name(name)}, “{text[:80]}”, holds a link, a tag of HTML "
                "or a file name: is that what the picture shows?"
            )
            yield Remark("odd", name, words)
