"""The attacks of tests/test_attacker.py succeed where a guard is taken away: the suite can fail."""

from __future__ import annotations

import http.server
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import pytest
from gradio import routes
from starlette.testclient import TestClient

from studio.page import app
from studio.server import auth, gradio_patches, rate_limit
from tests import rebinding
from tests.test_attacker import ATTACKS, attacker
from tests.test_page import ROOT, browser, free_port
from training.storage.paths import Workspace

__all__ = ["attacker"]  # a fixture

HOST = "127.0.0.1:7860"
EVENT = json.dumps({"fn_index": 0, "data": [], "session_hash": "a"})
FOREIGN = {"origin": "http://attacker.invalid", "sec-fetch-site": "cross-site"}
# The page without its guards, for a browser
UNGUARDED = """
import sys
from studio import __main__
from studio.page import app
from studio.server import gradio_patches
app.middleware = lambda *_, **__: []
gradio_patches.remove_cors = lambda: None
import gradio
launch = gradio.Blocks.launch
def lax(self, **settings):
    return launch(self, **{**settings, "strict_cors": False})
gradio.Blocks.launch = lax
sys.exit(__main__.main())
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> gr.Blocks:
    built = app.build(Workspace(tmp_path_factory.mktemp("guards") / "w"))
    built.run_history = False
    return built


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names that the page wanted to look up, none of which is asked for."""
    names: list[str] = []

    def refuse(name: str, *_: object, **__: object) -> None:
        names.append(str(name))
        raise socket.gaierror("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "gethostbyname", refuse)
    return names


@contextmanager
def patches_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What gradio_patches replaces comes back at the end of the test."""
    for module, names in gradio_patches.FETCHERS:
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.setattr(routes, "CustomCORSMiddleware", routes.CustomCORSMiddleware)
    yield


def client(page: gr.Blocks, *without: type) -> TestClient:
    """The page's server with its guards, but for those that are named."""
    passed = [guard for guard in app.middleware(page, host="127.0.0.1") if guard.cls not in without]
    served = routes.App.create_app(page, app_kwargs={"middleware": passed})
    return TestClient(served, base_url=f"http://{HOST}", raise_server_exceptions=False)


def writes_for_another_site(asker: TestClient) -> bool:
    headers = {**FOREIGN, "content-type": "application/json"}
    answer = asker.post("/gradio_api/queue/join", content=EVENT, headers=headers)
    return answer.status_code == 200 and "event_id" in answer.text


def reads_for_another_site(asker: TestClient) -> bool:
    return asker.get("/config", headers=FOREIGN).status_code == 200


def reads_under_another_name(asker: TestClient) -> bool:
    answer = asker.get("/config", headers={"host": "rebound.invalid:7860"})
    return answer.status_code == 200 and "components" in answer.text


def reads_a_token(asker: TestClient) -> bool:
    return asker.get("/gradio_api/token").status_code == 200


def event_of_half_a_gigabyte(asker: TestClient) -> bool:
    """Whether a body is read that says it is larger than any event."""
    headers = {"content-type": "application/json", "content-length": str(2**29)}
    answer = asker.post("/gradio_api/queue/join", content=EVENT, headers=headers)
    return answer.status_code != 413


def file_without_sandbox(asker: TestClient) -> bool:
    answer = asker.get("/gradio_api/file=/nowhere.html")
    return "sandbox" not in answer.headers.get("content-security-policy", "")


GUARDS: list[tuple[type, Callable[[TestClient], bool]]] = [
    (auth.SameOrigin, writes_for_another_site),
    (auth.SameOrigin, reads_for_another_site),
    (auth.KnownNames, reads_under_another_name),
    (rate_limit.Limits, reads_a_token),
    (rate_limit.Limits, event_of_half_a_gigabyte),
    (app.WithHeaders, file_without_sandbox),
]


@pytest.mark.parametrize(("guard", "attack"), GUARDS)
def test_an_attack_succeeds_without_its_guard_and_fails_with_it(
    guard: type, attack: Callable[[TestClient], bool], page: gr.Blocks
) -> None:
    assert not attack(client(page))
    assert attack(client(page, guard))


def test_an_address_is_fetched_only_without_both_guards(
    page: gr.Blocks, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "/gradio_api/file=http://attacker.invalid/x.html"
    with patches_restored(monkeypatch):
        client(page, rate_limit.Limits).get(path)
        assert asked, "without guards gradio looks the name up; has it stopped fetching?"
        asked.clear()
        client(page).get(path)
        assert not asked
        gradio_patches.refuse_fetching()
        client(page, rate_limit.Limits).get(path)
        assert not asked


def test_gradio_sends_cors_headers_without_the_patch(
    page: gr.Blocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"origin": "http://127.0.0.1:1", "sec-fetch-site": "same-site"}

    def shared() -> bool:
        answer = client(page, auth.SameOrigin).get("/config", headers=headers)
        return "access-control-allow-origin" in answer.headers

    with patches_restored(monkeypatch):
        assert shared()
        gradio_patches.remove_cors()
        assert not shared()


@pytest.mark.browser
def test_the_browsers_suite_finds_what_is_open_without_guards(
    tmp_path: Path, attacker: http.server.ThreadingHTTPServer
) -> None:
    port = free_port()
    command = [sys.executable, "-c", UNGUARDED, "--port", str(port)]
    command += ["--workspace", str(tmp_path / "w"), "--begin-with", "pictures"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert "open at" in process.stdout.readline()
        with browser() as chromium:
            page = chromium.new_page()
            page.goto(f"http://localhost:{attacker.server_port}/")
            found = page.evaluate(ATTACKS, f"http://127.0.0.1:{port}")
        with rebinding.rebinding(port) as server, browser(rebinding.RULES) as chromium:
            page = chromium.new_page()
            page.goto(f"{server.origin}/")
            server.rebound = True
            rebound = page.evaluate(rebinding.ATTACK)
        assert sum(len(text) for status, text in rebound if status == 200) > 10_000
        kinds = {str(one[0]) for one in found}
        assert {"/config", "/gradio_api/token", "/gradio_api/queue/join", "img"} <= kinds, found
    finally:
        process.terminate()
        process.communicate(timeout=60)
