"""Answers to events that were under way when a page closed its stream are not lost. Knows ASGI; no
gradio.

Gradio 6.31 tells a page that nothing is pending, upon which the page hangs up. Where the server
notices this while it is still sending those words, it takes the whole page for gone and throws away
every event that the page sent in the meantime, among them captions to be saved.
"""

from __future__ import annotations

import re

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

STREAM = re.compile(r"(/gradio_api)?/queue/data/?")
CLOSING = b'"msg":"close_stream"'


class LastWord:
    """After a stream's last word, that the page hangs up is no news any more:

    the stream ends by itself.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not STREAM.fullmatch(scope["path"]):
            await self.app(scope, receive, send)
            return
        closing = False

        async def sending(message: Message) -> None:
            nonlocal closing
            closing = closing or CLOSING in message.get("body", b"")
            await send(message)

        async def receiving() -> Message:
            message = await receive()
            if closing and message["type"] == "http.disconnect":
                await anyio.sleep_forever()  # until the stream has ended, which is at once
            return message

        await self.app(scope, receiving, sending)
