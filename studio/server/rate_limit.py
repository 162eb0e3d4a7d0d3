"""How much a client may ask of the page, and which of gradio's addresses it has at all. Knows ASGI; no gradio.

The page itself asks few things of the server. What it never asks (calls without the line of events, recordings, other servers) is not
there, so that nothing behind it has to be kept safe; what it does ask is bounded in number and size, and checked before gradio sees it.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import defaultdict, deque

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NEVER_ASKED = "run|api|call|stream|process_recording|dev|mcp|runs|run-history|deep_link|component_server"
CLOSED = re.compile(rf"(/gradio_api)?/(({NEVER_ASKED})(/|$)|proxy=|openapi|vibe)")
JOIN = re.compile(r"(/gradio_api)?/queue/join/?")
UPLOAD = re.compile(r"(/gradio_api)?/upload/?")
LARGEST_EVENT = 8 * 2**20  # bytes of what is sent with an event: a form and its captions
LARGEST_UPLOAD = 4 * 2**30  # bytes of one upload, all its files together
MOST_EVENTS, MINUTE = 3000, 60.0  # events and uploads of one address within so many seconds; a few dozen open pages ask no more
LONGEST_HASH = 64  # characters of a session's name


class Limits:
    """Refuses what is too large, too often, or no event of a page. events: how many events the page has."""

    def __init__(self, app: ASGIApp, events: int, most: int = MOST_EVENTS) -> None:
        self.app, self.events, self.most = app, events, most
        self._asked: defaultdict[str, deque[float]] = defaultdict(deque)
        self._turn = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, writes = scope["path"], scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if CLOSED.match(path):
            await PlainTextResponse("This page has no such address.", 404)(scope, receive, send)
            return
        if not writes:
            await self.app(scope, receive, send)
            return
        if self._too_often(scope["client"][0] if scope.get("client") else ""):
            words = f"More than {self.most} requests came from you within a minute. Wait a moment."
            await PlainTextResponse(words, 429, {"retry-after": "10"})(scope, receive, send)
            return
        most = LARGEST_UPLOAD if UPLOAD.fullmatch(path) else LARGEST_EVENT
        told = dict(scope["headers"]).get(b"content-length", b"0")
        if not told.isdigit() or len(told) > 15 or int(told) > most:
            await _too_large(most)(scope, receive, send)
            return
        if UPLOAD.fullmatch(path):
            await self.app(scope, _counted(receive, most), send)
            return
        body = await _read(receive, most)
        complaint = _too_large(most) if body is None else self._complaint(path, body)
        if complaint is not None:
            await complaint(scope, receive, send)
            return
        await self.app(scope, _replayed(body or b"", receive), send)

    def _too_often(self, client: str) -> bool:
        now = time.monotonic()
        with self._turn:
            for other in [name for name, asked in self._asked.items() if not asked or now - asked[-1] > MINUTE]:
                del self._asked[other]
            asked = self._asked[client]
            while asked and now - asked[0] > MINUTE:
                asked.popleft()
            if len(asked) >= self.most:
                return True
            asked.append(now)
            return False

    def _complaint(self, path: str, body: bytes) -> PlainTextResponse | None:
        """What is wrong with an event, None when nothing is."""
        if not JOIN.fullmatch(path):
            return None
        try:
            event = json.loads(body)
        except (ValueError, RecursionError):
            return PlainTextResponse("This is not JSON. The page sends {fn_index, data, session_hash}.", 400)
        if not isinstance(event, dict):
            return PlainTextResponse("This is no event. The page sends {fn_index, data, session_hash}.", 400)
        number, session, data = event.get("fn_index"), event.get("session_hash"), event.get("data")
        if type(number) is not int or not 0 <= number < self.events:
            return PlainTextResponse(f"fn_index is wrong: a number from 0 to {self.events - 1} was expected.", 400)
        if not isinstance(session, str) or not re.fullmatch(rf"[\w-]{{1,{LONGEST_HASH}}}", session):
            return PlainTextResponse(f"session_hash is wrong: 1 to {LONGEST_HASH} letters and digits were expected.", 400)
        if not isinstance(data, list):
            return PlainTextResponse("data is wrong: a list was expected.", 400)
        return None


def _too_large(most: int) -> PlainTextResponse:
    return PlainTextResponse(f"This is too large: {most / 2**20:,.0f} MiB is the most. Send it in parts.", 413)


async def _read(receive: Receive, most: int) -> bytes | None:
    """The whole body, None when it is too large."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > most:
            return None
        if message["type"] != "http.request" or not message.get("more_body"):
            return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What was read, once more."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return left.pop() if left else await receive()

    return again


def _counted(receive: Receive, most: int) -> Receive:
    """A body that ends, as if its client had gone, where it is too large: its length need not be what was told, or told at all."""
    size = 0

    async def counting() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        return message if size <= most else {"type": "http.disconnect"}

    return counting
