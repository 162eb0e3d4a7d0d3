"""Another site in the user's own Chromium:

nothing of the page is read, written, framed or run, and no byte of it comes out.
"""

from __future__ import annotations

import http.client
import http.server
import json
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright import sync_api

from tests import rebinding
from tests.test_page import browser, free_port, page_process

pytestmark = pytest.mark.browser

ATTACKS = """async (own) => {
    const got = [];
    const reads = ['/', '/config', '/gradio_api/token', '/gradio_api/info',
        '/gradio_api/queue/data?session_hash=a',
        '/gradio_api/file=http://a.invalid/', '/gradio_api/file/http://a.invalid/', '/theme.css'];
    for (const path of reads) for (const credentials of ['include', 'omit']) {
        try {
            const answer = await fetch(own + path, {credentials});
            got.push([path, (await answer.text()).slice(0, 50)]);
        } catch { }
    }
    const writes = ['/gradio_api/queue/join', '/gradio_api/upload', '/login', '/gradio_api/cancel'];
    for (const path of writes) {
        for (const type of ['text/plain', 'application/json']) {
            try {
                const body = '{"fn_index": 0, "data": [], "session_hash": "a"}';
                const headers = {'content-type': type};
                const answer = await fetch(own + path, {method: 'POST', headers, body});
                got.push([path, answer.status]);
            } catch { }
        }
    }
    const loaded = (tag, path) => new Promise(done => {
        const one = document.createElement(tag);
        one.onload = () => done(got.push([tag, path]));
        one.onerror = () => done();
        one.src = own + path;
        document.body.append(one);
        setTimeout(done, 2000);
    });
    await Promise.all([
        loaded('script', '/config'),
        loaded('img', '/static/img/logo.svg'),
        loaded('script', '/assets/index.js'),
    ]);
    await new Promise(done => {
        const socket = new WebSocket(own.replace('http', 'ws') + '/gradio_api/queue/join');
        socket.onopen = () => done(got.push(['websocket']));
        socket.onerror = () => done();
    });
    return got;
}"""


class Attacker(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>attacker</title><body></body>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def attacker() -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Attacker)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    with page_process(
        "--port", str(port), "--workspace", str(tmp_path_factory.mktemp("attacked") / "w")
    ) as process:
        assert "open at" in process.stdout.readline()
        yield f"http://127.0.0.1:{port}"


def test_no_other_site_reads_writes_frames_or_runs_anything(
    own: str, attacker: http.server.ThreadingHTTPServer
) -> None:
    with browser() as chromium:
        page = chromium.new_page()
        answered: list[tuple[int, str]] = []
        page.on("response", lambda answer: answered.append((answer.status, answer.url)))
        for host in ("127.0.0.1", "localhost"):  # another port of this host, and another site
            page.goto(f"http://{host}:{attacker.server_port}/")
            assert page.evaluate(ATTACKS, own) == []
        good = [(status, url) for status, url in answered if url.startswith(own) and status < 400]
        assert not good, json.dumps(good)

        page.set_content(f'<iframe src="{own}/"></iframe>')
        page.wait_for_timeout(1000)
        assert not [
            frame for frame in page.frames if frame.locator("h1", has_text="Style Studio").count()
        ]

        for form in (
            "file=http://a.invalid/x.html",
            "file=//a.invalid/x",
            "file/http://a.invalid",
            "file=%2568ttp://a.invalid",
        ):
            answer = page.goto(f"{own}/gradio_api/{form}")
            assert answer is not None and answer.status in (400, 403, 404)


def uploaded(own: str) -> str:
    """Path of a file that the page serves, sent as the page itself would."""
    boundary = "x" * 20
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="a.html"\r\n'
        f"Content-Type: text/html\r\n\r\n<script>secret</script>\r\n--{boundary}--\r\n"
    )
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(own).port, timeout=30)
    typed = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    connection.request("POST", "/gradio_api/upload", body, typed)
    (path,) = json.loads(connection.getresponse().read())
    connection.close()
    return path


DRIVE_BY = """async ([own, file]) => {
    const address = own + '/gradio_api/file=' + file;
    const framed = document.createElement('iframe');
    framed.src = address;
    const link = Object.assign(document.createElement('a'), {href: address, download: 'x.html'});
    const form = Object.assign(document.createElement('form'), {action: address, target: '_blank'});
    document.body.append(framed, link, form);
    link.click();
    form.submit();
    window.open(address);
    await new Promise(done => setTimeout(done, 1500));
}"""


def test_no_other_site_starts_a_download(
    own: str, attacker: http.server.ThreadingHTTPServer
) -> None:
    file = uploaded(own)
    path = f"/gradio_api/file={file}"
    with browser() as chromium:
        context = chromium.new_context(accept_downloads=True)
        downloads, answered = [], []

        def watch(opened: sync_api.Page) -> None:
            opened.on("download", lambda download: downloads.append(download.url))

        context.on("page", watch)
        context.on("response", lambda answer: answered.append((answer.status, answer.url)))
        for host in ("127.0.0.1", "localhost"):
            page = context.new_page()
            page.goto(f"http://{host}:{attacker.server_port}/")
            try:
                page.evaluate(DRIVE_BY, [own, file])
            except sync_api.Error as error:  # the link led the page away
                assert "navigation" in str(error)
        asked = [status for status, url in answered if url.startswith(own)]
        assert asked and set(asked) == {403}, answered
        assert not downloads
        page = context.new_page()
        page.goto(own + "/")  # a file that the page itself asks for is served
        assert page.evaluate("async path => (await fetch(path)).status", path) == 200


def test_a_rebound_name_gives_nothing_out(own: str) -> None:
    """DNS rebinding in a browser: the attacker's page and ours have one origin."""
    with rebinding.rebinding(urlsplit(own).port) as server, browser(rebinding.RULES) as chromium:
        page = chromium.new_page()
        page.goto(f"{server.origin}/")
        server.rebound = True
        answers = page.evaluate(rebinding.ATTACK)
    assert len(answers) == 10
    assert {status for status, _ in answers} == {400}
    [text] = {text for _, text in answers}
    assert text.startswith(f"This page was asked for as {rebinding.NAME}:")


def test_a_name_that_leads_here_is_refused(own: str) -> None:
    """DNS rebinding: a foreign name that has come to mean this machine."""
    for host in ("rebound.invalid", f"rebound.invalid:{urlsplit(own).port}", "127.0.0.1.invalid"):
        for path in ("/", "/config", "/gradio_api/info"):
            connection = http.client.HTTPConnection("127.0.0.1", urlsplit(own).port, timeout=30)
            connection.request("GET", path, headers={"Host": host})
            assert connection.getresponse().status == 400
            connection.close()


def test_the_page_itself_runs_under_its_policy(own: str) -> None:
    with browser() as chromium:
        page = chromium.new_page()
        complaints: list[str] = []
        page.on(
            "console",
            lambda message: complaints.append(message.text) if message.type == "error" else None,
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        answer = page.goto(own + "/")
        page.wait_for_selector("#theme")
        policy = answer.headers["content-security-policy"] if answer else ""
        scripts = policy.split("script-src")[1].split(";")[0]
        assert "unsafe-inline" not in scripts and "nonce-" in scripts
        for name in ("Train", "Create", "Compare", "Styles", "Settings", "Dataset"):
            page.get_by_role("tab", name=name).click()
        page.wait_for_timeout(1500)
        assert not complaints
        page.evaluate(
            "document.body.insertAdjacentHTML('beforeend', '<img src=x:y onerror=\"window.ran "
            "= 1\">')"
        )
        page.wait_for_timeout(500)
        assert page.evaluate("window.ran") is None
