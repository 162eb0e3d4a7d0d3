"""Headers of safetensors files that are long because of their metadata: sd-scripts counts every tag
of a dataset there, other programs keep cover pictures in it.

Such a header is walked value by value over its bytes, so that no more than what stays of it is ever
parsed. Pure bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

SPACE = rb"[ \t\r\n]*+"
STRING = rb'"[^"\\\x00-\x1f]*+(?:\\[^\x00-\x1f][^"\\\x00-\x1f]*+)*+"'
OPEN = re.compile(SPACE + rb"\{" + SPACE)
KEY = re.compile(SPACE + b"(" + STRING + b")" + SPACE + b":" + SPACE)
TEXT = re.compile(STRING)
FLAT = re.compile(rb"\{[^{}]{0,4096}+\}")  # a tensor's entry: it holds no further object
END = re.compile(SPACE + rb"([,}])")
METADATA = "__metadata__"


def shortened(raw: bytes, longest: int, most: int) -> tuple[bytes, dict[str, int]]:
    """A header without the metadata values of more than `longest` bytes, and the bytes that each of
    those had.

    most: members of it at most, metadata included. Raises ValueError, saying what is wrong.
    """
    kept: list[bytes] = []
    pairs: list[bytes] = []
    left_out: dict[str, int] = {}

    def text(key: bytes, at: int) -> int:
        value = _matched(TEXT, raw, at)
        if max(len(key), len(value[0])) <= longest:
            pairs.append(key + b":" + value[0])
        else:
            left_out[str(json.loads(key))[:longest]] = len(value[0])
        if len(pairs) + len(left_out) > most:
            raise ValueError("its metadata has too many values")
        return value.end()

    def member(key: bytes, at: int) -> int:
        if json.loads(key) == METADATA:
            end = _walked(raw, at, text)
            kept.append(key + b":{" + b",".join(pairs) + b"}")
            return end
        entry = _matched(FLAT, raw, at)
        kept.append(key + b":" + entry[0])
        if len(kept) > most:
            raise ValueError("it has too many tensors")
        return entry.end()

    end = _walked(raw, 0, member)
    if raw[end:].strip(b" \t\r\n"):
        raise ValueError("its header goes on behind its end")
    return b"{" + b",".join(kept) + b"}", left_out


def _walked(raw: bytes, at: int, value: Callable[[bytes, int], int]) -> int:
    """Where an object ends. value: (key with its quotes, where the value begins) -> where that
    ends.
    """
    at = _matched(OPEN, raw, at).end()
    if raw.startswith(b"}", at):
        return at + 1
    while True:
        key = _matched(KEY, raw, at)
        end = _matched(END, raw, value(key[1], key.end()))
        at = end.end()
        if end[1] == b"}":
            return at


def _matched(pattern: re.Pattern[bytes], raw: bytes, at: int) -> re.Match[bytes]:
    found = pattern.match(raw, at)
    if found is None:
        raise ValueError(f"its header is not sound JSON at byte {at}")
    return found
