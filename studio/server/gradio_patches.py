"""Every change of gradio's own behaviour, each with its reason.

Seen with gradio 6.31.0; tests/test_addresses.py holds each.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import types
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Any, NoReturn

import gradio as gr
import h11
import orjson
import uvicorn
from gradio import http_server as gradio_server
from gradio import processing_utils as gradio_processing
from gradio import route_utils, utils
from gradio import routes as gradio_routes
from gradio_client import utils as client_utils
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from studio.server.auth import is_loopback, network
from studio.server.errors import FetchRefused
from studio.server.rate_limit import without_half_characters

# Modules whose own imports are changed here, which is no business of a type checker
http_server: Any = gradio_server
processing_utils: Any = gradio_processing
routes: Any = gradio_routes

# Functions that fetch an address a client names. `{"path": "http://..."}` in an event,
# `file=http://...` in a request and a file object's `url` all end in one of them. The page has no
# use for any.
FETCHERS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (
        processing_utils,
        (
            "async_ssrf_protected_get",
            "async_ssrf_protected_download",
            "ssrf_protected_download",
            "save_url_to_cache",
            "unsafe_download",
        ),
    ),
    (processing_utils.sh, ("get", "async_validate_url", "async_resolve_hostname_google")),
    (route_utils, ("secure_url_stream_response",)),
    (routes, ("secure_url_stream_response",)),
    (utils, ("download_if_url", "validate_url")),
    (
        client_utils,
        ("probe_url", "download_tmp_copy_of_file", "encode_url_to_base64", "download_byte_stream"),
    ),
)
HEADER_LIMIT = 64 * 1024  # bytes of a request's headers
# The class of lists that answers fill anew while the page is open
CHANGING = "changing-list"
KEEP_ALIVE = 15  # seconds an idle connection stays open
MOST_CONNECTIONS = 1000
MOST_OF_ONE = 200  # of another machine; a browser opens six
START_LOOK = 0.01  # seconds between two looks whether the server has started
LONGEST_HEAD = 10.0  # seconds in which a request's line and headers have to come


def apply(*, behind_proxy: bool) -> None:
    """Make every change. behind_proxy:

    believe X-Forwarded-For and X-Forwarded-Proto of a proxy on this machine.
    """
    refuse_fetching()
    remove_cors()
    pass_forgotten_choices()
    send_half_characters()
    bound_server(behind_proxy=behind_proxy)
    wait_for_server()


def refuse_fetching() -> None:
    """Replace gradio's fetching functions:

    a server that fetches what a stranger names is a relay into its own network.
    """
    for module, names in FETCHERS:
        for name in names:
            if hasattr(module, name):
                setattr(module, name, _refusing(name))


def _refusing(name: str) -> Callable[..., NoReturn]:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise FetchRefused(f"This page fetches no addresses ({name}). Upload the file instead.")

    return refuse


class NoCors:
    """Stands where gradio's CORS layer would, which lets every port of this machine read answers
    with credentials.
    """

    def __init__(self, app: ASGIApp, **_: object) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


def remove_cors() -> None:
    """Send no CORS headers and answer no preflight."""
    routes.CustomCORSMiddleware = NoCors


def pass_forgotten_choices() -> None:
    """Let a value through that was chosen in a list which this server has forgotten, or has
    meanwhile replaced.

    Gradio 6.31 checks a choice against the list that it sent to that page last. It remembers the
    lists of so many pages only: one that was forgotten, or opened before a restart, would hear "not
    in the list of choices" for ever. Of two answers the later one may have the older list, so that
    what was made last is not in it: a folder that is dropped then would be lost. Lists that are
    filled later are therefore never asked (those of CHANGING, and all that are empty); the handlers
    check what they are given.
    """
    for kind in (gr.Dropdown, gr.CheckboxGroup):
        changed: Any = kind
        if not hasattr(changed.preprocess, "__wrapped__"):
            changed.preprocess = _passing_forgotten(changed.preprocess)


def _passing_forgotten(check: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    @functools.wraps(check)
    def preprocess(self: Any, payload: Any) -> Any:
        is_ours = not self.choices or CHANGING in self.elem_classes
        if is_ours and _is_choice(payload, several=_takes_several(self)):
            return payload
        return check(self, payload)

    return preprocess


def _takes_several(component: Any) -> bool:
    return isinstance(component, gr.CheckboxGroup) or bool(component.multiselect)


def _is_choice(payload: Any, *, several: bool) -> bool:
    """Whether a browser could have sent this as a choice: text, or a list of it."""
    values = payload if several and isinstance(payload, list) else [payload]
    is_of_kind = isinstance(payload, list) == several
    return is_of_kind and all(isinstance(value, str) for value in values)


def send_half_characters() -> None:
    """Send text with half a character in it, as file names that are no text give it.

    orjson, by which gradio 6.31 writes its stream, raises for them, and every event of that page
    waits for ever.
    """
    if not isinstance(routes.orjson, types.SimpleNamespace):
        routes.orjson = types.SimpleNamespace(**{**vars(orjson), "dumps": _dumps})


def _dumps(value: Any, *args: Any, **words: Any) -> bytes:
    try:
        return orjson.dumps(value, *args, **words)
    except TypeError:
        return orjson.dumps(_whole(value), *args, **words)


def _whole(value: Any) -> Any:
    """The same with every half of a character replaced."""
    if isinstance(value, str):
        return without_half_characters(value)
    if isinstance(value, dict):
        return {_whole(key): _whole(one) for key, one in value.items()}
    return [_whole(one) for one in value] if isinstance(value, list | tuple) else value


class BoundedHead(H11Protocol):
    """Closes a connection whose next request's head is not complete in time, where uvicorn waits
    for ever, byte by byte, and one of a machine that has MOST_OF_ONE already, so that a stranger
    leaves some to others.
    """

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if self._has_too_many():
            transport.abort()
            return
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    def _has_too_many(self) -> bool:
        """Whether the other side has too many connections; this machine's own is a proxy."""
        host = _network_of(self)
        if not host or is_loopback(host):
            return False
        return sum(_network_of(one) == host for one in self.connections) > MOST_OF_ONE

    def _watch_head(self) -> None:
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            self._stop_head_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(LONGEST_HEAD, self.transport.close)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _network_of(connection: Any) -> str:
    """ "" where the system does not say who is on the other side."""
    return network(connection.client[0]) if connection.client else ""


def bound_server(*, behind_proxy: bool) -> None:
    """Bound headers and connections; gradio leaves uvicorn's defaults, which believe any
    X-Forwarded-For from loopback.
    """
    configure = functools.partial(
        uvicorn.Config,
        http=BoundedHead,
        ws="none",
        server_header=False,
        h11_max_incomplete_event_size=HEADER_LIMIT,
        timeout_keep_alive=KEEP_ALIVE,
        limit_concurrency=MOST_CONNECTIONS,
        proxy_headers=behind_proxy,
        forwarded_allow_ips="127.0.0.1,::1" if behind_proxy else "",
    )
    http_server.uvicorn = types.SimpleNamespace(Config=configure, Server=uvicorn.Server)


def wait_for_server() -> None:
    """Let a server take its time to start, as long as it tries.

    Gradio 6.31 gives up after five seconds and calls the port taken, which on a busy machine it is
    not.
    """
    http_server.Server.run_in_thread = _run_in_thread


def _run_in_thread(self: Any) -> None:
    self.thread = threading.Thread(target=self.run, daemon=True)
    self.thread.start()
    while not self.started:
        self.thread.join(START_LOOK)
        if not self.thread.is_alive() and not self.started:
            raise http_server.ServerFailedToStartError("the server ended before it had started")


def is_logged_in(scope: Scope) -> bool:
    """Whether a request may go on to the page:

    no password is set, or its cookie belongs to a login.
    """
    app = scope.get("app")
    if app is None or getattr(app, "auth", None) is None:
        return True
    header = dict(scope["headers"]).get(b"cookie", b"").decode("latin-1")
    try:
        cookies = SimpleCookie(header)
    except CookieError:
        return False
    for kind in ("access-token", "access-token-unsecure"):
        found = cookies.get(f"{kind}-{app.cookie_id}")
        if found is not None and found.value in app.tokens:
            return True
    return False
