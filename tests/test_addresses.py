"""Tests of studio.server.addresses and gradio_patches:

what of the installed gradio can be reached, and that it fetches nothing.
"""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path

import gradio as gr
import pytest
from gradio import http_server, processing_utils, routes
from gradio.context import LocalContext
from gradio.exceptions import InvalidPathError
from gradio.routes import App
from starlette.routing import Route

from studio.page import app
from studio.server import addresses, gradio_patches
from studio.server.errors import FetchRefused
from training.storage.paths import Workspace

# Routes of gradio 6.31 that the page does not have, each with the reason; a new route belongs here
# or into addresses.ADDRESSES
CLOSED = {
    r"/gradio_api/(run|api|call|stream|component_server)/.*": "calls outside of the queue",
    r"/gradio_api/component_server": "calls functions of components by name",
    r"/gradio_api/token/?": "gives a login's token away",
    r"/gradio_api/(dev|runs|run-history|process_recording).*": "developer tools",
    r"/gradio_api/(profiling|vibe|undo-vibe).*": "developer tools",
    r"/gradio_api/(proxy=|file/|deep_link|openapi).*": "other forms of open routes",
    r"/gradio_api/custom_component/.*": "there are none",
    r"/(gradio_api/)?(pwa_icon|monitoring).*": "switched off",
    r"/gradio_api/queue/status": "how many wait, which is nobody else's business",
    r"/openapi\.json": "switched off",
}
SAMPLES = {"path_or_url": "FOLDER/a.png", "url_path": "a", "path": "a/b.js"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> App:
    """gradio's server over the real page, built and not started."""
    page = app.build(Workspace(tmp_path_factory.mktemp("routes") / "w"))
    page.run_history = False
    return App.create_app(page)


def paths(server: App, folder: Path) -> list[str]:
    """A path of every route, its variables filled in."""

    def fill(found: re.Match[str]) -> str:
        return SAMPLES.get(found[1], "a1").replace("FOLDER", str(folder))

    walked, left = [], list(server.routes)
    while left:
        route = left.pop()
        left.extend(
            getattr(getattr(route, "original_router", None), "routes", [])
            or getattr(route, "routes", None)
            or []
        )
        if isinstance(route, Route):
            walked.append(re.sub(r"\{(\w+)(?::\w+)?\}", fill, route.path))
    return walked


def test_every_route_of_the_installed_gradio_is_classified(served: App, tmp_path: Path) -> None:
    found = {path: addresses.is_open(path, tmp_path) for path in paths(served, tmp_path)}
    assert len(found) > 40 and any(found.values())
    closed = re.compile("|".join(f"(?:{pattern})" for pattern in CLOSED))
    unknown = sorted(
        path for path, is_open in found.items() if is_open == bool(closed.fullmatch(path))
    )
    assert not unknown, f"open and closed at once, or neither: {unknown}"


FORMS = (
    "http://a.invalid/x",
    "https://a.invalid/x",
    "HTTP://a.invalid",
    "hTtP:/a.invalid",
    "//a.invalid/x",
    "\\\\a.invalid\\x",
    "http:\\\\a.invalid",
    "%68ttp://a.invalid",
    "http%3a//a.invalid",
    "%2568ttp://a.invalid",
    "ftp://a.invalid",
    "file:///etc/passwd",
    "data:text/html,x",
    "/http://a.invalid",
    " http://a.invalid",
    "\thttp://a.invalid",
    "/etc/passwd",
    "../x",
    "",
)


@pytest.mark.parametrize("form", FORMS)
def test_no_address_form_of_the_file_route_is_open(form: str, tmp_path: Path) -> None:
    roots = (
        "/gradio_api/file=",
        "/gradio_api/file/",
        "/file=",
        "/file/",
        "/gradio_api//file=",
        "//gradio_api/file=",
        "/GRADIO_API/FILE=",
    )
    assert not [root for root in roots if addresses.is_open(root + form, tmp_path)]
    assert not addresses.is_open(f"/gradio_api/file={tmp_path}/../{form}", tmp_path)


def test_a_copy_below_the_upload_folder_is_open(tmp_path: Path) -> None:
    assert addresses.is_open(f"/gradio_api/file={tmp_path}/shown/a b.png", tmp_path)
    (tmp_path / "link").symlink_to("/etc")
    assert not addresses.is_open(f"/gradio_api/file={tmp_path}/link/passwd", tmp_path)


LOCAL = (
    "",
    "/http://a.invalid",
    "/etc/passwd",
    "../x",
)  # left to gradio, which refuses what was not uploaded


def marked(**keys: str) -> dict[str, object]:
    return {**keys, "meta": {"_type": "gradio.FileData"}}


def test_events_name_no_address(tmp_path: Path) -> None:
    good = {
        "path": str(tmp_path / "a.png"),
        "url": f"http://here:1/gradio_api/file={tmp_path}/a.png",
    }
    assert addresses.complaint_of_files({"data": [good, [marked(**good)]]}, "here:1") is None
    bad = [marked(path=form) for form in FORMS if form not in LOCAL] + [
        marked(path=good["path"], url=form) for form in FORMS if form
    ]
    bad += [marked(path=good["path"], url=f"http://a.invalid/gradio_api/file={tmp_path}/a.png")]
    for one in bad:
        for nested in (one, [one], {"a": [{"b": one}]}):
            assert addresses.complaint_of_files({"data": [nested]}, "here:1"), one


def test_gradio_refuses_a_local_file_that_was_not_uploaded(tmp_path: Path) -> None:
    with gr.Blocks(analytics_enabled=False) as page:
        block = gr.File()
    page.has_launched, page.allowed_paths, page.blocked_paths = True, [], []
    LocalContext.blocks.set(page)
    for path in (str(tmp_path / "x"), "/etc/passwd"):
        with pytest.raises(InvalidPathError):
            asyncio.run(
                processing_utils.async_move_files_to_cache(
                    marked(path=path), block, check_in_upload_folder=True
                )
            )
    LocalContext.blocks.set(None)


def test_gradio_fetches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file object with an address, given to a component past our own checks, opens no socket."""
    opened: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: opened.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **_: opened.append(a) or [])
    for module, names in gradio_patches.FETCHERS:
        for name in names:
            monkeypatch.setattr(
                module, name, getattr(module, name)
            )  # so that what is replaced comes back
    gradio_patches.refuse_fetching()
    block = gr.File()
    for address in ("http://a.invalid/x", "http://127.0.0.1:9/x"):
        with pytest.raises(FetchRefused):
            asyncio.run(
                processing_utils.async_move_files_to_cache(
                    marked(path=address), block, check_in_upload_folder=True
                )
            )
    assert not opened


def test_every_fetching_function_is_there_to_be_replaced() -> None:
    """A gradio that renames one has to be read again."""
    assert not [
        name
        for module, names in gradio_patches.FETCHERS
        for name in names
        if not hasattr(module, name)
    ]


def test_the_server_believes_no_forwarded_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "uvicorn", http_server.uvicorn)
    monkeypatch.setattr(routes, "CustomCORSMiddleware", routes.CustomCORSMiddleware)
    gradio_patches.bound_server(behind_proxy=False)
    configured = http_server.uvicorn.Config(app=None)
    assert configured.proxy_headers is False and configured.forwarded_allow_ips == ""
    gradio_patches.remove_cors()
    assert routes.CustomCORSMiddleware is gradio_patches.NoCors
