"""A page that hangs up after its stream's last word has not gone; one that hangs up before has."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from studio.server.streams import CLOSING, LastWord

SCOPE = {
    "type": "http",
    "method": "GET",
    "path": "/gradio_api/queue/data",
    "headers": [],
    "asgi": {"spec_version": "2.3"},
}


def ended(words: list[bytes], *, hung_up_after: bytes, wrapped: bool) -> str:
    """How a stream of these words ended, "by itself" or "cut off", when its page hangs up upon one
    of them.
    """
    how, heard = [], anyio.Event()

    async def stream() -> AsyncIterator[bytes]:
        try:
            for word in words:
                yield word
            how.append("by itself")
        except BaseException:
            how.append("cut off")
            raise

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await StreamingResponse(stream())(scope, receive, send)

    async def receive() -> Message:
        await heard.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if hung_up_after in message.get("body", b""):
            heard.set()
        await anyio.sleep(0.01)  # a slow line: the server is still sending when the page hangs up

    async def main() -> None:
        served: ASGIApp = LastWord(app) if wrapped else app
        with anyio.fail_after(5):
            await served(SCOPE, receive, send)

    anyio.run(main)
    return how[0] if how else "cut off"


LAST = b"data: {" + CLOSING + b"}\n\n"


@pytest.mark.parametrize(
    ("hung_up_after", "wrapped", "how"),
    [(LAST, True, "by itself"), (LAST, False, "cut off"), (b"first", True, "cut off")],
)
def test_only_a_page_that_hangs_up_too_early_has_gone(
    hung_up_after: bytes, wrapped: bool, how: str
) -> None:
    assert ended([b"first", b"second", LAST], hung_up_after=hung_up_after, wrapped=wrapped) == how


def test_gradio_still_says_so() -> None:
    """The words by which the end is known are those of the gradio that is installed."""
    import orjson
    from gradio.server_messages import CloseStreamMessage

    assert CLOSING in orjson.dumps(CloseStreamMessage().model_dump(), default=str)
