"""Addresses on the web that a setting names. Knows no network."""

from __future__ import annotations

from urllib.parse import urlsplit

LONGEST = 2000  # characters, about what servers take


def address_complaint(address: str) -> str:
    """What is wrong with a web address, as a sentence's end; "" for one that can be called.

    Only http and https: urllib also knows file and ftp, which would read this machine's files.
    """
    expected = "an address such as https://example.org/hook was expected"
    if len(address) > LONGEST:
        return f"it has {len(address)} characters: at most {LONGEST} were expected"
    if not address.isascii() or not address.isprintable() or " " in address:
        return (
            f"it holds blanks or letters outside ASCII: write them as %20 and the like; {expected}"
        )
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError as error:  # a port that is no number, half a bracket
        return f"it cannot be read ({error}): {expected}"
    if parts.scheme not in ("http", "https") or not host or port == 0:
        return expected
    if parts.username is not None:
        return (
            "it holds a user name, which is not sent along: use an address with a token in its path"
        )
    return ""
