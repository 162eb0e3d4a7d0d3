"""The same edit of many captions:

prefix, suffix, find and replace, remove a tag, trigger. Pure strings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from training.errors import ConfigError

Edit = Callable[[str, str, str], str]  # caption, words, other words -> caption


def prefixed(caption: str, words: str, _: str = "") -> str:
    """Put words before the caption, with a comma; one that begins with them stays."""
    return caption if _begins(caption, words) else ", ".join(filter(None, [words, caption]))


def suffixed(caption: str, words: str, _: str = "") -> str:
    """Put words after the caption, with a comma; one that ends with them stays."""
    return (
        caption
        if _begins(caption[::-1], words[::-1])
        else ", ".join(filter(None, [caption, words]))
    )


def replaced(caption: str, words: str, by: str) -> str:
    """Put other words in the place of words, as they are typed, upper and lower case alike."""
    return tidied(re.sub(re.escape(words), lambda _: by, caption, flags=re.IGNORECASE))


def without(caption: str, tag: str, _: str = "") -> str:
    """Leave out a tag: what stands between two commas."""
    gone = {t.casefold() for t in tags(tag)}
    return ", ".join(t for t in tags(caption) if t.casefold() not in gone)


def triggered(caption: str, trigger: str, former: str = "") -> str:
    """Put the trigger first, once; a former trigger goes, where it stands as a tag."""
    kept = without(caption, former) if former else caption
    return (
        kept
        if re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", kept, re.IGNORECASE)
        else prefixed(kept, trigger)
    )


EDITS: Mapping[
    str, tuple[Edit, str, str]
] = {  # what a user chooses -> the edit, and what its two fields are called
    "Add to the start": (prefixed, "Words", ""),
    "Add to the end": (suffixed, "Words", ""),
    "Find and replace": (replaced, "Find", "Replace with"),
    "Remove a tag": (without, "Tag", ""),
    "Set the trigger word": (triggered, "Trigger word", "Replaces (optional)"),
}


def edited(captions: Mapping[str, str], kind: str, words: str, other: str = "") -> dict[str, str]:
    """Return the captions an edit changes, as they become.

    Raises ConfigError when there is nothing to do it with.
    """
    edit, first, _ = EDITS.get(kind, (None, "", ""))
    if edit is None:
        raise ConfigError(
            f"{kind!r} is no way to change captions. Choose one of: {', '.join(EDITS)}."
        )
    words, other = (
        (words, other) if edit is replaced else (" ".join(words.split()), " ".join(other.split()))
    )
    if not words.strip():
        raise ConfigError(f"“{first}” is empty: write what to look for or what to put there.")
    changed = {name: edit(caption, words, other) for name, caption in captions.items()}
    return {name: caption for name, caption in changed.items() if caption != captions[name]}


def described(kind: str, words: str, other: str) -> str:
    """What an edit is called in Undo."""
    return f"{kind.lower()}: “{words.strip()[:40]}”" + (
        f" → “{other.strip()[:40]}”" if other.strip() else ""
    )


def tags(caption: str) -> list[str]:
    """What stands between the commas."""
    return [tag for tag in (" ".join(t.split()) for t in caption.split(",")) if tag]


def tidied(caption: str) -> str:
    """Single spaces, no empty and no repeated tags."""
    seen: dict[str, str] = {}
    for tag in tags(caption):
        seen.setdefault(tag.casefold(), tag)
    return ", ".join(seen.values())


def _begins(caption: str, words: str) -> bool:
    return bool(re.match(rf"{re.escape(words)}(?!\w)", caption, re.IGNORECASE))
