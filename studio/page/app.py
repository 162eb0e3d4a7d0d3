"""The page as a whole: tabs, looks, and a server that only this machine reaches. Knows no torch."""

from __future__ import annotations

import base64
import secrets
import threading
import time
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import BlocksConfigDict
from gradio.utils import get_upload_folder
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from studio.page import api
from studio.page.scripts import script
from studio.page.tabs import compare, create, pictures, settings, styles, train
from studio.page.tabs.train.components import running
from studio.page.templates import render
from studio.page.theme import theme
from studio.processes.job import usual_device
from studio.server import addresses, auth, gradio_patches, rate_limit, streams
from training.storage.paths import Workspace

LARGEST_UPLOAD = "512mb"  # of one file
LONGEST_QUEUE = 100  # events that wait
# seconds between two looks of the server for events: gradio 6.31 looks a thousand times a second, a
# twentieth of a core for nothing
REST = 0.02
# open pages whose state is remembered, the least used goes first: half a MiB each, and gradio
# itself forgets none of 10,000
MOST_SESSIONS = 128
# Nothing comes from elsewhere: no fonts, no scripts, no pictures. Inline scripts need the answer's
# nonce;
# eval stays: gradio makes functions of the `js` and `js_on_load` that our own code gives it, and of
# nothing that a client sends.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-eval'{nonce}; style-src 'self' "
    "'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; worker-src 'self' blob:; connect-src 'self' data: blob:; media-src "
    "'self' blob:; object-src 'none'; "
    "base-uri 'self'; frame-ancestors 'self'"
)
FILE_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
CSP = b"content-security-policy"
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
# Gradio 6.31 counts the time that a part of the page waits sixty times a second, and never ends
# with that of its first "Loading...": a twentieth of a core for every page that is seen. Four times
# a second do. It takes the browser's function as it starts, so this has to stand before it, as does
# what sees its requests fail.
CLOCKS = f"<script>{script('clocks')}{script('connection')}</script>".encode()
# What gradio 6.31 announces to screen readers by a key that has no words in it
ANNOUNCED: Any = {"common": {"complete": "Done"}}
FRAME = Path(__file__).parent / "assets" / "frame.css"
LOOKS, KEYS = (Path(__file__).parent / "assets" / f"page.{kind}" for kind in ("css", "js"))


class WithHeaders:
    """Puts the same headers on every answer, and a policy where it has none; a file may do nothing
    at all.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message.get("headers", [])
                policy = (
                    FILE_POLICY
                    if scope["path"].startswith(addresses.FILE)
                    else POLICY.format(nonce="")
                )
                if not any(name.lower() == CSP for name, _ in headers) or policy == FILE_POLICY:
                    headers = [
                        *(pair for pair in headers if pair[0].lower() != CSP),
                        (CSP, policy.encode()),
                    ]
                message["headers"] = [*headers, *HEADERS]
            await send(message)

        await self.app(scope, receive, sending)


class WithClocks:
    """Puts CLOCKS at the head of the page, and on every script of it a nonce that its
    policy names.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or scope["path"] != "/":
            await self.app(scope, receive, send)
            return
        begun: Message = {}
        body = bytearray()

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                begun.update(message)
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            nonce = base64.b64encode(secrets.token_bytes(18)).decode()
            # gradio writes its settings into scripts with every < escaped, so that a tag can only
            # be the template's
            whole = (
                bytes(body)
                .replace(b"<head>", b"<head>" + CLOCKS, 1)
                .replace(b"<script", f'<script nonce="{nonce}"'.encode())
            )
            policy = POLICY.format(nonce=f" 'nonce-{nonce}'").encode()
            headers = [
                (name, value)
                for name, value in begun.get("headers", [])
                if name.lower() != b"content-length"
            ]
            headers += [
                (b"content-length", str(len(whole)).encode()),
                (CSP, policy),
                (b"cache-control", b"no-store"),
            ]
            await send({**begun, "headers": headers})
            await send({"type": "http.response.body", "body": whole})

        await self.app(scope, receive, sending)


class Page(gr.Blocks):
    """Blocks whose pages keep no connection open while nothing happens.

    Gradio 6.31 has every page of them hold one, to learn when it is closed. A browser opens six to
    one server, for all its tabs together, so that the seventh tab would never open. What is
    remembered for closed pages is bounded by MOST_SESSIONS instead.
    """

    def get_config_file(self) -> BlocksConfigDict:
        config = super().get_config_file()
        config["connect_heartbeat"] = False
        return config


def build(workspace: Workspace) -> gr.Blocks:
    """The page over a workspace, not yet served."""
    with Page(title="Style Studio", analytics_enabled=False, fill_width=True) as page:
        api.offer(
            workspace
        )  # first: a verb keeps its name, a tab's handler of that name gets another
        gr.HTML(render("masthead"), js_on_load=None)
        seen = running()
        with gr.Tabs(elem_id="places", overflow_behavior="wrap"):
            with gr.Tab("Dataset") as tab:
                in_view = pictures.layout(workspace, page, tab).in_view
            with gr.Tab("Train") as tab:
                train.layout(workspace, page, tab, in_view, seen)
            for label, module in (
                ("Create", create),
                ("Compare", compare),
                ("Styles", styles),
                ("Settings", settings),
            ):
                with gr.Tab(label) as tab:
                    module.layout(workspace, page, tab)
    page.queue(api_open=False, max_size=LONGEST_QUEUE, default_concurrency_limit=4)
    page._queue.sleep_when_free = REST
    return page


def middleware(page: gr.Blocks, *, host: str, public_name: str = "") -> list[Middleware]:
    """What a request passes on its way to gradio, outermost first."""
    folder = Path(get_upload_folder())
    limits = Middleware(
        rate_limit.Limits,
        events=len(page.fns),
        upload_folder=folder,
        is_logged_in=gradio_patches.is_logged_in,
    )
    known = Middleware(auth.KnownNames, names=auth.names(host, public_name))
    same = Middleware(auth.SameOrigin, public_name=public_name)
    return [
        Middleware(WithHeaders),
        known,
        same,
        limits,
        Middleware(streams.LastWord),
        Middleware(WithClocks),
    ]


def serve(
    page: gr.Blocks,
    *,
    host: str,
    port: int,
    password: str | None = None,
    public_name: str = "",
    browser: bool = False,
) -> None:
    """Serve the page until the process is asked to end.

    Raises OSError when the port cannot be had.
    """
    gradio_patches.apply(behind_proxy=bool(public_name))
    # So that the first Start need not wait for torch's word on devices
    threading.Thread(target=usual_device, daemon=True).start()
    passed = middleware(page, host=host, public_name=public_name)
    settings: dict[str, Any] = {
        "docs_url": None,
        "redoc_url": None,
        "openapi_url": None,
        "middleware": passed,
    }
    page.launch(
        server_name=host,
        server_port=port,
        auth=auth.Lock(password) if password else None,
        auth_message=f"The name is “{auth.USER}”.",
        share=False,
        inbrowser=browser,
        quiet=True,
        strict_cors=True,
        max_file_size=LARGEST_UPLOAD,
        state_session_capacity=MOST_SESSIONS,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
        theme=theme(),
        css_paths=[LOOKS],
        head=f"<style>{FRAME.read_text(encoding='utf-8')}</style>",
        js=KEYS.read_text(encoding="utf-8"),
        i18n=gr.I18n(en=ANNOUNCED),
        app_kwargs=settings,
        prevent_thread_lock=True,
        # gradio would ask for the page as a browser does, and give up after three seconds: a busy
        # machine takes longer. That the server answers at all it has heard before.
        _frontend=False,
    )
    print(
        f"Style Studio is open at {page.local_url}  (Ctrl+C closes it; trainings continue)",
        flush=True,
    )
    while True:
        time.sleep(3600)
