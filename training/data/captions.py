"""How a caption is made of a picture's own words, a trigger and a template. Pure strings."""

from __future__ import annotations

import re
import string

from training.errors import DataError

TEMPLATE = "{caption}, {trigger} style"
NAMES = ("caption", "trigger")
# a trigger that can be a learnt word: it stands in a tensor's name, and is a file's
WORD = r"[A-Za-z0-9_-]{1,64}"


def names_in(template: str) -> set[str]:
    """Return which of caption and trigger a template fills in.

    Raises DataError for anything else in braces, formats included: those can ask for gigabytes of
    spaces, and attributes show what is inside.
    """
    try:
        fields = [
            (name, form, conversion)
            for _, name, form, conversion in string.Formatter().parse(template)
            if name is not None
        ]
    except ValueError:
        fields = [("", "", None)]
    if any(name not in NAMES or form or conversion for name, form, conversion in fields):
        raise DataError(
            f"data.template is {template!r}: only {{caption}} and {{trigger}} can stand in "
            f"braces. Write for instance {TEMPLATE!r}."
        )
    return {name for name, _, _ in fields}


def captioned(caption: str, trigger: str, template: str = TEMPLATE) -> str:
    """Return the caption with the trigger in it, once. Raises DataError for a template with unknown
    names in braces.

    Without a trigger, or when the trigger already stands in it as a whole word, the caption stays
    as it is.
    """
    names_in(template)
    caption, trigger = " ".join(caption.split()), " ".join(trigger.split())
    if not trigger or re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", caption, re.IGNORECASE):
        return caption
    filled = " ".join(template.format(caption=caption, trigger=trigger).split())
    if caption:
        return filled
    return re.sub(r"\s*([,;:])(\s*[,;:])*", r"\1", filled).strip(
        " ,;:-"
    )  # what stood between the caption and the rest
