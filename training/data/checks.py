"""What is worth a look in a set of pictures before it is trained on: shapes, sizes, long captions.

Pure. The page, the plan and the training say it from here, in the same words.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from training.data.buckets import Bucket, cut_off, nearest
from training.data.captions import captioned
from training.data.complaints import shown_name, some_of

ENLARGED = 1.25  # times; a picture that must be enlarged more teaches blur
MOST_CUT = 0.06  # of a side
# times as often as the others; EveryDream2trainer and sd-scripts warn from here on
OFTEN = Fraction(3, 2)
MOST_ALIKE = 2  # remarks of one kind that are said in full
LONGEST_WORD = 40  # characters
CJK = "\u2e80"  # from here on words have no spaces between them and are cut anywhere
LONGEST_SHOWN = 160  # characters of what is not read


@dataclass(frozen=True)
class Remark:
    """kind: which check; words: a whole sentence that names the picture."""

    kind: str
    picture: str
    words: str


@dataclass(frozen=True)
class Reader:
    """How a base reads captions. count: tokens of a text; most: that are read."""

    count: Callable[[str], int]
    most: int

    def reads(self, text: str) -> bool:
        return self.count(text) <= self.most

    def longest(self, text: str, written: Callable[[str], str] = str) -> str:
        """The longest beginning of a text, in whole words where it has words, that is read whole
        as `written` puts it.
        """
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.reads(written(text[:middle]))
            low, high = (middle, high) if fits else (low, middle - 1)
        gap = text.rfind(" ", 0, low)
        is_in_a_word = low < len(text) and text[low].isalnum() and text[low] < CJK
        if is_in_a_word and 0 <= gap and low - gap < LONGEST_WORD:
            low = gap
        return text[:low].rstrip()


def trained_caption(caption: str, trigger: str, template: str, reader: Reader) -> str:
    """Return the caption with the trigger, as it is trained: one that is so long that the trigger
    would not be read is shortened, any other stays as it is.
    """
    whole = captioned(caption, trigger, template)
    if not _loses(whole, trigger, reader):
        return whole
    return _written(kept(caption, trigger, template, reader), trigger, template)


def kept(caption: str, trigger: str, template: str, reader: Reader) -> str:
    """The beginning of a caption that is read whole together with the trigger."""
    plain = " ".join(caption.split())
    return reader.longest(plain, lambda text: _written(text, trigger, template))


def _written(caption: str, trigger: str, template: str) -> str:
    return captioned(caption.rstrip(" ,;:-"), trigger, template)


def _loses(text: str, trigger: str, reader: Reader) -> bool:
    """Whether the trigger stands in a text, and not in what is read of it."""
    trigger = " ".join(trigger.split())
    if not trigger or reader.reads(text):
        return False
    found = re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", text, re.IGNORECASE)
    return found is not None and not reader.reads(text[: found.end()])


def too_long(
    captions: Mapping[str, str], trigger: str, template: str, reader: Reader
) -> Iterator[Remark]:
    """Captions without the trigger, by picture, of which a part is not read once it is in them."""
    for name, caption in captions.items():
        whole = captioned(caption, trigger, template)
        count = reader.count(whole)
        if count <= reader.most:
            continue
        if _loses(whole, trigger, reader):
            plain = " ".join(caption.split())
            lost = plain[len(kept(caption, trigger, template, reader)) :]
            what = f"It is shortened so that “{trigger}” is read; left out: "
        else:
            lost = whole[len(reader.longest(whole)) :]
            what = "Not read: "
        yield Remark(
            "long",
            name,
            f"The caption of {shown_name(name)} has {count} tokens, {reader.most} are read. {what}"
            f"“{lost.strip(' ,')[:LONGEST_SHOWN]}”.",
        )


def small(sizes: Mapping[str, tuple[int, int]], shapes: Mapping[str, Bucket]) -> Iterator[Remark]:
    """Pictures that are enlarged. sizes: px."""
    for name, (width, height) in sizes.items():
        bucket = shapes[name]
        times = max(bucket.width / width, bucket.height / height)
        if times > ENLARGED:
            yield Remark(
                "small",
                name,
                f"{shown_name(name)} has {width} × {height} px and is enlarged {times:.1f} times "
                f"to {bucket.width} × {bucket.height}: it teaches blur.",
            )


def cut(sizes: Mapping[str, tuple[int, int]], shapes: Mapping[str, Bucket]) -> Iterator[Remark]:
    """Pictures of which a crop leaves out much. sizes: px."""
    for name, (width, height) in sizes.items():
        bucket = shapes[name]
        across, down = cut_off(width, height, bucket)
        if max(across, down) > MOST_CUT:
            yield Remark(
                "cut",
                name,
                f"Of {shown_name(name)} ({width} × {height} px) {max(across, down):.0%} of the "
                f"{'width' if across > down else 'height'} is cut off: it becomes {bucket.width} × "
                f"{bucket.height} px.",
            )


def lonely(shapes: Mapping[str, Bucket], batch_size: int) -> Iterator[Remark]:
    """Pictures whose shape so few have that they are looked at much more often than the others,
    since a batch is of one shape and filled with them again and again.
    """
    count = Counter(shapes.values())
    looks = {bucket: Fraction(-(-n // batch_size) * batch_size, n) for bucket, n in count.items()}
    for name, bucket in shapes.items():
        others = {other: n for other, n in count.items() if other != bucket}
        if not others:
            continue
        usual = sum(looks[other] * n for other, n in others.items()) / sum(others.values())
        if looks[bucket] <= OFTEN * usual:
            continue
        to = nearest(bucket.width, bucket.height, others)
        size = f"({bucket.width} × {bucket.height})"
        which = (
            f"the only picture of its shape {size}: it fills"
            if count[bucket] == 1
            else f"one of {count[bucket]} pictures of a shape {size}: they fill"
        )
        yield Remark(
            "lonely",
            name,
            f"{shown_name(name)} is {which} whole batches alone and "
            f"{'is' if count[bucket] == 1 else 'are'} looked at "
            f"{float(looks[bucket] / usual):.1f} times as often as the others. The nearest shape "
            f"that others have is {to.width} × {to.height}.",
        )


def summarised(remarks: Iterable[Remark]) -> Iterator[str]:
    """Yield a few remarks of each kind in full, and which pictures the others are about."""
    by_kind: dict[str, list[Remark]] = defaultdict(list)
    for remark in remarks:
        by_kind[remark.kind].append(remark)
    for found in by_kind.values():
        yield from (remark.words for remark in found[:MOST_ALIKE])
        if rest := [remark.picture for remark in found[MOST_ALIKE:]]:
            yield f"The same holds for {len(rest)} more: {some_of(rest)}."
