"""How much a client may ask of the page, and which of gradio's addresses it has at all. Knows ASGI;
no gradio.

The page itself asks few things of the server. What it never asks (calls without the line of events,
recordings, other servers) is not there, so that nothing behind it has to be kept safe; what it does
ask is bounded in number and size, and checked before gradio sees it.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path

import anyio
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from studio.server import addresses
from studio.server.auth import network

LOGIN = re.compile(r"/login/?")
JOIN = re.compile(r"(/gradio_api)?/queue/join/?")
UPLOAD = re.compile(r"(/gradio_api)?/upload/?")
LARGEST_EVENT = 8 * 2**20  # bytes of what is sent with an event: a form and its captions
LARGEST_LOGIN = 16 * 2**10  # bytes of a name and a password
LARGEST_UPLOAD = 4 * 2**30  # bytes of one upload, all its files together
MOST_EVENTS, MINUTE = (
    3000,
    60.0,
)  # events and uploads of one address within so many seconds; a few dozen open pages ask no more
MOST_HELD = 64 * 2**20  # bytes of unfinished bodies kept at one time, of all clients together
LONGEST_BODY = 30.0  # seconds in which a body has to come
LONGEST_PAUSE = 60.0  # seconds in which nothing of an upload comes, after which it ends
HALF = re.compile(rb"\\u[dD][89a-fA-F]")  # half a character in JSON, alone or with the other one
LONGEST_HASH = 64  # characters of a session's name


class Limits:
    """Refuses what is too large, too often, or no event of a page.

    events: how many events the page has.
    """

    def __init__(
        self,
        app: ASGIApp,
        events: int,
        most: int = MOST_EVENTS,
        *,
        upload_folder: Path = Path("/nowhere"),
        is_logged_in: Callable[[Scope], bool] = lambda _: True,
    ) -> None:
        self.app, self.events, self.most = app, events, most
        self.upload_folder, self.is_logged_in = upload_folder, is_logged_in
        self._held = 0  # bytes
        self._asked: defaultdict[str, deque[float]] = defaultdict(deque)
        self._turn = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, writes = scope["path"], scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if not addresses.is_open(path, self.upload_folder):
            await PlainTextResponse("This page has no such address.", 404)(scope, receive, send)
            return
        needs_login = not (LOGIN.fullmatch(path) if writes else addresses.is_public(path))
        is_refused = needs_login and not self.is_logged_in(scope)
        if not writes and not is_refused:
            await self.app(scope, receive, send)
            return
        if writes and self._too_often(scope["client"][0] if scope.get("client") else ""):
            words = f"More than {self.most} requests came from you within a minute. Wait a moment."
            await PlainTextResponse(words, 429, {"retry-after": "10"})(scope, receive, send)
            return
        if is_refused:
            await PlainTextResponse("Log in first.", 401)(scope, receive, send)
            return
        most = (
            LARGEST_UPLOAD
            if UPLOAD.fullmatch(path)
            else LARGEST_LOGIN
            if LOGIN.fullmatch(path)
            else LARGEST_EVENT
        )
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 15 or int(length) > most:
            await _too_large(most)(scope, receive, send)
            return
        if UPLOAD.fullmatch(path):
            await self.app(scope, _counted(receive, most), send)
            return
        body = await self._read(receive, most)
        if isinstance(body, PlainTextResponse):
            await body(scope, receive, send)
            return
        complaint = self._complaint(path, body, _host(scope))
        if complaint is not None:
            await complaint(scope, receive, send)
            return
        await self.app(scope, _replayed(_whole(body), receive), send)

    def _too_often(self, address: str) -> bool:
        now, client = time.monotonic(), network(address)
        with self._turn:
            for other in [
                name for name, asked in self._asked.items() if not asked or now - asked[-1] > MINUTE
            ]:
                del self._asked[other]
            asked = self._asked[client]
            while asked and now - asked[0] > MINUTE:
                asked.popleft()
            if len(asked) >= self.most:
                return True
            asked.append(now)
            return False

    def _complaint(self, path: str, body: bytes, host: str) -> PlainTextResponse | None:
        """What is wrong with an event, None when nothing is."""
        if not JOIN.fullmatch(path):
            return None
        try:
            event = json.loads(body)
        except (ValueError, RecursionError):
            return PlainTextResponse(
                "This is not JSON. The page sends {fn_index, data, session_hash}.", 400
            )
        if not isinstance(event, dict):
            return PlainTextResponse(
                "This is no event. The page sends {fn_index, data, session_hash}.", 400
            )
        number, session, data = event.get("fn_index"), event.get("session_hash"), event.get("data")
        if type(number) is not int or not 0 <= number < self.events:
            return PlainTextResponse(
                f"fn_index is wrong: a number from 0 to {self.events - 1} was expected.", 400
            )
        if not isinstance(session, str) or not re.fullmatch(rf"[\w-]{{1,{LONGEST_HASH}}}", session):
            return PlainTextResponse(
                f"session_hash is wrong: 1 to {LONGEST_HASH} letters and digits were expected.", 400
            )
        if not isinstance(data, list):
            return PlainTextResponse("data is wrong: a list was expected.", 400)
        found = addresses.complaint_of_files(event, host)
        return None if found is None else PlainTextResponse(found, 400)

    async def _read(self, receive: Receive, most: int) -> bytes | PlainTextResponse:
        """The whole body, or why it is not waited for:

        too large, too slow, or too many unfinished ones are held.
        """
        body = bytearray()
        try:
            with anyio.move_on_after(LONGEST_BODY):
                while True:
                    message = await receive()
                    piece = message.get("body", b"")
                    self._held += len(piece)
                    body += piece
                    if len(body) > most:
                        return _too_large(most)
                    if self._held > MOST_HELD:
                        return PlainTextResponse(
                            "Too much is being sent at once. Try again in a moment.",
                            503,
                            {"retry-after": "5"},
                        )
                    if message["type"] != "http.request" or not message.get("more_body"):
                        return bytes(body)
            return PlainTextResponse(
                f"The request did not arrive within {LONGEST_BODY:.0f} seconds.",
                408,
                {"connection": "close"},
            )
        finally:
            self._held -= len(body)


def _whole(body: bytes) -> bytes:
    """A body in which no half of a character is left: none can be written to a file, or sent
    back.
    """
    if not HALF.search(body):
        return body
    try:
        text = json.dumps(json.loads(body), ensure_ascii=False)
        return without_half_characters(text).encode()
    except (ValueError, RecursionError):
        return body  # whoever reads it says so


def without_half_characters(text: str) -> str:
    """Return a text with U+FFFD for every lone surrogate."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _host(scope: Scope) -> str:
    return dict(scope["headers"]).get(b"host", b"").decode("latin-1")


def _too_large(most: int) -> PlainTextResponse:
    return PlainTextResponse(
        f"This is too large: {most / 2**20:,.0f} MiB is the most. Send it in parts.", 413
    )


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What was read, once more."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return left.pop() if left else await receive()

    return again


def _counted(receive: Receive, most: int) -> Receive:
    """A body that ends, as if its client had gone, where it is too large or stands still; a told
    length proves nothing.
    """
    size, complete = 0, False

    async def counting() -> Message:
        nonlocal size, complete
        if complete:
            return await receive()
        message: Message = {"type": "http.disconnect"}
        with anyio.move_on_after(LONGEST_PAUSE):
            message = await receive()
        size += len(message.get("body", b""))
        complete = not message.get("more_body")
        return message if size <= most else {"type": "http.disconnect"}

    return counting
