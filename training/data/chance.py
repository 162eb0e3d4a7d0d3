"""Chance that is a function of its key alone: the same on every machine and in every version."""

from __future__ import annotations

import hashlib


def uniform(*key: object) -> float:
    """A number in [0, 1) from 53 bits of a hash of the key: numbers, strings and tuples of them."""
    digest = hashlib.sha256(repr(key).encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53
