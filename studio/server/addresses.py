"""Which of gradio's addresses the page has: a request for anything else is answered 404. Knows no
gradio.

The list names what is open, not what is closed: a route that a new gradio adds is closed until
somebody has read it. Paths are matched as they come from the server, decoded once; doubled slashes,
other cases and doubly encoded forms match no row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote


@dataclass(frozen=True)
class Address:
    """One kind of address. pattern:

    of the whole path, decoded; kind: open or bounded (in size, number or place); is_public: whether
    it answers before a login.
    """

    pattern: str
    kind: str
    reason: str
    is_public: bool = False


ADDRESSES = (
    Address(r"/", "open", "the page; nothing of a workspace before a login", is_public=True),
    Address(r"/config/?", "open", "the page's controls, after a login; programs read it"),
    Address(r"/gradio_api/info/?", "open", "the verbs for programs, after a login"),
    Address(r"/(gradio_api/)?theme\.css", "open", "colours", is_public=True),
    Address(
        r"/(assets|static|svelte)/[^\\:]+",
        "open",
        "gradio's own files, which hold nothing of a user's",
        is_public=True,
    ),
    Address(r"/(favicon\.ico|robots\.txt|manifest\.json)", "open", "fixed files", is_public=True),
    Address(r"/login/?", "bounded", "wrong passwords are counted for each address", is_public=True),
    Address(r"/logout", "open", "ends the asker's own sessions", is_public=True),
    Address(
        r"/gradio_api/(user|login_check|app_id)/?",
        "open",
        "says who is logged in, to its own origin only",
        is_public=True,
    ),
    Address(r"/gradio_api/startup-events", "open", "starts the queue once", is_public=True),
    Address(
        r"/gradio_api/file=.+",
        "bounded",
        "copies below the upload folder, sandboxed; see is_served_file",
    ),
    Address(r"/gradio_api/upload", "bounded", "in bytes and number; after a login"),
    Address(r"/gradio_api/upload_progress", "open", "progress of one upload, after a login"),
    Address(r"/gradio_api/queue/join/?", "bounded", "in bytes and number, checked; after a login"),
    Address(
        r"/gradio_api/queue/data/?", "open", "the stream of one session's answers, after a login"
    ),
    Address(r"/gradio_api/(reset|cancel)/?", "bounded", "in bytes and number"),
    Address(
        r"/gradio_api/heartbeat/[\w-]{1,64}",
        "open",
        "programs keep their session with it, after a login",
    ),
)
OPEN, PUBLIC = (
    re.compile("|".join(f"(?:{one.pattern})" for one in ADDRESSES if one.is_public or not public))
    for public in (False, True)
)
FILE = "/gradio_api/file="
MOST_ENCODINGS = 5  # how often a path is decoded before it is looked at


def is_open(path: str, upload_folder: Path) -> bool:
    """Whether the page has that address. upload_folder: where files may be served from."""
    if OPEN.fullmatch(path) is None:
        return False
    return not path.startswith(FILE) or is_served_file(path.removeprefix(FILE), upload_folder)


def is_public(path: str) -> bool:
    """Whether an address that the page has answers before a login."""
    return PUBLIC.fullmatch(path) is not None


def is_served_file(name: str, upload_folder: Path) -> bool:
    """Whether a name is a plain path below the upload folder:

    no scheme, no step upwards, no null byte.
    """
    return "\0" not in name and Path(name).is_absolute() and is_below(name, upload_folder)


def is_below(name: str, upload_folder: Path) -> bool:
    """Whether a path, links followed, lies below the upload folder."""
    try:
        return Path(name).resolve().is_relative_to(upload_folder.resolve())
    except (OSError, ValueError, RuntimeError):
        return False


def complaint_of_files(data: Any, host: str) -> str | None:
    """Which file object in an event's data, at any depth, names an address; None when none does.

    Local paths go on: gradio and the verbs refuse those outside the upload folder in words of their
    own.
    """
    for found in _objects(data):
        path, url = found.get("path"), found.get("url")
        if path is not None and (not isinstance(path, str) or is_address(path)):
            return (
                "A file in this event was not uploaded here. Upload it first; addresses are "
                "not fetched."
            )
        if url is not None and not (isinstance(url, str) and is_own_url(url, host)):
            return (
                "A file's address in this event is not this page's. Upload the file; "
                "addresses are not fetched."
            )
    return None


def is_address(path: str) -> bool:
    """Whether the path of a file object is an address in any form:

    a scheme, two slashes, either of them encoded.
    """
    for _ in range(MOST_ENCODINGS):
        decoded = unquote(path)
        if decoded == path:
            break
        path = decoded
    plain = re.sub(r"[\x00-\x20]", "", path)
    return re.match(r"[a-z][a-z0-9+.-]+:|[/\\]{2}", plain, re.IGNORECASE) is not None


def is_own_url(url: str, host: str) -> bool:
    """Whether the url of a file object is one that this page gave it.

    host: what the request calls this page.
    """
    own = rf"(https?://{re.escape(host)})?/?gradio_api/file=.*"
    return url == "" or re.fullmatch(own, url, re.DOTALL) is not None


def _objects(data: Any) -> Iterator[dict[str, Any]]:
    """File objects: those that gradio would take for one, marked or with a path or a url
    beside it.
    """
    left = [data]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left.extend(value)
        elif isinstance(value, dict):
            left.extend(value.values())
            meta = value.get("meta")
            if "path" in value or (isinstance(meta, dict) and "_type" in meta):
                yield value
