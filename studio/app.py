"""The page as a whole: tabs, looks, and a server that only this machine reaches. Knows no torch."""

from __future__ import annotations

import time
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from studio.tabs import compare, data, train
from training.workspace import Workspace

LARGEST_UPLOAD = "512mb"  # of one file
LONGEST_QUEUE = 100  # events that wait
# Nothing comes from elsewhere: no fonts, no scripts, no pictures. Gradio's own page needs inline scripts and eval.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; worker-src 'self' blob:; connect-src 'self' data: blob:; media-src 'self' blob:; object-src 'none'; "
    "base-uri 'self'; frame-ancestors 'self'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
LOOKS = """
.gradio-container { width: 100%; max-width: 1440px !important; margin: 0 auto; }
.pictures .grid-wrap { margin-top: 26px; min-height: 0 !important; }
.pictures .grid-container { gap: 8px; }
.pictures .caption-label { max-width: 96%; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
#everything .form > .block { flex: 1 1 190px !important; min-width: min(190px, 100%) !important; }
.empty, .chart-empty { color: var(--body-text-color-subdued); padding: 24px 4px; }
.refused { margin: 4px 0 8px 20px; list-style: disc; }
.run-status { border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg);
  padding: 14px 16px; background: var(--block-background-fill); }
.run-head { display: flex; justify-content: space-between; gap: 12px; font-size: 1.05em; overflow-wrap: anywhere; }
.run-state { color: var(--body-text-color-subdued); text-align: right; }
.run-status.failed .run-state, .run-status.interrupted .run-state { color: var(--error-text-color, #b91c1c); }
.run-bar { height: 10px; margin: 10px 0 12px; border-radius: 5px; overflow: hidden; background: var(--border-color-primary); }
.run-bar div { height: 100%; background: var(--color-accent); transition: width .4s; }
.run-status dl { display: flex; flex-wrap: wrap; gap: 6px 28px; margin: 0; }
.run-status dt { font-size: .8em; color: var(--body-text-color-subdued); }
.run-status dd { margin: 0; font-variant-numeric: tabular-nums; }
.chart { margin: 0; }
.chart figcaption { font-size: .85em; color: var(--body-text-color-subdued); margin: 2px 0 4px; }
.chart svg { width: 100%; height: auto; display: block; }
.chart svg line { stroke: var(--border-color-primary); stroke-width: 1; }
.chart svg text { fill: var(--body-text-color-subdued); font-size: 11px; font-family: var(--font); }
.chart polyline { fill: none; stroke: var(--color-accent); stroke-width: 2; stroke-linejoin: round; }
.chart polyline.raw { stroke-width: 1; opacity: .3; }
.chart circle { fill: var(--color-accent); }
.run-messages { list-style: none; margin: 0; padding: 0; font-size: .92em; }
.run-messages li { margin: 0 0 6px; padding: 6px 10px; border-left: 3px solid var(--border-color-primary); overflow-wrap: anywhere; }
.run-messages .warning { border-color: #d97706; }
.run-messages .failure { border-color: #dc2626; }
.run-terminal pre { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 320px; overflow-y: auto; font-size: .85em; padding: 8px;
  background: var(--background-fill-secondary); border-radius: var(--radius-md); }
"""


class WithHeaders:
    """Puts the same headers on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        await self.app(scope, receive, sending)


def build(workspace: Workspace) -> gr.Blocks:
    """The page over a workspace, not yet served."""
    with gr.Blocks(title="Style Studio", analytics_enabled=False, fill_width=True) as page:
        gr.Markdown("# Style Studio\nTeach Stable Diffusion to draw in your style, and see it beside the base.")
        with gr.Tabs():
            for label, module in (("1. Data", data), ("2. Train", train), ("3. Compare", compare)):
                with gr.Tab(label) as tab:
                    module.layout(workspace, page, tab)
    page.queue(api_open=False, max_size=LONGEST_QUEUE, default_concurrency_limit=4)
    return page


def theme() -> gr.themes.Base:
    """Colours and fonts; only fonts the system has."""
    return gr.themes.Default(
        primary_hue="indigo", neutral_hue="slate", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "Consolas", "monospace"]
    )


def serve(page: gr.Blocks, *, host: str, port: int) -> None:
    """Serve the page until the process is told to end. Raises OSError when the port cannot be had."""
    known = ["localhost", "127.0.0.1", "::1", "[::1]", host]  # other names in a request mean that a foreign page rebinds its own name to us
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=known, www_redirect=False), Middleware(WithHeaders)]
    settings: dict[str, Any] = {"docs_url": None, "redoc_url": None, "openapi_url": None, "middleware": middleware}
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        strict_cors=True,
        max_file_size=LARGEST_UPLOAD,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
        theme=theme(),
        css=LOOKS,
        app_kwargs=settings,
        prevent_thread_lock=True,
    )
    print(f"Style Studio is open at {page.local_url}  (Ctrl+C closes it; trainings go on)", flush=True)
    while True:
        time.sleep(3600)
